//! Answers that show the whole cluster: made on threads of their own, which give way to those that schedule.
//!
//! Half a second of one processor's work for 100,000 tasks: where events of frameworks are delivered, offers would wait for it.

use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use tokio::sync::oneshot;
use waggle_api::error::{ApiError, ErrorCode};

/// Threads: one that makes a large answer, and one for others meanwhile.
const READERS: usize = 2;
/// Answers that wait; more are refused.
const WAITING: usize = 64;
/// As `nice -n 10`: a tenth of a processor where others want it, all that is left otherwise.
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

static JOBS: LazyLock<SyncSender<Job>> = LazyLock::new(|| {
    let (jobs, inbox) = sync_channel(WAITING);
    let inbox = Arc::new(Mutex::new(inbox));
    for n in 0..READERS {
        let inbox = Arc::clone(&inbox);
        let reader = thread::Builder::new().name(format!("waggle-read-{n}"));
        if let Err(e) = reader.spawn(move || work(&inbox)) {
            tracing::error!(error = %e, "a thread for large answers does not start");
        }
    }
    jobs
});

/// Makes an answer.
///
/// # Errors
/// [`ErrorCode::Unavailable`] when too many wait, or making it failed.
pub(super) async fn read<T: Send + 'static>(
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let unavailable = |why: &str| ApiError::new(ErrorCode::Unavailable, why);
    let (tx, rx) = oneshot::channel();
    let job: Job = Box::new(move || {
        // Who has gone meanwhile needs no answer.
        if !tx.is_closed() {
            let _ = tx.send(make());
        }
    });
    JOBS.try_send(job)
        .map_err(|_| unavailable("too many large answers are being made: try again"))?;
    rx.await
        .map_err(|_| unavailable("the answer could not be made"))
}

fn work(inbox: &Mutex<Receiver<Job>>) {
    // Of a thread, where the process is meant by zero: Linux's way (setpriority(2), "C library/kernel differences").
    if let Err(e) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(error = %e, "large answers are made at the priority of all else");
    }
    loop {
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // One answer that can't be made is no reason to make no other.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("making a large answer panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_made_elsewhere_and_a_panic_ends_none_but_its_own() {
        let here = thread::current().id();
        let name = read(move || {
            assert_ne!(thread::current().id(), here);
            thread::current().name().map(ToOwned::to_owned)
        });
        assert!(name.await.unwrap().unwrap().starts_with("waggle-read-"));
        for _ in 0..READERS {
            let broken = read(|| panic!("on purpose")).await;
            assert_eq!(broken.unwrap_err().code, ErrorCode::Unavailable);
        }
        assert_eq!(read(|| 7).await.unwrap(), 7);
    }
}
