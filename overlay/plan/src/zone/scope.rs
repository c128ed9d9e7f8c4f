//! Which names are the cluster's own, whatever its state: they are answered here and never forwarded.

use super::{DnsName, NameError};

/// Zones with an SOA of their own.
pub(super) const APEXES: [&str; 7] = [
    "mesos",
    "spartan",
    "zk",
    "localhost",
    "thisdcos.directory",
    "dcos.thisdcos.directory",
    "l4lb.thisdcos.directory",
];
/// Longest first: the first that fits is taken.
const ALIASES: [(&str, &str); 3] = [
    ("dclb.thisdcos.directory", "l4lb.thisdcos.directory"),
    ("dclb.thisdcos.global", "l4lb.thisdcos.directory"),
    ("thisdcos.global", "thisdcos.directory"),
];

/// The zones that a node serves, and other ends of names that stand for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    apexes: Vec<DnsName>,
    aliases: Vec<(DnsName, DnsName)>,
}

impl Scope {
    /// With the cluster's crypto id, `<zone>.<id>.dcos.directory` is `<zone>.thisdcos.directory`. Names of other
    /// clusters are not ours. The id must be one label.
    pub fn new(crypto_id: Option<&str>) -> Result<Self, NameError> {
        let parse = |s: &str| DnsName::parse(s).unwrap_or_default();
        let mut aliases: Vec<(DnsName, DnsName)> = ALIASES
            .iter()
            .map(|(from, to)| (parse(from), parse(to)))
            .collect();
        if let Some(id) = crypto_id {
            let labels = [id.as_bytes(), b"dcos", b"directory"];
            let own = DnsName::from_labels(labels.into_iter())?;
            let dclb = own.child(b"dclb")?;
            aliases.push((dclb, parse("l4lb.thisdcos.directory")));
            aliases.push((own, parse("thisdcos.directory")));
        }
        Ok(Self {
            apexes: APEXES.map(parse).into(),
            aliases,
        })
    }

    /// Whether `name` is in a zone of ours or under an alias of one.
    pub fn is_ours(&self, name: &DnsName) -> bool {
        self.apexes.iter().any(|a| name.is_within(a))
            || self.aliases.iter().any(|(from, _)| name.is_within(from))
    }

    /// The zone that `name` is in, the closest one.
    pub(super) fn apex(&self, name: &DnsName) -> Option<&DnsName> {
        let of = self.apexes.iter().filter(|a| name.is_within(a));
        of.max_by_key(|a| a.labels_from_root().count())
    }

    /// The name that `asked` stands for, and by which alias.
    pub(super) fn resolve(&self, asked: &DnsName) -> (DnsName, Option<&(DnsName, DnsName)>) {
        for alias in &self.aliases {
            if let Some(name) = asked.rebase(&alias.0, &alias.1) {
                return (name, Some(alias));
            }
        }
        (asked.clone(), None)
    }
}

impl Default for Scope {
    /// Without a crypto id.
    fn default() -> Self {
        // Without an id nothing can fail.
        Self::new(None).unwrap_or(Self {
            apexes: Vec::new(),
            aliases: Vec::new(),
        })
    }
}
