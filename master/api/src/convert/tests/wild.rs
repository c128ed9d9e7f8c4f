//! Messages with any value in any field, and ways to damage bytes.

use std::collections::BTreeMap;

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::Index,
};

use super::{frameworks, given};
use crate::proto::{framework as pb, session};

/// Text that means something somewhere, or nothing.
pub(super) fn text() -> BoxedStrategy<String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "*",
            "a",
            "a/b",
            "a/b/c",
            "b",
            "cpus",
            "ports",
            "gold",
            ".",
            "..",
            "../x",
            "a b",
            "a\0b",
            "a=b",
            "127.0.0.1",
            "00-0-0-00",
            "true",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
        (0usize..400).prop_map(|n| "x".repeat(n)),
    ]
    .boxed()
}

/// Good messages of which some fields, mostly one, are anything: so it is seen that each is checked.
macro_rules! mixed {
    ($good:expr, $wild:expr; $($field:ident),+ $(,)?) => {
        ($good, $wild, mask())
            .prop_map(|(mut good, wild, mask)| {
                let mut mask = mask;
                $(if mask & 1 == 1 {
                    good.$field = wild.$field;
                }
                mask >>= 1;)+
                let _ = mask;
                good
            })
            .boxed()
    };
}

pub(super) fn mask() -> BoxedStrategy<u32> {
    prop_oneof![
        2 => Just(0),
        8 => (0u32..20).prop_map(|bit| 1 << bit),
        1 => any::<u32>(),
    ]
    .boxed()
}

pub(super) fn number() -> BoxedStrategy<i64> {
    prop_oneof![
        prop::sample::select(vec![i64::MIN, -1, 0, 1, 1000, i64::MAX - 1, i64::MAX]),
        any::<i64>(),
        0i64..5,
    ]
    .boxed()
}

pub(super) fn unsigned() -> BoxedStrategy<u64> {
    prop_oneof![
        prop::sample::select(vec![0, 1, 65_535, 65_536, u64::MAX - 1, u64::MAX]),
        0u64..5,
    ]
    .boxed()
}

pub(super) fn small() -> BoxedStrategy<u32> {
    unsigned()
        .prop_map(|n| u32::try_from(n).unwrap_or(u32::MAX))
        .boxed()
}

pub(super) fn map() -> BoxedStrategy<BTreeMap<String, String>> {
    btree_map(text(), text(), 0..3).boxed()
}

pub(super) fn resources() -> BoxedStrategy<session::Resources> {
    let port = (small(), small()).prop_map(|(begin, end)| session::PortRange { begin, end });
    let range = (unsigned(), unsigned()).prop_map(|(begin, end)| session::Range { begin, end });
    let ranges = vec(range, 0..3).prop_map(|ranges| session::Ranges { ranges });
    let items = vec(text(), 0..3).prop_map(|items| session::Items { items });
    let volume = (number(), any::<bool>())
        .prop_map(|(size_milli, shared)| session::Volume { size_milli, shared });
    (
        prop::array::uniform4(number()),
        vec(port, 0..3),
        btree_map(text(), number(), 0..3),
        btree_map(text(), ranges, 0..2),
        btree_map(text(), items, 0..2),
        btree_map(text(), volume, 0..2),
    )
        .prop_map(|(s, ports, scalars_milli, ranges, sets, volumes)| {
            let [cpus_milli, mem_milli, disk_milli, gpus_milli] = s;
            session::Resources {
                cpus_milli,
                mem_milli,
                disk_milli,
                gpus_milli,
                ports,
                scalars_milli,
                ranges,
                sets,
                volumes,
            }
        })
        .boxed()
}

/// Often good ones, so that what is around them is reached.
pub(super) fn some_resources() -> BoxedStrategy<Option<session::Resources>> {
    prop_oneof![
        3 => given::resources().prop_map(|r| Some((&r).into())),
        1 => option::of(resources()),
    ]
    .boxed()
}

pub(super) fn stack() -> BoxedStrategy<Vec<session::Reservation>> {
    let one =
        (text(), any::<bool>(), text(), map()).prop_map(|(role, dynamic, principal, labels)| {
            session::Reservation {
                role,
                dynamic,
                principal,
                labels,
            }
        });
    prop_oneof![
        2 => given::stack().prop_map(|s| s.iter().map(Into::into).collect()),
        1 => vec(one, 0..10),
    ]
    .boxed()
}

