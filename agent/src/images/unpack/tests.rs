//! Hostile archives: whatever they say, nothing outside of the root is touched.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};

use proptest::prelude::*;

use super::*;

/// A directory with a root in it, and files beside it that must stay as they are.
struct Outside {
    dir: tempfile::TempDir,
}

impl Outside {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir_all(dir.path().join("etc/deep")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "precious").unwrap();
        fs::write(dir.path().join("etc/deep/file"), "precious").unwrap();
        fs::set_permissions(
            dir.path().join("etc/passwd"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, tar: &[u8], style: Style) -> Result<Unpacked, UnpackError> {
        unpack(&mut &tar[..], &self.root(), style, &Limits::for_tests())
    }

    /// All outside of the root: path, kind and mode, owner, links, content.
    fn picture(&self) -> BTreeMap<PathBuf, (u32, u32, u64, Vec<u8>)> {
        let mut out = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                if path == self.root() {
                    continue;
                }
                if meta.is_dir() {
                    dirs.push(path.clone());
                }
                let links = if meta.is_dir() { 0 } else { meta.nlink() };
                let content = fs::read(&path).unwrap_or_default();
                out.insert(path, (meta.mode(), meta.uid(), links, content));
            }
        }
        out
    }
}

#[derive(Debug, Clone)]
struct Hostile {
    path: String,
    link: String,
    kind: u8,
    mode: u32,
    content: Vec<u8>,
    xattr: Option<String>,
}

/// Paths that meet each other, and lead out where they can.
fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        "etc",
        "passwd",
        "root",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh...",
        ".wh..",
        "deep",
        "proc",
        "self",
    ]);
    (
        prop::collection::vec(part, 0..5),
        prop::sample::select(vec!["", "/", "./", "../", "../../", "/../"]),
    )
        .prop_map(|(parts, start)| format!("{start}{}", parts.join("/")))
}

fn hostile() -> impl Strategy<Value = Hostile> {
    (
        path(),
        prop_oneof![
            path(),
            Just("../etc".to_owned()),
            Just("../etc/passwd".to_owned()),
            Just("/proc/self/root".to_owned()),
            Just("/proc/self/cwd".to_owned()),
            Just("..".to_owned()),
            Just("/".to_owned()),
        ],
        prop::sample::select(b"00551122223467SxgLKZ".to_vec()),
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..20),
        prop::option::of(prop::sample::select(vec![
            "trusted.overlay.redirect".to_owned(),
            "trusted.overlay.opaque".to_owned(),
            "user.x".to_owned(),
            "security.selinux".to_owned(),
        ])),
    )
        .prop_map(|(path, link, kind, mode, content, xattr)| Hostile {
            path,
            link,
            kind,
            mode,
            content,
            xattr,
        })
}

fn archive(entries: &[Hostile]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut append = |header: &mut tar::Header, content: &[u8]| {
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    };
    for e in entries {
        if let Some(name) = &e.xattr {
            let record = format!("SCHILY.xattr.{name}=/etc\n");
            let mut len = record.len() + 3;
            if len > 99 {
                len += 1;
            }
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::XHeader);
            append(&mut header, format!("{len} {record}").as_bytes());
        }
        let mut header = tar::Header::new_ustar();
        // Past the library, which would refuse them.
        let old = header.as_old_mut();
        old.name[..e.path.len()].copy_from_slice(e.path.as_bytes());
        old.linkname[..e.link.len()].copy_from_slice(e.link.as_bytes());
        old.linkflag[0] = e.kind;
        header.set_mode(e.mode & 0o7777);
        header.set_uid(u64::from(e.mode % 3));
        header.set_gid(0);
        append(&mut header, &e.content);
    }
    out.extend([0; 1024]);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_outside_is_touched(
        entries in prop::collection::vec(hostile(), 1..25),
        style in prop::sample::select(vec![Style::Layer, Style::Plain]),
    ) {
        let outside = Outside::new();
        let before = outside.picture();
        let _ = outside.unpack(&archive(&entries), style);
        prop_assert_eq!(&outside.picture(), &before);
        // What came out of it can be removed, and has no devices but whiteouts.
        let mut dirs = vec![outside.root()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                prop_assert!(!meta.file_type().is_block_device());
                prop_assert!(!meta.file_type().is_char_device() || meta.rdev() == 0);
                if style == Style::Plain {
                    prop_assert!(!meta.file_type().is_char_device());
                    prop_assert!(meta.is_symlink() || meta.mode() & 0o7000 == 0);
                }
                if meta.is_dir() {
                    dirs.push(path);
                }
            }
        }
        remove_path(&outside.root()).unwrap();
        prop_assert_eq!(outside.picture(), before);
    }

    /// One entry at a time always works on what was there, so half of a refused archive is bounded too.
    #[test]
    fn honest_archives_come_out_as_they_went_in(
        files in prop::collection::btree_map("[a-z]{1,3}(/[a-z]{1,3}){0,3}", prop::collection::vec(any::<u8>(), 0..600), 0..12),
    ) {
        // A path that is also a directory of another is no honest archive.
        let paths: Vec<&String> = files.keys().collect();
        prop_assume!(!paths.iter().any(|p| paths.iter().any(|q| q.starts_with(&format!("{p}/")))));
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in &files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o640);
            builder.append_data(&mut header, path, content.as_slice()).unwrap();
        }
        let outside = Outside::new();
        let done = outside.unpack(&builder.into_inner().unwrap(), Style::Layer).unwrap();
        prop_assert_eq!(done.n_entries, files.len() as u64);
        for (path, content) in &files {
            let at = outside.root().join(path);
            prop_assert_eq!(&fs::read(&at).unwrap(), content);
            prop_assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o640);
        }
    }
}

