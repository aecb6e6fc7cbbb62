//! The Prometheus-compatible HTTP API as an axum router.
//!
//! GET and POST forms, Prometheus' JSON shapes and statuses (its `web/api/v1`), `resultType` before `result`. Unknown
//! parameters are ignored. Everything partial is said in `warnings`, also beside an empty result: clients discard keys
//! they do not know. Bounds the queries that run and wait at once, and the size of bodies.

mod admission;
mod handlers;
mod json;
mod params;
mod times;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;

use crate::engine::{Engine, EngineOptions};
use crate::source::Source;
use admission::Admission;

/// Options of the HTTP API.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Options of the engine behind it.
    pub engine: EngineOptions,
    /// Most requests evaluated at once.
    pub running_max: usize,
    /// Most requests that wait for their turn; more are answered 503 at once.
    pub waiting_max: usize,
    /// Longest body of a POST, in bytes.
    pub body_max: usize,
    /// What `/api/v1/status/buildinfo` says beside the version of the API.
    pub revision: String,
    /// The time now, in milliseconds since 1970 UTC: the default of `time` and `end`.
    pub now_ms: fn() -> i64,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            engine: EngineOptions::default(),
            running_max: 16,
            waiting_max: 256,
            body_max: 1 << 20,
            revision: format!("anemone-{}", env!("CARGO_PKG_VERSION")),
            now_ms,
        }
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What the handlers share.
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) admission: Admission,
    pub(crate) options: RouterOptions,
}

/// The routes below `/api/v1` that Prometheus' clients use, over `source`.
///
/// `query`, `query_range`, `series`, `labels` (GET and POST), `label/<name>/values`, `metadata`, `status/buildinfo`.
pub fn prometheus_router(source: Arc<dyn Source>, options: RouterOptions) -> Router {
    let engine = Engine::new(source, options.engine.clone());
    let admission = Admission::new(options.running_max, options.waiting_max);
    let body_max = options.body_max;
    let api = Arc::new(Api { engine, admission, options });
    Router::new()
        .route("/api/v1/query", get(handlers::query).post(handlers::query))
        .route("/api/v1/query_range", get(handlers::query_range).post(handlers::query_range))
        .route("/api/v1/series", get(handlers::series).post(handlers::series))
        .route("/api/v1/labels", get(handlers::labels).post(handlers::labels))
        .route("/api/v1/label/{name}/values", get(handlers::label_values))
        .route("/api/v1/metadata", get(handlers::metadata))
        .route("/api/v1/status/buildinfo", get(handlers::buildinfo))
        .layer(DefaultBodyLimit::max(body_max))
        .with_state(api)
}
