//! Small JSON requests to the processes of the demo, with a deadline each.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A client whose requests take at most `timeout`.
fn client(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).build().into()
}

/// The JSON a URL answers, whatever the status.
///
/// # Errors
/// It does not answer in time, or not in JSON.
pub async fn get(url: String, timeout: Duration) -> Result<Value> {
    blocking(move || {
        let mut response = client(timeout).get(&url).call().with_context(|| format!("cannot ask {url}"))?;
        response.body_mut().with_config().limit(1 << 30).read_json().with_context(|| format!("{url} did not answer in JSON"))
    })
    .await
}

/// The text a URL answers.
///
/// # Errors
/// It does not answer in time, or with an error status.
pub async fn get_text(url: String, timeout: Duration) -> Result<String> {
    blocking(move || {
        let mut response = client(timeout).get(&url).call().with_context(|| format!("cannot ask {url}"))?;
        if !response.status().is_success() {
            bail!("{url} answered {}", response.status());
        }
        response.body_mut().with_config().limit(4 << 30).read_to_string().with_context(|| format!("reading {url}"))
    })
    .await
}

/// Posts JSON and returns the JSON answered; a redirect to the leader is followed once.
///
/// # Errors
/// It does not answer in time, not in JSON, or with an error status.
pub async fn post(url: String, body: Value, timeout: Duration) -> Result<Value> {
    blocking(move || {
        let mut url = url;
        for _ in 0..2 {
            let mut response = client(timeout).post(&url).send_json(&body).with_context(|| format!("cannot ask {url}"))?;
            if let Some(location) = response.headers().get("location").and_then(|l| l.to_str().ok()) {
                url = location.to_owned();
                continue;
            }
            let status = response.status();
            let text = response.body_mut().read_to_string().with_context(|| format!("reading {url}"))?;
            if !status.is_success() {
                bail!("{url} answered {status}: {text}");
            }
            return serde_json::from_str(&text).with_context(|| format!("{url} did not answer in JSON"));
        }
        bail!("{url} redirects without end")
    })
    .await
}

async fn blocking<T: Send + 'static>(ask: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(ask).await.context("a request was abandoned")?
}

/// A text as part of a query string.
#[must_use]
pub fn encoded(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The result of an instant query and the warnings with it.
///
/// # Errors
/// The node does not answer in time, or refuses the query.
pub async fn query(base: &str, expression: &str, time_ms: Option<i64>, timeout: Duration) -> Result<(Vec<Value>, Vec<String>)> {
    let time = time_ms.map(|ms| format!("&time={}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))).unwrap_or_default();
    let mut answer = get(format!("{base}/api/v1/query?query={}{time}", encoded(expression)), timeout).await?;
    if answer["status"] != "success" {
        bail!("{base}: {expression}: {}", answer["error"].as_str().unwrap_or("no reason given"));
    }
    let warnings = answer["warnings"].as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)).collect();
    match answer["data"]["result"].take() {
        Value::Array(result) => Ok((result, warnings)),
        other => bail!("{base}: {expression}: the result is {other}"),
    }
}

/// The number an expression that gives one series has; 0 where it gives none.
///
/// # Errors
/// As [`query`].
pub async fn number(base: &str, expression: &str, timeout: Duration) -> Result<u64> {
    let (result, _) = query(base, expression, None, timeout).await?;
    let value = result.first().and_then(|row| row.pointer("/value/1")).and_then(Value::as_str);
    value.map_or(Ok(0), |text| text.parse().with_context(|| format!("{base}: {expression} is {text}")))
}
