//! The private key's file.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rand::TryRngCore as _;
use waggle_types::WIREGUARD_KEY_LEN;

use super::{WireguardError, shown};

/// A private key. Not printed, not compared.
pub(super) struct Secret(pub(super) [u8; WIREGUARD_KEY_LEN]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads the key, or makes one.
pub(super) fn load_or_make(path: &Path) -> Result<Secret, WireguardError> {
    let refused = |rule: String| WireguardError::Key {
        path: shown(path),
        rule,
    };
    let failed = |error: io::Error| refused(error.to_string());
    match File::open(path) {
        Ok(file) => {
            let mode = file.metadata().map_err(failed)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(refused(format!(
                    "must be readable by its owner alone (mode 600), is {mode:o}"
                )));
            }
            let mut bytes = Vec::new();
            let limit = WIREGUARD_KEY_LEN as u64 + 1;
            file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
            let n = bytes.len();
            let key = bytes.try_into().map_err(|_| {
                refused(format!(
                    "must have {WIREGUARD_KEY_LEN} bytes, has {n} or more"
                ))
            })?;
            Ok(Secret(key))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; WIREGUARD_KEY_LEN];
            rand::rngs::OsRng
                .try_fill_bytes(&mut key)
                .map_err(|error| refused(error.to_string()))?;
            // RFC 7748 section 5: what every key of this curve has.
            key[0] &= 0b1111_1000;
            key[31] = key[31] & 0b0111_1111 | 0b0100_0000;
            write(path, &key).map_err(failed)?;
            Ok(Secret(key))
        }
        Err(error) => Err(failed(error)),
    }
}

/// The name appears when all of it is on disk.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wireguard.key");
        let first = load_or_make(&path).unwrap();
        assert_eq!(load_or_make(&path).unwrap().0, first.0);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!((first.0[0] & 7, first.0[31] >> 6), (0, 1));
        let other = load_or_make(&dir.path().join("other.key")).unwrap();
        assert_ne!(other.0, first.0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wireguard.key");
        load_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_make(&path).err().unwrap().to_string();
        assert!(error.contains("mode 600), is 640"), "{error}");
        for bytes in [&[][..], &[7; 31], &[7; 33]] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = load_or_make(&path).err().unwrap().to_string();
            assert!(error.contains("must have 32 bytes"), "{error}");
        }
        assert!(load_or_make(&dir.path().join("no/such/dir")).is_err());
    }
}
