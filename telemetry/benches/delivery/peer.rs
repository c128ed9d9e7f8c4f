//! rsyslog with the same work, as far as it does it: a file followed line by line, a queue that goes to disk, TCP to an endpoint.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::{Took, sink::Sink, ticks};

/// `None` where it is not installed.
pub fn rsyslog(file: &Path, lines: u64, dir: &Path) -> Option<Took> {
    let installed = Command::new("rsyslogd").arg("-v").output();
    installed.ok().filter(|out| out.status.success())?;
    fs::create_dir(dir).unwrap();
    let mut sink = Sink::start("lines");
    let conf = dir.join("rsyslog.conf");
    let (at, work, file) = (sink.addr, dir.display(), file.display());
    let text = format!(
        r#"global(workDirectory="{work}" maxMessageSize="64k")
module(load="imfile" mode="inotify")
template(name="whole" type="string" string="%msg%\n")
input(type="imfile" file="{file}" tag="bench" ruleset="out")
ruleset(name="out" queue.type="LinkedList" queue.filename="bench" queue.maxDiskSpace="4g" queue.size="16384" queue.timeoutEnqueue="600000") {{
  action(type="omfwd" target="{ip}" port="{port}" protocol="tcp" template="whole" action.resumeRetryCount="-1")
}}
"#,
        ip = at.ip(),
        port = at.port(),
    );
    fs::write(&conf, text).unwrap();
    let begun = Instant::now();
    let mut process = Command::new("rsyslogd")
        .args(["-n", "-i"])
        .arg(dir.join("pid"))
        .arg("-f")
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A line that holds control characters is one line there, too; some of nothing are left out by it.
    let enough = lines * 99 / 100;
    while sink.said().parse::<u64>().unwrap() < enough {}
    let wall_s = begun.elapsed().as_secs_f64();
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let cpu_s = ticks(&stat) as f64 / 100.0;
    process.kill().unwrap();
    process.wait().unwrap();
    Some(Took { wall_s, cpu_s })
}
