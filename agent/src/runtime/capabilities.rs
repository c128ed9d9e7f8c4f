//! Linux capabilities by name (`include/uapi/linux/capability.h`).

/// All of them, in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All of them.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// What root inside has: docker's default set (moby, `daemon/pkg/oci/caps/defaults.go`), with which ordinary
/// images set themselves up.
pub const DEFAULT: u64 = bit("CHOWN")
    | bit("DAC_OVERRIDE")
    | bit("FSETID")
    | bit("FOWNER")
    | bit("MKNOD")
    | bit("NET_RAW")
    | bit("SETGID")
    | bit("SETUID")
    | bit("SETFCAP")
    | bit("SETPCAP")
    | bit("NET_BIND_SERVICE")
    | bit("SYS_CHROOT")
    | bit("KILL")
    | bit("AUDIT_WRITE");

/// The set that a name stands for, with or without `CAP_`, in any case; `ALL` is all. `None`: it is no name.
pub fn mask(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" {
        return Some(ALL);
    }
    NAMES.iter().position(|n| *n == name).map(|bit| 1 << bit)
}

/// Names as an OCI spec has them.
pub fn names(mask: u64) -> Vec<String> {
    let all = NAMES.iter().enumerate();
    all.filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

/// Of a name in [`NAMES`]; one that is not there does not compile.
const fn bit(name: &str) -> u64 {
    let mut i = 0;
    while i < NAMES.len() {
        if same(NAMES[i].as_bytes(), name.as_bytes()) {
            return 1 << i;
        }
        i += 1;
    }
    panic!("no such capability")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_agree() {
        assert_eq!(mask("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(mask("checkpoint_restore"), Some(1 << 40));
        assert_eq!(mask("all"), Some(ALL));
        assert_eq!(mask("CAP_"), None);
        assert_eq!(names(DEFAULT).len(), 14);
        assert_eq!(names(1 << 39), ["CAP_BPF"]);
        // What docker's containers show in /proc/self/status.
        assert_eq!(DEFAULT, 0xa804_25fb);
    }
}
