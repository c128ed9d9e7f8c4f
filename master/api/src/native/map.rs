//! Who speaks with whom: edges between services, summed over connections and over nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DenialView, Denials, EndedFlow, SilentView, Spread};

/// Edges that are told apart while sums are made; what comes for others goes into one sum.
const MAX_EDGES: usize = 16_384;
/// Who stands at the end of an edge whose VIP had no backend.
const NOBODY: &str = "nobody";
/// Ends that are no services.
const CLASSES: [&str; 5] = ["node", "loopback", "private", "public", NOBODY];

/// Which edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EdgeName {
    /// Who dials: `<task>.<framework>`, else `node`, `loopback`, `private` or `public`.
    pub source: String,
    /// The VIP that is dialled, with its port.
    pub vip: Option<String>,
    /// Who answers, likewise; `nobody` where the VIP had no backend.
    pub destination: String,
}

/// What went over an edge.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EdgeSums {
    /// Connections that were made and have ended.
    pub connections: u64,
    /// Those that were not made, or did not end well, by verdict: `reset` ones were made, `refused`, `failed` and `no_backend`
    /// were not.
    pub errors: BTreeMap<String, u64>,
    /// Open ones now.
    pub open: u64,
    /// From source to destination, of those that have ended.
    pub tx_bytes: u64,
    /// The other way.
    pub rx_bytes: u64,
    /// Segments that the observed end sent again.
    pub retransmits: u64,
    /// Connections per second, made or not.
    pub per_s: f64,
    /// Errors per second.
    pub errors_per_s: f64,
    /// How long connects took, counts by powers of two of microseconds.
    pub connect_us: Spread,
    /// Smoothed round-trip times at the end, likewise.
    pub rtt_us: Spread,
}

impl EdgeSums {
    /// All that went wrong.
    pub fn n_errors(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Connections, made or not.
    pub fn n_tried(&self) -> u64 {
        let resets = self.errors.get("reset").copied().unwrap_or(0);
        self.connections + self.n_errors() - resets.min(self.n_errors())
    }

    /// Those of another one, too.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        for (verdict, n) in &other.errors {
            *self.errors.entry(verdict.clone()).or_default() += n;
        }
        self.open += other.open;
        self.tx_bytes += other.tx_bytes;
        self.rx_bytes += other.rx_bytes;
        self.retransmits += other.retransmits;
        self.per_s += other.per_s;
        self.errors_per_s += other.errors_per_s;
        self.connect_us.merge(&other.connect_us);
        self.rtt_us.merge(&other.rtt_us);
    }

    fn count(&mut self, flow: &EndedFlow, accepted: bool) {
        if matches!(flow.verdict.as_str(), "closed" | "reset") {
            self.connections += 1;
        }
        if flow.verdict != "closed" {
            *self.errors.entry(flow.verdict.clone()).or_default() += 1;
        }
        let (tx, rx) = if accepted {
            (flow.rx_bytes, flow.tx_bytes)
        } else {
            (flow.tx_bytes, flow.rx_bytes)
        };
        self.tx_bytes += tx;
        self.rx_bytes += rx;
        self.retransmits += u64::from(flow.retransmits);
        if flow.connect_us > 0 {
            self.connect_us.add(flow.connect_us.into());
        }
        if flow.rtt_us > 0 {
            self.rtt_us.add(flow.rtt_us.into());
        }
    }

    /// By how much it is busier than another one.
    fn weight(&self) -> (u64, u64) {
        (self.n_tried() + self.open, self.tx_bytes + self.rx_bytes)
    }
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeView {
    /// Which.
    #[serde(flatten)]
    pub name: EdgeName,
    /// What went over it.
    #[serde(flatten)]
    pub sums: EdgeSums,
}

/// One end of edges that are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapServiceView {
    /// As edges name it.
    pub name: String,
    /// Whether it is a service; else a class of addresses, or `nobody`.
    pub is_service: bool,
    /// Its app's or pod's path, where the master knows one.
    pub path: Option<String>,
    /// Connections that it dialled, made or not.
    pub dialled: u64,
    /// Connections that it was dialled for.
    pub accepted: u64,
    /// Errors of what it dialled.
    pub errors: u64,
}

/// The map as one node knows it: `GET /waggle/v1/map` of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMapView {
    /// Node name.
    pub node: String,
    /// From when on connections are counted, Unix microseconds: later than asked for where there are too many.
    pub since_us: u64,
    /// Until when.
    pub until_us: u64,
    /// Edges, the busiest.
    pub edges: Vec<EdgeView>,
    /// All others.
    pub other: Option<EdgeSums>,
    /// How many they are, at least.
    pub folded: u64,
    /// What policies dropped, or would, the most first.
    #[serde(default)]
    pub denials: Vec<DenialView>,
    /// Packets of others.
    #[serde(default)]
    pub denied_other: u64,
}

