//! Golden specs. `UPDATE=1 cargo test` writes them anew; the diff is what a reviewer reads.

use std::{collections::BTreeMap, path::PathBuf};

use waggle_types::{Ceilings, ContainerSpec, Isolation, Mount, Rlimit};

use super::*;
use crate::{fixture, runtime::seccomp};

struct Case {
    spec: TaskSpec,
    image: ImageConfig,
    user: ImageUser,
    mounts: Vec<BindMount>,
    devices: Vec<Device>,
    netns: Option<PathBuf>,
    user_namespace: Option<u32>,
}

impl Case {
    fn new(change: impl FnOnce(&mut ContainerSpec)) -> Self {
        let mut spec = fixture::spec("web.1");
        spec.command = Command::Image(Vec::new());
        spec.env = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
        change(&mut spec.container);
        Self {
            spec,
            image: ImageConfig {
                env: vec![
                    ("PATH".to_owned(), "/opt/bin:/bin".to_owned()),
                    ("GREETING".to_owned(), "image".to_owned()),
                ],
                entrypoint: vec!["/entry".to_owned()],
                cmd: vec!["serve".to_owned()],
                ..ImageConfig::default()
            },
            user: ImageUser {
                uid: 0,
                gid: 0,
                groups: vec![0],
                home: "/root".to_owned(),
            },
            mounts: Vec::new(),
            devices: Vec::new(),
            netns: None,
            user_namespace: None,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&Facts<'_>) -> T) -> T {
        let env = BTreeMap::from([("MESOS_TASK_ID".to_owned(), "web.1".to_owned())]);
        let lowered = seccomp::parse(
            br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#,
        )
        .map(|p| {
            let facts = seccomp::Facts {
                capabilities: 0,
                kernel: (6, 1),
                arch: seccomp::Arch::X86_64,
            };
            seccomp::lower(&p, &facts)
        })
        .unwrap();
        let inits = wants_seccomp(&self.spec) && no_new_privileges(&self.spec);
        f(&Facts {
            spec: &self.spec,
            image: &self.image,
            root: Path::new("/node/root"),
            user: &self.user,
            capabilities: capability_sets(&self.spec, self.user.uid, capabilities::ALL),
            env: &env,
            sandbox: Path::new("/node/tasks/web.1/sandbox"),
            bundle: Path::new("/node/tasks/web.1/bundle"),
            init: Path::new("/node/runtime/init"),
            mounts: &self.mounts,
            namespaces: Namespaces {
                network: self.netns.as_deref(),
                ..Namespaces::default()
            },
            hostname: "web-1",
            cgroups_path: Some("/waggle.tasks/web.1"),
            seccomp: (wants_seccomp(&self.spec) && !inits).then_some(&lowered),
            init_takes_filter: inits,
            devices: &self.devices,
            user_namespace: self.user_namespace,
        })
    }

    fn check(&self, name: &str) {
        let spec = self.with(|facts| oci_spec(facts).unwrap());
        let text = serde_json::to_string_pretty(&spec).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/runtime/spec/golden")
            .join(name);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, golden, "{} (UPDATE=1 writes it)", path.display());
    }
}

#[test]
fn an_ordinary_task_has_the_safe_default() {
    Case::new(|_| ()).check("default.json");
}

#[test]
fn what_is_asked_for_is_there() {
    let mut case = Case::new(|c| {
        c.tty = true;
        c.work_dir = Some("/srv".to_owned());
        c.isolation = Isolation {
            read_only_root: true,
            cap_add: ["NET_BIND_SERVICE".to_owned()].into(),
            ..Isolation::default()
        };
        c.limits = Ceilings {
            shm_mib: Some(16),
            rlimits: BTreeMap::from([(
                "nofile".to_owned(),
                Rlimit {
                    soft: Some(1024),
                    hard: None,
                },
            )]),
            ..Ceilings::default()
        };
        let mount = |target: &str, source, read_only| Mount {
            target: target.to_owned(),
            source,
            read_only,
        };
        c.mounts = vec![
            mount("/data", MountSource::Host("/srv/data".to_owned()), true),
            mount("/data/cache", MountSource::Memory(8), false),
            mount("logs", MountSource::Sandbox("l".to_owned()), false),
        ];
    });
    let bind = |from: &str, target: &str, read_only| BindMount {
        from: PathBuf::from(from),
        target: target.to_owned(),
        read_only,
    };
    case.mounts = vec![
        bind("/srv/data", "/data", true),
        bind("/node/tasks/web.1/sandbox/l", "logs", false),
        bind("/node/volumes/db", "volumes/db", false),
    ];
    case.user = ImageUser {
        uid: 101,
        gid: 102,
        groups: vec![7, 102],
        home: "/srv".to_owned(),
    };
    case.netns = Some(PathBuf::from("/node/networks/web.1/net"));
    case.devices = vec![Device {
        path: "/dev/fuse".to_owned(),
        block: false,
        numbers: (10, 229),
        mode: 0o666,
        access: "rw".to_owned(),
    }];
    case.check("asked.json");
}