pub(super) fn parts() -> BoxedStrategy<Vec<session::ResourcePart>> {
    let part = (stack(), any::<bool>(), some_resources());
    let part = part.prop_map(
        |(reservation, revocable, resources)| session::ResourcePart {
            reservation,
            revocable,
            resources,
        },
    );
    vec(part, 0..3).boxed()
}

/// Parts and a whole that may belong together.
pub(super) fn parts_of() -> BoxedStrategy<(Vec<session::ResourcePart>, Option<session::Resources>)>
{
    prop_oneof![
        given::parts().prop_map(|(parts, whole)| {
            let parts = parts.iter().map(Into::into).collect();
            (parts, Some((&whole).into()))
        }),
        (parts(), some_resources()),
    ]
    .boxed()
}

pub(super) fn task_port() -> BoxedStrategy<session::TaskPort> {
    let vip =
        (text(), text(), small()).prop_map(|(name, ip, port)| session::VipLabel { name, ip, port });
    (
        option::of(text()),
        small(),
        vec(-1i32..4, 0..3),
        vec(vip, 0..2),
        option::of((small(), any::<bool>(), small(), small(), small())),
    )
        .prop_map(
            |(name, host_port, protocols, vips, balance)| session::TaskPort {
                metrics: String::new(),
                container_port: 0,
                name,
                host_port,
                protocols,
                vips,
                balance: balance.map(
                    |(weight, least_connections, affinity_s, locality, slow_start_s)| {
                        session::Balance {
                            weight,
                            least_connections,
                            affinity_s,
                            locality,
                            slow_start_s,
                            ipv6: false,
                        }
                    },
                ),
            },
        )
        .boxed()
}

pub(super) fn health_check() -> BoxedStrategy<session::HealthCheck> {
    use session::health_check::Probe;
    let probe = prop_oneof![
        (text(), small(), option::of(small())).prop_map(|(path, port_index, port)| {
            Probe::Http(session::HttpProbe {
                statuses: Vec::new(),
                tls: false,
                path,
                port_index,
                port,
            })
        }),
        (small(), option::of(small()))
            .prop_map(|(port_index, port)| Probe::Tcp(session::TcpProbe { port_index, port })),
        text().prop_map(Probe::Command),
    ];
    (
        option::of(probe),
        prop::array::uniform3(unsigned()),
        small(),
    )
        .prop_map(|(probe, t, n)| session::HealthCheck {
            delay_ms: 0,
            name: None,
            purpose: 0,
            probe,
            grace_period_ms: t[0],
            interval_ms: t[1],
            timeout_ms: t[2],
            max_consecutive_failures: n,
            keep_response: false,
        })
        .boxed()
}

/// Good ones, with numbers and enums that mean nothing.
fn container() -> BoxedStrategy<session::Container> {
    use session::{ceiling::At, mount::Source};
    let good = given::container().prop_map(|container| {
        let spec = session::TaskSpec::from(&waggle_types::TaskSpec {
            container,
            ..given::fixed_spec()
        });
        spec.container.unwrap_or_default()
    });
    (good, any::<i64>(), option::of(text()), small())
        .prop_map(|(mut c, milli, volume, weight)| {
            if let Some(volume) = volume {
                c.mounts.push(session::Mount {
                    source: Some(Source::Volume(volume)),
                    ..session::Mount::default()
                });
                c.mounts.push(session::Mount::default());
            }
            let limits = c.limits.get_or_insert_default();
            limits.cpus = Some(session::Ceiling {
                at: Some(At::Milli(milli)),
            });
            limits.io_weight = Some(weight);
            c
        })
        .boxed()
}

pub(super) fn spec() -> BoxedStrategy<session::TaskSpec> {
    let good = given::task_spec().prop_map(|s| session::TaskSpec::from(&s));
    // Parts and their sum go together.
    mixed!(good, wild_spec(); task_id, framework_id, framework_name, role, name, command, env, labels,
        ports, discovery_name, health_checks, kill_grace_ms, user, service, service_version, traceparent,
        container, resources, parts, executor)
}

