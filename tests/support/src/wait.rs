//! The one place that sleeps: poll a condition until it holds or the deadline passes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Sleeps. Only for pacing (a load at a given rate), never to wait for something to have happened.
#[allow(clippy::disallowed_methods, reason = "the one named place for it")]
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// With true, every wait whose condition does not hold fails at once: after an interrupt nothing is
/// left to wait for. With false, waits wait again.
pub fn give_up(now: bool) {
    GIVEN_UP.store(now, Ordering::SeqCst);
}

/// Polls `cond` until it returns a value; after `limit` fails with what it was waiting for.
pub fn wait_until<T>(
    limit: Duration,
    what: &str,
    mut cond: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = cond() {
            return Ok(value);
        }
        if GIVEN_UP.load(Ordering::SeqCst) {
            bail!("interrupted while waiting for {what}");
        }
        if start.elapsed() >= limit {
            bail!("waited {:.1} s for {what}", limit.as_secs_f64());
        }
        sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_value_or_names_what_was_missing() {
        let mut left = 3;
        let got = wait_until(Duration::from_secs(5), "the third look", || {
            left -= 1;
            (left == 0).then_some("seen")
        });
        assert_eq!(got.unwrap(), "seen");
        let missing = wait_until(Duration::from_millis(1), "godot", || None::<()>);
        assert!(missing.unwrap_err().to_string().contains("for godot"));
    }
}
