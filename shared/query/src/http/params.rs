//! Parameters of a request, from the URL and from a POST form.

use std::time::Duration;

use axum::extract::{Form, FromRequest, Query, Request};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::json::error_body;
use super::times::{parse_duration, parse_time};
use crate::error::QueryError;

/// All parameters, those of the form before those of the URL, as Go's `FormValue` prefers them.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let refused = |status: StatusCode, reason: String| error_body(status, &QueryError::parameter("form", reason)).into_response();
        let url = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let Query(url) = url.map_err(|e| refused(StatusCode::BAD_REQUEST, e.body_text()))?;
        if request.method() != Method::POST {
            return Ok(Self(url));
        }
        let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
        let Form(mut all) = form.map_err(|e| refused(e.status(), e.body_text()))?;
        all.extend(url);
        Ok(Self(all))
    }
}

impl Params {
    /// The first value of `name` that is not empty.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of `name`.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A value that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, QueryError> {
        self.first(name).ok_or_else(|| QueryError::parameter(name, "must be given"))
    }

    /// A time, in milliseconds.
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, QueryError> {
        self.first(name).map(|text| parse_time(name, text)).transpose()
    }

    /// A duration of more than zero.
    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, QueryError> {
        let Some(text) = self.first(name) else { return Ok(None) };
        let millis = u64::try_from(parse_duration(name, text)?).unwrap_or(0);
        if millis == 0 {
            return Err(QueryError::parameter(name, "must be a duration of more than zero"));
        }
        Ok(Some(Duration::from_millis(millis)))
    }

    /// How many entries at most; none for 0, as in Prometheus.
    pub(crate) fn limit(&self) -> Result<Option<usize>, QueryError> {
        let Some(text) = self.first("limit") else { return Ok(None) };
        let limit: usize = text.parse().map_err(|_| QueryError::parameter("limit", format!("{text:?} is not a number of 0 or more")))?;
        Ok((limit > 0).then_some(limit))
    }
}
