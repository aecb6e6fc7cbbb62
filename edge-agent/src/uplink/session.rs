//! The session with one hub: connects, greets, keeps it alive, tells the actor what the hub says, and writes batches.
//!
//! A link may be cut without a word, so silence counts: a hub that says nothing for [`LinkTiming::silence`] is given up, and every
//! attempt to connect ends in time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemone_link::{AgentEndpoint, CloseCode, Established, Fault, Lane, LinkError, Session};
use anemone_model::HubId;
use anemone_wire::control::{AgentLoad, AgentMessage, Hello, HubMessage, Leader, frame_kind};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::SharedStatus;
use super::backoff::Backoff;
use crate::clock;
use crate::config::{Hub, LinkTiming};

/// Batches between the actor and a session: enough to keep the stream busy, few enough to be forgotten.
const BATCHES_QUEUED: usize = 8;
/// A session that lived so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// What a session tells the actor.
#[derive(Debug)]
pub(super) enum SessionEvent {
    /// The hub greeted us.
    Up { hub: HubId, batches: mpsc::Sender<Bytes>, leader: Leader, applied_below: u64 },
    /// The hub said something.
    Said { hub: HubId, message: HubMessage },
    /// The session is over.
    Down { hub: HubId },
}

/// Why a session or an attempt ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{address}: {why}")]
    Resolve { address: String, why: String },
    #[error("hub {hub} was silent for {silence:?}")]
    Silent { hub: HubId, silence: Duration },
    #[error("hub {hub} broke the protocol: {why}")]
    Protocol { hub: HubId, why: String },
    #[error("hub {hub} ended the session: {why}")]
    Goodbye { hub: HubId, why: String },
    #[error("the agent is stopping")]
    Stopping,
}

/// What all sessions share.
#[derive(Clone)]
pub(super) struct SessionParts {
    pub(super) endpoint: Arc<AgentEndpoint>,
    pub(super) timing: LinkTiming,
    /// Makes the greeting as things stand.
    pub(super) hello: Arc<dyn Fn() -> Hello + Send + Sync>,
    pub(super) load: watch::Receiver<AgentLoad>,
    /// Epoch of the assignment that the devices are polled by.
    pub(super) applied: watch::Receiver<u64>,
    pub(super) events: mpsc::Sender<SessionEvent>,
    pub(super) status: SharedStatus,
    pub(super) stop: CancellationToken,
}

/// Keeps a session with `hub` for as long as the agent runs.
pub(super) async fn keep_session(hub: Hub, parts: SessionParts) {
    let mut backoff = Backoff::new(parts.timing.backoff_max);
    let mut told = String::new();
    parts.status.hub(hub.id, |status| status.address.clone_from(&hub.address));
    while !parts.stop.is_cancelled() {
        let mut began = None;
        let end = tokio::select! {
            end = run_session(&hub, &parts, &mut began) => end,
            () = parts.stop.cancelled() => SessionEnd::Stopping,
        };
        if began.is_some() {
            // The actor is gone only when the agent ends.
            let _ = parts.events.send(SessionEvent::Down { hub: hub.id }).await;
        }
        if matches!(end, SessionEnd::Stopping) {
            return;
        }
        let reason = end.to_string();
        parts.status.hub(hub.id, |status| {
            status.connected_since_ms = None;
            status.failed_attempts += u64::from(began.is_none());
            status.last_failure = Some((clock::now_ms(), reason.clone()));
        });
        if reason == told {
            tracing::debug!(hub = hub.id, reason, "still no session with the hub");
        } else if is_grave(&end) {
            tracing::error!(hub = hub.id, address = hub.address, reason, "no session with the hub");
        } else {
            tracing::warn!(hub = hub.id, address = hub.address, reason, "no session with the hub");
        }
        told = reason;
        if began.is_some_and(|at: Instant| at.elapsed() >= GOOD_AFTER) {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(rand::random())) => {}
            () = parts.stop.cancelled() => return,
        }
    }
}

