//! Upkeep of this node's blocks: what is past its retention goes, small blocks are merged. Local: no node does it for another.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ingest::presence::now_ms;
use crate::state::HubState;

const ROUND: Duration = Duration::from_secs(300);

/// Runs until cancelled.
pub async fn run(state: Arc<HubState>, retention: Duration, stop: CancellationToken) {
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        let store = state.store();
        let round = move || {
            if let Err(error) = store.drop_before(now_ms().saturating_sub(retention_ms)) {
                tracing::error!(%error, "blocks past their retention could not be dropped");
            }
            if let Err(error) = store.compact() {
                tracing::error!(%error, "blocks could not be merged");
            }
        };
        if let Err(panic) = tokio::task::spawn_blocking(round).await {
            tracing::error!(%panic, "upkeep of the blocks failed");
        }
    }
}
