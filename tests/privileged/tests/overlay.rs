//! Tasks on a named network that was made at run time: each reaches each over TCP, UDP and ICMP, IPv4 and IPv6, by its own
//! address; VIPs, names and host ports lead to them from everywhere, also while an agent is killed; nothing is left.

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use waggle_tests_privileged::{
    LIMIT, can_run,
    outside::Outside,
    tasks::{Place, all_answer, answers, beside, left, places, unharmed},
    waggle, world,
};
use waggle_tests_support::{
    cluster::{OUTSIDE, port},
    netns::NetNs,
    process,
    scenario::{World, deploy, remove},
    sink::Point,
    wait_until,
};

const DEFINITION: &str = include_str!("../../fixtures/overlaid.json");
const NAME: &str = "overlaid.marathon.l4lb.thisdcos.directory";

/// `waggle network ...`: exit code, and what it printed.
fn network(world: &World, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    said_by(world, "network", arguments)
}

fn said_by(world: &World, noun: &str, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let out = world
        .cluster
        .command("n1", waggle()?)?
        .arg(noun)
        .args(arguments)
        .env(
            "WAGGLE_MASTER",
            format!("http://{}", world.cluster.leader(port::MESOS)),
        )
        .output()?;
    let said = [out.stdout, out.stderr].concat();
    Ok((
        out.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn done(world: &World, arguments: &[&str]) -> anyhow::Result<String> {
    let (code, said) = network(world, arguments)?;
    ensure!(
        code == Some(0),
        "waggle network {arguments:?}: {code:?} {said}"
    );
    Ok(said)
}

/// The addresses of each task, IPv4 first.
fn own(world: &World, places: &[Place]) -> anyhow::Result<Vec<[IpAddr; 2]>> {
    let json = get(world, port::MARATHON, "/v2/apps/overlaid/tasks")?;
    let tasks = json["tasks"].as_array().context("no tasks")?;
    let of = |place: &Place| -> anyhow::Result<[IpAddr; 2]> {
        let task = tasks.iter().find(|t| t["id"] == place.task.id.as_str());
        let ips = &task.context("no such task")?["ipAddresses"];
        let ip = |i: usize| -> anyhow::Result<IpAddr> {
            let text = ips[i]["ipAddress"].as_str();
            Ok(text
                .with_context(|| format!("no address: {ips}"))?
                .parse()?)
        };
        Ok([ip(0)?, ip(1)?])
    };
    places.iter().map(of).collect()
}

fn get(world: &World, port: u16, path: &str) -> anyhow::Result<Value> {
    let client = world.cluster.client();
    client.get(world.cluster.leader(port), path)?.ok()?.json()
}

/// Each to each, itself too: who answers sees the asker's own address.
fn each_to_each(world: &World, places: &[Place], own: &[[IpAddr; 2]]) -> anyhow::Result<()> {
    for (from, mine) in places.iter().zip(own) {
        for (to, theirs) in places.iter().zip(own) {
            for family in 0..2 {
                let host = theirs[family].to_string();
                for (kind, port) in [("tcp", 8000), ("udp", 5300)] {
                    let said = answers(beside(world, from)?, kind, &host, port, 1)?;
                    let want = format!("{} {}", to.task.id, mine[family]);
                    ensure!(
                        said == [want.as_str()],
                        "{kind} from {} to {host}: {said:?}, not {want}",
                        mine[family]
                    );
                }
                if from.pid != to.pid {
                    ping(from.pid, &host, "1400")?;
                }
            }
        }
    }
    Ok(())
}

fn ping(pid: i32, host: &str, bytes: &str) -> anyhow::Result<()> {
    let out = Command::new("nsenter")
        .args([
            "-t",
            &pid.to_string(),
            "-n",
            "ping",
            "-n",
            "-c",
            "1",
            "-W",
            "2",
            "-s",
            bytes,
            host,
        ])
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "ping {host}: {said}");
    Ok(())
}

fn everywhere(world: &World, places: &[Place]) -> anyhow::Result<()> {
    for (kind, port) in [("tcp", 80), ("udp", 53)] {
        all_answer(&format!("{kind} from a node"), places, || {
            answers(
                world.cluster.command("n1", "python3")?,
                kind,
                NAME,
                port,
                20,
            )
        })?;
        all_answer(&format!("{kind} from a task"), places, || {
            answers(beside(world, &places[0])?, kind, NAME, port, 20)
        })?;
    }
    // From outside of the nodes by a mapped port, which keeps the source.
    let hub = NetNs::open(&world.cluster.names.hub())?;
    for place in places {
        let to = SocketAddr::from((place.node.ip, place.task.port));
        let mut said = String::new();
        hub.connect(to, Duration::from_secs(2))?
            .read_to_string(&mut said)?;
        let from = world.cluster.names.hub_ip().to_string();
        ensure!(
            said.trim() == format!("{} {from}", place.task.id),
            "{said:?}"
        );
    }
    // From a task by mapped ports, of its own node and of another one.
    for place in places {
        let host = place.node.ip.to_string();
        let said = answers(beside(world, &places[0])?, "tcp", &host, place.task.port, 1)?;
        let is_it = said.iter().all(|l| l.starts_with(&place.task.id));
        ensure!(is_it && said.len() == 1, "mapped port of {host}: {said:?}");
        if place.node.name != places[0].node.name {
            let node = places[0].node.ip.to_string();
            ensure!(said[0].ends_with(&node), "it is its node outside: {said:?}");
        }
    }
    Ok(())
}

/// What names and APIs say.
fn said_of_them(world: &World, places: &[Place], own: &[[IpAddr; 2]]) -> anyhow::Result<()> {
    let name = |kind: &str| format!("overlaid.marathon.{kind}.dcos.thisdcos.directory");
    for (kind, family, record) in [("containerip", 0, "A"), ("containerip", 1, "AAAA")] {
        let want: BTreeSet<String> = own.iter().map(|ips| ips[family].to_string()).collect();
        let mut said = BTreeSet::new();
        wait_until(LIMIT, "addresses of tasks", || {
            let mut dig = world.cluster.command("n1", "dig").ok()?;
            let out = dig
                .args(["+short", "+time=1", "-t", record, &name(kind)])
                .output()
                .ok()?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            said = text.lines().map(str::to_owned).collect();
            (said == want).then_some(())
        })
        .with_context(|| format!("{record} {kind}: {said:?}, not {want:?}"))?;
    }
    let networks = get(world, port::MESOS, "/waggle/v1/networks")?;
    let pods = networks.as_array().into_iter().flatten();
    let pods = pods
        .clone()
        .find(|n| n["name"] == "pods")
        .context("no pods")?;
    ensure!(pods["addresses"]["used"] == places.len(), "{pods}");
    ensure!(pods["subnets"]["held"] == 3, "{pods}");
    let state = get(world, port::MESOS, "/overlay-master/state")?;
    let agents = state["agents"].as_array().context("no agents")?;
    ensure!(agents.len() == 3, "{state}");
    for agent in agents {
        let overlays = agent["overlays"].as_array().context("no overlays")?;
        let pods = overlays.iter().find(|o| o["info"]["name"] == "pods");
        let pods = pods.context("no pods")?;
        ensure!(pods["state"]["status"] == "STATUS_OK", "{agent}");
        ensure!(pods["backend"]["vxlan"]["vni"] == 1024, "{agent}");
        let ip: std::net::Ipv4Addr = agent["ip"].as_str().unwrap_or_default().parse()?;
        let client = world.cluster.client();
        let of_agent = client.get((ip, port::AGENT).into(), "/overlay-agent/overlay")?;
        ensure!(
            of_agent.ok()?.json()? == *agent,
            "the agent says something else"
        );
    }
    Ok(())
}

fn refused(world: &World) -> anyhow::Result<()> {
    for (arguments, says) in [
        (&["add", "pods", "--subnet", "10.78.0.0/16"][..], "exists"),
        (
            &["add", "x", "--subnet", "10.77.9.0/24"],
            "must not overlap",
        ),
        (&["add", "x", "--subnet", "11.0.0.0/16"], "of VIPs"),
        (
            &["add", "x", "--subnet", "10.78.0.1/16"],
            "without host bits",
        ),
        (
            &["add", "x", "--subnet", "10.78.0.0/16", "--mtu", "100"],
            "mtu",
        ),
        (
            &["add", "host", "--subnet", "10.78.0.0/16"],
            "must not be host",
        ),
        (&["add", "x"], "subnet"),
        (&["remove", "pod"], "did you mean \"pods\""),
        (&["remove", "pods"], "in use by service /overlaid"),
    ] {
        let (code, said) = network(world, arguments)?;
        ensure!(
            code.is_some_and(|c| c != 0) && said.contains(says),
            "{arguments:?}: {code:?} {said}"
        );
    }
    let nowhere = DEFINITION
        .replace("\"pods\"", "\"nowhere\"")
        .replace("/overlaid", "/nowhere");
    let Err(why) = deploy(&world.cluster, &nowhere, LIMIT) else {
        bail!("a task on a network that is not there was accepted");
    };
    ensure!(
        format!("{why:#}").contains("must be a network of this cluster"),
        "{why:#}"
    );
    Ok(())
}

/// More tasks than a node has addresses for: it is said why.
fn exhausted(world: &World) -> anyhow::Result<()> {
    done(
        world,
        &["add", "tiny", "--subnet", "10.79.0.0/24", "--prefix", "29"],
    )?;
    let definition = r#"{"id": "/tiny", "cmd": "sleep 1000", "instances": 6, "cpus": 0.01, "mem": 32,
        "networks": [{"mode": "container", "name": "tiny"}], "constraints": [["hostname", "CLUSTER", "n2"]]}"#;
    let client = world.cluster.client();
    let marathon = world.cluster.leader(port::MARATHON);
    client
        .request(
            "POST",
            marathon,
            "/v2/apps",
            Some(definition.as_bytes()),
            &[("content-type", "application/json")],
        )?
        .ok()?;
    let mut last = Value::Null;
    wait_until(LIMIT, "a task without an address", || {
        last = get(world, port::MARATHON, "/v2/apps/tiny").ok()?;
        let why = last["app"]["lastTaskFailure"]["message"].as_str()?;
        // Which of the nets is this node's is for who came first.
        let full = |nth: u32| {
            format!(
                "no address is free in 10.79.0.{}/29: containers have 5",
                8 * nth
            )
        };
        (0..3).any(|nth| why.contains(&full(nth))).then_some(())
    })
    .with_context(|| format!("{}", last["app"]["lastTaskFailure"]))?;
    remove(&world.cluster, "/tiny", LIMIT)?;
    wait_until(LIMIT, "the network to be free", || {
        (network(world, &["remove", "tiny"]).ok()?.0 == Some(0)).then_some(())
    })
}

/// Policies that come, change and go reach every node as changes, and what was open or closed by them is so no more.
fn policed(world: &World, places: &[Place], own: &[[IpAddr; 2]]) -> anyhow::Result<()> {
    let policy = |arguments: &[&str]| -> anyhow::Result<String> {
        let (code, said) = said_by(world, "policy", arguments)?;
        ensure!(code == Some(0), "policy {arguments:?}: {code:?} {said}");
        Ok(said)
    };
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("policy.json");
    let add = |ingress: &str, more: &str| -> anyhow::Result<String> {
        let text = format!(
            r#"{{"name": "guard", "selects": {{"service": "/overlaid"}}, "ingress": {ingress}{more}}}"#
        );
        std::fs::write(&file, text)?;
        policy(&["add", &file.display().to_string()])
    };
    let (asker, to) = (&places[0], &own[1]);
    let pings = |family: usize| ping(asker.pid, &to[family].to_string(), "56").is_ok();
    let asks = |family: usize| {
        let host = to[family].to_string();
        beside(world, asker)
            .and_then(|command| answers(command, "tcp", &host, 8000, 1))
            .is_ok_and(|said| said.len() == 1 && !said[0].starts_with("failed"))
    };
    let test = || policy(&["test", &asker.task.id, &places[1].task.id, "tcp/8000"]);
    let reached = |what: &str, is_it: &dyn Fn(usize) -> bool| {
        wait_until(LIMIT, what, || (is_it(0) && is_it(1)).then_some(()))
    };
    add("[]", "")?;
    reached("nobody to reach a task", &|f| !pings(f) && !asks(f))?;
    ensure!(test()?.contains("is dropped"), "{}", test()?);
    // Of what was dropped, who asked whom at which port, and whose policies they were.
    let told = |verdict: &str| {
        wait_until(LIMIT, &format!("{verdict} flows"), || {
            let (_, said) = said_by(world, "flows", &["--verdict", verdict, "--json"]).ok()?;
            let mut flows = said
                .lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok());
            let of_port = |f: &Value| {
                let local = f["local"].as_str().unwrap_or_default();
                f["protocol"] == "tcp" && local.ends_with(":8000")
            };
            flows.rfind(of_port)
        })
    };
    let denied = told("denied")?;
    let why = (&denied["reason"], &denied["policies"], &denied["observer"]);
    ensure!(
        why == (&json!("no_rule"), &json!("guard"), &json!("destination"))
            && denied["service"] == "/overlaid"
            && denied["source"] == "overlaid.marathon",
        "{denied}"
    );
    let (_, drops) = said_by(world, "drops", &["/overlaid"])?;
    ensure!(
        drops.contains("denied: overlaid.marathon -> overlaid.marathon tcp/8000, no_rule of guard"),
        "{drops}"
    );
    add("[]", r#", "audit": true"#)?;
    reached("all to pass in audit mode", &|f| pings(f) && asks(f))?;
    ensure!(test()?.contains("audit mode would drop"), "{}", test()?);
    let audited = told("audited")?;
    ensure!(audited["policies"] == "guard", "{audited}");
    let rule = r#"[{"from": [{"tasks": {"service": "/overlaid"}}], "ports": ["tcp/8000"]}]"#;
    add(rule, "")?;
    reached("one port to be open", &|f| !pings(f) && asks(f))?;
    ensure!(test()?.contains("rule 0 of guard allows"), "{}", test()?);
    policy(&["remove", "guard"])?;
    reached("all to pass", &|f| pings(f) && asks(f))
}

/// What became of packets is said by metrics, too: of nodes, with the reason.
fn measured(world: &World) -> anyhow::Result<()> {
    for (metric, outcome) in [
        ("waggle.policy.packets", "denied_ingress"),
        ("waggle.policy.packets", "audited_ingress"),
        ("waggle.network.packets", "policy_ingress"),
        ("waggle.network.packets", "received"),
    ] {
        wait_until(LIMIT, &format!("{metric} {outcome}"), || {
            world.sink.with(|s| {
                let mut all = s.points.values();
                let said = |p: &&Point| {
                    p.name == metric
                        && p.attributes
                            .get("waggle.outcome")
                            .is_some_and(|o| o == outcome)
                };
                all.find(|p| said(p) && p.value > 0.0).map(|_| ())
            })
        })?;
    }
    Ok(())
}

/// What a task dials outside, each with a patience that is shorter than TCP's first retransmission: `name` is looked up before.
const DIALS: &str = r#"
import socket, sys
for to in sys.argv[1:]:
    host, port = to.rsplit(":", 1)
    try:
        ip = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
        s = socket.create_connection(ip, 0.9)
        s.settimeout(2)
        print(s.makefile().readline().strip())
        s.close()
    except OSError as e:
        print("failed", e)
"#;

/// Egress to a name: its addresses are open from the moment on that the task has them, for the ports that the rule says, also
/// after the agent of its node was replaced.
fn named(world: &mut World, places: &[Place]) -> anyhow::Result<()> {
    let outside = Outside::open(world, &[8080, 8081])?;
    let asker = places.iter().find(|p| p.node.name != "n1");
    let asker = asker.context("all on the master's node")?;
    let dials = |world: &World, to: &[String]| -> anyhow::Result<Vec<bool>> {
        let mut command = beside(world, asker)?;
        let out = command.args(["-c", DIALS]).args(to).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(text.lines().count() == to.len(), "{text} {out:?}");
        Ok(text.lines().map(|l| l == "outside").collect())
    };
    let by_ip = |port: u16| format!("{}:{port}", outside.ip);
    let by_name = |name: &str, port: u16| format!("{name}.{OUTSIDE}:{port}");
    ensure!(
        dials(world, &[by_ip(8080), by_name("api", 8081)])? == [true, true],
        "without a policy"
    );
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("policy.json");
    let text = format!(
        r#"{{"name": "names", "selects": {{"service": "/overlaid"}},
            "egress": [{{"to": [{{"name": "*.api.{OUTSIDE}"}}], "ports": ["tcp/8080"]}}]}}"#
    );
    std::fs::write(&file, text)?;
    let (code, said) = said_by(world, "policy", &["add", &file.display().to_string()])?;
    ensure!(code == Some(0), "{said}");
    wait_until(LIMIT, "the outside to be closed", || {
        (dials(world, &[by_ip(8080)]).ok()? == [false]).then_some(())
    })?;
    let rest = [by_name("api", 8080), by_ip(8080)];
    ensure!(dials(world, &rest)? == [false, false], "not below the name");
    // Asked, and dialled at once: the first packet passes.
    let rest = [by_name("one.api", 8080), by_ip(8080), by_ip(8081)];
    ensure!(dials(world, &rest)? == [true, true, false], "told");
    let other = places.iter().find(|p| p.pid != asker.pid);
    let other = other.context("one task")?;
    let host = outside.ip.to_string();
    let said = answers(beside(world, other)?, "tcp", &host, 8080, 1)?;
    ensure!(
        said.iter().all(|l| l.starts_with("failed")),
        "told to another task: {said:?}"
    );
    // Another agent: what was told holds on, and names are learned at once.
    let nodes = &world.cluster.state.nodes;
    let position = nodes.iter().position(|n| n.name == asker.node.name);
    let position = position.context("no such node")?;
    world.cluster.kill_node(position)?;
    ensure!(dials(world, &[by_ip(8080)])? == [true], "without an agent");
    world.cluster.start_node(position)?;
    ensure!(dials(world, &[by_ip(8080)])? == [true], "with a new agent");
    let to = [by_name("two.api", 8080), by_name("two.api", 8081)];
    wait_until(LIMIT, "the resolver", || {
        let dialled = dials(world, &to).ok()?;
        (dialled == [true, false]).then_some(())
    })?;
    let (code, said) = said_by(world, "policy", &["remove", "names"])?;
    ensure!(code == Some(0), "{said}");
    wait_until(LIMIT, "the outside to be open", || {
        (dials(world, &[by_ip(8081)]).ok()? == [true]).then_some(())
    })
}

