//! A cluster with a framework that asks for nonsense and one that only looks on.

use tokio::time::timeout;
use waggle_api::client::{CallError, Calls, Events, connect};
use waggle_master::store::MemoryStore;
use waggle_tests_frameworks::agent::{self, Books};
use waggle_types::{
    FrameworkInfo, Milli, Millis, Offer, Operation, RejectReason, Resources, RoleSubscription,
};

use super::{Master, PATIENCE, talk::offers};

/// Nothing is filtered here.
pub const REFUSE: Millis = Millis(0);

/// A cluster of two agents, one framework in two roles that asks for nonsense, and one that only looks on.
pub struct Scene {
    pub master: Master,
    pub books: Books,
    pub calls: Calls,
    pub events: Events,
    pub bystander: (Calls, Events),
}

impl Scene {
    pub async fn set() -> Self {
        let master = Master::start(MemoryStore::new()).await;
        let books = Books::default();
        for n in 1..=2 {
            let mut info = agent::info(n, 4).unwrap();
            info.total.custom.set_scalar("licenses", Milli(2000));
            master.agent_with(info, &books).await;
        }
        master
            .until("/waggle/v1/nodes", |v| v.as_array().unwrap().len() == 2)
            .await;
        let mut idle = RoleSubscription::new("idle");
        idle.suppressed = true;
        let idle = FrameworkInfo {
            roles: vec![idle],
            ..FrameworkInfo::new("bystander", "idle")
        };
        let bystander = connect(master.channel().await, &idle).await.unwrap();
        let both = FrameworkInfo {
            roles: vec![RoleSubscription::new("eng"), RoleSubscription::new("ops")],
            ..FrameworkInfo::new("hostile", "eng")
        };
        let (calls, events) = connect(master.channel().await, &both).await.unwrap();
        Self {
            master,
            books,
            calls,
            events,
            bystander,
        }
    }

    /// An offer that is out now: they time out, so each attempt takes a fresh one.
    pub async fn offer(&mut self) -> Offer {
        self.calls.revive().await.unwrap();
        loop {
            let mut some = offers(&mut self.events).await;
            if let Some(o) = some.pop() {
                return o;
            }
        }
    }

    /// The reasons why operations on a fresh offer are refused.
    pub async fn refused(
        &mut self,
        what: &str,
        make: impl Fn(&Offer) -> Vec<Operation>,
    ) -> RejectReason {
        for _ in 0..50 {
            let offer = self.offer().await;
            let operations = make(&offer);
            let ids = [offer.offer_id];
            let called = self.calls.operate(&ids, &operations, REFUSE, None).await;
            // A refused accept leaves the offer out.
            let _ = self.calls.decline(&ids, REFUSE).await;
            match called {
                Err(CallError::Rejected(why)) => {
                    let reason = why[0].reason;
                    assert!(!why[0].message.is_empty(), "{what}");
                    assert!(why.iter().all(|r| r.message.len() < 2000), "{what}");
                    // It timed out on the way: once more.
                    if reason != RejectReason::StaleOffer {
                        self.still_answers().await;
                        return reason;
                    }
                }
                other => panic!("{what} is taken: {other:?}"),
            }
        }
        panic!("{what}: no offer stays long enough")
    }

    /// The master answers others, and nothing was done.
    pub async fn still_answers(&mut self) {
        let calls = &mut self.bystander.0;
        let answer = timeout(PATIENCE, calls.reconcile(&[])).await;
        answer.expect("an answer in time").unwrap();
        assert_eq!(self.books.launched(), 0);
    }
}

/// CPUs, in thousandths.
pub fn cpus(milli: i64) -> Resources {
    Resources::from_millis(milli, 0, 0)
}
