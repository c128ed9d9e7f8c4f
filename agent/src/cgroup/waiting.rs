//! How long a task's threads wait for a CPU.

use std::{fs, path::Path};

use super::TaskCgroup;

/// Threads of a task that are looked at; with more, their waiting is not known.
const MAX_THREADS: usize = 1024;

/// Nanoseconds that the threads of a cgroup which live now have waited for a CPU, in all their lives; `None` where the kernel
/// does not say, or there are too many. Blocking, but no disk is touched.
pub fn waited(cgroup: &TaskCgroup) -> Option<u64> {
    let dir = cgroup.v2.as_deref()?;
    let threads = fs::read_to_string(dir.join("cgroup.threads")).ok()?;
    if threads.lines().count() > MAX_THREADS {
        return None;
    }
    let mut sum = 0_u64;
    for thread in threads.lines() {
        let path = Path::new("/proc").join(thread).join("schedstat");
        // One that ended meanwhile is in the kernel's sum of those that did.
        if let Ok(text) = fs::read_to_string(path) {
            sum = sum.saturating_add(run_delay(&text)?);
        }
    }
    Some(sum)
}

/// From `/proc/<tid>/schedstat`: time on a CPU, time of waiting for one, slices.
fn run_delay(text: &str) -> Option<u64> {
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_threads_tell_how_long_they_waited() {
        assert_eq!(run_delay("100 200 3\n"), Some(200));
        assert_eq!(run_delay(""), None);
        let dir = tempfile::tempdir().unwrap();
        let cgroup = TaskCgroup {
            v2: Some(dir.path().to_owned()),
            ..TaskCgroup::default()
        };
        assert_eq!(waited(&cgroup), None, "no such file");
        // Itself, and one that is gone.
        let threads = format!("{}\n4194304\n", std::process::id());
        fs::write(dir.path().join("cgroup.threads"), threads).unwrap();
        assert!(waited(&cgroup).is_some());
        let many = "1\n".repeat(MAX_THREADS + 1);
        fs::write(dir.path().join("cgroup.threads"), many).unwrap();
        assert_eq!(waited(&cgroup), None);
    }
}