/// `waggle network doctor` has nothing to say of a whole cluster, and names a node whose tunnel is blocked.
fn doctored(world: &World, places: &[Place]) -> anyhow::Result<()> {
    let nobody = "10.77.255.9";
    ensure!(
        ping(places[0].pid, nobody, "56").is_err(),
        "{nobody} is there"
    );
    let said = done(world, &["doctor"])?;
    ensure!(
        said.matches(" 2/2 ").count() == 3 && said.contains("unknown_destination: nobody has"),
        "{said}"
    );
    let victim = &world.cluster.state.nodes[1];
    // At the hub's port: in the node itself the tunnel's programs come before its packet filter.
    let hub = NetNs::open(&world.cluster.names.hub())?;
    let nft = |script: &str| -> anyhow::Result<()> {
        let out = hub.run(|| Command::new("nft").arg(script).output())??;
        ensure!(out.status.success(), "nft {script}: {out:?}");
        Ok(())
    };
    nft(&format!(
        "add table netdev blocked; \
         add chain netdev blocked in {{ type filter hook ingress device \"{}\" priority 0; }}; \
         add rule netdev blocked in udp dport 64000 drop",
        world.cluster.names.veth(victim.index)
    ))?;
    let mut last = String::new();
    let found = wait_until(LIMIT, "the blocked node to be named", || {
        let (code, said) = network(world, &["doctor"]).ok()?;
        last = said;
        let is_it = last.contains(&format!("{}: reaches no other node", victim.name));
        (code == Some(1) && is_it && last.contains("the overlay has 1 problem")).then_some(())
    });
    nft("delete table netdev blocked")?;
    found.with_context(|| last)?;
    let mut last = String::new();
    wait_until(LIMIT, "all to be well again", || {
        let (code, said) = network(world, &["doctor", "--json"]).ok()?;
        last = said;
        (code == Some(0)).then_some(())
    })
    .with_context(|| last.clone())?;
    let json: Value = serde_json::from_str(&last)?;
    let nodes = json["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == 3 && json["findings"] == serde_json::json!([]));
    for node in nodes {
        let peers = node["check"]["peers"].as_array().context("no peers")?;
        let all_whole = peers.iter().all(|p| p["whole"] == true);
        ensure!(peers.len() == 2 && all_whole, "{node}");
    }
    Ok(())
}

fn on_a_network(world: &mut World) -> anyhow::Result<()> {
    let arguments = [
        "add",
        "pods",
        "--subnet",
        "10.77.0.0/16",
        "--subnet6",
        "fd01:77::/64",
    ];
    done(world, &arguments)?;
    let list = done(world, &["list"])?;
    ensure!(
        list.contains("10.77.0.0/16 by /24, fd01:77::/64 by /80"),
        "{list}"
    );
    let places = places(world, DEFINITION, 4)?;
    let own = own(world, &places)?;
    each_to_each(world, &places, &own)?;
    everywhere(world, &places)?;
    said_of_them(world, &places, &own)?;
    doctored(world, &places)?;
    policed(world, &places, &own)?;
    measured(world)?;
    named(world, &places)?;
    refused(world)?;

    // The agent of a node goes, by kill -9, and another one comes.
    let victim = places.iter().find(|p| p.node.name != "n1");
    let victim = victim.context("all on the master's node")?;
    let nodes = &world.cluster.state.nodes;
    let position = nodes.iter().position(|n| n.name == victim.node.name);
    let position = position.context("no such node")?;
    let hub = NetNs::open(&world.cluster.names.hub())?;
    let to = SocketAddr::from((victim.node.ip, victim.task.port));
    unharmed(&hub, to, &victim.task.id, || {
        world.cluster.kill_node(position)?;
        world.cluster.start_node(position)
    })?;
    ensure!(process::alive(victim.pid), "the task was started anew");
    wait_until(LIMIT, "the service to be whole", || {
        let app = get(world, port::MARATHON, "/v2/apps/overlaid").ok()?;
        (app["app"]["tasksHealthy"].as_u64() == Some(4)).then_some(())
    })?;
    each_to_each(world, &places[..2], &own[..2])?;
    everywhere(world, &places)?;

    remove(&world.cluster, "/overlaid", LIMIT)?;
    wait_until(LIMIT, "the network to be free", || {
        (network(world, &["remove", "pods"]).ok()?.0 == Some(0)).then_some(())
    })?;
    exhausted(world)?;
    for node in &world.cluster.state.nodes {
        let mut last = Vec::new();
        wait_until(LIMIT, "nothing to be left", || {
            last = left(node).unwrap_or_else(|e| vec![format!("{e:#}")]);
            last.is_empty().then_some(())
        })
        .with_context(|| format!("{}: {last:?}", node.name))?;
    }
    Ok(())
}

#[test]
fn tasks_of_a_network_reach_each_other_and_are_reached_and_leave_nothing() {
    if !can_run() {
        return;
    }
    let mut world = world(3).unwrap();
    let result = on_a_network(&mut world);
    let logs = world.cluster.last_words();
    world.down(&mut |_| {}).unwrap();
    result
        .map_err(|error| format!("{error:#}\n{logs}"))
        .unwrap();
}