fn executor() -> BoxedStrategy<session::Executor> {
    let good = given::on_executor().prop_map(|on| session::Executor::from(on.spec.as_ref()));
    (
        good,
        prop::array::uniform3(text()),
        -1i32..3,
        option::weighted(0.2, any::<i64>()),
    )
        .prop_map(|(mut e, [id, word, user], kind, milli)| {
            match kind {
                0 => e.executor_id = id,
                1 => e.command = None,
                2 => e.kind = kind,
                _ => {}
            }
            if let Some(cpus_milli) = milli {
                e.resources = Some(session::Resources {
                    cpus_milli,
                    ..session::Resources::default()
                });
            }
            session::Executor {
                name: word,
                user: Some(user),
                ..e
            }
        })
        .boxed()
}

fn on_executor() -> BoxedStrategy<session::OnExecutor> {
    (
        option::of(executor()),
        any::<bool>(),
        text(),
        vec(any::<u8>(), 0..9),
    )
        .prop_map(|(spec, starts, group, info)| session::OnExecutor {
            spec,
            starts,
            n_group: u32::try_from(info.len()).unwrap_or(0),
            group,
            info,
        })
        .boxed()
}

pub(super) fn wild_spec() -> BoxedStrategy<session::TaskSpec> {
    use session::task_spec::Command;
    let command = prop_oneof![
        text().prop_map(Command::Shell),
        vec(text(), 0..3).prop_map(|args| Command::Argv(session::Argv { args })),
    ];
    (
        prop::array::uniform9(text()),
        (option::of(command), map(), map(), parts_of()),
        (vec(task_port(), 0..2), vec(health_check(), 0..2)),
        (
            unsigned(),
            option::of(text()),
            option::of(container()),
            option::weighted(0.2, on_executor()),
        ),
    )
        .prop_map(
            |(t, (command, env, labels, (parts, resources)), (ports, checks), end)| {
                let [
                    task_id,
                    framework_id,
                    framework_name,
                    role,
                    name,
                    d,
                    s,
                    v,
                    trace,
                ] = t;
                session::TaskSpec {
                    container: end.2,
                    task_id,
                    framework_id,
                    framework_name,
                    role,
                    name,
                    command,
                    env,
                    labels,
                    resources,
                    ports,
                    discovery_name: d,
                    health_checks: checks,
                    kill_grace_ms: end.0,
                    user: end.1,
                    service: s,
                    service_version: v,
                    traceparent: trace,
                    parts,
                    executor: end.3,
                }
            },
        )
        .boxed()
}

pub(super) fn task() -> BoxedStrategy<pb::TaskInfo> {
    // Ports, checks and the environment have rules of their own for frameworks.
    let plain = spec().prop_map(|s| session::TaskSpec {
        ports: Vec::new(),
        health_checks: Vec::new(),
        env: BTreeMap::new(),
        ..s
    });
    prop_oneof![6 => plain, 1 => spec()]
        .prop_map(|s| pb::TaskInfo {
            container: s.container,
            task_id: s.task_id,
            name: s.name,
            command: s.command.map(|c| match c {
                session::task_spec::Command::Shell(s) => pb::task_info::Command::Shell(s),
                session::task_spec::Command::Argv(a) => pb::task_info::Command::Argv(a),
                session::task_spec::Command::Image(a) => pb::task_info::Command::Image(a),
            }),
            env: s.env,
            labels: s.labels,
            resources: s.resources,
            ports: s.ports,
            health_checks: s.health_checks,
            kill_grace_ms: s.kill_grace_ms,
            user: s.user,
            parts: s.parts,
            info: s
                .executor
                .as_ref()
                .map(|on| on.info.clone())
                .unwrap_or_default(),
            executor: s.executor.and_then(|on| on.spec),
        })
        .boxed()
}

