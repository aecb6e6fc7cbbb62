//! The HTTP API of a hub node: Prometheus' query API, inventory, agents, PoPs, the Raft group.
//!
//! Answers are `{"status":"success","data":...}` or `{"status":"error","errorType":...,"error":...}`. Changes are taken by the
//! leader; another node redirects to it (307). They need the admin token where one is configured, else a peer on this machine.

mod fleet;
mod inventory;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anemone_model::HubId;
use anemone_query::http::{RouterOptions, prometheus_router};
use anemone_query::source::Source;
use anemone_raft::{ProposeError, RaftNode};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use serde_json::json;

use crate::ingest::presence::Presence;
use crate::state::HubState;
use crate::state::command::{Command, Control, Outcome};

/// What the handlers work with.
pub struct Api {
    /// This node.
    pub hub: HubId,
    /// The Raft group.
    pub raft: RaftNode,
    /// The replicated state.
    pub state: Arc<HubState>,
    /// Agents with a session here.
    pub presence: Arc<Presence>,
    /// Where the nodes' HTTP listeners are.
    pub http_addresses: BTreeMap<HubId, SocketAddr>,
    /// The token that changes must carry, if one is configured.
    pub admin_token: Option<String>,
}

/// All routes.
pub fn router(api: Arc<Api>, source: Arc<dyn Source>) -> Router {
    let native = Router::new()
        .route("/api/v1/devices", get(inventory::list).post(inventory::put).layer(DefaultBodyLimit::max(inventory::REQUEST_BYTES_MAX)))
        .route("/api/v1/devices/{name}", delete(inventory::remove))
        .route("/api/v1/agents", get(fleet::agents))
        .route("/api/v1/pops", get(fleet::pops))
        .route("/api/v1/gaps", get(fleet::gaps))
        .route("/api/v1/cluster", get(fleet::cluster))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(fleet::ready))
        .with_state(api);
    native.merge(prometheus_router(source, RouterOptions::default()))
}

/// An error as the API answers it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    location: Option<String>,
}

impl ApiError {
    /// The request is at fault.
    pub fn bad_data(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", message: message.into(), location: None }
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, kind: "not_found", message: message.into(), location: None }
    }

    /// Not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "unavailable", message: message.into(), location: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = axum::Json(json!({ "status": "error", "errorType": self.kind, "error": self.message }));
        match self.location {
            Some(location) => (self.status, [(header::LOCATION, location)], body).into_response(),
            None => (self.status, body).into_response(),
        }
    }
}

/// `{"status":"success","data":...}`.
fn success(data: impl serde::Serialize) -> Response {
    axum::Json(json!({ "status": "success", "data": data })).into_response()
}

impl Api {
    /// Whether this peer may change things.
    fn authorise(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), ApiError> {
        let refuse = |status, message: &str| Err(ApiError { status, kind: "forbidden", message: message.to_owned(), location: None });
        match &self.admin_token {
            Some(token) => {
                let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
                if given.is_some_and(|given| same_secret(given, token)) {
                    return Ok(());
                }
                refuse(StatusCode::UNAUTHORIZED, "a change needs the header \"Authorization: Bearer <admin token>\"")
            }
            None if peer.ip().to_canonical().is_loopback() => Ok(()),
            None => {
                refuse(StatusCode::FORBIDDEN, "without [admin] token_file in the configuration, changes are taken only from this machine")
            }
        }
    }

    /// Proposes a change and waits until it is applied; says how many things changed.
    async fn change(&self, path: &str, control: &Control) -> Result<u64, ApiError> {
        let encoded = Command::encode_control(control).map_err(|e| ApiError::bad_data(e.to_string()))?;
        match self.raft.propose(encoded).await {
            Ok(response) => match Outcome::decode(&response) {
                Ok(Outcome::Changed(changed)) => Ok(changed),
                other => Err(ApiError::unavailable(format!("the change was committed, but its outcome is {other:?}"))),
            },
            Err(ProposeError::NotLeader { leader }) => Err(self.redirect(path, leader)),
            Err(error) => Err(ApiError::unavailable(format!("the change was not committed: {error}"))),
        }
    }

    fn redirect(&self, path: &str, leader: Option<HubId>) -> ApiError {
        let Some((hub, address)) = leader.and_then(|hub| Some((hub, self.http_addresses.get(&hub)?))) else {
            return ApiError::unavailable("there is no leader at present; try again in a few seconds");
        };
        ApiError {
            status: StatusCode::TEMPORARY_REDIRECT,
            kind: "not_leader",
            message: format!("hub {hub} leads; ask http://{address}{path}"),
            location: Some(format!("http://{address}{path}")),
        }
    }
}

/// Compares without telling by the time taken how much of it is right.
fn same_secret(given: &str, secret: &str) -> bool {
    given.len() == secret.len() && given.bytes().zip(secret.bytes()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}
