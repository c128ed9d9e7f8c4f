//! Names on every node, asked with dig and dnsperf, and by hand where no client would ask so.

use std::process::Output;

use nix::sys::signal::Signal;
use waggle_tests_privileged::{LIMIT, can_run, shared, waggle, web};
use waggle_tests_support::scenario::{VIP_NAME, World};
use waggle_tests_support::{process, wait_until};

/// Runs a program on a node.
fn on(world: &World, node: &str, program: &str, args: &[&str]) -> Output {
    let mut command = world.cluster.command(node, program).unwrap();
    command.args(args).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// What dig says in short.
fn dig(world: &World, node: &str, args: &[&str]) -> String {
    let all = [&["+short", "+time=2", "+tries=2"], args].concat();
    text(&on(world, node, "dig", &all))
}

#[test]
fn every_kind_of_name_resolves_on_every_address() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let node = &world.cluster.state.nodes[1].name;
    // Nodes hear of a service after its master.
    let vip = wait_until(LIMIT, "the name to be known here", || {
        Some(dig(world, node, &[VIP_NAME])).filter(|said| !said.is_empty())
    });
    let vip = vip.unwrap();
    assert!(vip.starts_with("11."), "{vip}");
    for server in ["@198.51.100.1", "@198.51.100.2", "@198.51.100.3"] {
        for over in ["+notcp", "+tcp"] {
            let asked = [server, over, VIP_NAME];
            assert_eq!(dig(world, node, &asked), vip, "{asked:?}");
        }
    }
    let has_ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    if has_ipv6 {
        assert_eq!(dig(world, node, &["@fd01:d::c633:6401", VIP_NAME]), vip);
        let aaaa = dig(world, node, &["ns.spartan", "AAAA"]);
        assert_eq!(aaaa, "fd01:d::c633:6401");
    }
    let n_lines = |args: &[&str]| dig(world, node, args).lines().count();
    for name in [
        "web.marathon.mesos",
        "web.marathon.slave.mesos",
        "web.marathon.agentip.dcos.thisdcos.directory",
        "web.marathon.containerip.dcos.thisdcos.directory",
        "web.marathon.autoip.dcos.thisdcos.global",
    ] {
        assert!((1..=3).contains(&n_lines(&[name])), "{name}");
    }
    assert_eq!(n_lines(&["_web._tcp.marathon.mesos", "SRV"]), 3);
    assert_eq!(
        dig(world, node, &["web.marathon.dclb.thisdcos.global"]),
        vip
    );
    for name in [
        "leader.mesos",
        "master.mesos",
        "zk-1.zk",
        "zk-5.zk",
        "localhost",
    ] {
        assert_eq!(n_lines(&[name]), 1, "{name}");
    }
    assert_eq!(dig(world, node, &["-x", &vip]), format!("{VIP_NAME}."));
    assert!(dig(world, node, &["mesos", "SOA"]).starts_with("ns.spartan."));
    assert_eq!(
        dig(world, node, &["l4lb.thisdcos.directory", "NS"]),
        "ns.spartan."
    );
    assert!(dig(world, node, &["_zone.thisdcos.directory", "TXT"]).contains("generation="));
    let whole = text(&on(
        world,
        node,
        "dig",
        &["nobody.marathon.mesos", "+edns=0"],
    ));
    for part in ["status: NXDOMAIN", "flags: qr aa rd", "udp: 1232", "SOA"] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    // Nobody is asked about other names here.
    let whole = text(&on(world, node, "dig", &["example.com"]));
    assert!(whole.contains("status: REFUSED"), "{whole}");
}

