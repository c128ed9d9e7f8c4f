//! What a task's options for an external volume mean.

use std::collections::BTreeMap;

use waggle_api::proto::csi as pb;
use waggle_types::ExternalVolume;

/// Access modes by name, with their numbers in the specification.
const MODES: [(&str, i32); 5] = [
    ("single-node-writer", 1),
    ("single-node-reader-only", 2),
    ("multi-node-reader-only", 3),
    ("multi-node-single-writer", 4),
    ("multi-node-multi-writer", 5),
];

/// How a volume is to be used, and what its driver is told when it makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// File system, mount flags, access mode.
    pub capability: pb::VolumeCapability,
    /// For the driver, as they are.
    pub parameters: BTreeMap<String, String>,
    /// Size to make it with.
    pub capacity: Option<pb::CapacityRange>,
}

/// Reads `access_mode`, `fs_type` and `mount_flags` (by commas); everything else is the driver's. The error names the
/// option.
pub fn read(volume: &ExternalVolume) -> Result<Use, String> {
    let mut parameters = volume.options.clone();
    let mode = match parameters.remove("access_mode") {
        None => 1,
        Some(text) => {
            let found = MODES
                .iter()
                .find(|(name, _)| *name == text.replace('_', "-").to_lowercase());
            let names: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
            found.map(|(_, n)| *n).ok_or_else(|| {
                format!(
                    "options.access_mode: must be of {}, is {text:?}",
                    names.join(", ")
                )
            })?
        }
    };
    let flags = parameters.remove("mount_flags").unwrap_or_default();
    let mount = pb::MountVolume {
        fs_type: parameters.remove("fs_type").unwrap_or_default(),
        mount_flags: flags
            .split(',')
            .filter(|f| !f.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    Ok(Use {
        capability: pb::VolumeCapability {
            block: None,
            mount: Some(mount),
            access_mode: Some(pb::AccessMode { mode }),
        },
        parameters,
        capacity: (volume.size_mib > 0).then(|| pb::CapacityRange {
            required_bytes: i64::from(volume.size_mib) << 20,
            limit_bytes: 0,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_the_rest_is_the_drivers() {
        let options = [
            ("access_mode", "MULTI_NODE_MULTI_WRITER"),
            ("fs_type", "xfs"),
            ("mount_flags", "noatime,,nodev"),
            ("pool", "fast"),
        ];
        let volume = ExternalVolume {
            size_mib: 2,
            options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..ExternalVolume::default()
        };
        let got = read(&volume).unwrap();
        assert_eq!(got.capability.access_mode, Some(pb::AccessMode { mode: 5 }));
        let mount = got.capability.mount.unwrap();
        assert_eq!(
            (mount.fs_type.as_str(), mount.mount_flags.len()),
            ("xfs", 2)
        );
        assert_eq!(
            got.parameters.into_iter().collect::<Vec<_>>(),
            [("pool".to_owned(), "fast".to_owned())]
        );
        assert_eq!(got.capacity.unwrap().required_bytes, 2 << 20);
        let bad = ExternalVolume {
            options: [("access_mode".to_owned(), "any".to_owned())].into(),
            ..ExternalVolume::default()
        };
        assert!(
            read(&bad)
                .unwrap_err()
                .starts_with("options.access_mode: must be of")
        );
    }
}
