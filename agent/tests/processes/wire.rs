//! What newer masters ask and newer agents say.

use std::time::Instant;

use waggle_api::proto::session::{self as pb, TaskState, master_message::Kind as ToAgent};
use waggle_types::{Domain, Milli, PortSet, Resources};

use crate::{
    agent::{Agent, block_on, ended, launch, spec, until},
    master::Master,
};

/// A task that ignores SIGTERM has a grace of its own; the master's is shorter and counts.
pub fn ends_a_task_within_the_bound_of_a_kill() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let mut stubborn = spec(
            "stubborn.1",
            "trap '' TERM; echo up; while :; do sleep 0.1; done",
        );
        stubborn.kill_grace_ms = 3_600_000;
        master.send(launch(stubborn)).await;
        until("running", || master.last("stubborn.1")).await;
        let stdout = dir.path().join("tasks/stubborn.1/sandbox/stdout");
        until("the trap is set", || {
            let out = std::fs::read_to_string(&stdout).ok()?;
            out.contains("up").then_some(())
        })
        .await;
        let asked = Instant::now();
        let kill = |max_grace_ms| {
            ToAgent::Kill(pb::Kill {
                task_id: "stubborn.1".to_owned(),
                max_grace_ms,
                ..pb::Kill::default()
            })
        };
        // A second, shorter one brings the end forward.
        master.send(kill(None)).await;
        until("it is being killed", || {
            let last = master.last("stubborn.1")?;
            (last.state() == TaskState::TaskKilling).then_some(())
        })
        .await;
        master.send(kill(Some(300))).await;
        let end = ended(&master, "stubborn.1").await;
        assert_eq!(end.state(), TaskState::TaskKilled);
        assert!(asked.elapsed().as_millis() >= 300, "the bound is a grace");
    });
}

/// Resources with roles and custom kinds, and the domain, are registered and shown.
pub fn says_what_it_has_and_where_it_stands() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start_with(dir.path(), vec![master.addr], None, |c| {
            c.resources.cpus = Some(Milli(4000));
            c.resources.disk = Some(Milli(0));
            c.resources.mem = Some(Milli::units(64));
            c.resources.ports = Some(PortSet::from_ports([31000]));
            c.resources.custom.set_scalar("licenses", Milli(3000));
            let prod = Resources::from_millis(2000, 0, 0);
            c.resources.reserved = vec![("prod".to_owned(), prod)];
            c.domain = Some(Domain {
                region: "eu".to_owned(),
                zone: "eu-a".to_owned(),
            });
        })
        .await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let said = master.last_registration().agent.unwrap();
        let total = said.total.unwrap();
        assert_eq!(total.cpus_milli, 6000, "what is reserved is on top");
        assert_eq!(total.scalars_milli["licenses"], 3000);
        assert_eq!(said.reserved.len(), 1);
        assert_eq!(said.reserved[0].role, "prod");
        assert_eq!(said.domain.unwrap().zone, "eu-a");
        let (status, body) = agent.get("/state").await;
        assert_eq!(status, 200);
        let state: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(state["resources"]["cpus"], 6);
        assert_eq!(state["resources"]["licenses"], 3);
        assert_eq!(state["reserved_resources"]["prod"]["cpus"], 2);
        assert_eq!(state["unreserved_resources"]["cpus"], 4);
        assert_eq!(state["domain"]["fault_domain"]["region"]["name"], "eu");
    });
}

/// Data in a volume outlives its tasks and the agent, and goes with the volume.
pub fn keeps_the_data_of_volumes() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        let on_volume = |task: &str, shell: &str| {
            let mut spec = spec(task, shell);
            if let Some(r) = &mut spec.resources {
                let volume = pb::Volume {
                    size_milli: 1000,
                    shared: false,
                };
                r.volumes.insert("db".to_owned(), volume);
            }
            launch(spec)
        };
        let finished = async |task: &str| ended(&master, task).await.state();
        master
            .send(on_volume("db.1", "echo kept > volumes/db/data"))
            .await;
        assert_eq!(finished("db.1").await, TaskState::TaskFinished);
        agent.vanish().await;
        let _agent = Agent::start(dir.path(), vec![master.addr], None).await;
        until("registration", || {
            (master.n_registrations() == 2).then_some(())
        })
        .await;
        let volumes = |kept: &[&str], destroyed: &[&str]| {
            let texts = |ids: &[&str]| ids.iter().map(|i| (*i).to_owned()).collect();
            ToAgent::Volumes(pb::Volumes {
                volume_ids: texts(kept),
                destroyed: texts(destroyed),
            })
        };
        master.send(volumes(&["db"], &[])).await;
        let reads = "test \"$(cat volumes/db/data)\" = kept";
        master.send(on_volume("db.2", reads)).await;
        assert_eq!(finished("db.2").await, TaskState::TaskFinished);
        // It was destroyed and made again: another one of the same name.
        master.send(volumes(&["db"], &["db"])).await;
        let empty = "test -z \"$(ls volumes/db)\"";
        master.send(on_volume("db.3", empty)).await;
        assert_eq!(finished("db.3").await, TaskState::TaskFinished);
        // A master that does not know it has not said that it may go.
        let aside = dir.path().join("volume-snapshots/db");
        master.send(volumes(&[], &[])).await;
        until("it is put aside", || {
            let there = dir.path().join("volumes/db").exists();
            (aside.exists() && !there).then_some(())
        })
        .await;
        master.send(volumes(&["db"], &[])).await;
        master.send(on_volume("db.4", empty)).await;
        assert_eq!(finished("db.4").await, TaskState::TaskFinished);
        master.send(volumes(&[], &["db"])).await;
        until("nothing is left of it", || {
            let gone = dir.path().join("volumes-gone").exists();
            let there = dir.path().join("volumes/db").exists();
            (!gone && !there).then_some(())
        })
        .await;
        assert!(aside.exists(), "and stays until a person says");
    });
}
