//! The uplink's actor: receives, asks the logic, performs the effects.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemone_link::{AgentEndpoint, CloseCode};
use anemone_model::{AgentId, HubId};
use anemone_wire::control::{AgentLoad, AssignmentPart, Hello, HubMessage, PROTOCOL};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::SharedStatus;
use super::assignment::{self, Assembly, Assignment};
use super::logic::{Effect, Event, Logic, Want};
use super::session::{SessionEvent, SessionParts, keep_session};
use crate::config::{Hub, LinkTiming};
use crate::spool::{Outgoing, Spool, SpoolError};

/// Events that wait for the actor; sessions wait when it is full.
const EVENTS_QUEUED: usize = 256;
/// Read from the spool at once.
const READ_BYTES: u64 = 2 << 20;
/// How often time is told to the logic.
const TICK: Duration = Duration::from_millis(100);
/// Pause after the spool had nothing to give that should be there.
const READ_RETRY: Duration = Duration::from_millis(200);

/// What the uplink needs.
pub struct UplinkParts {
    /// Who this agent is.
    pub agent: AgentId,
    /// Base URL of its HTTP API.
    pub http: String,
    /// The hubs.
    pub hubs: Vec<Hub>,
    /// Timing.
    pub timing: LinkTiming,
    /// The QUIC endpoint.
    pub endpoint: AgentEndpoint,
    /// The spool.
    pub spool: Arc<Spool>,
    /// How the agent is doing; goes out with heartbeats.
    pub load: watch::Receiver<AgentLoad>,
    /// The assignment to work by; the uplink replaces it.
    pub assignment: watch::Sender<Arc<Assignment>>,
    /// Where the assignment is kept.
    pub assignment_file: PathBuf,
    /// Epoch of the assignment that the devices are polled by.
    pub applied: watch::Receiver<u64>,
}

/// The uplink.
pub struct Uplink {
    logic: Logic,
    spool: Arc<Spool>,
    endpoint: Arc<AgentEndpoint>,
    events: mpsc::Receiver<SessionEvent>,
    /// Where batches for each connected hub go.
    lanes: BTreeMap<HubId, mpsc::Sender<Bytes>>,
    /// Read from the spool and not sent yet.
    ready: VecDeque<Outgoing>,
    read_after: Option<Instant>,
    assembly: Assembly,
    assignment: watch::Sender<Arc<Assignment>>,
    assignment_file: PathBuf,
    status: SharedStatus,
    sessions: JoinSet<()>,
    stop: CancellationToken,
}

impl Uplink {
    /// An uplink whose sessions begin at once. To be called inside the runtime that it runs on.
    #[must_use]
    pub fn start(parts: UplinkParts, stop: CancellationToken) -> (Self, SharedStatus) {
        let (sender, events) = mpsc::channel(EVENTS_QUEUED);
        let (endpoint, status) = (Arc::new(parts.endpoint), SharedStatus::default());
        let durable = *parts.spool.subscribe_durable().borrow();
        let logic = Logic::new(parts.spool.epoch(), parts.spool.acked_below(), durable, parts.timing.window_bytes.0);
        let (spool, assignments) = (Arc::clone(&parts.spool), parts.assignment.clone());
        let (agent, http) = (parts.agent, parts.http);
        let hello = move || Hello {
            protocol: PROTOCOL,
            agent: agent.clone(),
            epoch: spool.epoch(),
            first_sequence: spool.acked_below(),
            next_sequence: spool.next_sequence(),
            http: http.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            assignment_epoch: assignments.borrow().epoch,
        };
        let session_parts = SessionParts {
            endpoint: Arc::clone(&endpoint),
            timing: parts.timing,
            hello: Arc::new(hello),
            load: parts.load,
            applied: parts.applied,
            events: sender,
            status: status.clone(),
            stop: stop.clone(),
        };
        let mut sessions = JoinSet::new();
        for hub in parts.hubs {
            sessions.spawn(keep_session(hub, session_parts.clone()));
        }
        let uplink = Self {
            logic,
            spool: parts.spool,
            endpoint,
            events,
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            read_after: None,
            assembly: Assembly::default(),
            assignment: parts.assignment,
            assignment_file: parts.assignment_file,
            status: status.clone(),
            sessions,
            stop,
        };
        (uplink, status)
    }

