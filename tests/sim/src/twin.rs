//! A second master over the same store, to which every agent registers with what it has: it must come to the same
//! cluster.

use waggle_master::{
    core::{Event, MasterCore, Restored, SessionId},
    view::ClusterView,
};

use crate::{Sim, Violation};

impl Sim {
    /// Compares the master with one that starts anew.
    pub(crate) fn check_twin(&mut self) -> Result<(), Violation> {
        let wrong = |what: String| Violation::NotRestored(what);
        let restored = Restored::load(&self.entries()).map_err(|e| wrong(e.to_string()))?;
        let seed = self.rng.any();
        let config = self.core_config(seed)?;
        let (mut twin, _) = MasterCore::new(config, restored, self.now);
        for (n, node) in self.nodes.iter().enumerate() {
            if node.n_refused > 0 {
                continue;
            }
            let registration = Box::new(node.registration(self.now));
            let session = SessionId(n as u64);
            let event = Event::Register {
                session,
                registration,
            };
            twin.handle(event, self.now);
        }
        twin.finish(self.now);
        let books = twin.allocator().check();
        books.map_err(|e| wrong(e.to_string()))?;
        let Some(master) = &mut self.master else {
            return Ok(());
        };
        let (a, b) = (master.view(self.now), twin.view(self.now));
        same("services", &services(&a), &services(&b))?;
        same("frameworks", &frameworks(&a), &frameworks(&b))?;
        same("roles", &roles(&a), &roles(&b))?;
        same("agents", &agents(&a), &agents(&b))?;
        same("maintenance", &a.maintenance, &b.maintenance)?;
        same("tasks", &tasks(&a), &tasks(&b))?;
        same("VIPs", &a.vips, &b.vips)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, a: &T, b: &T) -> Result<(), Violation> {
    if a == b {
        return Ok(());
    }
    Err(Violation::NotRestored(format!(
        "{what}: {a:?} became {b:?}"
    )))
}

type Lines = Vec<String>;

fn services(v: &ClusterView) -> Lines {
    v.services
        .values()
        .map(|s| format!("{:?}", s.spec))
        .collect()
}

/// What is stored of them; a revived role is suppressed again when its framework says so.
fn frameworks(v: &ClusterView) -> Lines {
    let roles = |f: &waggle_master::view::FrameworkView| -> Vec<String> {
        f.roles.iter().map(|r| r.role.clone()).collect()
    };
    let all = v.frameworks.iter();
    all.map(|(id, f)| format!("{id} {} {:?} {:?}", f.name, roles(f), f.capabilities))
        .collect()
}

/// Of what operators set: shares follow from offers.
fn roles(v: &ClusterView) -> Lines {
    let set = v
        .roles
        .iter()
        .filter(|(_, r)| r.weight_milli != 1000 || !r.quota.is_empty());
    set.map(|(name, r)| format!("{name} {} {:?}", r.weight_milli, r.quota))
        .collect()
}

fn agents(v: &ClusterView) -> Lines {
    let all = v.agents.iter();
    all.map(|(id, a)| {
        let mut reserved = a.reserved.clone();
        reserved.sort();
        format!(
            "{id} {:?} {} {} {reserved:?} {:?}",
            a.mode, a.used, a.info.total, a.maintenance
        )
    })
    .collect()
}

fn tasks(v: &ClusterView) -> Lines {
    let all = v.tasks.iter();
    all.map(|(id, t)| format!("{id} {} {:?} {:?}", t.agent_id(), t.state(), t.spec.parts))
        .collect()
}
