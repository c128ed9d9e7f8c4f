//! Which OCI runtime a program is, and what is known against its version. Pure.

/// An OCI runtime by what its `--version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `runc`, `crun`, `youki`...
    pub name: String,
    /// As it says: `1.1.5+ds1`.
    pub text: String,
    /// The package's, where it is another: Debian writes it as the commit.
    pub package: Option<String>,
}

/// Reads `<name> version <version>` and the lines after it.
pub fn parse(output: &str) -> Option<Version> {
    let mut lines = output.lines();
    let mut words = lines.next()?.split_whitespace();
    let name = words.next()?.rsplit('/').next()?.to_owned();
    let mut rest = words.skip_while(|w| *w == "version");
    let text = rest.next()?.trim_start_matches('v').to_owned();
    numbers(&text)?;
    let package = lines.find_map(|l| Some(l.trim().strip_prefix("commit:")?.trim().to_owned()));
    Some(Version {
        name,
        text,
        package,
    })
}

/// What is known against it; empty: nothing.
pub fn faults(version: &Version) -> Vec<&'static str> {
    let mut out = Vec::new();
    let Some(v) = numbers(&version.text) else {
        return out;
    };
    if version.name == "runc" {
        // Debian fixed it in 1.1.5+ds1-1+deb12u1.
        let patched = v == (1, 1, 5)
            && version
                .package
                .as_deref()
                .and_then(|p| p.split_once("deb12u"))
                .is_some_and(|(_, n)| n.trim().parse::<u32>().is_ok_and(|n| n >= 1));
        if v < (1, 1, 12) && !patched {
            out.push("CVE-2024-21626 (containers reach the host's files): wants 1.1.12");
        }
        if v < (1, 2, 8) || ((1, 3, 0)..(1, 3, 3)).contains(&v) {
            out.push(
                "CVE-2025-31133, -52565, -52881 (breakouts by masked paths): want 1.2.8 or 1.3.3",
            );
        }
    }
    out
}

/// Major, minor, patch; what follows is left out.
fn numbers(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|p| {
        let digits: &str = p.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
        digits.parse::<u32>().ok()
    });
    Some((
        parts.next()??,
        parts.next()??,
        parts.next().flatten().unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(output: &str) -> (String, usize) {
        let version = parse(output).unwrap();
        let n = faults(&version).len();
        (format!("{} {}", version.name, version.text), n)
    }

    #[test]
    fn versions_are_read_and_judged() {
        let debian = "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\n";
        assert_eq!(known(debian), ("runc 1.1.5+ds1".to_owned(), 1));
        assert_eq!(known("runc version 1.1.5+ds1\ncommit: x\n").1, 2);
        assert_eq!(known("runc version 1.1.12\n").1, 1);
        assert_eq!(known("runc version 1.2.8\n").1, 0);
        assert_eq!(known("runc version 1.3.2\n").1, 1);
        assert_eq!(known("runc version 1.3.3\n").1, 0);
        assert_eq!(known("runc version 1.4.0-rc.3\n").1, 0);
        let crun = "crun version 1.8.1\ncommit: f8a096be060b22ccd3d5f3ebe44108517fbf6c30\n";
        assert_eq!(known(crun), ("crun 1.8.1".to_owned(), 0));
        assert_eq!(parse("usage: true"), None);
        assert_eq!(parse(""), None);
    }
}