    /// Ships until it is stopped; then closes the sessions.
    pub async fn run(mut self) {
        let mut durable = self.spool.subscribe_durable();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let want = self.logic.want(Instant::now()).filter(|_| self.read_after.is_none_or(|at| Instant::now() >= at));
            let lane = want.and_then(|want| self.lanes.get(&want.hub).cloned());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(event) = self.events.recv() => self.take(event).await,
                Ok(()) = durable.changed() => {
                    let below = *durable.borrow_and_update();
                    self.handle(Event::Durable { below }).await;
                }
                Some(ended) = self.sessions.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                _ = tick.tick() => {
                    self.handle(Event::Tick).await;
                    self.publish();
                }
                permit = reserve(lane), if want.is_some() => {
                    if let (Some(want), Some(permit)) = (want, permit) {
                        self.ship(want, permit).await;
                    }
                }
            }
        }
        while self.sessions.join_next().await.is_some() {}
        self.endpoint.close(CloseCode::Shutdown, "the agent is stopping").await;
    }

    async fn take(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Up { hub, batches, leader, applied_below } => {
                self.lanes.insert(hub, batches);
                self.handle(Event::Connected { hub, leader, applied_below }).await;
            }
            SessionEvent::Down { hub } => {
                self.lanes.remove(&hub);
                self.handle(Event::Disconnected { hub }).await;
            }
            SessionEvent::Said { hub, message } => match message {
                HubMessage::Leader(leader) => self.handle(Event::Led { hub, leader }).await,
                HubMessage::Ack { epoch, applied_below } => self.handle(Event::Acked { epoch, applied_below }).await,
                HubMessage::Refused { epoch, sequence, refusal } => {
                    tracing::debug!(hub, sequence, ?refusal, "batch refused");
                    self.handle(Event::Refused { hub, epoch, sequence, refusal }).await;
                }
                HubMessage::Assignment(part) => self.assign(part).await,
                HubMessage::Welcome { .. } | HubMessage::Heartbeat { .. } | HubMessage::Goodbye { .. } => {}
            },
        }
    }

    /// Passes an event to the logic and performs what it says.
    async fn handle(&mut self, event: Event) {
        let before = self.logic.tally().impossible_acks;
        for effect in self.logic.handle(event, Instant::now()) {
            let outcome = match effect {
                Effect::Acknowledge { below } => {
                    self.spool.acknowledge(below);
                    continue;
                }
                Effect::Amend { sequence } => self.on_spool(move |spool| spool.amend(sequence)).await,
                Effect::GiveUp { sequence, why } => self.on_spool(move |spool| spool.give_up(sequence, &why)).await,
            };
            self.ready.clear();
            if let Err(error) = outcome {
                tracing::error!(%error, "a batch that the hub refuses cannot be replaced now");
            }
        }
        if self.logic.tally().impossible_acks > before {
            tracing::error!(
                epoch = self.spool.epoch(),
                "a hub acknowledges batches that this spool never wrote: were its files put back from a copy?"
            );
        }
    }

    /// Runs something that blocks on the disk elsewhere.
    async fn on_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let spool = Arc::clone(&self.spool);
        match tokio::task::spawn_blocking(move || work(&spool)).await {
            Ok(result) => result,
            // A panic in the spool ends the process, as that of any thread of the spool does.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Sends the next batch; reads more from the spool when there is none at hand.
    async fn ship(&mut self, want: Want, permit: mpsc::OwnedPermit<Bytes>) {
        if self.ready.front().is_none_or(|batch| batch.sequence != want.sequence) {
            let read = self.on_spool(move |spool| spool.read(want.sequence, want.bytes.min(READ_BYTES))).await;
            self.ready = match read {
                Ok(batches) => batches.into(),
                Err(error) => {
                    self.status.guard().read_failures += 1;
                    tracing::error!(%error, sequence = want.sequence, "the spool cannot be read");
                    VecDeque::new()
                }
            };
        }
        match self.ready.pop_front() {
            Some(batch) => {
                self.read_after = None;
                self.logic.sent(batch.sequence, batch.covers, batch.bytes.len() as u64, Instant::now());
                permit.send(batch.bytes);
            }
            None => self.read_after = Some(Instant::now() + READ_RETRY),
        }
    }

    async fn assign(&mut self, part: AssignmentPart) {
        let current = self.assignment.borrow().epoch;
        let assignment = match self.assembly.take(part, current) {
            Ok(Some(assignment)) => Arc::new(assignment),
            Ok(None) => return,
            Err(error) => {
                self.status.guard().bad_assignment_parts += 1;
                tracing::error!(%error, "a part of an assignment is not used");
                return;
            }
        };
        tracing::info!(epoch = assignment.epoch, devices = assignment.devices.len(), "new assignment");
        let (path, kept) = (self.assignment_file.clone(), Arc::clone(&assignment));
        match tokio::task::spawn_blocking(move || assignment::save(&path, &kept)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "after a restart while cut off the agent would poll by an older assignment"),
            Err(error) => tracing::error!(%error, "keeping the assignment failed"),
        }
        self.assignment.send_replace(assignment);
    }

    fn publish(&self) {
        let mut status = self.status.guard();
        let leader = self.logic.named_leader();
        status.term = leader.map(|(term, _)| term);
        status.leader = leader.map(|(_, hub)| hub);
        status.shipping_to = self.logic.target();
        status.acked_below = self.logic.acked_below();
        status.in_flight_bytes = self.logic.in_flight_bytes();
        status.tally = self.logic.tally();
    }
}

/// A place in a session's queue; never ready where there is no session, nothing where it has just ended.
async fn reserve(lane: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    match lane {
        Some(lane) => match lane.reserve_owned().await {
            Ok(permit) => Some(permit),
            // The session is ending; the actor hears of it in a moment.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                None
            }
        },
        None => std::future::pending().await,
    }
}
