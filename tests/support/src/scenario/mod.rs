//! The main job, step by step, through the public API and with ordinary programs: shared by the
//! demo, which prints, and the privileged tests, which assert.

mod app;
mod dns;
mod load;
mod traffic;

use std::time::Duration;

use anyhow::Context as _;

use crate::cluster::{self, Cluster, Config};
use crate::names::OTLP_PORT;
use crate::netns::NetNs;
use crate::sink::Sink;

pub use app::{App, Task, deploy, list_of, remove};
pub use dns::{DnsAnswers, ask};
pub use load::{Attempt, Probe, Wrk, wrk};
pub use traffic::{Spread, curl_spread};

/// The name of the demo's VIP.
pub const VIP_NAME: &str = "web.marathon.l4lb.thisdcos.directory";
/// The demo's app definition.
pub const WEB_JSON: &str = include_str!("../../../fixtures/web.json");

/// A cluster and the place where its telemetry arrives.
#[derive(Debug)]
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Its sink, in the hub's namespace.
    pub sink: Sink,
}

impl World {
    /// Brings up a cluster that ships to a sink of its own; `relay` gets everything too.
    pub fn up(
        mut config: Config,
        relay: Option<String>,
        deadline: Duration,
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Self> {
        cluster::clear_leftovers(&config.names, say)?;
        config.otlp = Some(Config::sink_url(&config.names));
        let mut cluster = Cluster::prepare(&config, say)?;
        let started = (|| {
            let addr = (config.names.hub_ip(), OTLP_PORT).into();
            let listener = NetNs::open(&config.names.hub())?.listen(addr)?;
            let sink = Sink::start(listener, relay).context("start the sink")?;
            cluster.start_all()?;
            cluster::wait_ready(&cluster, deadline)?;
            Ok(sink)
        })();
        match started {
            Ok(sink) => Ok(Self { cluster, sink }),
            Err(error) => {
                let error: anyhow::Error = error;
                let error = error.context(cluster.last_words());
                let _ = cluster.down(say);
                Err(error)
            }
        }
    }

    /// Takes all of it down.
    pub fn down(self, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let Self { cluster, sink } = self;
        let result = cluster.down(say);
        drop(sink);
        result
    }
}
