//! Any valid value of each domain type.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
};
use waggle_types::{
    AgentId, AgentInfo, Balance, Ceiling, Ceilings, CheckPurpose, CheckResponse, CheckStatus,
    Command, ContainerSpec, Custom, DiscoveryInfo, Domain, ExecutorId, ExecutorKind, ExecutorSpec,
    ExecutorStatus, ExternalVolume, FetchUri, FrameworkId, HealthCheck, HealthProbe, HealthState,
    ImageSpec, Interval, Isolation, Locality, MAX_BALANCE_S, MAX_WEIGHT, Milli, Millis, Mount,
    MountSource, NetworkMode, OnExecutor, Policy, PortRange, PortSet, Protocol, RangeSet,
    Reservation, ResourcePart, Resources, Rlimit, Seccomp, StatusReason, StatusSource, StatusUuid,
    TaskId, TaskPort, TaskSpec, TaskState, TaskStatus, TraceContext, UnixMillis, VipLabel, Volume,
    VolumeId,
};

mod net;
pub(super) use net::snapshot;

pub(super) fn word() -> impl Strategy<Value = String> {
    "[a-z0-9._-]{1,8}x"
}

pub(super) fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(".{0,6}", ".{0,6}", 0..3)
}

pub(super) fn addr() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

/// A bundle with nothing of another block in it, and scalars that can be summed.
pub(super) fn block(n: u16) -> impl Strategy<Value = Resources> {
    let first = n * 1000;
    let ports = vec((first..first + 900, 0u16..20), 0..4).prop_map(|v| {
        PortSet::from_ranges(v.into_iter().map(|(b, n)| PortRange {
            begin: b,
            end: b + n,
        }))
    });
    let scalars = prop::array::uniform4(0..i64::MAX >> 8);
    (scalars, ports, custom(n)).prop_map(|(s, ports, custom)| Resources {
        custom,
        scalars: s.map(Milli),
        ports,
    })
}

/// Twelve kinds at most, however many bundles are summed.
fn custom(n: u16) -> impl Strategy<Value = Custom> {
    let first = u64::from(n) << 48;
    let scalars = btree_map("s\\.[a-d]", (1..i64::MAX >> 8).prop_map(Milli), 0..3);
    let range = (first..first + (1 << 47), 0u64..1 << 40);
    let set = vec(range, 1..4).prop_map(|v| {
        RangeSet::from_ranges(v.into_iter().map(|(begin, len)| Interval {
            begin,
            end: begin + len,
        }))
    });
    let ranges = btree_map("r_[a-d]", set, 0..3);
    let item = ".{1,4}".prop_map(move |text| format!("{n}{text}"));
    let sets = btree_map("t-[a-d]", btree_set(item, 1..4), 0..3);
    let volume = (1..i64::MAX >> 8, any::<bool>()).prop_map(|(size, shared)| Volume {
        size: Milli(size),
        shared,
    });
    let id = word().prop_map(move |w| VolumeId::new(format!("{n}-{w}")).unwrap());
    (scalars, ranges, sets, btree_map(id, volume, 0..3))
        .prop_map(|(s, r, t, v)| Custom::new(s, r, t, v))
}

pub(super) fn resources() -> impl Strategy<Value = Resources> {
    block(0)
}

/// A role below none, or below `above`, with a few components more.
fn role() -> impl Strategy<Value = String> {
    vec("[a-c][a-z0-9._]{0,3}", 1..=8).prop_map(|names| names.join("/"))
}

/// A valid stack: a role's path cut at some of its joints, static reservations first.
pub(super) fn stack() -> impl Strategy<Value = Vec<Reservation>> {
    let each = (any::<bool>(), any::<bool>(), word(), map());
    (role(), vec(each, 8), 0usize..4).prop_map(|(role, each, n_static)| {
        let names: Vec<&str> = role.split('/').collect();
        let mut stack = Vec::new();
        for (i, (cut, dynamic, principal, labels)) in (1..=names.len()).zip(each) {
            if cut || i == names.len() {
                stack.push(Reservation {
                    role: names[..i].join("/"),
                    dynamic: dynamic || stack.len() >= n_static,
                    principal,
                    labels,
                });
            }
        }
        let first = stack.iter().position(|r| r.dynamic).unwrap_or(stack.len());
        stack[first..].iter_mut().for_each(|r| r.dynamic = true);
        stack
    })
}

