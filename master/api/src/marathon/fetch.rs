//! `fetch`, and the older `uris`, of a definition.

use waggle_types::FetchUri;

use crate::read::{Errors, Obj};

/// Most URIs of one service.
const MAX_FETCH: usize = 64;
/// Longest URI and name, as in Marathon.
const MAX_TEXT: usize = 1024;
/// What Mesos's fetcher unpacks.
const ARCHIVES: [&str; 7] = [
    ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".tar.xz", ".zip",
];

/// Reads `fetch`, else `uris`: a client that knows both sends the older one along.
pub(super) fn fetch(obj: &Obj<'_>, errs: &mut Errors) -> Vec<FetchUri> {
    let items = obj.list("fetch", errs).unwrap_or_default();
    let old = obj.strings("uris", errs).unwrap_or_default();
    let (key, n) = match items.len() {
        0 => ("uris", old.len()),
        n => ("fetch", n),
    };
    if n > MAX_FETCH {
        errs.add(key, format!("must be at most {MAX_FETCH}, is {n}"));
        return Vec::new();
    }
    if items.is_empty() {
        let each = old.into_iter().enumerate();
        return each
            .map(|(i, uri)| {
                check_uri(&format!("uris[{i}]"), &uri, errs);
                FetchUri {
                    extract: is_archive(&uri),
                    uri,
                    ..FetchUri::default()
                }
            })
            .collect();
    }
    let each = items.iter().enumerate().filter_map(|(i, v)| {
        let f = Obj::of(format!("fetch[{i}]"), v, errs)?;
        one(&f, errs)
    });
    each.collect()
}

fn one(f: &Obj<'_>, errs: &mut Errors) -> Option<FetchUri> {
    let before = errs.count();
    let uri = f.string("uri", errs);
    match &uri {
        None if errs.count() == before => errs.add(f.path("uri"), "must be set"),
        None => {}
        Some(uri) => check_uri(&f.path("uri"), uri, errs),
    }
    // Marathon's name, then Mesos's.
    let output_file = f
        .string("destPath", errs)
        .or_else(|| f.string("outputFile", errs));
    if let Some(name) = &output_file
        && (name.starts_with('/')
            || name.is_empty()
            || name.len() > MAX_TEXT
            || name
                .split('/')
                .any(|p| p.is_empty() || p == "." || p == ".."))
    {
        let rule = format!("must be a path below the sandbox without .., is {name:?}");
        errs.add(f.path("destPath"), rule);
    }
    let sha256 = f.string("sha256", errs).map(|s| s.to_ascii_lowercase());
    if let Some(sum) = &sha256
        && (sum.len() != 64 || !sum.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        let rule = format!("must be 64 hexadecimal digits, is {sum:?}");
        errs.add(f.path("sha256"), rule);
    }
    let executable = f.boolean("executable", errs).unwrap_or(false);
    Some(FetchUri {
        extract: f.boolean("extract", errs).unwrap_or(true),
        executable,
        cache: f.boolean("cache", errs).unwrap_or(false),
        output_file,
        sha256,
        uri: uri?,
    })
}

fn check_uri(field: &str, uri: &str, errs: &mut Errors) {
    let schemes = ["http://", "https://", "file:///", "/"];
    let known = schemes
        .iter()
        .any(|s| uri.starts_with(s) && uri.len() > s.len());
    let bad = |c: char| c.is_control() || c.is_whitespace();
    if !known || uri.len() > MAX_TEXT || uri.contains(bad) {
        let rule = format!("must begin with http://, https://, file:/// or /, is {uri:?}");
        errs.add(field, rule);
    }
}

fn is_archive(uri: &str) -> bool {
    ARCHIVES.iter().any(|end| uri.ends_with(end))
}