#[test]
fn root_of_a_user_namespace_is_nobody() {
    let mut case = Case::new(|c| c.isolation.user_namespace = true);
    case.user_namespace = Some(100_000);
    case.netns = Some(PathBuf::from("/node/networks/web.1/net"));
    case.check("user_namespace.json");
}

#[test]
fn a_privileged_task_has_all() {
    Case::new(|c| {
        c.isolation.privileged = true;
        c.isolation.host_ipc = true;
    })
    .check("privileged.json");
}

#[test]
fn commands_are_mesos_and_dockers() {
    let image = ImageConfig {
        entrypoint: vec!["/entry".to_owned(), "-v".to_owned()],
        cmd: vec!["serve".to_owned()],
        ..ImageConfig::default()
    };
    let text = |command: &Command| argv(command, &image).map(|a| a.join(" "));
    let words = |w: &[&str]| w.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let shell = Command::Shell("exec x".to_owned());
    assert_eq!(text(&shell).unwrap(), "/bin/sh -c exec x");
    assert_eq!(text(&Command::Argv(words(&["a", "b"]))).unwrap(), "a b");
    assert_eq!(
        text(&Command::Image(Vec::new())).unwrap(),
        "/entry -v serve"
    );
    assert_eq!(text(&Command::Image(words(&["x"]))).unwrap(), "/entry -v x");
    let none = argv(&Command::Image(Vec::new()), &ImageConfig::default());
    assert!(none.unwrap_err().starts_with("command: "));
    assert!(argv(&Command::Argv(Vec::new()), &image).is_err());
}

#[test]
fn capabilities_follow_the_user() {
    let sets = |uid: u32, add: &[&str], drop: &[&str], new: bool| {
        let mut spec = fixture::spec("t");
        let isolation = &mut spec.container.isolation;
        isolation.cap_add = add.iter().map(|s| (*s).to_owned()).collect();
        isolation.cap_drop = drop.iter().map(|s| (*s).to_owned()).collect();
        isolation.new_privileges = new;
        let c = capability_sets(&spec, uid, capabilities::ALL);
        (c.bounding, c.effective)
    };
    let bit = |n: &str| capabilities::mask(n).unwrap();
    let default = capabilities::DEFAULT;
    assert_eq!(sets(0, &[], &[], false), (default, default));
    assert_eq!(sets(5, &[], &[], false), (0, 0));
    assert_eq!(sets(5, &[], &[], true), (default, 0), "sudo may work");
    let bind = bit("NET_BIND_SERVICE");
    assert_eq!(sets(5, &["NET_BIND_SERVICE"], &[], false), (bind, bind));
    let less = default & !bit("MKNOD");
    assert_eq!(sets(0, &[], &["MKNOD"], false), (less, less));
    let only = bit("CHOWN");
    assert_eq!(sets(0, &["CHOWN"], &["ALL"], false), (only, only));
    let mut all = fixture::spec("t");
    all.container.isolation.privileged = true;
    assert_eq!(
        capability_sets(&all, 0, only).bounding,
        only,
        "no more than there are"
    );
    let but = capabilities::ALL & !bit("SYS_ADMIN");
    assert_eq!(sets(0, &["ALL"], &["SYS_ADMIN"], false), (but, but));
}

#[test]
fn a_mount_is_not_over_what_isolates() {
    for bad in [
        "/",
        "",
        "/proc",
        "/proc/sys",
        "/sys/fs/cgroup",
        "/dev/",
        "/a/../proc",
        "../x",
        INIT,
    ] {
        let why = inside(bad).unwrap_err();
        assert!(why.starts_with("container.mounts: "), "{why}");
    }
    assert_eq!(inside("/dev/snd").unwrap(), "/dev/snd");
    assert_eq!(inside("a/b").unwrap(), "/mnt/mesos/sandbox/a/b");
}

#[test]
fn a_working_directory_is_absolute() {
    let mut case = Case::new(|c| c.work_dir = Some("srv".to_owned()));
    assert!(
        case.with(|f| work_dir(f).unwrap_err())
            .starts_with("container.work_dir: ")
    );
    case.spec.container.work_dir = None;
    assert_eq!(case.with(|f| work_dir(f).unwrap()), SANDBOX);
    case.image.work_dir = Some("/app".to_owned());
    assert_eq!(case.with(|f| work_dir(f).unwrap()), "/app");
}
