//! Seccomp profiles: docker's format read, lowered to what an OCI runtime takes, and compiled for processes that
//! enter a running container. Pure.
//!
//! Format: docs.docker.com/engine/security/seccomp; what a runtime takes: OCI runtime spec, `linux.seccomp`. The
//! profile that every container has is `seccomp.json` beside this file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::capabilities;

/// Largest profile file: moby's own has 15 kB.
pub const MAX_BYTES: u64 = 1 << 20;

/// Kernel's limit for one filter (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// A profile as docker's tools write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// A condition on an argument of a system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// `linux.seccomp` of an OCI spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    default_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    architectures: Vec<String>,
    syscalls: Vec<Syscalls>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    names: Vec<String>,
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
}

/// What a profile depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Capabilities that the container is given.
    pub capabilities: u64,
    /// The kernel's version: major, minor.
    pub kernel: (u32, u32),
    /// The machine.
    pub arch: Arch,
}

/// An architecture that containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// That of this build.
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }

    /// As docker's profiles have it.
    const fn golang(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    const fn scmp(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// `AUDIT_ARCH_*` of `include/uapi/linux/audit.h`.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

/// The profile of containers whose spec names none.
pub fn default_profile() -> Result<Profile, String> {
    parse(include_bytes!("seccomp.json"))
}

/// Reads a profile. The error is for people.
pub fn parse(bytes: &[u8]) -> Result<Profile, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("is no seccomp profile: {e}"))
}

/// What of a profile holds for one container.
pub fn lower(profile: &Profile, facts: &Facts) -> Seccomp {
    let native = facts.arch.scmp();
    let mapped = profile.arch_map.iter().find(|m| m.architecture == native);
    let mut architectures = vec![native.to_owned()];
    match mapped {
        Some(map) => architectures.extend(map.sub_architectures.iter().cloned()),
        None => architectures.extend(
            profile
                .architectures
                .iter()
                .filter(|a| *a != native)
                .cloned(),
        ),
    }
    let cap = |name: &String| capabilities::mask(name).is_some_and(|m| facts.capabilities & m == m);
    let arch = |name: &String| name == facts.arch.golang();
    let newer = |version: &str| {
        let mut parts = version.split('.').map_while(|p| p.parse::<u32>().ok());
        facts.kernel >= (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let chosen = profile.syscalls.iter().filter(|rule| {
        let (i, x) = (&rule.includes, &rule.excludes);
        let included = i.caps.iter().all(cap)
            && (i.arches.is_empty() || i.arches.iter().any(arch))
            && i.min_kernel.as_deref().is_none_or(newer);
        let excluded = x.caps.iter().any(cap)
            || x.arches.iter().any(arch)
            || x.min_kernel.as_deref().is_some_and(newer);
        included && !excluded
    });
    let syscalls = chosen
        .map(|rule| Syscalls {
            names: rule.names.iter().chain(&rule.name).cloned().collect(),
            action: rule.action.clone(),
            errno_ret: rule.errno_ret,
            args: rule.args.clone().unwrap_or_default(),
        })
        .collect();
    Seccomp {
        default_action: profile.default_action.clone(),
        default_errno_ret: profile.default_errno_ret,
        architectures,
        syscalls,
    }
}

/// One instruction of a classic BPF program (`struct sock_filter`): code, jump if true, jump if false, constant.
pub type Instruction = (u16, u8, u8, u32);

// `include/uapi/linux/bpf_common.h`, `seccomp.h`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;
/// System calls of x32 have this bit (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

/// The filter of a lowered profile for processes of the machine's own architecture; others are killed. Names that
/// this build does not know are left to the default action, which is never more than the profile gives them. An
/// action that only a supervisor could answer is refused.
pub fn compile(seccomp: &Seccomp, arch: Arch) -> Result<Vec<Instruction>, String> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    // In order of the rules; what libseccomp does with equal system calls: each rule is an alternative.
    let mut by_nr: BTreeMap<u32, Vec<(&[Arg], u32)>> = BTreeMap::new();
    for rule in &seccomp.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        for name in &rule.names {
            if let Ok(nr) = name.parse::<Sysno>() {
                let nr = u32::try_from(nr.id()).unwrap_or(u32::MAX);
                by_nr.entry(nr).or_default().push((&rule.args, action));
            }
        }
    }
    let mut out = vec![
        (LOAD, 0, 0, OFFSET_ARCH),
        (JEQ, 1, 0, arch.audit()),
        (RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        (LOAD, 0, 0, OFFSET_NR),
    ];
    if arch == Arch::X86_64 {
        out.extend([(JGE, 0, 1, X32), (RETURN, 0, 0, default)]);
    }
    for (nr, rules) in by_nr {
        let mut body = Vec::new();
        // Rules with conditions first: one without ends the list.
        let (plain, conditional): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|(args, _)| args.is_empty());
        for (args, action) in conditional {
            conditions(args, action, &mut body)?;
        }
        let end = plain.first().map_or(default, |(_, action)| *action);
        body.push((RETURN, 0, 0, end));
        // A conditional jump reaches 255 instructions; bodies may be longer.
        let n = u32::try_from(body.len()).unwrap_or(u32::MAX);
        out.extend([(JEQ, 1, 0, nr), (JUMP, 0, 0, n)]);
        out.extend(body);
    }
    out.push((RETURN, 0, 0, default));
    if out.len() > MAX_INSTRUCTIONS {
        return Err(format!(
            "the seccomp profile is too long: {} instructions of at most {MAX_INSTRUCTIONS}",
            out.len()
        ));
    }
    Ok(out)
}