/// The map: `GET /waggle/v1/map` of a master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapView {
    /// From when on connections are counted, Unix microseconds.
    pub since_us: u64,
    /// Until when.
    pub until_us: u64,
    /// Ends of the edges.
    pub services: Vec<MapServiceView>,
    /// Edges, the busiest first.
    pub edges: Vec<EdgeView>,
    /// All others.
    pub other: Option<EdgeSums>,
    /// How many they are, at least: a node counts its own.
    pub folded: u64,
    /// Nodes that had too many connections, and from when on theirs are counted.
    pub shortened: BTreeMap<String, u64>,
    /// Nodes that did not tell.
    pub silent: Vec<SilentView>,
}

/// Sums that are being made. All edges together, and the others, are what was added.
#[derive(Debug, Clone, Default)]
pub struct ServiceMap {
    edges: BTreeMap<EdgeName, EdgeSums>,
    other: Option<EdgeSums>,
    folded: u64,
}

impl ServiceMap {
    /// A connection that has ended. Of one between two processes of the cluster its source tells; what its other end saw is left out.
    /// What policies dropped was no connection.
    pub fn ended(&mut self, flow: &EndedFlow) {
        if Denials::is_one(flow) {
            return;
        }
        let accepted = flow.observer == "destination";
        if accepted && is_inside(&flow.source) {
            return;
        }
        let destination = match flow.destination.as_str() {
            "" => NOBODY,
            name => name,
        };
        let name = EdgeName {
            source: flow.source.clone(),
            vip: flow.vip.clone(),
            destination: destination.to_owned(),
        };
        self.sums(name).count(flow, accepted);
    }

    /// Open connections of one edge, seen by its source or by the other end.
    pub fn open(&mut self, name: EdgeName, accepted: bool, n: u64) {
        if n == 0 || accepted && is_inside(&name.source) {
            return;
        }
        self.sums(name).open += n;
    }

    /// What somebody else has summed up.
    pub fn add(&mut self, edges: &[EdgeView], other: Option<&EdgeSums>, folded: u64) {
        for edge in edges {
            self.sums(edge.name.clone()).merge(&edge.sums);
        }
        if let Some(other) = other {
            self.other.get_or_insert_default().merge(other);
        }
        self.folded += folded;
    }

    /// All that was counted came within so many seconds.
    pub fn came_within(&mut self, seconds: f64) {
        let seconds = seconds.max(0.001);
        for sums in self.edges.values_mut().chain(self.other.as_mut()) {
            sums.per_s = sums.n_tried() as f64 / seconds;
            sums.errors_per_s = sums.n_errors() as f64 / seconds;
        }
    }

    /// The busiest edges, those first that are busier; all others, and how many.
    pub fn shown(mut self, limit: usize) -> (Vec<EdgeView>, Option<EdgeSums>, u64) {
        let all = std::mem::take(&mut self.edges).into_iter();
        let mut edges: Vec<EdgeView> = all.map(|(name, sums)| EdgeView { name, sums }).collect();
        edges.sort_by(|a, b| {
            let order = b.sums.weight().cmp(&a.sums.weight());
            order.then_with(|| a.name.cmp(&b.name))
        });
        for left in edges.drain(limit.min(edges.len())..) {
            self.folded += 1;
            self.other.get_or_insert_default().merge(&left.sums);
        }
        (edges, self.other, self.folded)
    }

    /// Where an edge is summed up.
    fn sums(&mut self, name: EdgeName) -> &mut EdgeSums {
        if self.edges.len() >= MAX_EDGES && !self.edges.contains_key(&name) {
            self.folded += 1;
            return self.other.get_or_insert_default();
        }
        self.edges.entry(name).or_default()
    }
}

/// The ends of edges, by name; `path` knows those of services.
pub fn ends(edges: &[EdgeView], path: impl Fn(&str) -> Option<String>) -> Vec<MapServiceView> {
    let mut out: BTreeMap<&str, MapServiceView> = BTreeMap::new();
    for EdgeView { name, sums } in edges {
        for (end, is_source) in [(&name.source, true), (&name.destination, false)] {
            let view = out.entry(end).or_insert_with(|| MapServiceView {
                name: end.clone(),
                is_service: !CLASSES.contains(&end.as_str()),
                path: path(end),
                dialled: 0,
                accepted: 0,
                errors: 0,
            });
            if is_source {
                view.dialled += sums.n_tried();
                view.errors += sums.n_errors();
            } else {
                view.accepted += sums.connections;
            }
        }
    }
    out.into_values().collect()
}