/// Whether waiting will not help, but a person may.
fn is_grave(end: &SessionEnd) -> bool {
    match end {
        SessionEnd::Link(error) => error.fault() != Fault::Retry,
        SessionEnd::Protocol { .. } => true,
        _ => false,
    }
}

async fn resolve(address: &str, within: Duration) -> Result<SocketAddr, SessionEnd> {
    let failed = |why: String| SessionEnd::Resolve { address: address.to_owned(), why };
    let found = tokio::time::timeout(within, tokio::net::lookup_host(address)).await;
    let mut found =
        found.map_err(|_| failed(format!("no answer from the name server in {within:?}")))?.map_err(|e| failed(e.to_string()))?;
    found.next().ok_or_else(|| failed("the name has no address".to_owned()))
}

/// One attempt and the session that comes of it. Always ends with a reason.
async fn run_session(hub: &Hub, parts: &SessionParts, began: &mut Option<Instant>) -> SessionEnd {
    let outcome = async {
        let address = resolve(&hub.address, parts.timing.connect_timeout).await?;
        let hello = (parts.hello)();
        let told_epoch = hello.assignment_epoch;
        let body = AgentMessage::Hello(hello).encode().map_err(|error| SessionEnd::Protocol { hub: hub.id, why: error.to_string() })?;
        let established = parts.endpoint.connect(address, Some(hub.id), frame_kind::CONTROL, body).await?;
        let (leader, applied_below) = welcome(hub.id, &established)?;
        let mut open = OpenSession::new(hub.id, established, told_epoch);
        *began = Some(Instant::now());
        parts.status.hub(hub.id, |status| {
            status.connected_since_ms = Some(clock::now_ms());
            status.sessions += 1;
        });
        tracing::info!(hub = hub.id, address = %address, term = leader.term, leader = ?leader.hub, applied_below, "session with the hub");
        let up = SessionEvent::Up { hub: hub.id, batches: open.batches(), leader, applied_below };
        parts.events.send(up).await.map_err(|_| SessionEnd::Stopping)?;
        open.serve(parts).await
    };
    outcome.await.err().unwrap_or(SessionEnd::Stopping)
}

/// Reads the hub's first message.
fn welcome(hub: HubId, established: &Established) -> Result<(Leader, u64), SessionEnd> {
    let refuse = |why: String| {
        established.session.reject_message(&why);
        SessionEnd::Protocol { hub, why }
    };
    if established.hello.kind != frame_kind::CONTROL {
        return Err(refuse(format!("its first frame is of kind {}", established.hello.kind)));
    }
    match HubMessage::decode(&established.hello.body) {
        Ok(HubMessage::Welcome { hub: named, leader, applied_below, .. }) if named == hub => Ok((leader, applied_below)),
        Ok(HubMessage::Welcome { hub: named, .. }) => Err(refuse(format!("it calls itself hub {named}"))),
        Ok(_) => Err(refuse("its first message is no welcome".to_owned())),
        Err(error) => Err(refuse(error.to_string())),
    }
}

struct OpenSession {
    hub: HubId,
    session: Session,
    control: anemone_link::Control,
    lane: JoinHandle<Result<(), LinkError>>,
    batches: mpsc::Sender<Bytes>,
    told_epoch: u64,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.lane.abort();
        // Without effect where the session is over already.
        self.session.close(CloseCode::Shutdown, "the agent lets go of the session");
    }
}

impl OpenSession {
    fn new(hub: HubId, established: Established, told_epoch: u64) -> Self {
        let (batches, queue) = mpsc::channel(BATCHES_QUEUED);
        let lane = tokio::spawn(write_batches(established.session.clone(), queue));
        Self { hub, session: established.session, control: established.control, lane, batches, told_epoch }
    }

    fn batches(&self) -> mpsc::Sender<Bytes> {
        self.batches.clone()
    }

