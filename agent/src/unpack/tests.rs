//! Archives made to harm, and ordinary ones.

use std::{
    fs,
    io::{Cursor, Seek, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use proptest::prelude::*;

use super::*;

/// Entries as bytes of a tar file; names are put in raw, since the library refuses to write bad ones.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn entry(mut self, kind: tar::EntryType, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_size(data.len() as u64);
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name);
        raw[157..157 + link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, name.as_bytes(), b"", data)
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name.as_bytes(), to.as_bytes(), b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn try_unpack(
    bytes: &[u8],
    format: Format,
    into: &Path,
    bounds: Bounds,
) -> Result<u64, UnpackError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    let root = Root::open(into, None).unwrap();
    let name = Below::new(b"archive.gz").unwrap();
    unpack(file, &name, format, &root, bounds)
}

/// What is said of an archive that must be refused; outside of the directory nothing may have changed.
fn refused(bytes: &[u8]) -> String {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("sandbox");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("precious"), "kept").unwrap();
    let error = try_unpack(bytes, Format::Tar, &inner, Bounds::default()).unwrap_err();
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2, "{error}");
    let precious = fs::read_to_string(outer.path().join("precious")).unwrap();
    assert_eq!(precious, "kept");
    error.to_string()
}

#[test]
fn what_leads_out_is_refused() {
    let all = [
        (
            Tar::new().file("../x", b"1"),
            "entry \"../x\" leads out by ..",
        ),
        (
            Tar::new().file("/etc/x", b"1"),
            "entry \"/etc/x\" is absolute",
        ),
        (
            Tar::new().file("a/../../precious", b"1"),
            "entry \"a/../../precious\" leads out by ..",
        ),
        (
            Tar::new().link("l", "/etc/passwd"),
            "entry \"l\" is a link to \"/etc/passwd\", which leads out",
        ),
        (
            Tar::new().link("a/l", "../../precious"),
            "entry \"a/l\" is a link to \"../../precious\", which leads out",
        ),
        (
            Tar::new().entry(tar::EntryType::Link, b"l", b"../precious", b""),
            "entry \"l\" is a link to \"../precious\", which leads out",
        ),
        (
            Tar::new().entry(tar::EntryType::Char, b"null", b"", b""),
            "entry \"null\" is a device, which is not unpacked",
        ),
        (
            Tar::new().entry(tar::EntryType::Fifo, b"pipe", b"", b""),
            "entry \"pipe\" is a pipe, which is not unpacked",
        ),
    ];
    for (tar, said) in all {
        assert_eq!(refused(&tar.end()), said);
    }
}

#[test]
fn a_link_is_never_written_through() {
    // A link that stays inside may be made, and is still not followed by what comes after it.
    let tar = Tar::new().link("a", "b").file("a/x", b"1").end();
    assert_eq!(
        refused(&tar),
        "entry \"a/x\" can't be written: a is no directory"
    );
    // One that the directory had before, as a task's volume is linked.
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("sandbox");
    fs::create_dir(&inner).unwrap();
    std::os::unix::fs::symlink(outer.path(), inner.join("volume")).unwrap();
    let tar = Tar::new().file("volume/x", b"1").end();
    let error = try_unpack(&tar, Format::Tar, &inner, Bounds::default()).unwrap_err();
    assert!(
        error.to_string().ends_with("volume is no directory"),
        "{error}"
    );
    assert!(!outer.path().join("x").exists());
    // A file of a link's name replaces the link.
    let tar = Tar::new().file("volume", b"1").end();
    try_unpack(&tar, Format::Tar, &inner, Bounds::default()).unwrap();
    assert_eq!(fs::read(inner.join("volume")).unwrap(), b"1");
}

