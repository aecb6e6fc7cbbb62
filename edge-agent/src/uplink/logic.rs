//! What to ship to whom: the uplink's decisions, without clock, I/O or runtime.
//!
//! ```text
//! below acked_below      the hub has applied it; never sent again
//! acked_below .. next    in flight to the leader
//! next .. durable_below  waits: for a leader, for room in the window, for a pause to end
//! ```
//!
//! Shipping is at least once. Whenever the leader or the session with it changes, `next` goes back to `acked_below`; the hub drops
//! what it has already applied. Batches leave in order of sequence, since later ones use what earlier ones define.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anemone_model::HubId;
use anemone_wire::control::{Leader, Refusal};

/// How long a hub that said "not me" is passed over while nobody names another leader.
const NOT_LEADER_PAUSE: Duration = Duration::from_millis(500);
/// How long a leader may leave batches unanswered before they are sent again.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before a batch is tried again that was refused even as a bare gap.
const HOPELESS_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause a busy hub may ask for.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A hub greeted this agent.
    Connected {
        /// Which.
        hub: HubId,
        /// Whom it holds for the leader.
        leader: Leader,
        /// What of this agent's epoch it has applied.
        applied_below: u64,
    },
    /// A session ended.
    Disconnected {
        /// With which hub.
        hub: HubId,
    },
    /// A hub says who leads.
    Led {
        /// Which hub says so.
        hub: HubId,
        /// Whom it names.
        leader: Leader,
    },
    /// A hub has applied batches.
    Acked {
        /// Of which spool epoch.
        epoch: u64,
        /// Everything below.
        applied_below: u64,
    },
    /// A hub did not take a batch.
    Refused {
        /// Which hub.
        hub: HubId,
        /// Of which spool epoch.
        epoch: u64,
        /// Which batch.
        sequence: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The spool has flushed more.
    Durable {
        /// Everything below is on disk.
        below: u64,
    },
    /// Time has passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell the spool that it may let go of everything below.
    Acknowledge {
        /// Everything below is applied.
        below: u64,
    },
    /// Ship this batch again with the definitions that the hub lacks, or give it up where they are lost.
    Amend {
        /// Which.
        sequence: u64,
    },
    /// Put a gap in the place of this batch: it will never be taken.
    GiveUp {
        /// Which.
        sequence: u64,
        /// What the hub said.
        why: String,
    },
}

/// What to ship next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// To which hub.
    pub hub: HubId,
    /// The first sequence wanted.
    pub sequence: u64,
    /// About how many bytes of batches there is room for.
    pub bytes: u64,
}

/// Counts of things that should be rare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Batches sent, repetitions included.
    pub sent_batches: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Times that shipping went back to what was acknowledged.
    pub rewinds: u64,
    /// Refusals because the hub did not lead.
    pub refused_not_leader: u64,
    /// Refusals because the hub was busy.
    pub refused_busy: u64,
    /// Batches refused for good as malformed.
    pub refused_malformed: u64,
    /// Batches refused because of references that were never defined.
    pub refused_unknown_series: u64,
    /// Acknowledgements of batches that this spool never wrote: its files are older than what the hub was sent.
    pub impossible_acks: u64,
}