    async fn serve(&mut self, parts: &SessionParts) -> Result<(), SessionEnd> {
        let silence = parts.timing.silence;
        let mut heard = Instant::now();
        let mut heartbeat = tokio::time::interval(parts.timing.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut applied = parts.applied.clone();
        loop {
            let quiet = silence.saturating_sub(heard.elapsed());
            tokio::select! {
                frame = self.control.reader.read() => {
                    heard = Instant::now();
                    match frame {
                        Ok(Some(frame)) => self.take(frame.kind, &frame.body, parts).await?,
                        Ok(None) => return Err(self.session.closed().await.into()),
                        Err(error) => return Err(self.session.reject(error).into()),
                    }
                }
                _ = heartbeat.tick() => {
                    let epoch = *applied.borrow_and_update();
                    self.tell_applied(epoch, silence).await?;
                    let load = parts.load.borrow().clone();
                    self.say(&AgentMessage::Heartbeat { at_ms: clock::now_ms(), load }, silence).await?;
                    let round_trip_us = u64::try_from(self.session.round_trip().as_micros()).unwrap_or(u64::MAX);
                    parts.status.hub(self.hub, |status| status.round_trip_us = round_trip_us);
                }
                Ok(()) = applied.changed() => {
                    let epoch = *applied.borrow_and_update();
                    self.tell_applied(epoch, silence).await?;
                }
                ended = &mut self.lane => return match ended {
                    Ok(Err(error)) => Err(error.into()),
                    Ok(Ok(())) => Err(SessionEnd::Stopping),
                    Err(panic) => Err(SessionEnd::Protocol { hub: self.hub, why: format!("writing batches failed: {panic}") }),
                },
                () = tokio::time::sleep(quiet) => {
                    self.session.close(CloseCode::ProtocolSlow, "silent for too long");
                    return Err(SessionEnd::Silent { hub: self.hub, silence });
                }
            }
        }
    }

    async fn take(&mut self, kind: u8, body: &[u8], parts: &SessionParts) -> Result<(), SessionEnd> {
        let hub = self.hub;
        let message = if kind == frame_kind::CONTROL {
            HubMessage::decode(body).map_err(|error| error.to_string())
        } else {
            Err(format!("a frame of kind {kind} on the control stream"))
        };
        match message {
            Ok(HubMessage::Goodbye { why }) => Err(SessionEnd::Goodbye { hub, why }),
            Ok(HubMessage::Heartbeat { .. }) => Ok(()),
            Ok(message) => parts.events.send(SessionEvent::Said { hub, message }).await.map_err(|_| SessionEnd::Stopping),
            Err(why) => {
                self.session.reject_message(&why);
                Err(SessionEnd::Protocol { hub, why })
            }
        }
    }

    async fn tell_applied(&mut self, epoch: u64, silence: Duration) -> Result<(), SessionEnd> {
        if epoch <= self.told_epoch {
            return Ok(());
        }
        self.told_epoch = epoch;
        self.say(&AgentMessage::AssignmentApplied { epoch }, silence).await
    }

    async fn say(&mut self, message: &AgentMessage, within: Duration) -> Result<(), SessionEnd> {
        let hub = self.hub;
        let body = message.encode().map_err(|error| SessionEnd::Protocol { hub, why: error.to_string() })?;
        match tokio::time::timeout(within, self.control.writer.send(frame_kind::CONTROL, body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.session.reject(error).into()),
            Err(_) => Err(SessionEnd::Silent { hub, silence: within }),
        }
    }
}

/// Writes batches to the lane in the order they come; opens it with the first. A task of its own, so that no write is cut off.
async fn write_batches(session: Session, mut queue: mpsc::Receiver<Bytes>) -> Result<(), LinkError> {
    let Some(mut batch) = queue.recv().await else { return Ok(()) };
    let mut lane = session.open_lane(Lane::Live).await?;
    loop {
        lane.send(frame_kind::BATCH, batch).await.map_err(|error| session.reject(error))?;
        match queue.recv().await {
            Some(next) => batch = next,
            None => {
                lane.finish();
                return Ok(());
            }
        }
    }
}