/// Parts, or none, and what they make up.
pub(super) fn parts() -> impl Strategy<Value = (Vec<ResourcePart>, Resources)> {
    let reservation = || prop_oneof![Just(Vec::new()), stack()];
    let part = |n| {
        (reservation(), any::<bool>(), block(n)).prop_map(|(reservation, revocable, resources)| {
            ResourcePart {
                reservation,
                revocable,
                resources,
            }
        })
    };
    let several = (part(1), part(2), part(3), 1usize..4).prop_map(|(a, b, c, n)| {
        let parts: Vec<ResourcePart> = [a, b, c].into_iter().take(n).collect();
        let whole = waggle_types::sum_parts(&parts).unwrap();
        (parts, whole)
    });
    prop_oneof![resources().prop_map(|r| (Vec::new(), r)), several]
}

pub(super) fn domain() -> impl Strategy<Value = Domain> {
    (".{1,9}", ".{1,9}").prop_map(|(region, zone)| Domain { region, zone })
}

pub(super) fn proto() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

pub(super) fn vip() -> impl Strategy<Value = VipLabel> {
    prop_oneof![
        (word(), 1u16..).prop_map(|(name, port)| VipLabel::Named { name, port }),
        (any_addr(), 1u16..).prop_map(|(ip, port)| VipLabel::Literal { ip, port }),
    ]
}

fn addr6() -> impl Strategy<Value = Option<std::net::Ipv6Addr>> {
    option::of(any::<u128>().prop_map(std::net::Ipv6Addr::from))
}

fn any_addr() -> impl Strategy<Value = IpAddr> {
    let six = any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()));
    prop_oneof![addr().prop_map(IpAddr::V4), six]
}

fn balance() -> impl Strategy<Value = Balance> {
    let policies = prop_oneof![Just(Policy::Random), Just(Policy::LeastConnections)];
    let places = prop_oneof![
        Just(Locality::Any),
        Just(Locality::Zone),
        Just(Locality::Node)
    ];
    let seconds = 0..=MAX_BALANCE_S;
    let times = (seconds.clone(), seconds);
    (0..=MAX_WEIGHT, policies, times, places, any::<bool>()).prop_map(
        |(weight, policy, (affinity_s, slow_start_s), locality, ipv6)| Balance {
            ipv6,
            weight,
            policy,
            affinity_s,
            locality,
            slow_start_s,
        },
    )
}

pub(super) fn task_port() -> impl Strategy<Value = TaskPort> {
    (
        option::of(word()),
        any::<u16>(),
        vec(proto(), 0..3),
        vec(vip(), 0..3),
        (balance(), option::of(1u16..), option::of("/[!-~]{0,9}")),
    )
        .prop_map(
            |(name, host_port, protocols, vips, (balance, container_port, metrics))| TaskPort {
                metrics,
                container_port,
                name,
                host_port,
                protocols,
                vips,
                balance,
            },
        )
}

pub(super) fn health_check() -> impl Strategy<Value = HealthCheck> {
    let idx = any::<u16>().prop_map(usize::from);
    let http = (
        ".{0,9}",
        idx.clone(),
        option::of(any::<u16>()),
        any::<bool>(),
        vec(100u16..600, 0..3),
    );
    let probe = prop_oneof![
        http.prop_map(
            |(path, port_index, port, tls, statuses)| HealthProbe::Http {
                tls,
                statuses,
                path,
                port_index,
                port,
            }
        ),
        (idx, option::of(any::<u16>()))
            .prop_map(|(port_index, port)| HealthProbe::Tcp { port_index, port }),
        ".{0,9}".prop_map(|shell| HealthProbe::Command { shell }),
    ];
    let purpose = prop_oneof![
        Just(CheckPurpose::Health),
        Just(CheckPurpose::Readiness),
        Just(CheckPurpose::Startup),
        Just(CheckPurpose::Report),
    ];
    let times = prop::array::uniform4(any::<u64>());
    (probe, times, any::<u32>(), option::of(word()), purpose).prop_map(
        |(probe, [g, i, t, d], n, name, purpose)| HealthCheck {
            name,
            purpose,
            delay: Millis(d),
            probe,
            grace_period: Millis(g),
            interval: Millis(i),
            timeout: Millis(t),
            max_consecutive_failures: n,
            keep_response: n % 2 == 1,
        },
    )
}

