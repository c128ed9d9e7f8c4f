//! Mounts of tasks, planned and made.

use waggle_types::{ContainerSpec, ExternalVolume, ImageSpec, Milli, Mount, MountSource, Volume};

use super::*;

fn spec(task_id: &str, volumes: &[&str], mounts: Vec<Mount>) -> TaskSpec {
    let mut resources = waggle_types::Resources::default();
    for id in volumes {
        let volume = Volume {
            size: Milli::units(64),
            shared: false,
        };
        resources
            .custom
            .set_volume(VolumeId::new(*id).unwrap(), volume);
    }
    TaskSpec {
        resources,
        container: ContainerSpec {
            mounts,
            ..ContainerSpec::default()
        },
        ..crate::fixture::spec(task_id)
    }
}

fn mount(target: &str, source: MountSource, read_only: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        source,
        read_only,
    }
}

fn volume(id: &str) -> MountSource {
    MountSource::Volume(VolumeId::new(id).unwrap())
}

struct Node {
    dir: tempfile::TempDir,
    storage: Storage,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        let host_paths = [dir.path().join("host")];
        let settings = StorageSettings::default();
        let storage = Storage::open(&dir.path().join("work"), &settings, &host_paths).unwrap();
        Self { dir, storage }
    }

    fn sandbox(&self, task_id: &str) -> PathBuf {
        let path = self
            .dir
            .path()
            .join("work/tasks")
            .join(task_id)
            .join("sandbox");
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn prepare(&self, spec: &TaskSpec) -> Result<Vec<BindMount>, String> {
        let sandbox = self.sandbox(spec.task_id.as_str());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(self.storage.prepare(spec, &sandbox, None))
    }

    fn host(&self) -> String {
        self.dir.path().join("host").display().to_string()
    }
}

#[test]
fn a_task_without_an_image_finds_links() {
    let node = Node::new();
    let host = node.host();
    fs::write(Path::new(&host).join("x"), "host").unwrap();
    let mounts = vec![
        mount("data", volume("db"), false),
        mount("host", MountSource::Host(host.clone()), false),
        mount(
            "sub/scratch",
            MountSource::Sandbox("scratch".to_owned()),
            false,
        ),
    ];
    let task = spec("t1", &["db", "log"], mounts);
    assert_eq!(node.prepare(&task), Ok(vec![]));
    let sandbox = node.sandbox("t1");
    fs::write(sandbox.join("data/file"), "kept").unwrap();
    assert_eq!(fs::read_to_string(sandbox.join("host/x")).unwrap(), "host");
    fs::write(sandbox.join("sub/scratch/y"), "y").unwrap();
    assert_eq!(fs::read_to_string(sandbox.join("scratch/y")).unwrap(), "y");
    assert!(sandbox.join("volumes/log").is_dir(), "where it always was");
    assert!(
        !sandbox.join("volumes/db").exists(),
        "it has a place of its own"
    );
    // Twice is once.
    assert_eq!(node.prepare(&task), Ok(vec![]));
    let users = node.storage.users(&VolumeId::new("db").unwrap()).unwrap();
    assert_eq!(users, std::slice::from_ref(&task.task_id));
    node.storage.release(&task.task_id).unwrap();
    node.storage.release(&task.task_id).unwrap();
    // With the sandbox goes what is in it, and nothing that a link leads to.
    fs::remove_dir_all(&sandbox).unwrap();
    assert!(Path::new(&host).join("x").exists());
    node.prepare(&task).unwrap();
    let kept = fs::read_to_string(sandbox.join("data/file")).unwrap();
    assert_eq!(kept, "kept");
}

