//! What a node's network does by itself, beside changes: each of these runs until the node stops.

use std::sync::Arc;

use crate::apply::Shared;

/// The safety net: tries failed changes again, checks the maps from time to time, and lets weights grow.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut check_at = tokio::time::Instant::now() + shared.config.resync_every;
    loop {
        let worker = Arc::clone(&shared);
        let Ok(next_step) = tokio::task::spawn_blocking(move || worker.ramp()).await else {
            return;
        };
        let step = async {
            match next_step {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = step => continue,
            () = shared.retry.notified() => {
                let behind = shared.is_behind();
                if !behind {
                    continue;
                }
                // One try per interval, however many changes failed meanwhile.
                check_at = check_at.min(tokio::time::Instant::now() + shared.config.retry_after);
                continue;
            }
            () = tokio::time::sleep_until(check_at) => {}
        }
        check_at = tokio::time::Instant::now() + shared.config.resync_every;
        let worker = Arc::clone(&shared);
        if tokio::task::spawn_blocking(move || worker.resync())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Makes zones that take long, beside the changes of the maps.
pub(crate) async fn make_zones(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.zone.notified() => {}
        }
        let worker = Arc::clone(&shared);
        let Ok(took) = tokio::task::spawn_blocking(move || worker.publish_large_zone()).await
        else {
            return;
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(took * 9) => {}
        }
    }
}

/// Ends sockets of UDP backends that are gone, beside the changes of the maps and one listing at a time.
pub(crate) async fn end_sockets(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.gone_news.notified() => {}
        }
        let worker = Arc::clone(&shared);
        if tokio::task::spawn_blocking(move || worker.end_gone())
            .await
            .is_err()
        {
            return;
        }
    }
}
