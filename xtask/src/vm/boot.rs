//! A machine: qemu, its serial line, and an end whatever happens.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::image;
use super::kernels::Kernel;

/// How long the hardware's support for virtual machines has to show that it works.
const PROBE: Duration = Duration::from_secs(10);
/// Memory of a machine, MiB.
const MEMORY: u32 = 1536;

/// How a machine's instructions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the hardware.
    Kvm,
    /// By qemu.
    Emulation,
}

impl Accelerator {
    fn words(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg", "-cpu", "max"],
        }
    }
}

/// The hardware's, if a machine boots with it; on some hosts it is there and hangs.
pub fn accelerator(kernel: &Kernel, cache: &Path) -> anyhow::Result<Accelerator> {
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        eprintln!("no KVM here: emulation");
        return Ok(Accelerator::Emulation);
    }
    let path = cache.join("probe.cpio");
    image::only_init(&cache.join("programs/waggle-vm-init"), &path)?;
    let log = cache.join("probe.log");
    match boot(kernel, &path, Accelerator::Kvm, PROBE, &log) {
        Ok(text) if text.contains("VMKERNEL") => {
            eprintln!("KVM works here");
            Ok(Accelerator::Kvm)
        }
        _ => {
            eprintln!("KVM is there, but a machine does not boot with it: emulation");
            Ok(Accelerator::Emulation)
        }
    }
}

/// Boots a machine and waits for its end; what it said on its serial line. A machine that has to be ended is no error
/// here: what it said does not have the end.
pub fn boot(
    kernel: &Kernel,
    image: &Path,
    accelerator: Accelerator,
    limit: Duration,
    log: &Path,
) -> anyhow::Result<String> {
    let serial = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(accelerator.words())
        // One processor: emulated ones trip over code that the kernel is changing ("int3" Oops), and the kernels that
        // run side by side fill the host's.
        .args(["-smp", "1", "-m", &MEMORY.to_string()])
        .args([
            "-nographic",
            "-nodefaults",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        // On a busy host the emulated timer may be late when the kernel looks whether it ticks at all, which it panics over.
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init",
        ])
        .stdin(Stdio::null())
        .stdout(serial)
        .stderr(Stdio::piped());
    let mut machine = Machine(command.spawn().context("run qemu-system-x86_64")?);
    let start = Instant::now();
    let ended = loop {
        if let Some(status) = machine.0.try_wait().context("wait for qemu")? {
            break Some(status);
        }
        if start.elapsed() > limit {
            break None;
        }
        waggle_tests_support::sleep(Duration::from_millis(100));
    };
    if let Some(status) = ended
        && !status.success()
    {
        let mut said = String::new();
        if let Some(mut errors) = machine.0.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut errors, &mut said);
        }
        bail!("qemu failed ({status}): {}", said.trim());
    }
    drop(machine);
    let bytes = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A running qemu; ended when dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
