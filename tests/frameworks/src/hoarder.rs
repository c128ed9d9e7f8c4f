//! A framework that takes offers and never answers them.

use tonic::transport::Channel;
use waggle_api::client::{CallError, connect};
use waggle_types::{FrameworkInfo, SchedulerEvent};

/// What it saw so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Offers made to it.
    pub offers: usize,
    /// Offers that the master took back.
    pub rescinded: usize,
}

/// Hoards until the stream ends; tells what it has seen after each event.
pub async fn run(
    channel: Channel,
    info: FrameworkInfo,
    seen: tokio::sync::watch::Sender<Seen>,
) -> Result<(), CallError> {
    let (_calls, mut events) = connect(channel, &info).await?;
    while let Some(event) = events.next().await? {
        seen.send_modify(|s| match event {
            SchedulerEvent::Offers(offers) => s.offers += offers.len(),
            SchedulerEvent::Rescind(_) => s.rescinded += 1,
            _ => {}
        });
    }
    Ok(())
}
