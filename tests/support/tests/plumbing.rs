//! The cluster's plumbing with a stand-in for the node: what is made, and that nothing stays.

use std::time::Duration;

use waggle_tests_support::cluster::{Cluster, Config, Program, clear_leftovers, down};
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::names::Names;
use waggle_tests_support::{cgroup, is_root, process, wait_until};

fn config(names: &Names) -> Config {
    Config {
        names: names.clone(),
        nodes: 2,
        program: Program::StandIn(vec!["sleep".to_owned(), "300".to_owned()]),
        otlp: None,
        owned: true,
    }
}

#[test]
fn a_command_sees_its_node_and_nothing_is_left_behind() {
    if !is_root() {
        eprintln!("SKIP: namespaces and cgroups need root");
        return;
    }
    let names = Names::new("wgtp");
    let mut say = |line: &str| println!("{line}");
    clear_leftovers(&names, &mut say).unwrap();
    let before = Snapshot::take(&names);
    let mut cluster = Cluster::up(&config(&names), Duration::from_secs(5), &mut say).unwrap();

    let run = |line: &str| {
        let out = cluster
            .command("n2", "sh")
            .unwrap()
            .args(["-c", line])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(run("cat /etc/resolv.conf").contains("198.51.100.1"));
    assert!(run("cat /proc/self/cgroup").contains("/waggle-cluster-wgtp/n2/exec"));
    assert!(run("ip -br addr show eth0").contains("192.168.77.2/24"));
    assert_eq!(run("ip route show default"), "", "a route out");
    assert!(
        !std::fs::read_to_string("/etc/resolv.conf")
            .unwrap()
            .contains("198.51.100.1")
    );
    // bpffs and the cgroups stay visible inside.
    assert!(run("ls -d /sys/fs/bpf/waggle-wgtp/n2").contains("n2"));

    let first = cluster.state.nodes[0].pid;
    assert!(process::alive(first));
    cluster.kill_node(0).unwrap();
    assert!(!process::alive(first));
    cluster.start_node(0).unwrap();
    assert!(process::alive(cluster.state.nodes[0].pid));

    // A second cluster of this name is refused while this one is in use.
    let refused = clear_leftovers(&names, &mut say).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    assert!(Cluster::prepare(&config(&names), &mut say).is_err());

    // As after a crash: no state file, and a process that nobody recorded.
    std::fs::remove_file(names.state_dir().join("state.json")).unwrap();
    let mut stray = cluster
        .command("n1", "sleep")
        .unwrap()
        .arg("300")
        .spawn()
        .unwrap();
    let root = cgroup::v2_mount().unwrap().join(names.cgroup());
    wait_until(
        Duration::from_secs(5),
        "the stray to join its cgroup",
        || (cgroup::pids_below(&root).len() == 3).then_some(()),
    )
    .unwrap();
    cluster.down(&mut say).unwrap();
    stray.wait().unwrap();
    assert_eq!(
        Snapshot::take(&names).new_since(&before),
        Vec::<String>::new()
    );
    down(&names, &mut say).unwrap();
}