/// All of `args` hold: return `action`; else fall through to the end of these instructions.
fn conditions(args: &[Arg], action: u32, out: &mut Vec<Instruction>) -> Result<(), String> {
    // Each condition is a block that falls through when it holds, and else jumps to the end.
    let mut blocks: Vec<Vec<Instruction>> = Vec::new();
    for arg in args {
        blocks.push(condition(arg)?);
    }
    let total: usize = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    let mut at = 0;
    for block in blocks {
        let n = block.len();
        for (i, (code, t, f, k)) in block.into_iter().enumerate() {
            let left = u8::try_from(total - at - i - 1)
                .map_err(|_| "a rule of the seccomp profile has too many conditions".to_owned())?;
            let to = |jump: u8| match jump {
                FAIL => left,
                HOLD => u8::try_from(n - i - 1).unwrap_or(u8::MAX),
                near => near,
            };
            out.push((code, to(t), to(f), k));
        }
        at += n;
    }
    out.push((RETURN, 0, 0, action));
    Ok(())
}

/// Jumps that are not known yet: past all conditions, and past this one.
const FAIL: u8 = 255;
const HOLD: u8 = 254;

/// 64-bit comparisons on a 32-bit machine: the high half, then the low one.
fn condition(arg: &Arg) -> Result<Vec<Instruction>, String> {
    if arg.index > 5 {
        return Err(format!(
            "a rule of the seccomp profile has an argument {}, there are 6",
            arg.index
        ));
    }
    // Both machines are little-endian.
    let low = OFFSET_ARGS + arg.index * 8;
    let high = low + 4;
    let halves = |v: u64| ((v >> 32) as u32, (v & 0xffff_ffff) as u32);
    let (vh, vl) = halves(arg.value);
    Ok(match arg.op.as_str() {
        "SCMP_CMP_EQ" => vec![
            (LOAD, 0, 0, high),
            (JEQ, 0, FAIL, vh),
            (LOAD, 0, 0, low),
            (JEQ, 0, FAIL, vl),
        ],
        "SCMP_CMP_NE" => vec![
            (LOAD, 0, 0, high),
            (JEQ, 0, HOLD, vh),
            (LOAD, 0, 0, low),
            (JEQ, FAIL, 0, vl),
        ],
        "SCMP_CMP_MASKED_EQ" => {
            let (mh, ml) = (vh, vl);
            let (vh, vl) = halves(arg.value_two);
            vec![
                (LOAD, 0, 0, high),
                (AND, 0, 0, mh),
                (JEQ, 0, FAIL, vh),
                (LOAD, 0, 0, low),
                (AND, 0, 0, ml),
                (JEQ, 0, FAIL, vl),
            ]
        }
        "SCMP_CMP_GT" => vec![
            (LOAD, 0, 0, high),
            (JGT, HOLD, 0, vh),
            (JEQ, 0, FAIL, vh),
            (LOAD, 0, 0, low),
            (JGT, 0, FAIL, vl),
        ],
        "SCMP_CMP_GE" => vec![
            (LOAD, 0, 0, high),
            (JGT, HOLD, 0, vh),
            (JEQ, 0, FAIL, vh),
            (LOAD, 0, 0, low),
            (JGE, 0, FAIL, vl),
        ],
        "SCMP_CMP_LT" => vec![
            (LOAD, 0, 0, high),
            (JGT, FAIL, 0, vh),
            (JEQ, 0, HOLD, vh),
            (LOAD, 0, 0, low),
            (JGE, FAIL, 0, vl),
        ],
        "SCMP_CMP_LE" => vec![
            (LOAD, 0, 0, high),
            (JGT, FAIL, 0, vh),
            (JEQ, 0, HOLD, vh),
            (LOAD, 0, 0, low),
            (JGT, FAIL, 0, vl),
        ],
        other => return Err(format!("the seccomp profile's operator {other} is unknown")),
    })
}

