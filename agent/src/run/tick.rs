//! What is read of tasks and the node from time to time, off the loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use waggle_telemetry::{Feature, names};

use super::{Agent, blocking};
use crate::clock;
use crate::observe::{self, Kernel};
use crate::system::{SystemReading, system_points};

/// One of so many ticks reads figures, where telemetry costs too much.
const RARE: u64 = 6;

/// How often tasks are asked for their metrics.
const SCRAPE_EVERY: Duration = Duration::from_secs(15);

impl Agent {
    /// Reads figures and output of every task, off the loop; a tick that finds the last one at work is skipped.
    pub(super) fn tick(&mut self) {
        let Ok(permit) = Arc::clone(&self.ticking).try_acquire_owned() else {
            return;
        };
        let mut by_state: BTreeMap<&'static str, u32> = BTreeMap::new();
        let mut n_pending = 0;
        for task in self.core.tasks() {
            *by_state.entry(task.state.mesos_name()).or_default() += 1;
            n_pending += u32::from(task.state.is_terminal());
        }
        for state in ["TASK_STAGING", "TASK_RUNNING", "TASK_KILLING"] {
            let n = by_state.get(state).copied().unwrap_or(0);
            let attrs = [(names::STATE, state.into())];
            self.telemetry
                .set(&names::AGENT_TASKS, &attrs, f64::from(n));
        }
        self.telemetry
            .set(&names::AGENT_STATUS_PENDING, &[], f64::from(n_pending));
        let every = self.telemetry.allows(Feature::EveryTick);
        let figures = every || self.n_ticks.is_multiple_of(RARE);
        self.n_ticks += 1;
        let watched = self.tasks.watched();
        let (networks, shown) = (self.tasks.networks(), self.tasks.figures());
        let quota = self.tasks.log_quota();
        let (net, telemetry, since) =
            (Arc::clone(&self.net), self.telemetry.clone(), self.since_ns);
        self.tasks.spawn(async move {
            let cpu = telemetry.cpu().clone();
            let work = move || {
                let begun = std::time::Instant::now();
                let kernel = figures.then(|| Kernel::read(&net));
                if figures && telemetry.allows(Feature::Edges) {
                    net.read_flows();
                }
                let vips = net.vip_names();
                let (mut output, mut there) = (Vec::new(), BTreeSet::new());
                for task in watched {
                    let mut task = task
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    let read = task.tick(&net, kernel.as_ref(), &vips, &telemetry);
                    let labels = task.labels();
                    if let Some(read) = read {
                        shown.note(&labels, read);
                    }
                    there.insert(labels.task_id.clone());
                    output.push(task.output_dirs());
                }
                shown.keep(&there);
                observe::keep_output(quota, &output, &telemetry);
                if let Some(kernel) = &kernel {
                    observe::node(&net, kernel, &telemetry, since);
                    let system = SystemReading::read();
                    telemetry.node_points(system_points(&system, clock::now_ns()));
                }
                networks.upkeep();
                for n in networks.usage() {
                    let states = [
                        ("held", n.n_held as f64),
                        ("resting", n.n_resting as f64),
                        ("free", n.n_free as f64),
                    ];
                    for (state, count) in states {
                        let attrs = [
                            (names::NETWORK, n.network.clone().into()),
                            (names::STATE, state.into()),
                        ];
                        telemetry.set(&names::NETWORK_ADDRESSES, &attrs, count);
                    }
                }
                let took = begun.elapsed().as_secs_f64();
                telemetry.record(&names::AGENT_TICK_DURATION, &[], took);
            };
            blocking(move || cpu.run(work)).await;
            drop(permit);
        });
    }

    /// Asks tasks for their metrics, where it is time and the last round is over.
    pub(super) fn scrape(&mut self) {
        let is_time = self.scraped.is_none_or(|at| at.elapsed() >= SCRAPE_EVERY);
        if !is_time || !self.telemetry.is_exporting() {
            return;
        }
        self.scraped = Some(tokio::time::Instant::now());
        let pages = self.tasks.pages();
        let not_made = pages.pages.len() as u64 + pages.beyond;
        if !self.telemetry.allows(Feature::Scrapes) {
            self.telemetry.inbox().scraped("shed", not_made);
            return;
        }
        let Some(place) = self.scraper.place() else {
            self.telemetry.inbox().scraped("skipped", not_made);
            return;
        };
        let round = self
            .scraper
            .clone()
            .round(place, pages, self.telemetry.clone());
        self.tasks.spawn(round);
    }
}
