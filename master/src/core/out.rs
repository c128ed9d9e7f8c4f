//! Offers that are out, with sums for readers.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{FrameworkId, Milli, Offer, OfferId};

type Sums<K> = BTreeMap<K, (usize, [Milli; 4])>;

/// Offers by id; what they hold by framework and by role, ports left out.
#[derive(Debug, Clone, Default)]
pub(super) struct OutOffers {
    all: BTreeMap<OfferId, Arc<Offer>>,
    by_framework: Sums<FrameworkId>,
    by_role: Sums<String>,
}

fn count<K: Ord + Clone>(sums: &mut Sums<K>, key: &K, offer: &Offer, more: bool) {
    if !sums.contains_key(key) {
        sums.insert(key.clone(), Default::default());
    }
    let Some((n, sum)) = sums.get_mut(key) else {
        return;
    };
    for (s, q) in sum.iter_mut().zip(offer.resources.scalars) {
        s.0 = s.0.saturating_add(if more { q.0 } else { -q.0 });
    }
    *n = if more { *n + 1 } else { n.saturating_sub(1) };
    if *n == 0 {
        sums.remove(key);
    }
}

impl OutOffers {
    pub(super) fn insert(&mut self, offer: Arc<Offer>) {
        self.remove(&offer.offer_id);
        count(&mut self.by_framework, &offer.framework_id, &offer, true);
        count(&mut self.by_role, &offer.role, &offer, true);
        self.all.insert(offer.offer_id.clone(), offer);
    }

    pub(super) fn remove(&mut self, id: &OfferId) -> Option<Arc<Offer>> {
        let offer = self.all.remove(id)?;
        count(&mut self.by_framework, &offer.framework_id, &offer, false);
        count(&mut self.by_role, &offer.role, &offer, false);
        Some(offer)
    }

    pub(super) fn get(&self, id: &OfferId) -> Option<&Offer> {
        self.all.get(id).map(AsRef::as_ref)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<Offer>> {
        self.all.values()
    }

    /// What is out to each framework.
    pub(super) fn by_framework(&self) -> impl Iterator<Item = (&FrameworkId, &[Milli; 4])> {
        self.by_framework.iter().map(|(f, (_, sum))| (f, sum))
    }

    /// What is out to each role.
    pub(super) fn by_role(&self) -> impl Iterator<Item = (&str, &[Milli; 4])> {
        self.by_role.iter().map(|(r, (_, sum))| (r.as_str(), sum))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use waggle_types::{AgentId, Resources, UnixMillis};

    use super::*;

    fn offer(id: &str, framework: &str, cpus: i64) -> Arc<Offer> {
        Arc::new(Offer {
            offer_id: OfferId::new(id).unwrap(),
            framework_id: FrameworkId::new(framework).unwrap(),
            role: "r".into(),
            agent_id: AgentId::new("a").unwrap(),
            hostname: String::new(),
            ip: Ipv4Addr::LOCALHOST,
            resources: Resources::from_millis(cpus, 0, 0),
            parts: Vec::new(),
            attributes: BTreeMap::new(),
            domain: None,
            unavailability: None,
            at: UnixMillis(0),
        })
    }

    #[test]
    fn sums_follow_the_offers() {
        let mut out = OutOffers::default();
        out.insert(offer("1", "x", 100));
        out.insert(offer("2", "y", 50));
        out.insert(offer("1", "x", 70));
        assert_eq!(
            out.by_role().next().unwrap(),
            ("r", &[Milli(120), Milli(0), Milli(0), Milli(0)])
        );
        out.remove(&OfferId::new("1").unwrap());
        let all: Vec<_> = out
            .by_framework()
            .map(|(f, s)| (f.as_str(), s[0].0))
            .collect();
        assert_eq!(all, [("y", 50)]);
        out.remove(&OfferId::new("2").unwrap());
        assert_eq!(out.by_role().count() + out.by_framework().count(), 0);
    }
}
