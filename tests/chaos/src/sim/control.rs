//! The simulator over HTTP: inventory, faults, ledger. For loopback only; there is no authentication.
//!
//! ```text
//! GET  /health                      {"ok":true}
//! GET  /inventory                   [{"name":..,"pop":..,"address":..,"community":..,"kind":..,"interfaces":..}, ..]
//! GET  /status                      the tallies
//! POST /faults    {"devices":"ams1-*","faults":{"delay_ms":200,"loss":0.1}}      replaces all faults; {} clears
//! POST /reboot    {"devices":"ams1-cr-01","reboot":{"start":"near_wrap","wrap_after_s":30}}
//! POST /renumber  {"devices":"ams1-cr-01","renumber":{"rotate":1,"shift":0}}
//! GET  /ledger?devices=pop:ams1&from=<ms>&to=<ms>      one JSON object a line and series, entries [ms, value, id]
//! ```
//!
//! A POST answers `{"devices":n}`. Errors answer 400 or 404 with a line of text.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    error::SimulatorError,
    fault::{Faults, Reboot, Renumber},
    fleet::InventoryItem,
    server::Tallies,
    simulator::Simulator,
};

/// The line the `simulator` process prints on standard output once it answers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// UDP port of all devices.
    pub port: u16,
    /// Where the control interface listens.
    pub control: SocketAddr,
    /// How many devices there are.
    pub devices: usize,
}

/// The HTTP server; it stops when dropped.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Control {
    /// Serves a simulator at this address; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address is taken or not loopback.
    pub async fn start(simulator: Arc<Simulator>, address: SocketAddr) -> Result<Self, SimulatorError> {
        let failed = |source| SimulatorError::Listen { address, source };
        if !address.ip().is_loopback() {
            return Err(failed(std::io::Error::other("the control interface is for loopback only")));
        }
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let router = Router::new()
            .route("/health", get(|| async { ([(header::CONTENT_TYPE, "application/json")], "{\"ok\":true}") }))
            .route("/inventory", get(inventory))
            .route("/status", get(status))
            .route("/faults", post(faults))
            .route("/reboot", post(reboot))
            .route("/renumber", post(renumber))
            .route("/ledger", get(ledger))
            .with_state(simulator);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!("control interface at {address} stopped: {error}");
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl IntoResponse for SimulatorError {
    fn into_response(self) -> Response {
        let status = if matches!(self, Self::UnknownDevice(_)) { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
        (status, format!("{self}\n")).into_response()
    }
}

type Shared = State<Arc<Simulator>>;
type Changed = Result<Json<Affected>, SimulatorError>;

#[derive(Serialize)]
struct Affected {
    devices: usize,
}

async fn inventory(State(simulator): Shared) -> Json<Vec<InventoryItem>> {
    Json(simulator.inventory())
}

async fn status(State(simulator): Shared) -> Json<Tallies> {
    Json(simulator.tallies())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultsOrder {
    devices: String,
    faults: Faults,
}

async fn faults(State(simulator): Shared, Json(order): Json<FaultsOrder>) -> Changed {
    let devices = simulator.set_faults(&order.devices, order.faults)?;
    Ok(Json(Affected { devices }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebootOrder {
    devices: String,
    #[serde(default)]
    reboot: Reboot,
}

async fn reboot(State(simulator): Shared, Json(order): Json<RebootOrder>) -> Changed {
    let devices = simulator.reboot(&order.devices, order.reboot)?;
    Ok(Json(Affected { devices }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenumberOrder {
    devices: String,
    renumber: Renumber,
}

async fn renumber(State(simulator): Shared, Json(order): Json<RenumberOrder>) -> Changed {
    let devices = simulator.renumber(&order.devices, order.renumber)?;
    Ok(Json(Affected { devices }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LedgerQuery {
    #[serde(default = "everything")]
    devices: String,
    from: Option<i64>,
    to: Option<i64>,
}

fn everything() -> String {
    "*".to_owned()
}

/// Streams device by device, so that a large ledger is never copied whole.
async fn ledger(State(simulator): Shared, Query(query): Query<LedgerQuery>) -> Result<Response, SimulatorError> {
    let names = simulator.names(&query.devices)?;
    let (from, to) = (query.from.unwrap_or(i64::MIN), query.to.unwrap_or(i64::MAX));
    let lines = stream::iter(names.into_iter().map(move |name| {
        let mut lines = String::new();
        for series in simulator.ledger(&name, from, to).unwrap_or_default() {
            if let Ok(line) = serde_json::to_string(&series) {
                lines.push_str(&line);
                lines.push('\n');
            }
        }
        Ok::<_, Infallible>(lines)
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