pub(super) fn operation() -> BoxedStrategy<pb::Operation> {
    let good = frameworks::operation().prop_map(|o| pb::Operation::from(&o));
    let launch = vec(task(), 1..3).prop_map(|tasks| pb::Operation {
        kind: Some(pb::operation::Kind::Launch(pb::Launch { tasks })),
    });
    let group = (task(), 1usize..4).prop_map(|(task, n)| {
        let tasks = (0..n).map(|i| pb::TaskInfo {
            task_id: format!("{}-{i}", task.task_id),
            ..task.clone()
        });
        pb::Operation {
            kind: Some(pb::operation::Kind::LaunchGroup(pb::LaunchGroup {
                tasks: tasks.collect(),
            })),
        }
    });
    prop_oneof![4 => good, 4 => launch, 2 => group, 1 => wild_operation()].boxed()
}

pub(super) fn wild_operation() -> BoxedStrategy<pb::Operation> {
    use pb::operation::Kind;
    let volume = (number(), any::<bool>())
        .prop_map(|(size_milli, shared)| session::Volume { size_milli, shared });
    let kind = prop_oneof![
        vec(task(), 0..2).prop_map(|tasks| Kind::Launch(pb::Launch { tasks })),
        (stack(), some_resources())
            .prop_map(|(stack, resources)| Kind::Reserve(pb::Reserve { stack, resources })),
        (stack(), some_resources())
            .prop_map(|(stack, resources)| Kind::Unreserve(pb::Unreserve { stack, resources })),
        (stack(), text(), option::of(volume)).prop_map(|(stack, volume_id, volume)| {
            Kind::CreateVolume(pb::CreateVolume {
                stack,
                volume_id,
                volume,
            })
        }),
        (stack(), text()).prop_map(|(stack, volume_id)| {
            Kind::DestroyVolume(pb::DestroyVolume { stack, volume_id })
        }),
    ];
    option::of(kind)
        .prop_map(|kind| pb::Operation { kind })
        .boxed()
}

pub(super) fn accept() -> BoxedStrategy<pb::AcceptRequest> {
    let trace = prop_oneof![6 => Just(String::new()), 1 => text()];
    let caller = (text(), unsigned()).prop_map(|(framework_id, subscription_id)| pb::Caller {
        framework_id,
        subscription_id,
    });
    (
        (option::of(caller), vec(text(), 0..3), unsigned(), trace),
        prop_oneof![
            4 => vec(task(), 0..3).prop_map(|launch| (launch, Vec::new())),
            8 => vec(operation(), 0..4).prop_map(|operations| (Vec::new(), operations)),
            1 => (vec(task(), 1..2), vec(operation(), 1..2)),
        ],
    )
        .prop_map(
            |((caller, offer_ids, refuse_ms, traceparent), (launch, operations))| {
                pb::AcceptRequest {
                    caller,
                    offer_ids,
                    launch,
                    refuse_ms,
                    traceparent,
                    operations,
                }
            },
        )
        .boxed()
}

pub(super) fn subscribe() -> BoxedStrategy<pb::SubscribeRequest> {
    let good = frameworks::framework_info().prop_map(|f| pb::SubscribeRequest::from(&f));
    mixed!(good, wild_subscribe(); framework_id, name, role, failover_timeout_ms, roles, capabilities)
}

pub(super) fn wild_subscribe() -> BoxedStrategy<pb::SubscribeRequest> {
    use pb::attribute_constraint::{Predicate, Selector};
    let selector = prop_oneof![
        text().prop_map(Selector::Attribute),
        (-1i32..6).prop_map(Selector::Pseudo),
    ];
    let predicate = prop_oneof![
        any::<bool>().prop_map(Predicate::Exists),
        text().prop_map(Predicate::TextEquals),
        text().prop_map(Predicate::TextNotEquals),
        text().prop_map(Predicate::TextMatches),
        text().prop_map(Predicate::TextNotMatches),
    ];
    let constraint = (option::of(selector), option::of(predicate));
    let constraint = constraint.prop_map(|(selector, predicate)| pb::AttributeConstraint {
        selector,
        predicate,
    });
    let group = vec(constraint, 0..3).prop_map(|constraints| pb::ConstraintGroup { constraints });
    let role = (text(), any::<bool>(), vec(group, 0..3), some_resources());
    let role = role.prop_map(
        |(role, suppressed, constraints, smallest)| pb::RoleSubscription {
            role,
            suppressed,
            constraints,
            smallest,
        },
    );
    (
        prop::array::uniform3(text()),
        unsigned(),
        vec(role, 0..4),
        any::<bool>(),
    )
        .prop_map(
            |([framework_id, name, role], failover_timeout_ms, roles, gpus)| pb::SubscribeRequest {
                framework_id,
                name,
                role,
                failover_timeout_ms,
                roles,
                capabilities: Some(pb::Capabilities {
                    gpus,
                    ..pb::Capabilities::default()
                }),
            },
        )
        .boxed()
}

