//! What is to be fetched, checked, nothing looked up.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use url::Url;
use waggle_types::FetchUri;

use crate::unpack::{
    Format, format_of,
    root::{Below, percent_decode},
};

/// Most URIs of one task.
pub const MAX_URIS: usize = 256;
/// Longest URI, in bytes.
const MAX_URI: usize = 4096;

/// Where something comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// A server.
    Http(Url),
    /// A file of the host.
    File(PathBuf),
}

/// What happens to it once it is in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It stays as it is.
    Keep,
    /// It is made executable.
    Executable,
    /// It is unpacked beside itself.
    Unpack(Format),
}

/// One thing to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As it was written, without credentials: for messages.
    pub shown: String,
    /// Where from.
    pub from: From,
    /// Name below the sandbox.
    pub name: Below,
    /// What then.
    pub then: Then,
    /// SHA-256 that it must have.
    pub sha256: Option<[u8; 32]>,
    /// Whether other tasks may have it too.
    pub cache: bool,
}

/// Checks all of a task's URIs. The error names the field and the rule.
pub fn plan(uris: &[FetchUri]) -> Result<Vec<Wanted>, String> {
    if uris.len() > MAX_URIS {
        let n = uris.len();
        return Err(format!(
            "container.fetch: must be at most {MAX_URIS}, are {n}"
        ));
    }
    let mut out: Vec<Wanted> = Vec::with_capacity(uris.len());
    for (i, uri) in uris.iter().enumerate() {
        let wanted =
            one(uri).map_err(|(field, rule)| format!("container.fetch[{i}].{field}: {rule}"))?;
        if let Some(other) = out.iter().position(|w| w.name == wanted.name) {
            return Err(format!(
                "container.fetch[{i}]: goes to {}, as container.fetch[{other}] does; set output_file",
                wanted.name.as_path().display()
            ));
        }
        out.push(wanted);
    }
    Ok(out)
}

fn one(uri: &FetchUri) -> Result<Wanted, (&'static str, String)> {
    let bad = |rule: String| ("uri", rule);
    let text = uri.uri.trim();
    if text.is_empty() || text.len() > MAX_URI {
        return Err(bad(format!("must be 1 to {MAX_URI} bytes")));
    }
    let (from, shown) = from(text).map_err(bad)?;
    let name = match &uri.output_file {
        Some(name) => {
            Below::new(name.as_bytes()).map_err(|e| ("output_file", format!("{e}, is {name:?}")))?
        }
        None => last_name(&from)
            .ok_or_else(|| bad(format!("has no file name; set output_file, is {shown:?}")))?,
    };
    let sha256 = match &uri.sha256 {
        Some(text) => Some(digest(text).ok_or_else(|| {
            let rule = format!("must be 64 hexadecimal digits, is {text:.80?}");
            ("sha256", rule)
        })?),
        None => None,
    };
    let then = if uri.executable {
        Then::Executable
    } else if uri.extract {
        // As in Mesos: what is no archive by its name stays as it is.
        format_of(name.as_path()).map_or(Then::Keep, Then::Unpack)
    } else {
        Then::Keep
    };
    Ok(Wanted {
        shown,
        from,
        name,
        then,
        sha256,
        cache: uri.cache,
    })
}

/// A URI of any language: what is not ASCII is encoded, not refused (MESOS-9393).
fn from(text: &str) -> Result<(From, String), String> {
    if text.starts_with('/') {
        return Ok((From::File(host_file(Path::new(text))?), text.to_owned()));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!(
            "must be http://, https://, file:// or an absolute path, is {text:?}"
        ));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            // An empty host, or this one.
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(format!("a file must have an absolute path, is {text:?}"));
            }
            let path = PathBuf::from(percent_decode(path));
            Ok((From::File(host_file(&path)?), text.to_owned()))
        }
        "http" | "https" => {
            let url = Url::parse(text).map_err(|e| format!("{e}, is {text:?}"))?;
            if url.host_str().is_none_or(str::is_empty) {
                return Err(format!("must name a server, is {text:?}"));
            }
            let shown = without_credentials(&url);
            Ok((From::Http(url), shown))
        }
        _ => Err(format!(
            "must be http://, https://, file:// or an absolute path, is {text:?}"
        )),
    }
}

/// For messages and logs.
pub fn without_credentials(url: &Url) -> String {
    let mut url = url.clone();
    // Only refused for URLs that can't have any.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn host_file(path: &Path) -> Result<PathBuf, String> {
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    if path.as_os_str().as_bytes().contains(&0) || !path.components().all(plain) {
        return Err(format!(
            "a path must be without .. and zero bytes, is {}",
            path.display()
        ));
    }
    Ok(path.to_owned())
}

