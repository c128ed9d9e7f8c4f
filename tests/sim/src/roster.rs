//! Who plays, what it is given to do, and what goes wrong with it.

use waggle_master::core::FrameworkCall;
use waggle_types::{
    Capabilities, FrameworkInfo, Millis, Resources, RoleSubscription, SchedulerCall,
};

use crate::{
    Sim,
    batch::{Batch, Job},
    framework::Foreign,
    keeper::Keeper,
    link::FrameworkDelivery,
    mind::{Mind, call},
    network::Delivery,
};

/// Role of the framework for which some agents reserve resources themselves.
pub(crate) const OWNER: &str = "owner";

/// Of a framework with these roles that may stay away for so long.
fn info(name: &str, roles: &[&str], stay_away_s: u64) -> FrameworkInfo {
    FrameworkInfo {
        roles: roles.iter().map(|r| RoleSubscription::new(*r)).collect(),
        failover_timeout: Millis::from_secs(stay_away_s),
        ..FrameworkInfo::new(name, "*")
    }
}

fn task(cpus: i64) -> Resources {
    Resources::from_millis(cpus, 64_000, 0)
}

impl Sim {
    pub(crate) fn add_frameworks(&mut self) {
        let lent = Capabilities {
            revocable: true,
            ..Capabilities::default()
        };
        let mut all = Vec::new();
        if self.plan.n_batches > 0 {
            let jobs = info("batch0", &["jobs"], 600);
            all.push(Mind::Batch(Batch::new(jobs, task(300))));
        }
        if self.plan.n_batches > 1 {
            // Soon removed when it stays away.
            let night = info("batch1", &["jobs/night"], 10);
            all.push(Mind::Batch(Batch::new(night, task(500))));
        }
        if self.plan.operators > 0 {
            let prod = info("prod", &["prod", "spare"], 600);
            all.push(Mind::Batch(Batch::new(prod, task(400))));
            let spot = FrameworkInfo {
                capabilities: lent,
                ..info("spot", &["spot"], 600)
            };
            all.push(Mind::Batch(Batch::new(spot, task(700))));
            all.push(Mind::Batch(Batch::new(
                info(OWNER, &[OWNER], 600),
                task(900),
            )));
            let keeper = Keeper::new(info("keeper", &["prod/db"], 600));
            all.push(Mind::Keeper(keeper));
        }
        for n in 0..self.plan.n_hoarders {
            let hoarder = FrameworkInfo {
                // It sits on what is lent, too.
                capabilities: lent,
                ..info(&format!("hoarder{n}"), &["hoard"], 0)
            };
            all.push(Mind::Hoarder(hoarder));
        }
        self.frameworks = all.into_iter().map(Foreign::new).collect();
        for at in 0..self.frameworks.len() {
            if self.frameworks[at].mind.info().name != OWNER {
                let mut jobs = self.jobs(20);
                jobs.push(Job::Serve);
                self.add_jobs(at, jobs);
            }
            self.after(0, 5_000, Delivery::Framework(FrameworkDelivery::Up(at)));
        }
    }

    fn jobs(&mut self, n: u64) -> Vec<Job> {
        let mut job = |_| {
            let ms = self.rng.between(50, 8_000);
            if self.rng.chance(150) {
                Job::Fail(ms)
            } else {
                Job::Run(ms)
            }
        };
        (0..n).map(&mut job).collect()
    }

    pub(crate) fn add_jobs(&mut self, at: usize, jobs: Vec<Job>) {
        if let Mind::Batch(b) = &mut self.frameworks[at].mind {
            let calls = b.add(jobs);
            self.say(at, calls);
        }
    }

    /// Somebody has more to do.
    pub(crate) fn more_to_do(&mut self) {
        let at = self.rng.index(self.frameworks.len());
        let n = self.rng.between(1, 12);
        match &mut self.frameworks[at].mind {
            Mind::Batch(_) => {
                let jobs = self.jobs(n);
                self.log(format_args!("{n} more jobs for framework {at}"));
                self.add_jobs(at, jobs);
            }
            Mind::Keeper(k) => {
                let calls = k.change_mind(&mut self.rng);
                self.say(at, calls);
            }
            Mind::Hoarder(_) => {}
        }
    }

    pub(crate) fn framework_fault(&mut self) {
        let at = self.rng.index(self.frameworks.len());
        let up = |at| Delivery::Framework(FrameworkDelivery::Up(at));
        match self.rng.between(0, 100) {
            0..35 => {
                if let Some(link) = self.frameworks[at].link {
                    self.log(format_args!("stream of framework {at} breaks"));
                    self.doom_link(link, 1, 2_000);
                }
            }
            35..55 => {
                self.framework_down(at);
                self.after(100, 30_000, up(at));
            }
            55..70 => self.framework_failover(at),
            70..80 => {
                self.log(format_args!("framework {at} is cut off"));
                self.frameworks[at].partitioned = true;
                if let Some(link) = self.frameworks[at].link {
                    self.doom_link(link, 5_000, 15_000);
                }
                let heal = FrameworkDelivery::Heal(at);
                self.after(2_000, 60_000, Delivery::Framework(heal));
            }
            80..95 => {
                if let Some(task_id) = self.frameworks[at].mind.pick(&mut self.rng) {
                    self.say(at, vec![call(SchedulerCall::Kill { task_id })]);
                }
            }
            _ => self.say(at, vec![FrameworkCall::Teardown]),
        }
    }

    /// All frameworks come back; some of them are torn down for good.
    pub(crate) fn heal_frameworks(&mut self) {
        for at in 0..self.frameworks.len() {
            let heal = FrameworkDelivery::Heal(at);
            self.after(0, 1, Delivery::Framework(heal));
            let up = FrameworkDelivery::Up(at);
            self.after(1, 2, Delivery::Framework(up));
            if self.rng.chance(300) {
                let retire = FrameworkDelivery::Retire(at);
                self.after(0, 60_000, Delivery::Framework(retire));
            }
        }
    }
}
