//! One handler per endpoint: parameters in, a call of the engine or the source, JSON out.

use std::sync::Arc;

use anemone_model::{MetricKind, Schema};
use axum::extract::{Path, State};
use axum::response::Response;

use super::params::Params;
use super::times::{TIME_MAX_MS, parse_duration};
use super::{Api, json};
use crate::engine::{QueryRequest, QueryResult, When, selector_matchers};
use crate::error::QueryError;
use crate::source::{Found, SeriesRequest};

/// The version of Prometheus' API that this one answers like.
const API_VERSION: &str = "3.5.0";

type Answered = Result<Response, QueryError>;

fn respond(answered: Answered) -> Response {
    answered.unwrap_or_else(|error| {
        tracing::debug!(%error, "query refused");
        json::error(&error)
    })
}

/// `/api/v1/query`
pub(crate) async fn query(State(api): State<Arc<Api>>, params: Params) -> Response {
    let time = params.time("time").map(|time| When::Instant(time.unwrap_or_else(api.options.now_ms)));
    respond(evaluated(&api, &params, time).await)
}

/// `/api/v1/query_range`
pub(crate) async fn query_range(State(api): State<Arc<Api>>, params: Params) -> Response {
    respond(evaluated(&api, &params, range(&params)).await)
}

fn range(params: &Params) -> Result<When, QueryError> {
    let time = |name| params.required(name).and_then(|text| super::times::parse_time(name, text));
    let (start_ms, end_ms) = (time("start")?, time("end")?);
    let step_ms = parse_duration("step", params.required("step")?)?;
    Ok(When::Range { start_ms, end_ms, step_ms })
}

async fn evaluated(api: &Api, params: &Params, when: Result<When, QueryError>) -> Answered {
    let request = QueryRequest {
        query: params.required("query")?.to_owned(),
        when: when?,
        lookback: params.duration("lookback_delta")?,
        timeout: params.duration("timeout")?,
    };
    let limit = params.limit()?;
    let _turn = api.admission.enter().await?;
    let mut answer = api.engine.query(&request).await?;
    let cut = limit.is_some_and(|limit| truncate(&mut answer.result, limit));
    if cut {
        answer.warnings.push(TRUNCATED.to_owned());
    }
    Ok(json::success(|out| json::result(out, &answer.result), &answer.warnings, &answer.infos))
}

/// Prometheus' text where `limit` left something out.
const TRUNCATED: &str = "results truncated due to limit";

fn truncate(result: &mut QueryResult, limit: usize) -> bool {
    let before = match result {
        QueryResult::Vector { samples, .. } => {
            let before = samples.len();
            samples.truncate(limit);
            before
        }
        QueryResult::Matrix(series) => {
            let before = series.len();
            series.truncate(limit);
            before
        }
        QueryResult::Scalar { .. } | QueryResult::Text { .. } => 0,
    };
    before > limit
}

/// The request that `match[]`, `start` and `end` describe.
fn series_request(params: &Params, needs_selector: bool) -> Result<SeriesRequest, QueryError> {
    let selectors = params.all("match[]").map(|text| {
        let matchers = selector_matchers(text).map_err(|e| QueryError::parameter("match[]", e.to_string()))?;
        // Otherwise one typo would select everything.
        if matchers.iter().all(|m| m.matches("")) {
            return Err(QueryError::parameter("match[]", "match[] must contain at least one non-empty matcher"));
        }
        Ok(matchers)
    });
    let selectors: Vec<_> = selectors.collect::<Result<_, _>>()?;
    if needs_selector && selectors.is_empty() {
        return Err(QueryError::parameter("match[]", "no match[] parameter provided"));
    }
    let from_ms = params.time("start")?.unwrap_or(-TIME_MAX_MS);
    let to_ms = params.time("end")?.unwrap_or(TIME_MAX_MS);
    if to_ms < from_ms {
        return Err(QueryError::parameter("end", "end timestamp must not be before start time"));
    }
    Ok(SeriesRequest { selectors, from_ms, to_ms })
}