/// Whether a node of the cluster tells of what this one dials.
fn is_inside(source: &str) -> bool {
    !matches!(source, "public" | "private")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, destination: &str, verdict: &str) -> EndedFlow {
        EndedFlow {
            ended_us: 1,
            duration_us: 10,
            node: "n1".to_owned(),
            observer: "source".to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            task_id: String::new(),
            service: String::new(),
            vip: Some("web:80".to_owned()),
            local: None,
            peer: "10.0.0.1:80".to_owned(),
            protocol: "tcp".to_owned(),
            verdict: verdict.to_owned(),
            tx_bytes: 10,
            rx_bytes: 20,
            connect_us: 100,
            rtt_us: 50,
            retransmits: 1,
            ..EndedFlow::default()
        }
    }

    #[test]
    fn a_connection_counts_once_and_what_went_wrong_by_its_verdict() {
        let mut map = ServiceMap::default();
        for verdict in ["closed", "closed", "reset", "refused"] {
            map.ended(&flow("shop", "web", verdict));
        }
        map.ended(&flow("shop", "", "no_backend"));
        // The other end of the same, and of a process of a node.
        for source in ["shop", "node", "loopback"] {
            let mut seen = flow(source, "web", "closed");
            (seen.observer, seen.vip) = ("destination".to_owned(), None);
            map.ended(&seen);
        }
        let mut outside = flow("public", "web", "closed");
        (outside.observer, outside.vip) = ("destination".to_owned(), None);
        map.ended(&outside);
        map.came_within(10.0);
        let (edges, other, folded) = map.shown(10);
        assert_eq!((other, folded), (None, 0));
        let names = edges.iter().map(|e| {
            let n = &e.name;
            (n.source.as_str(), n.vip.as_deref(), n.destination.as_str())
        });
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                ("shop", Some("web:80"), "web"),
                ("public", None, "web"),
                ("shop", Some("web:80"), "nobody"),
            ]
        );
        let shop = &edges[0].sums;
        assert_eq!(
            (shop.connections, shop.n_errors(), shop.n_tried()),
            (3, 2, 4)
        );
        assert_eq!((shop.tx_bytes, shop.rx_bytes), (40, 80));
        assert!((shop.per_s - 0.4).abs() < 1e-9 && (shop.errors_per_s - 0.2).abs() < 1e-9);
        // Seen from the other end, what it sent is what came.
        assert_eq!((edges[1].sums.tx_bytes, edges[1].sums.rx_bytes), (20, 10));
        assert_eq!(edges[2].sums.n_tried(), 1);
        let ends = ends(&edges, |name| (name == "web").then(|| "/web".to_owned()));
        let named: Vec<_> = ends
            .iter()
            .map(|e| (e.name.as_str(), e.is_service))
            .collect();
        assert_eq!(
            named,
            [
                ("nobody", false),
                ("public", false),
                ("shop", true),
                ("web", true)
            ]
        );
        assert_eq!(ends[3].path.as_deref(), Some("/web"));
        assert_eq!(
            (ends[2].dialled, ends[2].errors, ends[3].accepted),
            (5, 3, 4)
        );
    }

    #[test]
    fn what_has_no_place_is_in_the_sum_of_others() {
        let mut map = ServiceMap::default();
        for n in 0..MAX_EDGES + 7 {
            map.ended(&flow(&format!("s{n}"), "web", "closed"));
        }
        map.came_within(1.0);
        let (edges, other, folded) = map.clone().shown(5);
        let other = other.unwrap();
        assert_eq!((edges.len(), folded), (5, (MAX_EDGES + 2) as u64));
        assert_eq!(other.connections, (MAX_EDGES + 2) as u64);
        // Merged with another node's: nothing is lost, nothing is there twice.
        let mut merged = ServiceMap::default();
        merged.add(&edges, Some(&other), folded);
        merged.add(&edges, Some(&other), folded);
        let (edges, other, _) = merged.shown(3);
        let sum: u64 = edges.iter().map(|e| e.sums.connections).sum();
        assert_eq!(sum + other.unwrap().connections, 2 * (MAX_EDGES + 7) as u64);
    }

    #[test]
    fn the_busiest_come_first_and_open_ones_count() {
        let name = |source: &str| EdgeName {
            source: source.to_owned(),
            vip: None,
            destination: "db".to_owned(),
        };
        let mut map = ServiceMap::default();
        map.ended(&flow("shop", "web", "closed"));
        map.open(name("pool"), false, 8);
        map.open(name("pool"), true, 8);
        map.open(name("idle"), false, 0);
        let (edges, ..) = map.shown(9);
        assert_eq!(edges.len(), 2);
        assert_eq!(
            (edges[0].name.source.as_str(), edges[0].sums.open),
            ("pool", 8)
        );
    }
}
