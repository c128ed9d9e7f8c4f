//! The cost contract: telemetry stays within a budget of CPU time and memory, and what it leaves off for that has an order.
//!
//! A reading is over or within the budget. Some readings over it in a row take one feature away, the least missed first; many well below
//! it in a row bring back the one that went last. A feature that had to go soon after it was back waits longer each time, so
//! that a load at the edge of the budget does not switch it on and off.

/// What is left off when the budget is exceeded, in this order. Logs, figures of tasks and of the node, and the books are
/// not among it: they are what an operator has left. Traffic is nobody's to touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Who speaks with whom: a series for each pair.
    Edges,
    /// Spans of requests between tasks that say nothing themselves.
    Requests,
    /// Scraping of tasks' ports.
    Scrapes,
    /// Metrics that tasks send: statsd, OTLP.
    TaskMetrics,
    /// Spans that tasks send.
    TaskSpans,
    /// Figures of tasks are read at each tick; without it at every sixth.
    EveryTick,
}

impl Feature {
    /// All of them, in the order in which they go.
    pub const ALL: [Self; 6] = [
        Self::Edges,
        Self::Requests,
        Self::Scrapes,
        Self::TaskMetrics,
        Self::TaskSpans,
        Self::EveryTick,
    ];

    /// Value of `waggle.telemetry.feature`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edges => "edges",
            Self::Requests => "requests",
            Self::Scrapes => "scrapes",
            Self::TaskMetrics => "task_metrics",
            Self::TaskSpans => "task_spans",
            Self::EveryTick => "every_tick",
        }
    }
}

/// What telemetry may cost on a node, or does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// CPUs: 0.1 is a tenth of one.
    pub cpus: f64,
    /// Bytes.
    pub memory: u64,
}

/// Readings over the budget after which a feature goes.
const OVER: u32 = 3;
/// Readings below the part that is far enough below the budget, after which one comes back; and most of them.
const BELOW: u32 = 12;
const MOST_BELOW: u32 = BELOW * 32;
const FAR_CPUS: f64 = 0.7;

/// Which features are left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    n: usize,
    over: u32,
    below: u32,
    /// Readings below that are needed before the next one comes back.
    patience: u32,
    /// Readings since the last one came back.
    since_back: u32,
}

impl Default for Shed {
    fn default() -> Self {
        Self {
            n: 0,
            over: 0,
            below: 0,
            patience: BELOW,
            since_back: u32::MAX,
        }
    }
}

/// What a reading led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A feature goes.
    Off(Feature, Why),
    /// A feature is back.
    On(Feature),
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
}

impl Why {
    /// As in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

impl Shed {
    /// Whether a feature is on.
    pub fn allows(&self, feature: Feature) -> bool {
        !Feature::ALL[..self.n].contains(&feature)
    }

    /// How many are off.
    pub const fn len(&self) -> usize {
        self.n
    }

    /// Whether none is.
    pub const fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Takes a reading; at most one feature changes.
    pub fn read(&mut self, used: Cost, budget: Cost) -> Option<Change> {
        self.since_back = self.since_back.saturating_add(1);
        let why = if used.cpus > budget.cpus {
            Some(Why::Cpu)
        } else if used.memory > budget.memory {
            Some(Why::Memory)
        } else {
            None
        };
        let far = used.cpus <= budget.cpus * FAR_CPUS && used.memory <= budget.memory / 10 * 7;
        self.over = if why.is_some() { self.over + 1 } else { 0 };
        self.below = if far { self.below + 1 } else { 0 };
        match why {
            Some(why) if self.over >= OVER => {
                self.over = 0;
                let feature = *Feature::ALL.get(self.n)?;
                self.n += 1;
                // It was back for no longer than it had waited for that.
                self.patience = if self.since_back <= self.patience {
                    (self.patience * 2).min(MOST_BELOW)
                } else {
                    BELOW
                };
                Some(Change::Off(feature, why))
            }
            None if self.below >= self.patience && self.n > 0 => {
                self.below = 0;
                self.n -= 1;
                self.since_back = 0;
                Some(Change::On(Feature::ALL[self.n]))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Cost = Cost {
        cpus: 0.1,
        memory: 1000,
    };

    fn cost(cpus: f64, memory: u64) -> Cost {
        Cost { cpus, memory }
    }

    fn after(shed: &mut Shed, n: u32, used: Cost) -> Vec<Change> {
        (0..n).filter_map(|_| shed.read(used, BUDGET)).collect()
    }

    #[test]
    fn features_go_in_order_and_come_back_in_the_other() {
        let mut shed = Shed::default();
        assert_eq!(after(&mut shed, 2, cost(0.2, 0)), []);
        assert_eq!(after(&mut shed, 1, cost(0.05, 0)), [], "no more in a row");
        let off = after(&mut shed, 100, cost(0.2, 0));
        let want = Feature::ALL.map(|f| Change::Off(f, Why::Cpu));
        assert_eq!(off, want);
        assert!(Feature::ALL.iter().all(|f| !shed.allows(*f)));
        // Within the budget, but not far below it: nothing changes.
        assert_eq!(after(&mut shed, 1000, cost(0.09, 0)), []);
        assert_eq!(after(&mut shed, 1000, cost(0.01, 900)), []);
        let on = after(&mut shed, BELOW * 6, cost(0.01, 0));
        let mut want = Feature::ALL.map(Change::On);
        want.reverse();
        assert_eq!(on, want);
        assert!(shed.is_empty());
        let memory = after(&mut shed, OVER, cost(0.0, 1001));
        assert_eq!(memory, [Change::Off(Feature::Edges, Why::Memory)]);
    }

    #[test]
    fn what_goes_again_at_once_waits_longer() {
        let mut shed = Shed::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(after(&mut shed, OVER, cost(1.0, 0)).len(), 1);
            let mut waited = 1;
            while shed.read(cost(0.0, 0), BUDGET).is_none() {
                waited += 1;
            }
            waits.push(waited);
        }
        assert_eq!(waits[..3], [BELOW, BELOW * 2, BELOW * 4]);
        assert_eq!(waits[11], MOST_BELOW);
        // A quiet time forgives.
        after(&mut shed, MOST_BELOW + 1, cost(0.0, 0));
        after(&mut shed, OVER, cost(1.0, 0));
        assert_eq!(after(&mut shed, BELOW, cost(0.0, 0)).len(), 1);
    }

    proptest! {
        /// What is off is always a beginning of the list, and what changes is said.
        #[test]
        fn the_order_holds(readings in prop::collection::vec((0u32..4, 0u64..2000), 0..400)) {
            let mut shed = Shed::default();
            let mut off = Vec::new();
            for (cpus, memory) in readings {
                let used = cost(f64::from(cpus) / 20.0, memory);
                match shed.read(used, BUDGET) {
                    Some(Change::Off(f, _)) => {
                        prop_assert!(used.cpus > BUDGET.cpus || used.memory > BUDGET.memory);
                        off.push(f);
                    }
                    Some(Change::On(f)) => prop_assert_eq!(off.pop(), Some(f)),
                    None => {}
                }
                prop_assert_eq!(&off[..], &Feature::ALL[..shed.len()]);
                for f in Feature::ALL {
                    prop_assert_eq!(shed.allows(f), !off.contains(&f));
                }
            }
        }
    }
}