pub(super) fn trace_context() -> impl Strategy<Value = TraceContext> {
    (1u128.., 1u64.., any::<u8>()).prop_map(|(trace_id, span_id, flags)| TraceContext {
        trace_id,
        span_id,
        flags,
    })
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        ".{0,9}".prop_map(Command::Shell),
        vec(".{0,4}", 1..4).prop_map(Command::Argv),
        vec(".{0,4}", 0..4).prop_map(Command::Image),
    ]
}

fn mount() -> impl Strategy<Value = Mount> {
    let external =
        (word(), word(), any::<u32>(), map()).prop_map(|(provider, name, size_mib, options)| {
            MountSource::External(ExternalVolume {
                provider,
                name,
                size_mib,
                options,
            })
        });
    let source = prop_oneof![
        word().prop_map(|w| MountSource::Volume(VolumeId::new(w).unwrap())),
        ".{0,5}".prop_map(MountSource::Host),
        ".{0,5}".prop_map(MountSource::Sandbox),
        any::<u32>().prop_map(MountSource::Memory),
        external,
    ];
    (".{0,5}", source, any::<bool>()).prop_map(|(target, source, read_only)| Mount {
        target,
        source,
        read_only,
    })
}

fn isolation() -> impl Strategy<Value = Isolation> {
    let seccomp = prop_oneof![
        Just(Seccomp::Default),
        Just(Seccomp::Unconfined),
        ".{0,5}".prop_map(Seccomp::Profile),
    ];
    let names = || btree_set("[A-Z]{1,4}", 0..3);
    (
        prop::array::uniform5(any::<bool>()),
        names(),
        names(),
        seccomp,
        map(),
    )
        .prop_map(
            |(
                [
                    privileged,
                    read_only_root,
                    user_namespace,
                    new_privileges,
                    host_ipc,
                ],
                cap_add,
                cap_drop,
                seccomp,
                devices,
            )| {
                Isolation {
                    privileged,
                    read_only_root,
                    user_namespace,
                    new_privileges,
                    host_ipc,
                    cap_add,
                    cap_drop,
                    seccomp,
                    devices,
                }
            },
        )
}

fn ceilings() -> impl Strategy<Value = Ceilings> {
    let one = || {
        prop_oneof![
            Just(Ceiling::Usual),
            (1i64..).prop_map(|n| Ceiling::At(Milli(n))),
            Just(Ceiling::Unlimited),
        ]
    };
    let rlimit = (option::of(any::<u64>()), option::of(any::<u64>()))
        .prop_map(|(soft, hard)| Rlimit { soft, hard });
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<u16>()),
        option::of(any::<u32>()),
        option::of(any::<u64>().prop_map(Millis)),
    );
    (one(), one(), numbers, btree_map(word(), rlimit, 0..3)).prop_map(
        |(cpus, mem, (pids, io_weight, shm_mib, run_time), rlimits)| Ceilings {
            cpus,
            mem,
            pids,
            io_weight,
            run_time,
            shm_mib,
            rlimits,
        },
    )
}

pub(super) fn container() -> BoxedStrategy<ContainerSpec> {
    let image = (".{0,9}", any::<bool>(), option::of(word())).prop_map(
        |(reference, force_pull, credentials)| ImageSpec {
            reference,
            force_pull,
            credentials,
        },
    );
    let network = prop_oneof![
        Just(NetworkMode::Host),
        Just(NetworkMode::Bridge),
        word().prop_map(NetworkMode::Container),
        Just(NetworkMode::None),
    ];
    let fetch = (
        ".{0,9}",
        prop::array::uniform3(any::<bool>()),
        option::of(word()),
        option::of(word()),
    )
        .prop_map(
            |(uri, [extract, executable, cache], output_file, sha256)| FetchUri {
                uri,
                extract,
                executable,
                cache,
                output_file,
                sha256,
            },
        );
    (
        (option::of(image), network, option::of(word())),
        (
            vec(mount(), 0..3),
            vec(fetch, 0..3),
            isolation(),
            ceilings(),
        ),
        (option::of(word()), option::of(word()), any::<bool>()),
    )
        .prop_map(
            |(
                (image, network, pod),
                (mounts, fetch, isolation, limits),
                (work_dir, hostname, tty),
            )| {
                ContainerSpec {
                    image,
                    network,
                    pod,
                    mounts,
                    fetch,
                    isolation,
                    limits,
                    work_dir,
                    hostname,
                    tty,
                }
            },
        )
        .boxed()
}

