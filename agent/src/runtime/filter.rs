//! Seccomp filters: a lowered profile as a program for the kernel. The container's init takes it before its command is
//! started, and so does whoever enters a running container. Pure.
//!
//! What libseccomp and runc make of the same profile holds here too: a name that a machine does not have is left out,
//! programs of the profile's other architectures run by the same rules, and a system call that is newer than all that
//! the profile names is answered by `ENOSYS`, so that C libraries try an older one.

use std::{collections::BTreeMap, str::FromStr};

use super::seccomp::{Arch, Arg, Seccomp};

/// Kernel's limit for one filter (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

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
/// What a system call that the profile can't know answers (`ENOSYS`).
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | 0x26;

/// A set of system calls, which a process has by its own architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

impl Table {
    /// Those that a profile lets run on a machine, the machine's own first. x32 is not among them: its system calls
    /// are refused.
    fn of(seccomp: &Seccomp, arch: Arch) -> Vec<Self> {
        let (own, other, name) = match arch {
            Arch::X86_64 => (Self::X86_64, Self::X86, "SCMP_ARCH_X86"),
            Arch::Aarch64 => (Self::Aarch64, Self::Arm, "SCMP_ARCH_ARM"),
        };
        let has_other = seccomp.architectures.iter().any(|a| a == name);
        std::iter::once(own)
            .chain(has_other.then_some(other))
            .collect()
    }

    /// `AUDIT_ARCH_*` of `include/uapi/linux/audit.h`.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn number(self, name: &str) -> Option<u32> {
        let id = match self {
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            Self::X86 => syscalls::x86::Sysno::from_str(name).ok()?.id(),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok()?.id(),
            Self::Arm => syscalls::arm::Sysno::from_str(name).ok()?.id(),
        };
        u32::try_from(id).ok()
    }
}

/// The filter of a lowered profile on such a machine. Processes of an architecture that the profile does not name are
/// killed. An action that only a supervisor could answer is refused.
pub fn compile(seccomp: &Seccomp, arch: Arch) -> Result<Vec<Instruction>, String> {
    let mut out = vec![(LOAD, 0, 0, OFFSET_ARCH)];
    for table in Table::of(seccomp, arch) {
        let section = section(seccomp, table)?;
        out.extend([(JEQ, 1, 0, table.audit()), (JUMP, 0, 0, len(&section))]);
        out.extend(section);
    }
    out.push((RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    if out.len() > MAX_INSTRUCTIONS {
        return Err(format!(
            "the seccomp profile is too long: {} instructions of at most {MAX_INSTRUCTIONS}",
            out.len()
        ));
    }
    Ok(out)
}

/// What holds for one set of system calls; always returns.
fn section(seccomp: &Seccomp, table: Table) -> Result<Vec<Instruction>, String> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    let by_nr = bodies(seccomp, table, default)?;
    let mut out = vec![(LOAD, 0, 0, OFFSET_NR)];
    if table == Table::X86_64 {
        out.extend([(JGE, 0, 1, X32), (RETURN, 0, 0, default)]);
    }
    let lets_through = [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG].contains(&default);
    if let (Some((newest, _)), false) = (by_nr.last_key_value(), lets_through) {
        out.extend([(JGT, 0, 1, *newest), (RETURN, 0, 0, NO_SUCH_CALL)]);
    }
    for (first, last, body) in ranges(by_nr) {
        // A conditional jump reaches 255 instructions; bodies may be longer.
        if first == last {
            out.extend([(JEQ, 1, 0, first), (JUMP, 0, 0, len(&body))]);
        } else {
            let n = len(&body);
            out.extend([(JGE, 0, 1, first), (JGT, 0, 1, last), (JUMP, 0, 0, n)]);
        }
        out.extend(body);
    }
    out.push((RETURN, 0, 0, default));
    Ok(out)
}

/// What to do about each system call that the profile names. In order of the rules; what libseccomp does with equal
/// system calls: each rule is an alternative.
fn bodies(
    seccomp: &Seccomp,
    table: Table,
    default: u32,
) -> Result<BTreeMap<u32, Vec<Instruction>>, String> {
    let mut by_nr: BTreeMap<u32, Vec<(&[Arg], u32)>> = BTreeMap::new();
    for rule in &seccomp.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        for nr in rule.names.iter().filter_map(|name| table.number(name)) {
            by_nr.entry(nr).or_default().push((&rule.args, action));
        }
    }
    let mut out = BTreeMap::new();
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
        out.insert(nr, body);
    }
    Ok(out)
}

/// Neighbours with the same answer are one: the first and the last number of each.
fn ranges(by_nr: BTreeMap<u32, Vec<Instruction>>) -> Vec<(u32, u32, Vec<Instruction>)> {
    let mut out: Vec<(u32, u32, Vec<Instruction>)> = Vec::new();
    for (nr, body) in by_nr {
        match out.last_mut() {
            Some((_, last, before)) if *last + 1 == nr && *before == body => *last = nr,
            _ => out.push((nr, nr, body)),
        }
    }
    out
}

