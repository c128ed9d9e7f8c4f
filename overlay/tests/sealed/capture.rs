//! What the underlay carries while something is done.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use waggle_overlay::wireguard::DEFAULT_PORT;
use waggle_tests_support::wait_until;

use crate::rig::{LIMIT, MARK, NODES, VXLAN, World};

/// Packets, by what they are.
#[derive(Debug, Default)]
pub struct Seen {
    /// WireGuard's.
    pub n_sealed: usize,
    /// VXLAN in clear.
    pub n_vxlan: usize,
    /// IPv4, neither of them.
    pub n_other: usize,
    /// Whether any has the bytes that containers send.
    pub has_mark: bool,
    /// Of all of them.
    pub bytes: usize,
}

/// The port that nothing but the last packet has.
const LAST: u16 = 9;

/// Both directions, at the first node.
pub fn capture(world: &World, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Seen> {
    let file = world.dir.path().join("seen.pcap");
    let node = &world.nodes[0].ns;
    let mut child = node.run(|| {
        Command::new("tcpdump")
            .args([
                "-i", "u0", "-U", "-Z", "root", "-s", "0", "-B", "8192", "-w",
            ])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    })??;
    let errors = child.stderr.take().context("its errors")?;
    let running = Running(child);
    let mut errors = BufReader::new(errors);
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        ensure!(errors.read_line(&mut line)? > 0, "tcpdump ended");
    }
    work()?;
    // What was sent before is in the file when what comes now is.
    let last = b"and this was all of it";
    let socket = node.run(|| std::net::UdpSocket::bind((NODES[0], 0)))??;
    wait_until(LIMIT, "the capture", || {
        let _ = socket.send_to(last, (NODES[1], LAST));
        let bytes = fs::read(&file).ok()?;
        has(&bytes, last).then_some(())
    })?;
    drop(running);
    Ok(read(&fs::read(&file)?))
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// pcap(5): a header of 24 bytes; each packet has one of 16, with its length in the third word.
fn read(file: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut rest = file.get(24..).unwrap_or_default();
    while let Some(length) = rest.get(8..12) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(packet) = rest.get(16..16 + length) else {
            break;
        };
        sort(packet, &mut seen);
        rest = &rest[16 + length..];
    }
    seen
}

fn sort(frame: &[u8], seen: &mut Seen) {
    if frame.get(12..14) != Some(&[0x08, 0x00]) || frame.len() < 42 {
        return;
    }
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let is_udp = frame[23] == 17;
    if is_udp && port(36) == LAST || frame[23] == 1 {
        // The last one, and what the other node answers to it.
        return;
    }
    seen.bytes += frame.len();
    seen.has_mark |= has(frame, MARK);
    if is_udp && port(34) == DEFAULT_PORT && port(36) == DEFAULT_PORT {
        seen.n_sealed += 1;
    } else if is_udp && (port(34) == VXLAN || port(36) == VXLAN) {
        seen.n_vxlan += 1;
    } else {
        seen.n_other += 1;
    }
}
