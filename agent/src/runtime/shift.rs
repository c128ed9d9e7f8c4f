//! Files of an image for a user namespace: their owners become those that the namespace has.
//!
//! Every file is copied into the task's own layer by that, since a layer is shared by tasks with other owners: a start
//! costs as much as the image is large. Mounts whose owners are mapped by the kernel would cost nothing; overlayfs has
//! them for layers from Linux 5.19, but only attached ones before 6.15.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use nix::{
    dir::{Dir, Type},
    fcntl::{AtFlags, OFlag, open, openat},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat},
    unistd::{Gid, Uid, fchownat},
};

use super::spec::USER_NAMESPACE_IDS;

/// Deepest directory that is followed: what a path of the kernel's longest can name.
const MAX_DEPTH: usize = 2048;

/// Moves all owners below `root` up by `base`, and lets the namespace's root through `root`'s parent. Owners that are
/// there already, or that the namespace does not have, stay. Blocking, long. Nobody else may be at these files.
pub fn shift(root: &Path, base: u32) -> io::Result<()> {
    if let Some(parent) = root.parent() {
        // Set-uid files that are there belong to the namespace's users after this.
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o711))?;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = open(root, flags, Mode::empty())?;
    one(top.as_fd(), c".", &nix::sys::stat::fstat(&top)?, base)?;
    // A path in hand, not a call per level: images may be deep.
    let mut open_dirs = vec![Dir::from_fd(top)?];
    let mut listed: Vec<Vec<(std::ffi::CString, Option<Type>)>> = vec![list(&mut open_dirs[0])?];
    while let (Some(dir), Some(entries)) = (open_dirs.last(), listed.last_mut()) {
        let Some((name, kind)) = entries.pop() else {
            open_dirs.pop();
            listed.pop();
            continue;
        };
        let stat = fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        one(dir.as_fd(), &name, &stat, base)?;
        let is_dir = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if is_dir && kind.is_none_or(|k| k == Type::Directory) {
            if open_dirs.len() >= MAX_DEPTH {
                return Err(io::Error::other("its directories are too deep"));
            }
            let fd: OwnedFd = openat(dir, name.as_c_str(), flags, Mode::empty())?;
            let mut below = Dir::from_fd(fd)?;
            listed.push(list(&mut below)?);
            open_dirs.push(below);
        }
    }
    Ok(())
}

fn list(dir: &mut Dir) -> io::Result<Vec<(std::ffi::CString, Option<Type>)>> {
    let mut out = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            out.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(out)
}

fn one(
    dir: std::os::fd::BorrowedFd<'_>,
    name: &std::ffi::CStr,
    stat: &FileStat,
    base: u32,
) -> io::Result<()> {
    let moved = |id: u32| (id < USER_NAMESPACE_IDS).then_some(base + id);
    let (uid, gid) = (moved(stat.st_uid), moved(stat.st_gid));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    fchownat(
        dir,
        name,
        uid.map(Uid::from_raw),
        gid.map(Gid::from_raw),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    // A change of the owner takes these bits.
    let special = Mode::S_ISUID.bits() | Mode::S_ISGID.bits();
    let is_link = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK;
    if stat.st_mode & special != 0 && !is_link {
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use super::*;

    #[test]
    fn owners_are_moved_once_and_links_are_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: owners can only be changed by root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "").unwrap();
        let root = dir.path().join("root/merged");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/su"), "").unwrap();
        std::os::unix::fs::chown(root.join("a/b/su"), Some(7), Some(8)).unwrap();
        fs::set_permissions(root.join("a/b/su"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        for _ in 0..2 {
            shift(&root, 100_000).unwrap();
            let su = fs::metadata(root.join("a/b/su")).unwrap();
            assert_eq!(
                (su.uid(), su.gid(), su.mode() & 0o7777),
                (100_007, 100_008, 0o4755)
            );
            assert_eq!(fs::metadata(&root).unwrap().uid(), 100_000);
            let link = fs::symlink_metadata(root.join("link")).unwrap();
            assert_eq!(link.uid(), 100_000);
            assert_eq!(fs::metadata(&outside).unwrap().uid(), 0);
        }
    }
}