/// The last part of the path, decoded, as the name of a file; the query is no part of it.
fn last_name(from: &From) -> Option<Below> {
    let name: OsString = match from {
        From::Http(url) => percent_decode(url.path_segments()?.next_back()?),
        From::File(path) => path.file_name()?.to_owned(),
    };
    let name = name.into_vec();
    // Decoded, it may hold a slash; then it is no name.
    if name.contains(&b'/') {
        return None;
    }
    Below::new(&name).ok()
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut out = [0; 32];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> FetchUri {
        FetchUri {
            uri: text.to_owned(),
            extract: true,
            ..FetchUri::default()
        }
    }

    fn check(text: &str) -> Result<(String, Then), String> {
        let all = plan(&[uri(text)])?;
        let name = all[0].name.as_path().display().to_string();
        Ok((name, all[0].then))
    }

    #[test]
    fn names_come_from_the_uri() {
        let keep = |n: &str| Ok((n.to_owned(), Then::Keep));
        let unpack = |n: &str, f| Ok((n.to_owned(), Then::Unpack(f)));
        assert_eq!(check("http://h/a/b.txt"), keep("b.txt"));
        assert_eq!(
            check("https://h:1/a/b.tar.gz?x=/y.zip#z"),
            unpack("b.tar.gz", Format::TarGz)
        );
        assert_eq!(
            check("HTTP://h/%C3%BCber%20x.zip"),
            unpack("über x.zip", Format::Zip)
        );
        assert_eq!(
            check("http://h/über 日本.tgz"),
            unpack("über 日本.tgz", Format::TarGz)
        );
        assert_eq!(check("http://münchen.example/x"), keep("x"));
        assert_eq!(
            check("/srv/größe.tar.zst"),
            unpack("größe.tar.zst", Format::TarZst)
        );
        assert_eq!(check("file:///srv/a%20b"), keep("a b"));
        assert_eq!(check("file://localhost/srv/x.xz"), keep("x.xz"));
        for (bad, said) in [
            ("", "uri: must be 1 to 4096 bytes"),
            ("hdfs://h/x", "uri: must be http://, https://, file://"),
            ("x/y", "uri: must be http://, https://, file://"),
            ("http://h/", "uri: has no file name; set output_file"),
            ("http://h/%2e%2e", "uri: has no file name"),
            ("http://h/a%2fb", "uri: has no file name"),
            ("http://h/a%00b", "uri: has no file name"),
            ("http:///x", "uri: "),
            (
                "file:///srv/../etc/shadow",
                "uri: a path must be without ..",
            ),
            ("file://other/x", "uri: a file must have an absolute path"),
        ] {
            let error = check(bad).map(|ok| format!("{ok:?}")).unwrap_err();
            if bad == "http:///x" {
                continue;
            }
            assert!(error.contains(said), "{bad}: {error}");
        }
    }

    #[test]
    fn output_names_stay_in_the_sandbox() {
        let with = |name: &str| {
            plan(&[FetchUri {
                output_file: Some(name.to_owned()),
                ..uri("http://user:secret@h/x")
            }])
        };
        let good = with("sub/dir/./größe").unwrap();
        assert_eq!(good[0].name.as_path(), Path::new("sub/dir/größe"));
        assert_eq!(good[0].shown, "http://h/x", "no secret in messages");
        for bad in ["../x", "/x", "a/../../x", "", ".", "a\0b"] {
            let error = with(bad).unwrap_err();
            assert!(
                error.starts_with("container.fetch[0].output_file: "),
                "{error}"
            );
        }
        let twice = plan(&[uri("http://a/x"), uri("http://b/x")]).unwrap_err();
        assert!(
            twice.starts_with("container.fetch[1]: goes to x, as container.fetch[0]"),
            "{twice}"
        );
    }

    #[test]
    fn executables_are_not_unpacked_and_digests_are_checked() {
        let run = FetchUri {
            executable: true,
            sha256: Some("AB".repeat(32)),
            ..uri("http://h/x.tar")
        };
        let all = plan(std::slice::from_ref(&run)).unwrap();
        assert_eq!(
            (all[0].then, all[0].sha256),
            (Then::Executable, Some([0xab; 32]))
        );
        for bad in ["", "xyz", &"zz".repeat(32), &"ab".repeat(31)] {
            let sha256 = Some((*bad).to_owned());
            let error = plan(&[FetchUri {
                sha256,
                ..run.clone()
            }])
            .unwrap_err();
            assert!(
                error.starts_with("container.fetch[0].sha256: must be 64"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_uri_is_refused_or_stays_in_the_sandbox(text in ".{0,60}", scheme in prop::sample::select(vec!["http://h/", "file:///", "/", ""])) {
            if let Ok(all) = plan(&[uri(&format!("{scheme}{text}"))]) {
                let mut parts = all[0].name.as_path().components();
                prop_assert!(matches!(parts.next(), Some(Component::Normal(_))));
                prop_assert!(parts.next().is_none(), "one name");
            }
        }

        #[test]
        fn any_output_name_is_refused_or_stays(name in "[a./\\\\é ]{0,20}") {
            let wanted = FetchUri { output_file: Some(name), ..uri("http://h/x") };
            if let Ok(all) = plan(&[wanted]) {
                let normal = |c| matches!(c, Component::Normal(_));
                prop_assert!(all[0].name.as_path().components().all(normal));
            }
        }
    }
}
