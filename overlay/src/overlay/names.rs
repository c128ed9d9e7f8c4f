//! Policies that name names: what the node's resolver is about to tell a task is in the kernel's tables before the task has it.
//!
//! Otherwise the first packet to the new address would be dropped, and TCP tries again after a second. Where the tables can't
//! be written in time the asker gets SERVFAIL, which it sees at once and asks again, and not an address that it can't reach.
//! Answers to tasks whose policies name no names, and to all while no policy does, don't come here.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};
use waggle_ebpf::LoadError;
use waggle_overlay_plan::policy::names_names;
use waggle_types::NetworkPolicy;

use super::{OverlayNet, State};
use crate::dns::{MaySend, Names, Told};

/// Longest time that an answer waits for the tables. How many wait at once is the resolver's bound.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of this, how long after a start it is waited for what the policies are.
const FIRST: Duration = Duration::from_secs(2);

struct Learning {
    net: Arc<OverlayNet>,
    /// One writes at a time: more would only hold threads.
    turn: Arc<Semaphore>,
}

impl Names for Learning {
    fn wants(&self, asker: IpAddr) -> bool {
        self.net.askers.has(asker)
    }

    fn told<'a>(&'a self, asker: IpAddr, name: &'a str, told: &'a [(IpAddr, u32)]) -> MaySend<'a> {
        Box::pin(async move {
            let learned = timeout(PATIENCE, self.learn(asker, name, told)).await;
            learned.unwrap_or(false)
        })
    }
}

impl Learning {
    async fn learn(&self, asker: IpAddr, name: &str, told: &[(IpAddr, u32)]) -> bool {
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return false;
        };
        self.net.policies_said().await;
        let net = Arc::clone(&self.net);
        let (name, told) = (name.to_owned(), told.to_vec());
        let written = tokio::task::spawn_blocking(move || {
            // Whoever asked may have given up: the next one still waits for this one's end.
            let _turn = turn;
            net.learn(asker, &name, &told)
        });
        match written.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                let error = crate::chain(&error);
                tracing::warn!(error, "an answer is withheld: policies can't be told of it");
                false
            }
            Err(_) => false,
        }
    }
}

impl OverlayNet {
    /// Takes part in the node's resolver: what it tells tasks whose policies name names.
    pub fn names(self: &Arc<Self>) -> Told {
        Told(Arc::new(Learning {
            net: Arc::clone(self),
            turn: Arc::new(Semaphore::new(1)),
        }))
    }

    /// These policies held when an earlier process ended, and it is not known yet whom they are about: if they name names, answers
    /// wait a moment until it is.
    pub fn expect<'a>(&self, policies: impl IntoIterator<Item = &'a NetworkPolicy>) {
        if !self.lock().is_off && policies.into_iter().any(names_names) {
            self.askers.anybody();
        }
    }

    /// Waits after a start until policies have been applied. Not for ever: where they can't be, names still resolve.
    async fn policies_said(&self) {
        if !self.askers.are_unsaid() {
            return;
        }
        let mut changed = self.changed.subscribe();
        let said = changed.wait_for(|_| !self.askers.are_unsaid());
        if timeout(FIRST, said).await.is_err() {
            // Under the lock, so that what is said now is not overwritten.
            let _state = self.lock();
            if self.askers.are_unsaid() {
                tracing::warn!("nobody has said what the policies are: answers wait no more");
                self.askers.only(BTreeSet::new());
            }
        }
    }

    fn learn(&self, task: IpAddr, name: &str, told: &[(IpAddr, u32)]) -> Result<(), LoadError> {
        let mut state = self.lock();
        let State {
            plane,
            policy,
            world,
            ..
        } = &mut *state;
        let (Some(plane), Some(policy)) = (plane, policy) else {
            return Ok(());
        };
        if policy.is_unsure() {
            policy.apply(plane, world)?;
        }
        policy.learn(plane, task, name, told)
    }
}
