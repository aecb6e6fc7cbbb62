//! Runs a device's logic against the engine: performs what it says, reports what came of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anemone_model::Discontinuity;
use tokio_util::sync::CancellationToken;

use super::logic::{DeviceLogic, Next, Now, RequestFailure};
use super::{DeviceMemory, Health, SampleSink};
use crate::collector::snmp::engine::Engine;

/// Port of SNMP agents where an address names none (RFC 3417).
pub const SNMP_PORT: u16 = 161;

/// What a device's task leaves where others can read it, after each round.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Health.
    pub health: Health,
    /// What to keep for a restart.
    pub memory: DeviceMemory,
    /// Facts of the last inventory: label and text.
    pub facts: Vec<(String, String)>,
}

/// A report shared between a task and those who ask.
pub type SharedReport = Arc<Mutex<Report>>;

/// A clock with an origin of its own.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { elapsed: self.0.elapsed(), wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
    }
}

/// Polls one device until `stop`. Returns its logic, so that what it knows can be kept.
pub async fn run_device(
    mut logic: DeviceLogic,
    clock: Clock,
    address: String,
    engine: Engine,
    sink: Arc<dyn SampleSink>,
    report: SharedReport,
    stop: CancellationToken,
) -> DeviceLogic {
    let mut target = None;
    loop {
        match logic.next(clock.now(), &*sink) {
            Next::Wait(time) => {
                tokio::select! {
                    () = stop.cancelled() => return logic,
                    () = tokio::time::sleep(time) => {}
                }
            }
            Next::Send { request, timeout } => {
                let exchange = async {
                    let to = match target {
                        Some(to) => to,
                        None => resolve(&address).await.map_err(RequestFailure::Send)?,
                    };
                    target = Some(to);
                    engine.exchange(to, &request, timeout).await.map_err(RequestFailure::from)
                };
                let outcome = tokio::select! {
                    () = stop.cancelled() => return logic,
                    outcome = exchange => outcome,
                };
                match outcome {
                    Ok(reply) => logic.on_reply(clock.now(), reply.datagram(), reply.received_ms, reply.round_trip, &*sink),
                    Err(failure) => logic.on_failure(failure),
                }
            }
            Next::Round(samples) => {
                let marked: Vec<(u32, Discontinuity)> =
                    samples.iter().filter_map(|(series, sample)| Some((*series, sample.discontinuity?))).collect();
                let count = samples.len();
                let device = logic.name().clone();
                if let Err(refusal) = sink.round(device.as_str(), samples) {
                    logic.on_dropped(count, &marked);
                    tracing::debug!(%device, %refusal, samples = count, "round dropped");
                }
                if logic.health().up == Some(false) {
                    // A name may point elsewhere by now.
                    target = None;
                }
                publish(&logic, clock.now(), &report);
            }
        }
    }
}

fn publish(logic: &DeviceLogic, now: Now, report: &SharedReport) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    let restarts = report.health.restarts;
    log_change(logic, report.health.up);
    report.health.clone_from(logic.health());
    report.health.restarts = restarts;
    report.memory = logic.memory(now);
    if !report.facts.iter().map(|(label, text)| (label.as_str(), text.as_str())).eq(logic.facts()) {
        report.facts = logic.facts().map(|(label, text)| (label.to_owned(), text.to_owned())).collect();
    }
}

/// One line when a device begins to fail, and one when it is well again.
fn log_change(logic: &DeviceLogic, before: Option<bool>) {
    let (device, health) = (logic.name(), logic.health());
    match (before, health.up) {
        (None | Some(true), Some(false)) => {
            let reason = health.last_failure.as_ref().map_or_else(|| "no reason on record".to_owned(), |(_, reason)| reason.to_string());
            tracing::warn!(%device, reason, "device fails");
        }
        (Some(false), Some(true)) => tracing::info!(%device, "device answers again"),
        _ => {}
    }
}

/// Longest wait for a name server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The address behind `host`, `host:port`, `ip`, `ip:port` or `[ipv6]:port`; port 161 where none is named.
///
/// # Errors
/// A text that says what was looked up and why it failed.
pub async fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    if let Ok(ip) = address.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, SNMP_PORT));
    }
    let with_port = if address.contains(':') { address.to_owned() } else { format!("{address}:{SNMP_PORT}") };
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&with_port)).await;
    let mut found = found
        .map_err(|_| format!("no answer from the name server for {address:?} in {RESOLVE_TIMEOUT:?}"))?
        .map_err(|error| format!("cannot resolve {address:?}: {error}"))?;
    found.next().ok_or_else(|| format!("{address:?} has no address"))
}