/// What the kernel is to do.
fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    // libseccomp's default for an action without a number is EPERM.
    let errno = errno.unwrap_or(1) & libc::SECCOMP_RET_DATA;
    Ok(match name {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | errno,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        other => {
            return Err(format!(
                "the seccomp profile's action {other} is not supported"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        capabilities: capabilities::DEFAULT,
        kernel: (6, 1),
        arch: Arch::X86_64,
    };

    /// What the kernel's interpreter would answer.
    fn run(program: &[Instruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            OFFSET_NR => nr,
            OFFSET_ARCH => arch,
            n => {
                let at = (n - OFFSET_ARGS) as usize;
                let half = args[at / 8] >> (if at % 8 == 4 { 32 } else { 0 });
                u32::try_from(half & 0xffff_ffff).unwrap()
            }
        };
        let (mut pc, mut a) = (0usize, 0u32);
        loop {
            let (code, t, f, k) = program[pc];
            pc += 1;
            let mut jump = |hit: bool| pc += usize::from(if hit { t } else { f });
            match code {
                LOAD => a = word(k),
                AND => a &= k,
                JEQ => jump(a == k),
                JGT => jump(a > k),
                JGE => jump(a >= k),
                JUMP => pc += k as usize,
                RETURN => return k,
                other => panic!("code {other}"),
            }
        }
    }

    fn asked(facts: &Facts, name: &str, args: [u64; 6]) -> u32 {
        let lowered = lower(&default_profile().unwrap(), facts);
        let program = compile(&lowered, Arch::X86_64).unwrap();
        let nr = u32::try_from(name.parse::<Sysno>().unwrap().id()).unwrap();
        run(&program, Arch::X86_64.audit(), nr, args)
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_default_lets_programs_run_and_nothing_more() {
        for name in [
            "read",
            "execve",
            "futex",
            "openat",
            "epoll_pwait2",
            "ptrace",
            "arch_prctl",
        ] {
            assert_eq!(asked(&FACTS, name, [0; 6]), ALLOW, "{name}");
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "kexec_load",
            "init_module",
            "keyctl",
            "add_key",
            "userfaultfd",
            "io_uring_setup",
            "open_by_handle_at",
            "reboot",
            "swapon",
            "perf_event_open",
        ] {
            assert_eq!(asked(&FACTS, name, [0; 6]), EPERM, "{name}");
        }
        assert_eq!(
            asked(&FACTS, "chroot", [0; 6]),
            ALLOW,
            "it has the capability"
        );
        let none = Facts {
            capabilities: 0,
            ..FACTS
        };
        assert_eq!(asked(&none, "chroot", [0; 6]), EPERM);
        let old = Facts {
            kernel: (4, 4),
            ..FACTS
        };
        assert_eq!(asked(&old, "ptrace", [0; 6]), EPERM);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn arguments_are_looked_at() {
        let first = |v: u64| [v, 0, 0, 0, 0, 0];
        assert_eq!(asked(&FACTS, "socket", first(2)), ALLOW);
        assert_eq!(asked(&FACTS, "socket", first(40)), EPERM, "AF_VSOCK");
        assert_eq!(
            asked(&FACTS, "socket", first(0x28 | 1 << 32)),
            ALLOW,
            "another number"
        );
        assert_eq!(asked(&FACTS, "personality", first(8)), ALLOW);
        assert_eq!(asked(&FACTS, "personality", first(0xffff_ffff)), ALLOW);
        assert_eq!(asked(&FACTS, "personality", first(1)), EPERM);
        assert_eq!(asked(&FACTS, "clone", first(17)), ALLOW);
        assert_eq!(
            asked(&FACTS, "clone", first(0x1000_0000)),
            EPERM,
            "CLONE_NEWUSER"
        );
        assert_eq!(
            asked(&FACTS, "clone3", [0; 6]),
            libc::SECCOMP_RET_ERRNO | 0x26
        );
        let admin = Facts {
            capabilities: capabilities::ALL,
            ..FACTS
        };
        assert_eq!(asked(&admin, "clone", first(0x1000_0000)), ALLOW);
        assert_eq!(asked(&admin, "clone3", [0; 6]), ALLOW);
        assert_eq!(asked(&admin, "mount", [0; 6]), ALLOW);
    }

    #[test]
    fn foreign_system_calls_are_refused() {
        let lowered = lower(&default_profile().unwrap(), &FACTS);
        assert_eq!(
            lowered.architectures[1..],
            ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]
        );
        let program = compile(&lowered, Arch::X86_64).unwrap();
        let kill = libc::SECCOMP_RET_KILL_PROCESS;
        assert_eq!(run(&program, 0x4000_0003, 3, [0; 6]), kill, "i386");
        assert_eq!(run(&program, Arch::X86_64.audit(), X32, [0; 6]), EPERM);
        let arm = Facts {
            arch: Arch::Aarch64,
            ..FACTS
        };
        let lowered = lower(&default_profile().unwrap(), &arm);
        assert_eq!(
            lowered.architectures,
            ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
        );
    }

    #[test]
    fn comparisons_are_of_64_bits() {
        let decide = |op: &str, value: u64, value_two: u64, arg: u64| {
            let text = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":1,"value":{value},"valueTwo":{value_two},"op":"{op}"}}]}}]}}"#
            );
            let lowered = lower(&parse(text.as_bytes()).unwrap(), &FACTS);
            let program = compile(&lowered, Arch::X86_64).unwrap();
            let nr = u32::try_from(Sysno::read.id()).unwrap();
            run(&program, Arch::X86_64.audit(), nr, [0, arg, 0, 0, 0, 0]) == ALLOW
        };
        let values = [
            0,
            1,
            5,
            u64::from(u32::MAX),
            1 << 32,
            (1 << 32) + 5,
            u64::MAX,
        ];
        for a in values {
            for b in values {
                assert_eq!(decide("SCMP_CMP_EQ", b, 0, a), a == b, "{a} == {b}");
                assert_eq!(decide("SCMP_CMP_NE", b, 0, a), a != b, "{a} != {b}");
                assert_eq!(decide("SCMP_CMP_GT", b, 0, a), a > b, "{a} > {b}");
                assert_eq!(decide("SCMP_CMP_GE", b, 0, a), a >= b, "{a} >= {b}");
                assert_eq!(decide("SCMP_CMP_LT", b, 0, a), a < b, "{a} < {b}");
                assert_eq!(decide("SCMP_CMP_LE", b, 0, a), a <= b, "{a} <= {b}");
                assert_eq!(
                    decide("SCMP_CMP_MASKED_EQ", b, 5, a),
                    a & b == 5,
                    "{a} & {b}"
                );
            }
        }
    }

    #[test]
    fn a_bad_profile_is_said() {
        assert!(
            parse(b"[]")
                .unwrap_err()
                .starts_with("is no seccomp profile")
        );
        let text = br#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#;
        let lowered = lower(&parse(text).unwrap(), &FACTS);
        let why = compile(&lowered, Arch::X86_64).unwrap_err();
        assert!(why.contains("SCMP_ACT_NOTIFY is not supported"), "{why}");
    }
}