#[test]
fn programs_and_people_are_told() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let node = &world.cluster.state.nodes[1].name;
    let get = |path: &str| {
        let url = format!("http://127.0.0.1:62080{path}");
        let out = on(world, node, "curl", &["-s", "--max-time", "5", &url]);
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    assert_eq!(get("/v1/version")["Service"], "waggle-dns");
    assert_eq!(
        get("/v1/services/_web._tcp.marathon.mesos")
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(get("/v1/hosts/leader.mesos")[0]["host"], "leader.mesos");
    assert_eq!(get("/v1/nodes").as_array().unwrap().len(), 3);
    let vips = get("/v1/vips");
    let web = vips
        .as_array()
        .unwrap()
        .iter()
        .find(|v| v["vip"] == format!("{VIP_NAME}:80"));
    assert_eq!(web.unwrap()["backend"].as_array().unwrap().len(), 3);
    assert!(get("/v1/records").as_array().unwrap().len() > 20);

    let program = waggle().unwrap();
    let cli = |args: &[&str]| on(world, node, program.to_str().unwrap(), args);
    let query = cli(&["dns", "query", VIP_NAME]);
    assert!(query.status.success());
    assert!(text(&query).contains(" A 11."), "{}", text(&query));
    let zone = cli(&["dns", "zone", "l4lb.thisdcos.directory"]);
    assert!(text(&zone).contains(VIP_NAME), "{}", text(&zone));
    let trace = cli(&["dns", "trace", "web.marathon.mesos"]);
    assert!(
        text(&trace).contains("answered from zone mesos."),
        "{}",
        text(&trace)
    );
    let nobody = cli(&["dns", "trace", "nobody.mesos", "--json"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(cli(&["dns", "trace", "a..b"]).status.code(), Some(2));
}

#[test]
fn hostile_messages_are_counted_by_what_is_wrong_and_hurt_nobody() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let node = &world.cluster.state.nodes[2].name;
    // No header; an answer; two questions; a name that points to itself; a label that is cut off.
    for bytes in [
        r"\x00\x07",
        r"\x00\x07\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01",
        r"\x00\x07\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01",
        r"\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01",
        r"\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x3fabc",
    ] {
        let line = format!("printf '{bytes}' > /dev/udp/198.51.100.1/53");
        let out = on(world, node, "bash", &["-c", &line]);
        assert!(out.status.success(), "{out:?}");
    }
    for fault in ["short", "response", "questions", "malformed"] {
        let series = format!("waggle_dns_faults_total{{error_type=\"{fault}\"");
        wait_until(LIMIT, &format!("{fault} to be counted"), || {
            let url = "http://127.0.0.1:62080/v1/metrics";
            let page = text(&on(world, node, "curl", &["-s", "--max-time", "5", url]));
            page.lines().any(|l| l.starts_with(&series)).then_some(())
        })
        .unwrap();
    }
    assert!(dig(world, node, &[VIP_NAME]).starts_with("11."));
}

#[test]
fn names_resolve_while_the_master_is_away() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let node = world.cluster.state.nodes[1].name.clone();
    let vip = dig(world, &node, &[VIP_NAME]);
    let leader = world.cluster.state.nodes[0].pid;
    // Stopped, not killed: it neither answers nor is its connection closed.
    process::signal(leader, Signal::SIGSTOP);
    let away = [
        dig(world, &node, &[VIP_NAME]),
        dig(world, &node, &["_web._tcp.marathon.mesos", "SRV"]),
        dig(world, &node, &["nobody.mesos", "+noshort", "+comments"]),
    ];
    let perf = dnsperf(world, &node);
    process::signal(leader, Signal::SIGCONT);
    assert_eq!(away[0], vip);
    assert_eq!(away[1].lines().count(), 3);
    assert!(away[2].contains("NXDOMAIN"), "{}", away[2]);
    if let Some(said) = perf {
        assert!(said.contains("Queries lost:         0 (0.00%)"), "{said}");
        assert!(said.contains("NOERROR"), "{said}");
    }
}

/// A second of dnsperf on a node, if it is installed.
fn dnsperf(world: &World, node: &str) -> Option<String> {
    let line = format!(
        "printf '{VIP_NAME} A\\n_web._tcp.marathon.mesos SRV\\n' | dnsperf -s 198.51.100.1 -l 1 -q 50"
    );
    let out = on(world, node, "bash", &["-c", &line]);
    let said = text(&out);
    if !said.contains("Queries completed") {
        eprintln!("SKIP: dnsperf is not installed (cargo xtask bench dns installs it)");
        return None;
    }
    Some(said)
}
