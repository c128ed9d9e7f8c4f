//! Where containers are: directories, environment, output.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use waggle_api::exec::Frame;

use crate::{
    files::beneath::{Found, Root},
    logs::Limits,
    runtime::SANDBOX,
    shim::{self, PLAN, ShimPlan, read_json},
};

use super::output::{Output, SEGMENT_BYTES};

/// A container's root: where its plan is, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Holds the plan, for the shim of a command.
    pub dir: PathBuf,
    /// The root's sandbox, on the node.
    pub sandbox: PathBuf,
    /// The same as its processes see it.
    pub inside: PathBuf,
    /// Who they are, if not the agent.
    pub user: Option<shim::UserIds>,
}

impl Home {
    /// Of a root whose directory this is. Blocking.
    pub fn read(dir: &Path, sandbox: PathBuf) -> io::Result<Self> {
        let plan: Option<ShimPlan> = read_json(&dir.join(PLAN))?;
        let plan = plan.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let inside = if plan.container.is_some() {
            PathBuf::from(SANDBOX)
        } else {
            plan.sandbox
        };
        Ok(Self {
            dir: dir.to_owned(),
            sandbox,
            inside,
            user: plan.container.map(|c| c.user).or(plan.user),
        })
    }

    /// Makes the sandbox of a container below, with the files of its output. Blocking.
    pub fn make(&self, below: &Path) -> io::Result<Files> {
        let dir = Root::open(&self.sandbox)?.make_dirs(below)?;
        let owner = Some(dir.owner());
        let output = |name| Output::new(dir.path().join(name), SEGMENT_BYTES, owner);
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        Ok(Files {
            stdout,
            stderr,
            _dir: dir,
        })
    }

    /// Removes the sandbox of a container below. Blocking.
    pub fn remove(&self, below: &Path) -> io::Result<()> {
        match Root::open(&self.sandbox).and_then(|root| root.remove_dir(below)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// The plan of a standalone container: what a command in it joins. Written where its shim looks for it. Blocking.
pub fn alone(dir: &Path, cgroups: Vec<PathBuf>, user: Option<shim::UserIds>) -> io::Result<Home> {
    let sandbox = dir.join("sandbox");
    fs::create_dir_all(&sandbox)?;
    if let Some(user) = &user {
        std::os::unix::fs::chown(&sandbox, Some(user.uid), Some(user.gid))?;
    }
    let text = sandbox.display().to_string();
    let env = BTreeMap::from([
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME".to_owned(), text.clone()),
        ("MESOS_SANDBOX".to_owned(), text),
    ]);
    let plan = ShimPlan {
        argv: Vec::new(),
        env,
        sandbox: sandbox.clone(),
        kill_cgroup: cgroups.first().cloned(),
        cgroups,
        memory_cgroup: None,
        tty: false,
        netns: None,
        rlimits: BTreeMap::new(),
        user,
        kill_grace_ms: 0,
        logs: Limits::default(),
        container: None,
    };
    shim::write_json_for_boot(&dir.join(PLAN), &plan)?;
    Home::read(dir, sandbox)
}

/// What is kept of a container's output.
pub struct Files {
    stdout: Output,
    stderr: Output,
    // The paths above go through it.
    _dir: Found,
}

impl Files {
    /// Keeps what a frame holds; none when that did not come back, since the agent is ending.
    pub async fn store(mut self, frame: Frame) -> Option<Self> {
        let stored = tokio::task::spawn_blocking(move || {
            match &frame {
                Frame::Stdout(bytes) => self.stdout.store(bytes),
                Frame::Stderr(bytes) => self.stderr.store(bytes),
                _ => {}
            }
            self
        });
        stored.await.ok()
    }
}
