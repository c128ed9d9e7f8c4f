//! Requests without a pause, none of which may fail.

use std::time::Instant;

use waggle_tests_privileged::{LIMIT, probe};
use waggle_tests_support::cluster::Cluster;
use waggle_tests_support::scenario::{Attempt, Probe};
use waggle_tests_support::wait_until;

/// Connections that stay.
const HELD: u64 = 100;
/// Between new connections of one prober, in microseconds; there are four.
const EVERY_US: u64 = 4000;

/// New connections and held ones.
pub struct Load {
    fresh: Vec<Probe>,
    held: Probe,
    since: Instant,
}

impl Load {
    /// To a target from two nodes, which may be one; those that stay are on the first. All of them have served.
    pub fn start(cluster: &Cluster, nodes: [&str; 2], target: &str) -> Self {
        let program = probe().unwrap();
        let [a, b] = nodes;
        let fresh = [a, a, b, b]
            .map(|node| Probe::start(cluster, &program, node, target, EVERY_US, 120).unwrap());
        let held = Probe::hold(cluster, &program, a, (target, HELD), 5000, 120).unwrap();
        let load = Self {
            fresh: fresh.into(),
            held,
            since: Instant::now(),
        };
        // Every connection that is held has served.
        load.on(usize::try_from(HELD).unwrap());
        load
    }

    /// Waits for so many requests more of each prober.
    pub fn on(&self, more: usize) {
        let all = || self.fresh.iter().chain([&self.held]);
        let before: Vec<usize> = all().map(|p| p.with(<[Attempt]>::len)).collect();
        wait_until(LIMIT, "requests", || {
            let now = all().map(|p| p.with(<[Attempt]>::len));
            now.zip(&before).all(|(n, b)| n >= b + more).then_some(())
        })
        .unwrap();
    }

    /// None has failed. What there was, for people.
    pub fn assert_whole(self) -> String {
        let took = self.since.elapsed().as_secs_f64();
        let fresh: Vec<Attempt> = self.fresh.into_iter().flat_map(Probe::stop).collect();
        let held = self.held.stop();
        for (what, all) in [("new", &fresh), ("held", &held)] {
            let failed: Vec<&Attempt> = all.iter().filter(|a| a.error.is_some()).collect();
            let (n, of) = (failed.len(), all.len());
            assert!(
                failed.is_empty(),
                "{what}: {n} of {of}, first {:?}",
                failed[0]
            );
        }
        let mut us: Vec<u64> = fresh.iter().map(|a| a.us).collect();
        us.sort_unstable();
        let at = |share: usize| us[us.len() * share / 100];
        format!(
            "{} new connections ({:.0}/s, p50 {} us, p99 {} us), {} requests on {HELD} held ones, none failed",
            fresh.len(),
            fresh.len() as f64 / took,
            at(50),
            at(99),
            held.len()
        )
    }
}
