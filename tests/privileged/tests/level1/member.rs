//! Frameworks on the cluster's bridge.

use std::{future::Future, thread::JoinHandle};

use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};
use waggle_tests_support::{
    cluster::Cluster,
    netns::{NetNs, NetNsGuard},
};

/// Agents' sessions and the native API.
const SESSION_PORT: u16 = 5060;

/// A framework on a thread in the hub's namespace. Dropping it ends the framework without a word.
pub struct Member {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Member {
    /// Runs `act` until its end.
    pub fn start<A, F>(cluster: &Cluster, act: A) -> Self
    where
        A: FnOnce(Channel) -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let hub = NetNs::named(&cluster.names.hub());
        let leader = cluster.leader(SESSION_PORT);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // Sockets are made on this thread only, so all of them are in there.
            let _inside = NetNsGuard::enter(&hub).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let endpoint = Endpoint::from_shared(format!("http://{leader}")).unwrap();
                tokio::select! {
                    () = act(endpoint.connect_lazy()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What went wrong in there is said where it is missed.
            let _ = thread.join();
        }
    }
}
