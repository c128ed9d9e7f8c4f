//! rsyslog with the same work, as far as it does it: a file followed line by line, a queue that goes to disk, TCP to an endpoint.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Held, Took, sink::Sink, size_of, ticks};

/// `None` where it is not installed.
pub fn rsyslog(file: &Path, lines: u64, dir: &Path) -> Option<Took> {
    if !is_installed() {
        return None;
    }
    let mut sink = Sink::start("lines");
    let begun = Instant::now();
    let mut process = start(file, dir, ("LinkedList", 16_384), sink.addr);
    // A line that holds control characters is one line there, too; some of nothing are left out by it.
    let enough = lines * 99 / 100;
    while sink.said().parse::<u64>().unwrap() < enough {}
    Some(end(&mut process, begun.elapsed()))
}

/// The same while nobody is at the endpoint, its queue on disk alone, until all lines are there; `None` where it is not installed.
pub fn rsyslog_held(file: &Path, lines: u64, dir: &Path) -> Option<Held> {
    if !is_installed() {
        return None;
    }
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let begun = Instant::now();
    let mut process = start(file, dir, ("Disk", 2 * lines), nobody);
    // It says nothing of what it has: the time of the last growth is the end, once there has been none for a second.
    let (mut bytes, mut grew) = (0, Duration::ZERO);
    while bytes == 0 || begun.elapsed() < grew + Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_millis(20));
        let now: u64 = queue(dir).iter().map(|f| size_of(f)).sum();
        if now != bytes {
            (bytes, grew) = (now, begun.elapsed());
        }
    }
    let took = end(&mut process, grew);
    let n = queue(dir).iter().map(|f| messages(f)).sum();
    if n < lines * 99 / 100 {
        println!("    rsyslog has only {n} of {lines} lines on disk");
    }
    fs::remove_dir_all(dir).unwrap();
    Some(Held {
        took,
        n,
        disk_bytes: bytes,
    })
}

fn is_installed() -> bool {
    let said = Command::new("rsyslogd").arg("-v").output();
    said.is_ok_and(|out| out.status.success())
}

/// Files of its queue.
fn queue(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_queue = |p: &PathBuf| {
        let name = p.file_name().unwrap().to_string_lossy();
        name.starts_with("bench.0")
    };
    entries.map(|e| e.path()).filter(is_queue).collect()
}

/// Messages in a file of its queue; each begins with a line of its own.
fn messages(file: &Path) -> u64 {
    let lines = BufReader::new(fs::File::open(file).unwrap()).split(b'\n');
    lines
        .map(Result::unwrap)
        .filter(|l| l.starts_with(b"<Obj:1:msg:"))
        .count() as u64
}

/// `queue`: its kind, and how many lines it holds.
fn start(file: &Path, dir: &Path, queue: (&str, u64), to: SocketAddr) -> Child {
    fs::create_dir(dir).unwrap();
    let conf = dir.join("rsyslog.conf");
    let (work, file) = (dir.display(), file.display());
    let text = format!(
        r#"global(workDirectory="{work}" maxMessageSize="64k")
module(load="imfile" mode="inotify")
template(name="whole" type="string" string="%msg%\n")
input(type="imfile" file="{file}" tag="bench" ruleset="out")
ruleset(name="out" queue.type="{kind}" queue.filename="bench" queue.maxDiskSpace="4g" queue.size="{size}" queue.timeoutEnqueue="600000") {{
  action(type="omfwd" target="{ip}" port="{port}" protocol="tcp" template="whole" action.resumeRetryCount="-1")
}}
"#,
        kind = queue.0,
        size = queue.1,
        ip = to.ip(),
        port = to.port(),
    );
    fs::write(&conf, text).unwrap();
    Command::new("rsyslogd")
        .args(["-n", "-i"])
        .arg(dir.join("pid"))
        .arg("-f")
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(process: &mut Child, wall: Duration) -> Took {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let cpu_s = ticks(&stat) as f64 / 100.0;
    process.kill().unwrap();
    process.wait().unwrap();
    Took {
        wall_s: wall.as_secs_f64(),
        cpu_s,
    }
}