#[test]
fn a_task_with_an_image_is_told_what_to_mount() {
    let node = Node::new();
    let mounts = vec![
        mount("/var/lib/db", volume("db"), false),
        mount("etc", MountSource::Host(node.host()), true),
        mount("/dev/shm2", MountSource::Memory(1), false),
    ];
    let mut task = spec("t1", &["db", "log"], mounts);
    task.container.image = Some(ImageSpec::default());
    let work = node.dir.path().join("work");
    let bind = |from: PathBuf, target: &str, read_only| BindMount {
        from,
        target: target.to_owned(),
        read_only,
    };
    assert_eq!(
        node.prepare(&task).unwrap(),
        [
            bind(work.join("volumes/db"), "/var/lib/db", false),
            bind(PathBuf::from(node.host()), "etc", true),
            bind(work.join("volumes/log"), "volumes/log", false),
        ]
    );
    assert!(work.join("tasks/t1/sandbox/volumes/log").is_dir());
}

#[test]
fn tasks_of_a_pod_share_until_the_last_one_ends() {
    let node = Node::new();
    let share = || vec![mount("shared", MountSource::Sandbox("s".to_owned()), false)];
    let mut tasks = [spec("a", &[], share()), spec("b", &[], share())];
    for t in &mut tasks {
        t.container.pod = Some("pod/1".to_owned());
        node.prepare(t).unwrap();
    }
    fs::write(node.sandbox("a").join("shared/x"), "x").unwrap();
    let seen = node.sandbox("b").join("shared/x");
    assert_eq!(fs::read_to_string(&seen).unwrap(), "x");
    node.storage.release(&tasks[0].task_id).unwrap();
    assert!(seen.exists());
    // After a restart of the agent nobody lives.
    node.storage.keep(&BTreeSet::new()).unwrap();
    assert!(!seen.exists());
    let pods = node.dir.path().join("work/storage/pods");
    assert_eq!(fs::read_dir(pods).unwrap().count(), 0);
}

#[test]
fn tasks_of_a_pod_share_the_volumes_that_their_executor_holds() {
    let node = Node::new();
    let id = VolumeId::new("db").unwrap();
    let held = spec("e", &["db"], Vec::new()).resources;
    let executor = Arc::new(waggle_types::ExecutorSpec {
        executor_id: waggle_types::ExecutorId::new("e").unwrap(),
        name: "e".to_owned(),
        kind: waggle_types::ExecutorKind::Default,
        command: waggle_types::Command::Executor,
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: held,
        parts: Vec::new(),
        container: ContainerSpec::default(),
        shutdown_grace: waggle_types::Millis(0),
        user: None,
        checkpoint: true,
        info: Vec::new(),
        framework_info: Vec::new(),
    });
    let of = |name: &str, mounts: Vec<Mount>| TaskSpec {
        executor: Some(waggle_types::OnExecutor {
            spec: Arc::clone(&executor),
            starts: false,
            group: None,
            n_group: 0,
            info: Vec::new(),
        }),
        ..spec(name, &[], mounts)
    };
    let writer = of("a", vec![mount("data", volume("db"), false)]);
    let reader = of("b", vec![mount("in", volume("db"), true)]);
    let third = of("c", Vec::new());
    for task in [&writer, &third] {
        assert_eq!(node.prepare(task), Ok(vec![]));
    }
    fs::write(node.sandbox("a").join("data/x"), "x").unwrap();
    let plan = plan::plan(&reader, &[]).unwrap();
    assert_eq!((plan.len(), plan[0].read_only), (1, true));
    assert_eq!(plan[0].source, Source::Volume(id.clone()));
    // Who does not name it does not have it.
    assert!(!node.sandbox("c").join("volumes").exists());
    assert_eq!(third.held_volumes().count(), 0);
    assert_eq!(node.storage.users(&id).unwrap(), [writer.task_id]);
}

