//! How much a process logs of its own events, changed while it runs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

/// The highest level: everything of this project's crates.
pub const MAX_VERBOSITY: u32 = 3;

/// Gives a sink of events another filter.
type Sink = Box<dyn Fn(EnvFilter) + Send + Sync>;

#[derive(Default)]
struct Inner {
    /// As configured.
    filter: String,
    sinks: Vec<Sink>,
    level: u32,
    /// Ends the level that is set now.
    back: Option<JoinHandle<()>>,
}

/// A process's level of its own logs: 0 is what was configured, 1 adds this project's crates at `debug`, 2 and 3 at
/// `trace`. Cheap to clone; one for all components. Without a subscriber of its own it is only remembered.
#[derive(Clone, Default)]
pub struct Verbosity(Arc<Mutex<Inner>>);

impl fmt::Debug for Verbosity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verbosity").field(&self.level()).finish()
    }
}

impl Verbosity {
    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is logged at level 0, and who has to be told of changes.
    pub(crate) fn begin(&self, filter: String, sinks: Vec<Sink>) {
        let mut inner = self.locked();
        inner.filter = filter;
        inner.sinks = sinks;
    }

    /// The level now.
    pub fn level(&self) -> u32 {
        self.locked().level
    }

    /// Sets the level (over [`MAX_VERBOSITY`] counts as that) for so long, then what was configured is back; a later
    /// call takes the place of this one. Must be called inside of a tokio runtime.
    pub fn set(&self, level: u32, lasting: Duration) {
        let later = self.clone();
        let mut inner = self.locked();
        if let Some(old) = inner.back.take() {
            old.abort();
        }
        inner.turn(level.min(MAX_VERBOSITY));
        if inner.level > 0 {
            inner.back = Some(tokio::spawn(async move {
                tokio::time::sleep(lasting).await;
                later.locked().turn(0);
            }));
        }
    }
}

impl Inner {
    fn turn(&mut self, level: u32) {
        self.level = level;
        let directives = directives(&self.filter, level);
        for sink in &self.sinks {
            // It was parsed when the process began; what is added is a constant.
            if let Ok(filter) = EnvFilter::builder().parse(&directives) {
                sink(filter);
            }
        }
        tracing::info!(level, "the logging level is set");
    }
}

/// Targets match by their beginning, so one directive is for all crates.
fn directives(filter: &str, level: u32) -> String {
    match level {
        0 => filter.to_owned(),
        1 => format!("{filter},waggle=debug"),
        _ => format!("{filter},waggle=trace"),
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, reload};

    use super::*;

    /// Counts events that pass a filter.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            self.0
                .lock()
                .unwrap()
                .push(event.metadata().level().to_string());
        }
    }

    #[tokio::test]
    async fn a_level_lasts_as_long_as_it_was_set_for() {
        let (seen, verbosity) = (Seen::default(), Verbosity::default());
        let (filter, handle) = reload::Layer::new(EnvFilter::new("warn"));
        let sink: Sink = Box::new(move |f| handle.reload(f).unwrap());
        verbosity.begin("warn".into(), vec![sink]);
        let subscriber = tracing_subscriber::registry().with(seen.clone().with_filter(filter));
        let _default = tracing::subscriber::set_default(subscriber);
        let said = || {
            seen.0.lock().unwrap().clear();
            tracing::debug!(target: "waggle_master::http", "d");
            tracing::trace!(target: "waggle_master::http", "t");
            tracing::debug!(target: "hyper", "d");
            seen.0.lock().unwrap().join(" ")
        };
        assert_eq!((verbosity.level(), said()), (0, String::new()));
        verbosity.set(1, Duration::from_mins(1));
        assert_eq!((verbosity.level(), said()), (1, "DEBUG".into()));
        let short = Duration::from_millis(100);
        verbosity.set(9, short);
        assert_eq!(
            (verbosity.level(), said()),
            (MAX_VERBOSITY, "DEBUG TRACE".into())
        );
        let over = async {
            while verbosity.level() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let over = tokio::time::timeout(Duration::from_secs(20), over).await;
        assert_eq!((over, said()), (Ok(()), String::new()));
        // The end of one is not the end of the next.
        verbosity.set(1, short);
        verbosity.set(2, Duration::from_mins(1));
        tokio::time::sleep(2 * short).await;
        assert_eq!(verbosity.level(), 2);
        verbosity.set(2, Duration::from_mins(1));
        verbosity.set(0, Duration::from_mins(1));
        assert_eq!((verbosity.level(), said()), (0, String::new()));
    }
}
