//! PromQL evaluation and the Prometheus-compatible HTTP handlers, over a [`source::Source`].
//!
//! Owns the language: parsing (by `promql-parser`), evaluation, limits, and the JSON shapes of Prometheus' HTTP API.
//! Does not know where samples are kept, who may ask, or which PoPs are reachable: a source, a wrapper around the router
//! and an [`source::Annotate`] know that. Semantics are Prometheus 3's; what is not evaluated yet is refused by name.

pub mod engine;
pub mod error;
pub mod http;
pub mod source;
pub mod store_source;

pub use engine::{Answer, Engine, EngineOptions, QueryRequest, QueryResult, When};
pub use error::QueryError;
pub use http::{RouterOptions, prometheus_router};
pub use source::{Annotate, AnnotatedSource, Found, Limits, SelectRequest, Selection, SeriesRequest, SeriesSamples, Source};
pub use store_source::StoreSource;
