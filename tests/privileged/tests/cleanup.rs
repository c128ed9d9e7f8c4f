//! After a cluster with tasks is taken down, the machine is as it was; also after a crash.

use waggle_tests_privileged::{can_run, web, world};
use waggle_tests_support::cluster::{clear_leftovers, down};
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::names::Names;

#[test]
fn nothing_is_left_behind() {
    if !can_run() {
        return;
    }
    let names = Names::from_env();
    let mut say = |line: &str| println!("{line}");
    clear_leftovers(&names, &mut say).unwrap();
    let before = Snapshot::take(&names);

    let ordinary = world(2).unwrap();
    web(&ordinary).unwrap();
    let during = Snapshot::take(&names).new_since(&before);
    for kind in [
        "netns", "cgroup", "pin", "process", "bpf prog", "bpf map", "bpf link",
    ] {
        assert!(
            during.iter().any(|line| line.starts_with(kind)),
            "no {kind} in {during:?}"
        );
    }
    ordinary.down(&mut say).unwrap();
    assert_eq!(Snapshot::left_behind(&names, &before), Vec::<String>::new());

    // A crash: nodes killed, the state file gone, shims and tasks still running.
    let mut crashed = world(2).unwrap();
    web(&crashed).unwrap();
    for position in 0..2 {
        crashed.cluster.kill_node(position).unwrap();
    }
    std::fs::remove_file(names.state_dir().join("state.json")).unwrap();
    drop(crashed);
    let running = Snapshot::take(&names).new_since(&before);
    assert!(
        running.iter().any(|line| line.contains("nginx")),
        "tasks died with their agents"
    );
    down(&names, &mut say).unwrap();
    assert_eq!(Snapshot::left_behind(&names, &before), Vec::<String>::new());
    // Again: nothing to do, no error.
    down(&names, &mut say).unwrap();
}
