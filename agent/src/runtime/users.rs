//! Who a container runs as: the image's or the spec's `user[:group]`, looked up in the image's own files.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};
use waggle_types::TaskSpec;

use super::spec::USER_NAMESPACE_IDS;
use crate::shim::UserIds;

/// Longest `/etc/passwd` or `/etc/group` of an image that is read.
const MAX_BYTES: u64 = 4 << 20;

/// A user inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// The others.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Looks `text` up in the image at `root`; empty is root. The error names the rule. Blocking.
pub fn find(root: &Path, text: &str) -> Result<ImageUser, String> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    resolve(text, &passwd, &group)
}

/// Opens a file of an image for reading, whatever links it is made of: none leads out of `root`.
pub fn open(root: &Path, path: &str) -> io::Result<File> {
    let dir = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&dir, path, how)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    Ok(file)
}

/// The ids that a user has outside, where its user namespace begins at `base`. The error names the field.
pub fn on_host(user: &ImageUser, base: u32, spec: &TaskSpec) -> Result<UserIds, String> {
    let all = [user.uid, user.gid].into_iter().chain(user.groups.clone());
    if spec.container.isolation.user_namespace
        && let Some(id) = all.into_iter().find(|id| *id >= USER_NAMESPACE_IDS)
    {
        return Err(format!(
            "user: {id} is not in its user namespace, which ends before {USER_NAMESPACE_IDS}"
        ));
    }
    Ok(UserIds {
        uid: base + user.uid,
        gid: base + user.gid,
        groups: user.groups.iter().map(|g| base + g).collect(),
    })
}

/// Empty where there is none.
fn read(root: &Path, path: &str) -> Result<String, String> {
    let file = match open(root, path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(format!("the image's /{path} can't be read: {e}")),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("the image's /{path} can't be read: {e}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!(
            "the image's /{path} is larger than {MAX_BYTES} bytes"
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `user`, `user:group`, each a name or a number (OCI image spec, `config.User`). A number needs no entry.
pub fn resolve(text: &str, passwd: &str, group: &str) -> Result<ImageUser, String> {
    let (user, wanted) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // passwd(5): name, password, uid, gid, comment, home, shell.
    let entry = passwd.lines().find_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = f.as_slice() else {
            return None;
        };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (*name == user || number(user) == Some(uid)).then_some((*name, uid, gid, *home))
    });
    let (name, uid, gid, home) = match (entry, number(user)) {
        (Some(found), _) => found,
        (None, Some(uid)) => ("", uid, 0, "/"),
        (None, None) => return Err(format!("user: {user:?} does not exist in the image")),
    };
    // group(5): name, password, gid, members.
    let groups = || {
        group.lines().filter_map(|line| {
            let f: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members] = f.as_slice() else {
                return None;
            };
            Some((*name, gid.parse::<u32>().ok()?, *members))
        })
    };
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    if let Some(wanted) = wanted {
        let named = groups().find(|(name, ..)| *name == wanted);
        let gid = named
            .map(|(_, gid, _)| gid)
            .or_else(|| number(wanted))
            .ok_or_else(|| format!("user: group {wanted:?} does not exist in the image"))?;
        return Ok(ImageUser {
            uid,
            gid,
            groups: vec![gid],
            home,
        });
    }
    let mut all = vec![gid];
    if !name.is_empty() {
        let member = groups().filter(|(.., members)| members.split(',').any(|m| m == name));
        all.extend(member.map(|(_, gid, _)| gid));
    }
    all.sort_unstable();
    all.dedup();
    Ok(ImageUser {
        uid,
        gid,
        groups: all,
        home,
    })
}

/// A user or group number: all digits, below the one that means none.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102::/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:web,other\nn:x:8:other\n";

    fn who(text: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        resolve(text, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.groups, u.home))
    }

    #[test]
    fn names_and_numbers_are_found() {
        let root = (0, 0, vec![0], "/root".to_owned());
        assert_eq!(who(""), Ok(root.clone()));
        assert_eq!(who("root"), Ok(root));
        let web = (101, 102, vec![7, 102], "/srv".to_owned());
        assert_eq!(who("web"), Ok(web.clone()));
        assert_eq!(who("101"), Ok(web));
        assert_eq!(who("web:logs"), Ok((101, 7, vec![7], "/srv".to_owned())));
        assert_eq!(who("web:9"), Ok((101, 9, vec![9], "/srv".to_owned())));
        assert_eq!(who("4000"), Ok((4000, 0, vec![0], "/".to_owned())));
        assert_eq!(who("4000:5"), Ok((4000, 5, vec![5], "/".to_owned())));
        assert_eq!(who(":5"), Ok((0, 5, vec![5], "/root".to_owned())));
    }

    #[test]
    fn what_is_not_there_is_said() {
        for bad in ["nobody", "-1", "4294967295", "4294967296", "+1"] {
            let why = who(bad).unwrap_err();
            assert!(why.contains("does not exist in the image"), "{why}");
        }
        assert!(who("web:none").unwrap_err().contains("group \"none\""));
        assert_eq!(
            resolve("5", "", "").unwrap().uid,
            5,
            "an image without files"
        );
    }

    #[test]
    fn links_do_not_lead_out_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("passwd"), "spy:x:1:1::/:\n").unwrap();
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert!(find(&root, "spy").is_err());
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        // An absolute one is the image's own.
        std::fs::write(root.join("users"), "web:x:5:5::/:\n").unwrap();
        std::os::unix::fs::symlink("/users", root.join("etc/passwd")).unwrap();
        assert_eq!(find(&root, "web").unwrap().uid, 5);
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&root.join("etc/passwd"), Mode::S_IRWXU).unwrap();
        let why = find(&root, "web").unwrap_err();
        assert!(why.contains("no regular file"), "{why}");
    }
}