#[test]
fn what_may_not_be_mounted_is_refused_by_name() {
    let node = Node::new();
    let outside = node.dir.path().display().to_string();
    let link = Path::new(&node.host()).join("out");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let link = link.display().to_string();
    let cases = [
        (
            mount("/abs", volume("db"), false),
            "mounts[0].target: must be relative",
        ),
        (
            mount("../x", volume("db"), false),
            "mounts[0].target: leads out by ..",
        ),
        (
            mount("x", volume("other"), false),
            "mounts[0].source.volume: must be a volume among",
        ),
        (
            mount("x", MountSource::Host(outside), false),
            "is not below what this node's policy allows",
        ),
        (
            mount("x", MountSource::Host("/etc/../x".to_owned()), false),
            "must be absolute and without ..",
        ),
        (
            mount("x", MountSource::Host(link), false),
            "is not below what this node's policy allows",
        ),
        (
            mount("x", MountSource::Sandbox("/x".to_owned()), false),
            "mounts[0].source.sandbox: is absolute",
        ),
        (
            mount("x", MountSource::Memory(1), false),
            "memory can be mounted where there is an image",
        ),
        (
            mount("volumes/db", MountSource::Sandbox("x".to_owned()), false),
            "volumes/db is where volume db goes",
        ),
        (
            mount(
                "x",
                MountSource::External(ExternalVolume {
                    provider: "nfs".to_owned(),
                    name: "v".to_owned(),
                    ..ExternalVolume::default()
                }),
                false,
            ),
            "no storage driver \"nfs\"",
        ),
    ];
    for (mount, said) in cases {
        let error = node.prepare(&spec("t", &["db"], vec![mount])).unwrap_err();
        assert!(error.contains(said), "{error}");
        let left = node.storage.users(&VolumeId::new("db").unwrap()).unwrap();
        assert_eq!(left, [], "nothing is held");
    }
    let twice = vec![
        mount("x", volume("db"), false),
        mount("./x", volume("db"), false),
    ];
    let error = node.prepare(&spec("t", &["db"], twice)).unwrap_err();
    assert!(
        error.starts_with("container.mounts[1].target: must not be"),
        "{error}"
    );
}

#[test]
fn read_only_holds_without_an_image_too() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIP: read-only mounts need root");
        return;
    }
    let node = Node::new();
    let task = spec("t1", &["db"], vec![mount("ro", volume("db"), true)]);
    node.prepare(&task).unwrap();
    let file = node.sandbox("t1").join("ro/x");
    let error = fs::write(&file, "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    fs::write(node.dir.path().join("work/volumes/db/x"), "y").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "y");
    // An agent that was killed mounts again.
    node.prepare(&task).unwrap();
    node.storage.keep(&BTreeSet::new()).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = node.dir.path().display().to_string();
    assert!(!mounts.contains(&dir), "no mount stays");
    assert!(node.dir.path().join("work/volumes/db/x").exists());
}

#[test]
fn a_volume_is_restored_when_nobody_uses_it() {
    let node = Node::new();
    let db = VolumeId::new("db").unwrap();
    let task = spec("t1", &["db"], vec![]);
    node.prepare(&task).unwrap();
    let file = node.sandbox("t1").join("volumes/db/x");
    fs::write(&file, "one").unwrap();
    let live = node.storage.snapshot(&db, "live", 1).unwrap();
    assert!(!live.consistent, "a task may write meanwhile");
    let busy = node.storage.restore(&db, "live").unwrap_err();
    assert_eq!(
        busy.to_string(),
        "volume db: is used by t1; stop that first"
    );
    node.storage.release(&task.task_id).unwrap();
    assert!(node.storage.snapshot(&db, "stopped", 2).unwrap().consistent);
    fs::write(&file, "two").unwrap();
    node.storage.restore(&db, "live").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "one");
    // Meanwhile no task gets it.
    let held = node.storage.0.take(&db, "it is being restored").unwrap();
    let error = node.prepare(&task).unwrap_err();
    assert_eq!(error, "volume db: it is being restored");
    drop(held);
    node.prepare(&task).unwrap();
    let all = node.storage.volumes().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1.len(), 2);
}
