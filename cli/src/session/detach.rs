//! The keys that leave an attached terminal: Ctrl-P, then Ctrl-Q, as Docker has it.

/// Ctrl-P.
const FIRST: u8 = 0x10;
/// Ctrl-Q.
const SECOND: u8 = 0x11;

/// Looks for the keys in what is typed.
#[derive(Debug, Default)]
pub struct Detach {
    begun: bool,
}

/// What was typed, less the keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// To pass on.
    pub bytes: Vec<u8>,
    /// Whether the keys came.
    pub detached: bool,
}

impl Detach {
    /// Looks at more of what is typed. A first key alone is held back until the next one comes.
    pub fn look(&mut self, typed: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            match (self.begun, key) {
                (true, SECOND) => {
                    return Typed {
                        bytes,
                        detached: true,
                    };
                }
                // Twice: the one before is passed on, this one may begin anew.
                (true, FIRST) => bytes.push(FIRST),
                (false, FIRST) => self.begun = true,
                (begun, key) => {
                    if begun {
                        bytes.push(FIRST);
                        self.begun = false;
                    }
                    bytes.push(key);
                }
            }
        }
        Typed {
            bytes,
            detached: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_also_in_parts() {
        let run = |parts: &[&[u8]]| {
            let mut detach = Detach::default();
            let mut all = Vec::new();
            for part in parts {
                let typed = detach.look(part);
                all.extend(typed.bytes);
                if typed.detached {
                    return (all, true);
                }
            }
            (all, false)
        };
        assert_eq!(run(&[b"ab\x10\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(run(&[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(run(&[b"a\x10", b"b"]), (b"a\x10b".to_vec(), false));
        assert_eq!(run(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(run(&[b"\x11"]), (b"\x11".to_vec(), false));
    }
}