/// One of each kind, made of what tasks have.
pub(super) fn on_executor() -> BoxedStrategy<OnExecutor> {
    let bytes = || vec(any::<u8>(), 0..9);
    let own = (plain_task_spec(), any::<bool>(), any::<bool>());
    (
        own,
        any::<bool>(),
        option::of(word()),
        (bytes(), bytes(), bytes()),
    )
        .prop_map(
            |((t, is_default, checkpoint), starts, group, (info, own, framework))| OnExecutor {
                spec: Arc::new(ExecutorSpec {
                    executor_id: ExecutorId::new(t.task_id.as_str()).unwrap(),
                    name: t.name,
                    kind: if is_default {
                        ExecutorKind::Default
                    } else {
                        ExecutorKind::Custom
                    },
                    command: if is_default {
                        Command::Executor
                    } else {
                        t.command
                    },
                    env: t.env,
                    labels: t.labels,
                    resources: t.resources,
                    parts: t.parts,
                    container: t.container,
                    shutdown_grace: t.kill_grace,
                    user: t.user,
                    checkpoint,
                    info: own,
                    framework_info: framework,
                }),
                starts,
                n_group: u32::try_from(info.len()).unwrap_or(0),
                group: group.map(|g| TaskId::new(g).unwrap()),
                info,
            },
        )
        .boxed()
}

/// Some of them on executors.
pub(super) fn task_spec() -> BoxedStrategy<TaskSpec> {
    (plain_task_spec(), option::weighted(0.3, on_executor()))
        .prop_map(|(spec, executor)| {
            let custom = executor
                .as_ref()
                .is_some_and(|on| on.spec.kind == ExecutorKind::Custom);
            TaskSpec {
                command: if custom {
                    Command::Executor
                } else {
                    spec.command
                },
                executor,
                ..spec
            }
        })
        .boxed()
}

/// One that is a process or a container of its own.
pub(super) fn plain_task_spec() -> BoxedStrategy<TaskSpec> {
    (
        (word(), word(), word(), word(), word(), word()),
        (command(), map(), map(), parts()),
        (vec(task_port(), 0..3), vec(health_check(), 0..3)),
        (any::<u64>(), option::of(word()), container()),
        option::of(trace_context()),
    )
        .prop_map(
            |(
                (a, b, c, d, e, f),
                (command, env, labels, (parts, resources)),
                (ports, checks),
                k,
                trace,
            )| {
                TaskSpec {
                    container: k.2,
                    task_id: TaskId::new(a.clone()).unwrap(),
                    framework_id: FrameworkId::new(b).unwrap(),
                    framework_name: c,
                    role: d.clone(),
                    name: d,
                    command,
                    env,
                    labels,
                    resources,
                    ports,
                    parts,
                    discovery: DiscoveryInfo { name: a },
                    health_checks: checks,
                    kill_grace: Millis(k.0),
                    user: k.1,
                    service: e,
                    service_version: f,
                    trace,
                    executor: None,
                }
            },
        )
        .boxed()
}

