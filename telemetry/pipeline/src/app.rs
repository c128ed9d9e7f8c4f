//! Metrics of tasks themselves, in whatever form they come: what statsd and Prometheus text are read into.

/// Labels of a series, sorted by name.
pub type AppLabels = Vec<(String, String)>;

/// A metric with its series.
#[derive(Debug, Clone, PartialEq)]
pub struct AppMetric {
    /// As the task names it.
    pub name: String,
    /// As the task describes it.
    pub help: String,
    /// UCUM, or empty.
    pub unit: String,
    /// Its series.
    pub data: AppData,
}

/// Series of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AppData {
    /// What only grows.
    Counter(Vec<AppPoint<f64>>),
    /// What goes up and down.
    Gauge(Vec<AppPoint<f64>>),
    /// Observations in buckets.
    Histogram(Vec<AppPoint<AppHistogram>>),
    /// Observations with quantiles.
    Summary(Vec<AppPoint<AppSummary>>),
}

impl AppData {
    /// How many series there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Counter(p) | Self::Gauge(p) => p.len(),
            Self::Histogram(p) => p.len(),
            Self::Summary(p) => p.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A series' value.
#[derive(Debug, Clone, PartialEq)]
pub struct AppPoint<T> {
    /// Which series.
    pub labels: AppLabels,
    /// Since when it counts, Unix nanoseconds; 0: not known.
    pub start_ns: u64,
    /// The value.
    pub value: T,
}

/// Observations in buckets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AppHistogram {
    /// How many.
    pub count: u64,
    /// Their sum, where it is known.
    pub sum: Option<f64>,
    /// Upper bounds of all buckets but the last.
    pub bounds: Vec<f64>,
    /// Observations in each bucket, one more than bounds.
    pub buckets: Vec<u64>,
}

/// Observations with quantiles.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AppSummary {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Quantile and value.
    pub quantiles: Vec<(f64, f64)>,
}
