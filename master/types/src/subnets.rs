//! Subnets by network, in little room.

use crate::AgentSubnet;

/// What an agent holds of each network, by the network's name.
///
/// A list in order: nearly every agent holds a subnet of one network, of which a tree's node keeps room for eleven, and a
/// master keeps this for each agent, as each agent does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Subnets(Vec<(String, AgentSubnet)>);

impl Subnets {
    fn place(&self, network: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(name, _)| name.as_str().cmp(network))
    }

    /// What is held of a network.
    pub fn get(&self, network: &str) -> Option<&AgentSubnet> {
        let at = self.place(network).ok()?;
        self.0.get(at).map(|(_, subnet)| subnet)
    }

    /// Whether something is held of a network.
    pub fn contains_key(&self, network: &str) -> bool {
        self.place(network).is_ok()
    }

    /// Holds this of a network; answers what was held before.
    pub fn insert(&mut self, network: String, subnet: AgentSubnet) -> Option<AgentSubnet> {
        match self.place(&network) {
            Ok(at) => {
                let there = self.0.get_mut(at)?;
                Some(std::mem::replace(&mut there.1, subnet))
            }
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (network, subnet));
                None
            }
        }
    }

    /// Holds nothing of a network any more; answers what was held.
    pub fn remove(&mut self, network: &str) -> Option<AgentSubnet> {
        let at = self.place(network).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Goes on holding what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&String, &mut AgentSubnet) -> bool) {
        self.0.retain_mut(|(name, subnet)| keep(name, subnet));
    }

    /// All of it, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &AgentSubnet)> {
        self.into_iter()
    }

    /// Without the names.
    pub fn values(&self) -> impl Iterator<Item = &AgentSubnet> {
        self.0.iter().map(|(_, subnet)| subnet)
    }
}

fn both((name, subnet): &(String, AgentSubnet)) -> (&String, &AgentSubnet) {
    (name, subnet)
}

impl<'a> IntoIterator for &'a Subnets {
    type Item = (&'a String, &'a AgentSubnet);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'a, (String, AgentSubnet)>,
        fn(&'a (String, AgentSubnet)) -> (&'a String, &'a AgentSubnet),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(both)
    }
}

impl FromIterator<(String, AgentSubnet)> for Subnets {
    fn from_iter<I: IntoIterator<Item = (String, AgentSubnet)>>(all: I) -> Self {
        let mut out = Self::default();
        for (network, subnet) in all {
            out.insert(network, subnet);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn subnet(n: u8) -> AgentSubnet {
        AgentSubnet {
            v4: Some(crate::IpNet::around([9, 0, n, 0].into(), 24)),
            v6: None,
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_order(steps in prop::collection::vec(("[a-d]{1,2}", any::<u8>(), 0..4u8), 0..40)) {
            let (mut ours, mut theirs) = (Subnets::default(), BTreeMap::new());
            for (name, n, what) in steps {
                match what {
                    0 | 1 => prop_assert_eq!(ours.insert(name.clone(), subnet(n)), theirs.insert(name, subnet(n))),
                    2 => prop_assert_eq!(ours.remove(&name), theirs.remove(&name)),
                    _ => {
                        ours.retain(|other, _| *other < name);
                        theirs.retain(|other, _| *other < name);
                    }
                }
                prop_assert!(ours.iter().eq(theirs.iter()) && ours.values().eq(theirs.values()));
                for name in ["a", "b", "cd"] {
                    prop_assert_eq!(ours.get(name), theirs.get(name));
                    prop_assert_eq!(ours.contains_key(name), theirs.contains_key(name));
                }
                let again: Subnets = theirs.clone().into_iter().rev().collect();
                prop_assert_eq!(&again, &ours);
            }
        }
    }

    #[test]
    fn one_network_takes_room_for_one() {
        let one: Subnets = [("overlay".to_owned(), subnet(1))].into_iter().collect();
        assert_eq!(one.0.capacity(), 1);
    }
}
