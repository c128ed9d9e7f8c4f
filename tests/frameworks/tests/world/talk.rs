//! What tests say to a master as a framework, and wait for.

use tokio::time::timeout;
use waggle_api::client::Events;
use waggle_tests_frameworks::again;
use waggle_types::{
    FrameworkId, Offer, Resources, SchedulerEvent, TaskId, TaskSpec, TaskState, TaskStatus,
};

use super::PATIENCE;

/// The next offers.
pub async fn offers(events: &mut Events) -> Vec<Offer> {
    let found = timeout(PATIENCE, async {
        loop {
            let next = events.next().await.unwrap();
            if let SchedulerEvent::Offers(o) = next.expect("the stream goes on") {
                return o;
            }
        }
    });
    found.await.expect("an offer in time")
}

/// The next status of a state.
pub async fn update(events: &mut Events, wanted: TaskState) -> TaskStatus {
    let found = timeout(PATIENCE, async {
        loop {
            match events.next().await.unwrap().expect("the stream goes on") {
                SchedulerEvent::Update(s) if s.state == wanted => return s,
                _ => {}
            }
        }
    });
    found.await.expect("an update in time")
}

/// A small task.
pub fn task(id: &str, command: &str) -> TaskSpec {
    let nobody = FrameworkId::new("set-by-the-master").unwrap();
    let resources = Resources::from_millis(500, 100_000, 0);
    again::task(&nobody, TaskId::new(id).unwrap(), command, resources)
}