/// Sorts, cuts at the limit, and writes.
fn found<T: Ord>(mut found: Found<T>, limit: Option<usize>, write: fn(&mut String, &T)) -> Response {
    found.items.sort_unstable();
    found.items.dedup();
    if let Some(limit) = limit.filter(|limit| *limit < found.items.len()) {
        found.items.truncate(limit);
        found.warnings.push(TRUNCATED.to_owned());
    }
    json::success(|out| json::array(out, &found.items, write), &found.warnings, &found.infos)
}

/// `/api/v1/series`
pub(crate) async fn series(State(api): State<Arc<Api>>, params: Params) -> Response {
    let answered = async {
        let (request, limit) = (series_request(&params, true)?, params.limit()?);
        let _turn = api.admission.enter().await?;
        let all = within(&api, api.engine.source().series(&request, &api.options.engine.limits)).await?;
        Ok(found(all, limit, json::metric))
    };
    respond(answered.await)
}

/// `/api/v1/labels`
pub(crate) async fn labels(State(api): State<Arc<Api>>, params: Params) -> Response {
    let answered = async {
        let (request, limit) = (series_request(&params, false)?, params.limit()?);
        let _turn = api.admission.enter().await?;
        let all = within(&api, api.engine.source().label_names(&request, &api.options.engine.limits)).await?;
        Ok(found(all, limit, |out, name| json::string(out, name)))
    };
    respond(answered.await)
}

/// `/api/v1/label/<name>/values`
pub(crate) async fn label_values(State(api): State<Arc<Api>>, Path(name): Path<String>, params: Params) -> Response {
    let answered = async {
        let (request, limit) = (series_request(&params, false)?, params.limit()?);
        let _turn = api.admission.enter().await?;
        let all = within(&api, api.engine.source().label_values(&name, &request, &api.options.engine.limits)).await?;
        Ok(found(all, limit, |out, value| json::string(out, value)))
    };
    respond(answered.await)
}

/// Bounds a call of the source by the wall time of a query.
async fn within<T>(api: &Api, call: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
    let after = api.options.engine.wall_time;
    tokio::time::timeout(after, call).await.unwrap_or(Err(QueryError::Timeout { after }))
}

/// `/api/v1/metadata`, from the canonical schema.
pub(crate) async fn metadata(params: Params) -> Response {
    let answered = params.limit().map(|limit| {
        let wanted = params.first("metric");
        let metrics = Schema::built_in().metrics().iter().filter(|m| wanted.is_none_or(|name| name == m.name));
        let write = |out: &mut String| {
            out.push('{');
            for (at, metric) in metrics.take(limit.unwrap_or(usize::MAX)).enumerate() {
                if at > 0 {
                    out.push(',');
                }
                json::string(out, &metric.name);
                out.push_str(":[{\"type\":");
                json::string(out, metric_type(metric.kind));
                out.push_str(",\"help\":");
                json::string(out, &metric.description);
                out.push_str(",\"unit\":");
                json::string(out, &metric.unit);
                out.push_str("}]");
            }
            out.push('}');
        };
        json::success(write, &[], &[])
    });
    respond(answered)
}

/// Prometheus' word for a kind; an enumeration's number is a gauge to its clients.
fn metric_type(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge | MetricKind::State => "gauge",
        MetricKind::Info => "info",
    }
}

/// `/api/v1/status/buildinfo`. No `features`: with them Grafana assumes Mimir.
pub(crate) async fn buildinfo(State(api): State<Arc<Api>>) -> Response {
    let write = |out: &mut String| {
        out.push_str("{\"version\":");
        json::string(out, API_VERSION);
        out.push_str(",\"revision\":");
        json::string(out, &api.options.revision);
        out.push_str(",\"branch\":\"\",\"buildUser\":\"\",\"buildDate\":\"\",\"goVersion\":\"\"}");
    };
    json::success(write, &[], &[])
}
