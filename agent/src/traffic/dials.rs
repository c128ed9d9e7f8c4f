//! Connections that the agent itself opens to a task.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Ports that are remembered: a connection's record comes within a second of its end.
const MAX_PORTS: usize = 64;

/// Those of one task, by this agent, over addresses of the node.
#[derive(Debug, Default)]
pub struct OwnDials {
    n: AtomicU64,
    ports: Mutex<VecDeque<u16>>,
}

/// One that is being opened. Who drops it half way may have opened it.
#[derive(Debug)]
#[must_use = "what becomes of it is to be said"]
pub struct Dial<'a>(&'a OwnDials);

impl OwnDials {
    /// Before the connection is opened: whoever reads the kernel's count first and this then never has fewer of our own.
    pub fn begin(&self) -> Dial<'_> {
        self.n.fetch_add(1, Ordering::SeqCst);
        Dial(self)
    }

    /// How many there may have been.
    pub fn count(&self) -> u64 {
        self.n.load(Ordering::SeqCst)
    }

    /// Whether one of the newest had this port on our side.
    pub fn had(&self, port: u16) -> bool {
        self.ports().contains(&port)
    }

    fn ports(&self) -> std::sync::MutexGuard<'_, VecDeque<u16>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial<'_> {
    /// It is open, and has this port on our side.
    pub fn opened(self, port: u16) {
        let mut ports = self.0.ports();
        if ports.len() >= MAX_PORTS {
            ports.pop_front();
        }
        ports.push_back(port);
    }

    /// It was not opened.
    pub fn failed(self) {
        self.0.n.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ports_are_known_and_failures_are_not_counted() {
        let dials = OwnDials::default();
        for port in 0..200 {
            dials.begin().opened(port);
        }
        dials.begin().failed();
        drop(dials.begin());
        assert_eq!(dials.count(), 201);
        assert!(dials.had(199) && !dials.had(0) && !dials.had(200));
        assert_eq!(dials.ports().len(), MAX_PORTS);
    }
}