fn entry(path: &str, kind: u8, link: &str) -> Hostile {
    Hostile {
        path: path.to_owned(),
        link: link.to_owned(),
        kind,
        mode: 0o644 * 3,
        content: if kind == b'0' {
            b"x".to_vec()
        } else {
            Vec::new()
        },
        xattr: None,
    }
}

fn refusal(entries: &[Hostile]) -> String {
    let outside = Outside::new();
    let before = outside.picture();
    let done = outside.unpack(&archive(entries), Style::Layer);
    assert_eq!(outside.picture(), before);
    done.map_or_else(|e| crate::net::chain(&e), |d| format!("{d:?}"))
}

#[test]
fn known_ways_out_are_closed() {
    // Through a link to the outside, absolute and relative: it ends below the root.
    for to in [
        "/etc",
        "../etc",
        "../../../../../../etc",
        "/proc/self/cwd/etc",
    ] {
        let done = refusal(&[
            entry("etc/", b'5', ""),
            entry("out", b'2', to),
            entry("out/passwd", b'0', ""),
        ]);
        assert!(
            done.contains("n_entries: 3") || done.contains("write \"out/passwd\""),
            "{to}: {done}"
        );
    }
    let why = refusal(&[entry("hard", b'1', "../etc/passwd")]);
    assert!(why.ends_with("path: must be without .."), "{why}");
    let why = refusal(&[
        entry("out", b'2', "../etc"),
        entry("hard", b'1', "out/passwd"),
    ]);
    assert!(why.contains("link: must name a file before it"), "{why}");
    let why = refusal(&[entry(".wh..", b'0', "")]);
    assert!(why.ends_with("whiteout: must name a file"), "{why}");
}

#[test]
fn bombs_are_refused() {
    let many: Vec<Hostile> = (0..101)
        .map(|i| entry(&format!("f{i}"), b'0', ""))
        .collect();
    assert_eq!(refusal(&many), "more than 100 entries");
    let deep = entry(&"d/".repeat(40), b'5', "");
    assert!(refusal(&[deep]).ends_with("path: must be at most 32 deep"));
    // Zeros that compress to nothing.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_size(64 << 20);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..64 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let outside = Outside::new();
    let mut stream = super::super::layout::decompress(bomb.as_slice()).unwrap();
    let limits = Limits::for_tests();
    let e = unpack(&mut stream, &outside.root(), Style::Layer, &limits).unwrap_err();
    assert_eq!(e.to_string(), "more than 4194304 bytes unpacked");
    assert_eq!(Limits::for_size(1 << 30, u64::MAX).max_bytes, 100 << 30);
    assert_eq!(Limits::for_size(1, u64::MAX).max_bytes, 512 << 20);
    assert_eq!(Limits::for_size(1 << 30, 1 << 20).max_bytes, 1 << 20);
}

#[test]
fn what_was_deep_goes() {
    // Deeper than any stack or table of descriptors would take, made through links.
    let outside = Outside::new();
    let mut at = std::os::fd::OwnedFd::from(fs::File::open(outside.root()).unwrap());
    for _ in 0..5000 {
        tree::make_dir(at.as_fd(), b"d").unwrap();
        at = tree::open_dir(at.as_fd(), b"d").unwrap();
    }
    remove_path(&outside.root()).unwrap();
    assert!(!outside.root().exists());
}

#[test]
fn capabilities_and_set_uid_bits_are_kept_and_overlayfs_is_not_led() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: owners and capabilities need root");
        return;
    }
    let outside = Outside::new();
    // VFS_CAP_REVISION_2 with cap_net_raw, as `setcap cap_net_raw+ep` writes it.
    let capability =
        b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.security.capability", &capability[..]),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    builder.append_data(&mut header, "ping", &b"x"[..]).unwrap();
    outside
        .unpack(&builder.into_inner().unwrap(), Style::Layer)
        .unwrap();
    let file = outside.root().join("ping");
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o4755, 7, 8)
    );
    let names = attributes::names(fs::File::open(&file).unwrap()).unwrap();
    assert!(names.contains("security.capability"), "{names}");
    assert!(!names.contains("trusted.overlay"), "{names}");
}