/// One valid spec, to take parts from.
pub(super) fn fixed_spec() -> TaskSpec {
    TaskSpec {
        task_id: TaskId::new("t").unwrap(),
        framework_id: FrameworkId::new("f").unwrap(),
        framework_name: String::new(),
        role: String::new(),
        name: String::new(),
        command: Command::Shell("true".into()),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::default(),
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo {
            name: String::new(),
        },
        health_checks: Vec::new(),
        container: ContainerSpec::default(),
        kill_grace: Millis(0),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

pub(super) fn state() -> impl Strategy<Value = TaskState> {
    prop::sample::select(TaskState::ALL.to_vec())
}

pub(super) fn health() -> impl Strategy<Value = HealthState> {
    prop::sample::select(vec![
        HealthState::Unknown,
        HealthState::Healthy,
        HealthState::Unhealthy,
    ])
}

const REASONS: [StatusReason; 24] = [
    StatusReason::TaskGroupInvalid,
    StatusReason::SlaveRemovedByOperator,
    StatusReason::SlaveReregistered,
    StatusReason::FrameworkRemoved,
    StatusReason::ExecutorRegistrationTimeout,
    StatusReason::ExecutorReregistrationTimeout,
    StatusReason::TaskKilledDuringLaunch,
    StatusReason::ContainerLimitationDisk,
    StatusReason::MaxCompletionTimeReached,
    StatusReason::TaskCheckStatusUpdated,
    StatusReason::ContainerLaunchFailed,
    StatusReason::CommandExecutorFailed,
    StatusReason::ContainerLimitationMemory,
    StatusReason::TaskHealthCheckStatusUpdated,
    StatusReason::TaskInvalid,
    StatusReason::InvalidOffers,
    StatusReason::SlaveDisconnected,
    StatusReason::SlaveRemoved,
    StatusReason::SlaveRestarted,
    StatusReason::Reconciliation,
    StatusReason::ExecutorTerminated,
    StatusReason::TaskKilled,
    StatusReason::ContainerPreempted,
    StatusReason::SlaveDraining,
];

fn check_status() -> impl Strategy<Value = CheckStatus> {
    prop_oneof![
        option::of(any::<i32>()).prop_map(|exit_code| CheckStatus::Command { exit_code }),
        option::of(any::<u16>()).prop_map(|status| CheckStatus::Http { status }),
        option::of(any::<bool>()).prop_map(|connected| CheckStatus::Tcp { connected }),
    ]
}

pub(super) fn status() -> BoxedStrategy<TaskStatus> {
    let source = prop::sample::select(vec![
        StatusSource::Master,
        StatusSource::Agent,
        StatusSource::Executor,
    ]);
    let reason = option::of(prop::sample::select(REASONS.to_vec()));
    (
        (word(), word(), state(), health()),
        (reason, ".{0,9}", source, any::<u64>()),
        (
            option::of(any::<[u8; 16]>()),
            option::of(any::<bool>()),
            option::of((word(), vec(any::<u8>(), 0..9))),
            option::of(check_status()),
        ),
    )
        .prop_map(
            |(
                (t, a, state, health),
                (reason, message, source, at),
                (uuid, ready, executor, check),
            )| {
                TaskStatus {
                    ip: ready.map(|_| Ipv4Addr::new(172, 31, 254, 2)),
                    ip6: ready.map(|_| std::net::Ipv6Addr::LOCALHOST),
                    ready,
                    responses: check
                        .iter()
                        .map(|_| CheckResponse {
                            idx: usize::from(health == HealthState::Healthy),
                            status: 503,
                            content_type: message.clone(),
                            body: message.clone(),
                        })
                        .collect(),
                    check,
                    task_id: TaskId::new(t).unwrap(),
                    agent_id: AgentId::new(a).unwrap(),
                    state,
                    health,
                    reason,
                    message,
                    source,
                    at: UnixMillis(at),
                    uuid: uuid.map(StatusUuid),
                    executor: executor.map(|(id, info)| {
                        Box::new(ExecutorStatus {
                            executor_id: ExecutorId::new(id).unwrap(),
                            info,
                        })
                    }),
                }
            },
        )
        .boxed()
}

pub(super) fn agent_info() -> impl Strategy<Value = AgentInfo> {
    let without_volumes = |mut r: Resources| {
        let ids: Vec<VolumeId> = r.custom.volumes().map(|(id, _)| id.clone()).collect();
        for id in ids {
            r.custom.remove_volume(&id);
        }
        r
    };
    let reserved = (block(1), block(2), block(3), 0usize..3).prop_map(move |(a, b, c, n)| {
        let [a, b, c] = [a, b, c].map(without_volumes);
        let roles = ["eng".to_owned(), "eng/batch".to_owned()];
        let reserved: Vec<_> = roles.into_iter().zip([a, b]).take(n).collect();
        let total = reserved
            .iter()
            .fold(c, |sum, (_, r)| sum.checked_add(r).unwrap());
        (reserved, total)
    });
    (
        (word(), word(), addr(), any::<u16>()),
        (reserved, map(), option::of(domain()), addr6()),
    )
        .prop_map(
            |((id, hostname, ip, http_port), ((reserved, total), attributes, domain, ip6))| {
                AgentInfo {
                    ip6,
                    reserved,
                    domain,
                    agent_id: AgentId::new(id).unwrap(),
                    hostname,
                    ip,
                    http_port,
                    total,
                    attributes,
                }
            },
        )
}
