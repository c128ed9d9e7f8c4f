//! Paths of entries: what they name below the root, if anything. Pure.

use super::{Limits, UnpackError};

/// Longest name of one file, as Linux has it.
const MAX_NAME: usize = 255;

/// A path below the root: its directories and its name; the root itself has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The directories above it.
    pub dirs: Vec<&'a [u8]>,
    /// Its name; `None` for the root.
    pub name: Option<&'a [u8]>,
}

impl Member<'_> {
    /// The directories as one path, without a slash in front; empty for the root.
    pub fn parent(&self) -> Vec<u8> {
        self.dirs.join(&b'/')
    }
}

/// What an entry's path names. A leading slash and `.` mean nothing, as in every tar; `..` is refused, not resolved: no
/// honest layer has it.
pub fn member<'a>(path: &'a [u8], limits: &Limits) -> Result<Member<'a>, UnpackError> {
    let refuse = |rule: &str| UnpackError::rule(path, rule);
    if path.len() > limits.max_path {
        let most = limits.max_path;
        return Err(refuse(&format!("path: must be at most {most} bytes")));
    }
    if path.contains(&0) {
        return Err(refuse("path: must be without NUL"));
    }
    let mut dirs: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refuse("path: must be without ..")),
            part if part.len() > MAX_NAME => {
                return Err(refuse(&format!(
                    "path: names must be at most {MAX_NAME} bytes"
                )));
            }
            part => dirs.push(part),
        }
    }
    if dirs.len() > limits.max_depth {
        let most = limits.max_depth;
        return Err(refuse(&format!("path: must be at most {most} deep")));
    }
    let name = dirs.pop();
    Ok(Member { dirs, name })
}

/// What a name means in a layer (OCI image specification, "Whiteouts").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// A file.
    File,
    /// The file of this name in lower layers is not there.
    Whiteout(&'a [u8]),
    /// What lower layers have in this directory is not there.
    Opaque,
    /// A note of the storage driver that made the layer.
    Note,
}

/// Reads a name in a layer.
pub fn meaning(name: &[u8]) -> Result<Meaning<'_>, UnpackError> {
    let Some(rest) = name.strip_prefix(b".wh.") else {
        return Ok(Meaning::File);
    };
    match rest {
        b".wh..opq" => Ok(Meaning::Opaque),
        _ if rest.starts_with(b".wh.") => Ok(Meaning::Note),
        b"" | b"." | b".." => Err(UnpackError::rule(name, "whiteout: must name a file")),
        hidden => Ok(Meaning::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(path: &str) -> Result<(String, Option<String>), String> {
        let limits = Limits::for_tests();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        member(path.as_bytes(), &limits)
            .map(|m| (text(&m.parent()), m.name.map(text)))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn paths_are_below_the_root() {
        let ok = |p: &str| parts(p).unwrap();
        assert_eq!(ok("./"), (String::new(), None));
        assert_eq!(ok("/etc/passwd"), ("etc".into(), Some("passwd".into())));
        assert_eq!(ok("./a//b/./c/"), ("a/b".into(), Some("c".into())));
        assert_eq!(ok("...").1.as_deref(), Some("..."));
        assert_eq!(
            parts("a/../../b").unwrap_err(),
            "entry \"a/../../b\": path: must be without .."
        );
        assert!(parts("a\0b").is_err());
        assert!(parts(&"a/".repeat(200)).is_err());
        assert!(parts(&"a".repeat(256)).is_err());
    }

    #[test]
    fn whiteouts_name_a_file() {
        assert_eq!(meaning(b"a").unwrap(), Meaning::File);
        assert_eq!(meaning(b".wh.a").unwrap(), Meaning::Whiteout(b"a"));
        assert_eq!(meaning(b".wh..wh..opq").unwrap(), Meaning::Opaque);
        assert_eq!(meaning(b".wh..wh.plnk").unwrap(), Meaning::Note);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(meaning(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_part_leaves_the_root(path in prop::collection::vec(prop::sample::select(b"./ab\0".to_vec()), 0..40)) {
            let limits = Limits::for_tests();
            if let Ok(m) = member(&path, &limits) {
                for part in m.dirs.iter().chain(m.name.iter()) {
                    prop_assert!(!part.is_empty() && *part != b"." && *part != b"..");
                    prop_assert!(!part.contains(&b'/') && !part.contains(&0));
                }
            }
        }
    }
}
