//! JSON as Prometheus writes it: order of keys, times with three decimals, values as strings.

use std::fmt::Write;

use anemone_model::{Labels, Value};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::engine::QueryResult;
use crate::error::QueryError;

/// A JSON string with its quotes.
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32).unwrap_or_default(),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Items between brackets.
pub(crate) fn array<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    out.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// Seconds; milliseconds as three decimals where there are any.
fn time(out: &mut String, ms: i64) {
    if ms < 0 {
        out.push('-');
    }
    let ms = ms.unsigned_abs();
    let written = if ms.is_multiple_of(1000) { write!(out, "{}", ms / 1000) } else { write!(out, "{}.{:03}", ms / 1000, ms % 1000) };
    written.unwrap_or_default();
}

fn point(out: &mut String, ms: i64, value: Value) {
    out.push('[');
    time(out, ms);
    write!(out, ",\"{value}\"]").unwrap_or_default();
}

/// Labels as an object.
pub(crate) fn metric(out: &mut String, labels: &Labels) {
    out.push('{');
    for (at, (name, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        string(out, name);
        out.push(':');
        string(out, value);
    }
    out.push('}');
}

/// The `data` of a query.
pub(crate) fn result(out: &mut String, result: &QueryResult) {
    match result {
        QueryResult::Scalar { time_ms, value } => {
            out.push_str("{\"resultType\":\"scalar\",\"result\":");
            point(out, *time_ms, Value::F64(*value));
        }
        QueryResult::Text { time_ms, text } => {
            out.push_str("{\"resultType\":\"string\",\"result\":[");
            time(out, *time_ms);
            out.push(',');
            string(out, text);
            out.push(']');
        }
        QueryResult::Vector { time_ms, samples } => {
            out.push_str("{\"resultType\":\"vector\",\"result\":");
            array(out, samples, |out, sample| {
                out.push_str("{\"metric\":");
                metric(out, &sample.labels);
                out.push_str(",\"value\":");
                point(out, *time_ms, sample.value);
                out.push('}');
            });
        }
        QueryResult::Matrix(series) => {
            out.push_str("{\"resultType\":\"matrix\",\"result\":");
            array(out, series, |out, series| {
                out.push_str("{\"metric\":");
                metric(out, &series.labels);
                out.push_str(",\"values\":");
                array(out, &series.points, |out, (ms, value)| point(out, *ms, *value));
                out.push('}');
            });
        }
    }
    out.push('}');
}

/// A successful answer around `data`; `warnings` and `infos` where there are any.
pub(crate) fn success(data: impl FnOnce(&mut String), warnings: &[String], infos: &[String]) -> Response {
    let mut out = String::from("{\"status\":\"success\",\"data\":");
    data(&mut out);
    for (key, texts) in [("warnings", warnings), ("infos", infos)] {
        if !texts.is_empty() {
            write!(out, ",\"{key}\":").unwrap_or_default();
            array(&mut out, texts, |out, text| string(out, text));
        }
    }
    out.push('}');
    respond(StatusCode::OK, out)
}

/// An error's answer.
pub(crate) fn error(error: &QueryError) -> Response {
    error_body(StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), error)
}

/// An error's answer with a status of its own.
pub(crate) fn error_body(status: StatusCode, error: &QueryError) -> Response {
    // Prometheus wraps what its parser says into the parameter's error.
    let text = match error {
        QueryError::Syntax { .. } => format!("invalid parameter \"query\": {error}"),
        _ => error.to_string(),
    };
    let mut out = String::from("{\"status\":\"error\",\"errorType\":");
    string(&mut out, error.kind());
    out.push_str(",\"error\":");
    string(&mut out, &text);
    out.push('}');
    respond(status, out)
}

fn respond(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_decimals_or_none() {
        for (ms, text) in [(1_700_000_000_123, "1700000000.123"), (1_500, "1.500"), (2_000, "2"), (-1, "-0.001"), (7, "0.007"), (0, "0")] {
            let mut out = String::new();
            time(&mut out, ms);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        string(&mut out, "a\"b\\c\nd\u{1}é<");
        assert_eq!(out, "\"a\\\"b\\\\c\\nd\\u0001é<\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\"b\\c\nd\u{1}é<");
    }
}