#[test]
fn bombs_are_given_up_on() {
    let zeros = vec![0; 3 << 20];
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(&Tar::new().file("big", &zeros).end()).unwrap();
    let gz = gz.finish().unwrap();
    assert!(gz.len() < 10_000);
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        bytes: 1 << 20,
        entries: 10,
    };
    let error = try_unpack(&gz, Format::TarGz, dir.path(), bounds).unwrap_err();
    assert_eq!(error.to_string(), "it unpacks to more than 1048576 bytes");
    assert!(fs::metadata(dir.path().join("big")).unwrap().len() <= 1 << 20);
    let many = (0..11).fold(Tar::new(), |t, n| t.file(&format!("f{n}"), b""));
    let error = try_unpack(&many.end(), Format::Tar, dir.path(), bounds).unwrap_err();
    assert_eq!(error.to_string(), "it holds more than 10 entries");
    let deep = "d/".repeat(40);
    let tar = Tar::new().file(&format!("{deep}x"), b"1").end();
    try_unpack(&tar, Format::Tar, dir.path(), bounds).unwrap();
    assert!(Below::new("d/".repeat(300).as_bytes()).is_err());
}

#[test]
fn every_format_is_unpacked() {
    let name = "d/größe 本.txt";
    let plain = Tar::new()
        .entry(tar::EntryType::Directory, b"d/", b"", b"")
        .file(name, b"hello")
        .link("d/l", "größe 本.txt")
        .entry(tar::EntryType::Link, b"d/h", name.as_bytes(), b"")
        .end();
    let gz = {
        let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        w.write_all(&plain).unwrap();
        w.finish().unwrap()
    };
    let bz2 = {
        let mut w = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        w.write_all(&plain).unwrap();
        w.finish().unwrap()
    };
    let xz = {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut w = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        w.write_all(&plain).unwrap();
        w.finish().unwrap()
    };
    let zst = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let zip = {
        let mut w = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
        w.add_directory("d", options).unwrap();
        w.start_file(name, options).unwrap();
        w.write_all(b"hello").unwrap();
        w.add_symlink("d/l", "größe 本.txt", options).unwrap();
        w.start_file("d/h", options).unwrap();
        w.write_all(b"hello").unwrap();
        w.finish().unwrap().into_inner()
    };
    for (bytes, format) in [
        (plain, Format::Tar),
        (gz, Format::TarGz),
        (bz2, Format::TarBz2),
        (xz, Format::TarXz),
        (zst, Format::TarZst),
        (zip, Format::Zip),
    ] {
        let dir = tempfile::tempdir().unwrap();
        try_unpack(&bytes, format, dir.path(), Bounds::default()).unwrap();
        let file = dir.path().join(name);
        assert_eq!(fs::read(&file).unwrap(), b"hello", "{format:?}");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{format:?}: without set-id bits");
        let through = fs::read(dir.path().join("d/l")).unwrap();
        assert_eq!(through, b"hello", "{format:?}");
        let n = fs::metadata(dir.path().join("d/h")).unwrap().nlink();
        assert_eq!(n, if format == Format::Zip { 1 } else { 2 }, "{format:?}");
    }
}

#[test]
fn a_single_file_loses_its_ending() {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    w.write_all(b"hello").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bytes = w.finish().unwrap();
    try_unpack(&bytes, Format::Gz, dir.path(), Bounds::default()).unwrap();
    assert_eq!(fs::read(dir.path().join("archive")).unwrap(), b"hello");
}

#[test]
fn zip_entries_that_lead_out_are_refused() {
    let mut w = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    w.start_file("../x", options).unwrap();
    w.write_all(b"1").unwrap();
    let bytes = w.finish().unwrap().into_inner();
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("sandbox");
    fs::create_dir(&inner).unwrap();
    let error = try_unpack(&bytes, Format::Zip, &inner, Bounds::default()).unwrap_err();
    assert_eq!(error.to_string(), "entry \"../x\" leads out by ..");
    assert!(!outer.path().join("x").exists());
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let dir = tempfile::tempdir().unwrap();
        for format in [
            Format::Tar, Format::TarGz, Format::TarBz2, Format::TarXz, Format::TarZst, Format::Zip, Format::Gz,
        ] {
            let _ = try_unpack(&bytes, format, dir.path(), Bounds { bytes: 1 << 16, entries: 100 });
        }
    }

    #[test]
    fn what_stays_below_stays_below(path in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(below) = Below::new(&path) {
            prop_assert!(below.as_path().is_relative());
            let normal = |c| matches!(c, std::path::Component::Normal(_));
            prop_assert!(below.as_path().components().all(normal));
        }
    }
}
