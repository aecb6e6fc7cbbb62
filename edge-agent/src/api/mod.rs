//! The agent's HTTP API: Prometheus' query API over the local store, and what the agent knows of itself.
//!
//! Reads only; nothing here changes anything. Answers while the PoP is cut off, from the same data.

mod status;

use std::net::SocketAddr;
use std::sync::Arc;

use anemone_query::store_source::{READERS_DEFAULT, StoreSource};
use anemone_query::{RouterOptions, prometheus_router};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fleet::{DeviceStatus, FleetSnapshot};

pub use status::{AgentState, AgentStatus, Readiness, load};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Its address cannot be had.
    #[error("cannot listen on {address} for the http api: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Listens on `address`.
///
/// # Errors
/// The address is taken or not of this machine.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ApiError> {
    TcpListener::bind(address).await.map_err(|source| ApiError::Listen { address, source })
}

/// All routes.
pub fn router(state: Arc<AgentState>) -> Router {
    let source = Arc::new(StoreSource::new(Arc::clone(state.local.store()), READERS_DEFAULT));
    Router::new()
        .route("/api/v1/status/agent", get(agent))
        .route("/api/v1/devices", get(devices))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
        .merge(prometheus_router(source, RouterOptions::default()))
}

/// Serves until it is stopped; requests under way are finished.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn agent(State(state): State<Arc<AgentState>>) -> Json<AgentStatus> {
    Json(state.status())
}

#[derive(serde::Serialize)]
struct Devices {
    at_ms: i64,
    assignment_epoch: u64,
    devices: Vec<DeviceStatus>,
}

async fn devices(State(state): State<Arc<AgentState>>) -> Json<Devices> {
    let snapshot = state.fleet.fresh().await;
    let FleetSnapshot { at_ms, assignment_epoch, ref devices, .. } = *snapshot;
    Json(Devices { at_ms, assignment_epoch, devices: devices.clone() })
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<Arc<AgentState>>) -> (StatusCode, Json<Readiness>) {
    let readiness = state.readiness();
    (if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(readiness))
}