fn len(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).unwrap_or(u32::MAX)
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
    use super::{
        super::{
            capabilities,
            seccomp::{Facts, default_profile, lower, parse},
        },
        *,
    };
    use proptest::prelude::*;

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
        let nr = Table::X86_64.number(name).unwrap();
        run(&program, Table::X86_64.audit(), nr, args)
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;

    #[test]
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
        assert_eq!(run(&program, Table::Arm.audit(), 3, [0; 6]), kill, "arm");
        assert_eq!(run(&program, Table::X86_64.audit(), X32, [0; 6]), EPERM);
        let arm = Facts {
            arch: Arch::Aarch64,
            ..FACTS
        };
        let lowered = lower(&default_profile().unwrap(), &arm);
        assert_eq!(
            lowered.architectures,
            ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
        );
        let program = compile(&lowered, Arch::Aarch64).unwrap();
        let i386 = run(&program, Table::X86.audit(), 3, [0; 6]);
        assert_eq!(i386, kill);
        for table in [Table::Aarch64, Table::Arm] {
            let ask = |name| {
                let nr = table.number(name).unwrap();
                run(&program, table.audit(), nr, [0; 6])
            };
            assert_eq!((ask("read"), ask("mount")), (ALLOW, EPERM), "{table:?}");
        }
    }

    #[test]
    fn programs_of_the_older_kind_run_by_the_same_rules() {
        let lowered = lower(&default_profile().unwrap(), &FACTS);
        let program = compile(&lowered, Arch::X86_64).unwrap();
        let ask = |name: &str, first: u64| {
            let nr = Table::X86.number(name).unwrap();
            run(&program, Table::X86.audit(), nr, [first, 0, 0, 0, 0, 0])
        };
        for name in ["read", "execve", "mmap2", "set_thread_area", "waitpid"] {
            assert_eq!(ask(name, 0), ALLOW, "{name}");
        }
        for name in ["mount", "setns", "bpf", "reboot"] {
            assert_eq!(ask(name, 0), EPERM, "{name}");
        }
        assert_eq!(ask("clone", 17), ALLOW);
        assert_eq!(ask("clone", 0x1000_0000), EPERM, "CLONE_NEWUSER");
        let own = Seccomp {
            architectures: vec!["SCMP_ARCH_X86_64".to_owned()],
            ..lowered
        };
        let program = compile(&own, Arch::X86_64).unwrap();
        let killed = run(&program, Table::X86.audit(), 3, [0; 6]);
        assert_eq!(killed, libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn what_no_profile_can_know_is_not_there() {
        let lowered = lower(&default_profile().unwrap(), &FACTS);
        let program = compile(&lowered, Arch::X86_64).unwrap();
        for table in [Table::X86_64, Table::X86] {
            let asked = run(&program, table.audit(), 9999, [0; 6]);
            assert_eq!(asked, NO_SUCH_CALL, "{table:?}");
        }
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW",
            "syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#;
        let lowered = lower(&parse(text).unwrap(), &FACTS);
        let program = compile(&lowered, Arch::X86_64).unwrap();
        assert_eq!(run(&program, Table::X86_64.audit(), 9999, [0; 6]), ALLOW);
    }

    proptest! {
        /// Whatever the ranges are: each system call is answered as its own rule says.
        #[test]
        fn neighbours_do_not_answer_for_each_other(
            numbers in prop::collection::vec((0usize..60, any::<bool>()), 1..40),
        ) {
            let names = ["read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "lseek", "mmap", "mprotect",
                "munmap", "brk", "ioctl", "pread64", "pwrite64", "readv", "writev", "access", "pipe"];
            let mut wanted = BTreeMap::new();
            let mut rules = Vec::new();
            for (n, allow) in numbers {
                let name = names[n % names.len()];
                if wanted.contains_key(name) {
                    continue;
                }
                let action = if allow { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_LOG" };
                wanted.insert(name, if allow { ALLOW } else { libc::SECCOMP_RET_LOG });
                rules.push(serde_json::json!({"names": [name], "action": action}));
            }
            let text = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}).to_string();
            let lowered = lower(&parse(text.as_bytes()).unwrap(), &FACTS);
            let program = compile(&lowered, Arch::X86_64).unwrap();
            let newest = wanted.keys().filter_map(|n| Table::X86_64.number(n)).max().unwrap();
            for name in names {
                let nr = Table::X86_64.number(name).unwrap();
                let other = if nr > newest { NO_SUCH_CALL } else { EPERM };
                let want = wanted.get(name).copied().unwrap_or(other);
                prop_assert_eq!(run(&program, Table::X86_64.audit(), nr, [0; 6]), want, "{}", name);
            }
        }
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
            let nr = Table::X86_64.number("read").unwrap();
            run(&program, Table::X86_64.audit(), nr, [0, arg, 0, 0, 0, 0]) == ALLOW
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