pub(super) fn status() -> BoxedStrategy<session::TaskStatus> {
    let good = given::status().prop_map(|s| session::TaskStatus::from(&s));
    mixed!(good, wild_status(); task_id, agent_id, state, health, reason, message, source, at_ms, uuid, executor, check)
}

pub(super) fn wild_status() -> BoxedStrategy<session::TaskStatus> {
    (
        prop::array::uniform3(text()),
        prop::array::uniform4(-1i32..18),
        unsigned(),
        vec(any::<u8>(), 0..20),
    )
        .prop_map(
            |([task_id, agent_id, message], n, at_ms, uuid)| session::TaskStatus {
                ip6: String::new(),
                ip: String::new(),
                ready: None,
                task_id,
                agent_id,
                state: n[0],
                health: n[1],
                reason: n[2],
                message,
                source: n[3],
                at_ms,
                uuid,
                executor: None,
                responses: (n[1] > 9)
                    .then(|| session::CheckResponse {
                        idx: u32::MAX,
                        status: n[3].unsigned_abs() * 100,
                        content_type: "x".repeat(300),
                        body: "\u{e4}".repeat(900),
                    })
                    .into_iter()
                    .collect(),
                check: (n[0] > 9).then(|| session::CheckStatus {
                    said: (n[1] > 9).then(|| {
                        let status = u32::try_from(n[2] * 10_000).ok();
                        session::check_status::Said::Http(session::HttpSaid { status })
                    }),
                }),
            },
        )
        .boxed()
}

pub(super) fn agent() -> BoxedStrategy<session::AgentInfo> {
    let good = given::agent_info().prop_map(|a| session::AgentInfo::from(&a));
    mixed!(good, wild_agent(); agent_id, hostname, ip, http_port, total, attributes, reserved, domain)
}

pub(super) fn wild_agent() -> BoxedStrategy<session::AgentInfo> {
    let reserved = (text(), some_resources())
        .prop_map(|(role, resources)| session::StaticReservation { role, resources });
    let domain = (text(), text()).prop_map(|(region, zone)| session::Domain { region, zone });
    (
        prop::array::uniform3(text()),
        (small(), some_resources(), map()),
        (vec(reserved, 0..3), option::of(domain)),
    )
        .prop_map(
            |([agent_id, hostname, ip], (http_port, total, attributes), end)| session::AgentInfo {
                ip6: String::new(),
                agent_id,
                hostname,
                ip,
                http_port,
                total,
                attributes,
                reserved: end.0,
                domain: end.1,
            },
        )
        .boxed()
}

/// One way to damage bytes.
#[derive(Debug, Clone)]
pub(super) enum Damage {
    Set(Index, u8),
    Cut(Index),
    /// A piece of it again, somewhere.
    Repeat(Index, Index, Index),
    Insert(Index, Vec<u8>),
}

pub(super) fn damage() -> BoxedStrategy<Damage> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Damage::Set(i, b)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<Index>(), any::<Index>())
            .prop_map(|(a, b, at)| Damage::Repeat(a, b, at)),
        (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(i, b)| Damage::Insert(i, b)),
    ]
    .boxed()
}

pub(super) fn damaged(mut bytes: Vec<u8>, how: &[Damage]) -> Vec<u8> {
    for d in how {
        let at = |i: &Index| i.index(bytes.len() + 1);
        match d {
            Damage::Set(i, b) => {
                let at = at(i);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = *b;
                }
            }
            Damage::Cut(i) => bytes.truncate(at(i)),
            Damage::Repeat(a, b, to) => {
                let (a, b, to) = (at(a), at(b), at(to));
                let piece = bytes[a.min(b)..a.max(b)].to_vec();
                bytes.splice(to..to, piece);
            }
            Damage::Insert(i, piece) => {
                let at = at(i);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}