#[derive(Debug)]
struct Claim {
    leader: Leader,
    /// Set while the hub itself denies leading in this term.
    denied: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct InFlight {
    next: u64,
    bytes: u64,
}

/// The uplink's state.
#[derive(Debug)]
pub struct Logic {
    epoch: u64,
    window_bytes: u64,
    sessions: BTreeMap<HubId, Claim>,
    target: Option<HubId>,
    acked_below: u64,
    next: u64,
    durable_below: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    paused_until: Option<Instant>,
    progress_at: Option<Instant>,
    refusals: BTreeMap<u64, u8>,
    tally: Tally,
}

impl Logic {
    /// For a spool of this epoch that was acknowledged below `acked_below`.
    #[must_use]
    pub fn new(epoch: u64, acked_below: u64, durable_below: u64, window_bytes: u64) -> Self {
        Self {
            epoch,
            window_bytes,
            sessions: BTreeMap::new(),
            target: None,
            acked_below,
            next: acked_below,
            durable_below,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            paused_until: None,
            progress_at: None,
            refusals: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// The hub that batches go to, if one is known and connected.
    #[must_use]
    pub fn target(&self) -> Option<HubId> {
        self.target
    }

    /// Everything below is applied at the hub.
    #[must_use]
    pub fn acked_below(&self) -> u64 {
        self.acked_below
    }

    /// Bytes sent and not acknowledged.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Counts.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The newest leader that any connected hub names, whether connected itself or not.
    #[must_use]
    pub fn named_leader(&self) -> Option<(u64, HubId)> {
        self.sessions.values().filter_map(|claim| Some((claim.leader.term, claim.leader.hub?))).max()
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let effects = match event {
            Event::Connected { hub, leader, applied_below } => {
                if self.target == Some(hub) {
                    self.target = None;
                }
                self.sessions.insert(hub, Claim { leader, denied: None });
                self.acknowledge(applied_below, now)
            }
            Event::Disconnected { hub } => {
                self.sessions.remove(&hub);
                Vec::new()
            }
            Event::Led { hub, leader } => {
                if let Some(claim) = self.sessions.get_mut(&hub) {
                    claim.leader = leader;
                }
                Vec::new()
            }
            Event::Acked { epoch, applied_below } if epoch == self.epoch => self.acknowledge(applied_below, now),
            Event::Refused { hub, epoch, sequence, refusal } if epoch == self.epoch => self.refused(hub, sequence, refusal, now),
            Event::Acked { .. } | Event::Refused { .. } => Vec::new(),
            Event::Durable { below } => {
                self.durable_below = self.durable_below.max(below);
                Vec::new()
            }
            Event::Tick => {
                self.tick(now);
                Vec::new()
            }
        };
        self.retarget(now);
        effects
    }

    /// What to send now, if anything may be sent.
    #[must_use]
    pub fn want(&self, now: Instant) -> Option<Want> {
        let hub = self.target?;
        let paused = self.paused_until.is_some_and(|until| now < until);
        let room = self.window_bytes.saturating_sub(self.in_flight_bytes);
        (!paused && room > 0 && self.next < self.durable_below).then_some(Want { hub, sequence: self.next, bytes: room })
    }

    /// Notes that the batch with these sequences was handed to the session with the target.
    pub fn sent(&mut self, sequence: u64, covers: u64, bytes: u64, now: Instant) {
        let next = sequence.saturating_add(covers);
        if self.in_flight.is_empty() {
            self.progress_at = Some(now);
        }
        self.in_flight.push_back(InFlight { next, bytes });
        self.in_flight_bytes += bytes;
        self.next = self.next.max(next);
        self.tally.sent_batches += 1;
        self.tally.sent_bytes += bytes;
    }

    fn acknowledge(&mut self, below: u64, now: Instant) -> Vec<Effect> {
        let known = below.min(self.durable_below);
        if known < below {
            self.tally.impossible_acks += 1;
        }
        if known <= self.acked_below {
            return Vec::new();
        }
        self.acked_below = known;
        self.next = self.next.max(known);
        self.progress_at = Some(now);
        while self.in_flight.front().is_some_and(|sent| sent.next <= known) {
            let sent = self.in_flight.pop_front();
            self.in_flight_bytes -= sent.map_or(0, |sent| sent.bytes);
        }
        self.refusals = self.refusals.split_off(&known);
        vec![Effect::Acknowledge { below: known }]
    }

    fn refused(&mut self, hub: HubId, sequence: u64, refusal: Refusal, now: Instant) -> Vec<Effect> {
        if sequence < self.acked_below || self.target != Some(hub) {
            return Vec::new();
        }
        match refusal {
            Refusal::NotLeader => {
                self.tally.refused_not_leader += 1;
                let term = self.named_leader().map_or(0, |(term, _)| term);
                if let Some(claim) = self.sessions.get_mut(&hub) {
                    claim.denied = Some((term, now));
                }
                Vec::new()
            }
            Refusal::Busy { retry_ms } => {
                self.tally.refused_busy += 1;
                let pause = Duration::from_millis(u64::from(retry_ms)).min(BUSY_PAUSE_MAX);
                self.pause(now + pause);
                // What a hub missed may lie before the batch it turned away.
                self.rewind(self.acked_below);
                Vec::new()
            }
            Refusal::UnknownSeries { dictionary, reference } => {
                self.tally.refused_unknown_series += 1;
                let why = format!("reference {reference} of dictionary {dictionary} was never defined");
                self.replace(sequence, why, true, now)
            }
            Refusal::Malformed { why } => {
                self.tally.refused_malformed += 1;
                self.replace(sequence, why, false, now)
            }
        }
    }

    /// A batch that will not be taken as it is: amended first where that may help, then given up, then tried now and then.
    fn replace(&mut self, sequence: u64, why: String, amendable: bool, now: Instant) -> Vec<Effect> {
        self.rewind(sequence);
        let times = self.refusals.entry(sequence).or_insert(if amendable { 0 } else { 1 });
        *times = times.saturating_add(1);
        match *times {
            1 => vec![Effect::Amend { sequence }],
            2 | 3 => vec![Effect::GiveUp { sequence, why }],
            _ => {
                self.pause(now + HOPELESS_PAUSE);
                Vec::new()
            }
        }
    }

    fn pause(&mut self, until: Instant) {
        self.paused_until = Some(self.paused_until.map_or(until, |set| set.max(until)));
    }

    /// Goes back to `sequence`, forgetting what was in flight from there on.
    fn rewind(&mut self, sequence: u64) {
        if sequence >= self.next {
            return;
        }
        self.next = sequence.max(self.acked_below);
        while self.in_flight.back().is_some_and(|sent| sent.next > self.next) {
            let sent = self.in_flight.pop_back();
            self.in_flight_bytes -= sent.map_or(0, |sent| sent.bytes);
        }
        self.tally.rewinds += 1;
    }

    fn tick(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| now < *until);
        for claim in self.sessions.values_mut() {
            claim.denied = claim.denied.filter(|(_, at)| now.duration_since(*at) < NOT_LEADER_PAUSE);
        }
        let stuck = self.progress_at.is_some_and(|at| now.duration_since(at) >= PROGRESS_TIMEOUT);
        if stuck && !self.in_flight.is_empty() {
            self.progress_at = Some(now);
            self.rewind(self.acked_below);
        }
    }

    /// Chooses the hub to ship to; a change sends everything unacknowledged again.
    fn retarget(&mut self, now: Instant) {
        let chosen = self.named_leader().and_then(|(term, hub)| {
            let claim = self.sessions.get(&hub)?;
            let denied = claim.denied.is_some_and(|(denied, at)| denied >= term && now.duration_since(at) < NOT_LEADER_PAUSE);
            (!denied).then_some(hub)
        });
        if chosen != self.target {
            self.target = chosen;
            self.paused_until = None;
            self.rewind(self.acked_below);
        }
    }
}

#[cfg(test)]
#[path = "logic_tests.rs"]
mod tests;
