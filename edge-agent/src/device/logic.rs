//! The state machine of one device: no clock, no I/O, no runtime.
//!
//! ```text
//! wait -> [probe] -> [facts -> walk of each table] -> scalars -> poll of each table -> round -> wait
//!            |               ^                            |
//!            |               +---- sysUpTime went back or a watch changed: nothing of that answer is attributed
//!          breaker open
//! ```
//!
//! [`DeviceLogic::next`] says what to do; [`DeviceLogic::on_reply`] and [`DeviceLogic::on_failure`] take the outcome of a request. There
//! is never more than one request outstanding. A round always ends in a [`Next::Round`], whatever the device does.

use std::sync::Arc;
use std::time::Duration;

use anemone_model::{Community, Name, Sample};

use super::breaker::{Breaker, Permit};
use super::emit::Samples;
use super::inventory::{Gather, Slot, TableState, UNREGISTERED};
use super::poll::PollStage;
use super::scalars::{STRIKES_MAX, Verdict, get, leave_out, place, uptime_instance, value_at};
use super::schedule::Schedule;
use super::uptime::Uptime;
use super::{DeviceMemory, FailureReason, Health, SampleSink};
use crate::collector::snmp::ber::{self, Message};
use crate::collector::snmp::engine::ExchangeError;
use crate::collector::snmp::limits::Limits;
use crate::collector::snmp::request::{Ask, EncodeError, EncodedRequest};
use crate::collector::snmp::rtt::{RttEstimator, TimeoutBounds};
use crate::collector::snmp::walk::Walk;
use crate::profiles::Profile;

/// RFC 3416, 3: authorizationError concerns the whole request.
const STATUS_AUTHORIZATION: u32 = 16;
/// Inventories within one round before it is given up.
const INVENTORIES_MAX: u8 = 3;

/// Which device, and how often.
#[derive(Debug, Clone)]
pub struct Target {
    /// Label `pop`.
    pub pop: Name,
    /// Label `device`.
    pub device: Name,
    /// SNMP v2c community.
    pub community: Community,
    /// Poll interval.
    pub interval: Duration,
}

/// What does not depend on the device.
#[derive(Debug, Clone, Copy)]
pub struct LogicOptions {
    /// Bounds of the adaptive time-out.
    pub timeouts: TimeoutBounds,
    /// How often a request is sent before it counts as unanswered.
    pub attempts: u32,
    /// How often rows and labels are read again.
    pub inventory_interval: Duration,
    /// Least time between inventories that only a missing or unknown row asks for.
    pub inventory_gap: Duration,
}

impl Default for LogicOptions {
    fn default() -> Self {
        Self {
            timeouts: TimeoutBounds::default(),
            attempts: 3,
            inventory_interval: Duration::from_secs(1800),
            inventory_gap: Duration::from_secs(60),
        }
    }
}

/// The time, as the caller has it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Of a clock that does not jump, from any origin.
    pub elapsed: Duration,
    /// Milliseconds since 1970 UTC.
    pub wall_ms: i64,
}

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Nothing for so long.
    Wait(Duration),
    /// Send this and report the outcome.
    Send {
        /// The request.
        request: EncodedRequest,
        /// How long to wait for the reply.
        timeout: Duration,
    },
    /// Hand on the samples of a round.
    Round(Vec<(u32, Sample)>),
}

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestFailure {
    /// No reply in time; the fault of a malformed one, if there was one.
    Timeout(Option<String>),
    /// It could not be sent.
    Send(String),
    /// The engine was too busy to take it.
    Busy,
}

impl From<ExchangeError> for RequestFailure {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Timeout { malformed, .. } => Self::Timeout(malformed.map(|fault| fault.to_string())),
            ExchangeError::Busy { .. } => Self::Busy,
            other => Self::Send(other.to_string()),
        }
    }
}

pub(super) enum Stage {
    Probe,
    /// Left out: objects the device answers with an error, by place.
    Facts {
        left_out: u64,
    },
    Walk {
        table: usize,
        walk: Box<Walk>,
        found: Gather,
    },
    Scalars {
        left_out: u64,
    },
    Poll(PollStage),
    Done,
}

pub(super) struct Round {
    pub(super) started: Duration,
    pub(super) stage: Stage,
    pub(super) attempt: u32,
    pub(super) answered: bool,
    pub(super) skipped: bool,
    pub(super) failure: Option<FailureReason>,
    pub(super) inventories: u8,
    /// Watches whose change asked for the inventory under way.
    pub(super) moved_by: u64,
    /// Rows or labels differ from those before the inventory.
    pub(super) rows_changed: bool,
    pub(super) samples: Samples,
    /// sysUpTime and when it was received.
    pub(super) uptime: Option<(u32, i64)>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Watch {
    pub(super) value: Option<u64>,
    pub(super) strikes: u8,
}

/// Series of the device itself.
pub(super) struct OwnSeries {
    pub(super) up: u32,
    pub(super) uptime: u32,
    pub(super) duration: u32,
    pub(super) info: u32,
}

/// One device.
pub struct DeviceLogic {
    pub(super) target: Target,
    pub(super) profile: Arc<Profile>,
    pub(super) options: LogicOptions,
    pub(super) rtt: RttEstimator,
    pub(super) limits: Limits,
    breaker: Breaker,
    pub(super) schedule: Schedule,
    pub(super) uptime: Option<Uptime>,
    /// sysUpTime of an earlier run; a later discontinuity time has not been seen.
    pub(super) known_ticks: Option<u32>,
    pub(super) watches: Vec<Watch>,
    pub(super) facts: Vec<Box<str>>,
    pub(super) tables: Vec<TableState>,
    pub(super) scalars: Vec<Slot>,
    pub(super) own: OwnSeries,
    /// When rows were last read.
    pub(super) inventory_at: Option<Duration>,
    inventory_wanted: bool,
    /// A row was missing or unknown.
    pub(super) inventory_suspected: bool,
    /// It restarted before its rows were known: they are marked once they are.
    pub(super) restarted_unseen: bool,
    answered_once: bool,
    pub(super) round: Option<Box<Round>>,
    pub(super) health: Health,
}

impl DeviceLogic {
    /// A device that was just assigned, or whose task restarts; `memory` is what was known of it.
    #[must_use]
    pub fn new(target: Target, profile: Arc<Profile>, options: LogicOptions, memory: DeviceMemory, now: Now) -> Self {
        let at_ms = |read_ms: i64| millis(now.elapsed).saturating_sub(now.wall_ms.saturating_sub(read_ms).max(0));
        Self {
            schedule: Schedule::new(target.device.as_str(), target.interval, now.wall_ms),
            rtt: RttEstimator::new(),
            limits: if memory.varbinds == 0 { Limits::default() } else { Limits::remembered(memory.varbinds) },
            breaker: Breaker::default(),
            uptime: memory.uptime.map(|(ticks, read_ms)| Uptime { ticks, at_ms: at_ms(read_ms) }),
            known_ticks: memory.uptime.map(|(ticks, _)| ticks),
            watches: vec![Watch::default(); profile.watches.len()],
            facts: vec![Box::from(""); profile.facts.len()],
            tables: profile.tables.iter().map(|_| TableState::default()).collect(),
            scalars: profile.scalars.iter().map(|_| Slot::new(None)).collect(),
            own: OwnSeries { up: UNREGISTERED, uptime: UNREGISTERED, duration: UNREGISTERED, info: UNREGISTERED },
            inventory_at: None,
            inventory_wanted: true,
            inventory_suspected: false,
            restarted_unseen: false,
            answered_once: memory.uptime.is_some(),
            round: None,
            health: Health::default(),
            target,
            profile,
            options,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.target.device
    }

    /// What is known about its health.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The facts of the last inventory: label and text.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.profile.facts.iter().map(|fact| fact.label.as_str()).zip(self.facts.iter().map(|text| &**text))
    }

    /// What to keep of it for a restart.
    #[must_use]
    pub fn memory(&self, now: Now) -> DeviceMemory {
        let read_ms = |at_ms: i64| now.wall_ms.saturating_sub(millis(now.elapsed).saturating_sub(at_ms));
        let uptime = self.uptime.map(|uptime| (uptime.ticks, read_ms(uptime.at_ms)));
        DeviceMemory { uptime, varbinds: u16::try_from(self.limits.varbinds()).unwrap_or(0) }
    }

    /// What to do next. Not to be called between a [`Next::Send`] and the report of its outcome.
    pub fn next(&mut self, now: Now, sink: &dyn SampleSink) -> Next {
        loop {
            let Some(mut round) = self.round.take() else {
                let wait = self.schedule.wait(now.wall_ms);
                if !wait.is_zero() {
                    return Next::Wait(wait);
                }
                self.round = Some(Box::new(self.begin(now)));
                continue;
            };
            if matches!(round.stage, Stage::Done) {
                return Next::Round(self.finish(*round, now, sink));
            }
            let request = self.request(&mut round, now);
            match request {
                Ok(Some(request)) => {
                    self.health.requests += 1;
                    let timeout = self.rtt.timeout(&self.options.timeouts, round.attempt);
                    self.round = Some(round);
                    return Next::Send { request, timeout };
                }
                Ok(None) => {}
                Err(error) => round.fail(FailureReason::Encode(error.to_string())),
            }
            self.round = Some(round);
        }
    }

    fn begin(&mut self, now: Now) -> Round {
        let permit = self.breaker.permit(now.elapsed);
        let stage = match permit {
            Permit::Full => self.first_stage(now),
            Permit::Probe => Stage::Probe,
            Permit::Skip => Stage::Done,
        };
        Round {
            started: now.elapsed,
            stage,
            attempt: 0,
            answered: false,
            skipped: permit == Permit::Skip,
            failure: None,
            inventories: 0,
            moved_by: 0,
            rows_changed: false,
            samples: Samples::default(),
            uptime: None,
        }
    }

    fn first_stage(&mut self, now: Now) -> Stage {
        let age = self.inventory_at.map(|at| now.elapsed.saturating_sub(at));
        let regular = age.is_none_or(|age| age >= self.options.inventory_interval);
        if regular && self.inventory_at.is_some() {
            self.limits.relax();
            self.watches.iter_mut().for_each(|watch| watch.strikes = 0);
        }
        let suspected = self.inventory_suspected && age.is_none_or(|age| age >= self.options.inventory_gap);
        if self.inventory_wanted || regular || suspected { Stage::Facts { left_out: 0 } } else { Stage::Scalars { left_out: 0 } }
    }

    /// The request of the stage at hand, or `None` if the stage is over.
    fn request(&mut self, round: &mut Round, now: Now) -> Result<Option<EncodedRequest>, EncodeError> {
        if matches!(round.stage, Stage::Scalars { .. }) && self.profile.scalars.is_empty() {
            match self.next_poll(0, round.samples.taken.len())? {
                // Nothing else to ask: sysUpTime still says whether the device is there.
                Stage::Done if !round.answered => {}
                next => {
                    round.stage = next;
                    return Ok(None);
                }
            }
        }
        let community = self.target.community.reveal().as_bytes();
        match &mut round.stage {
            Stage::Done => Ok(None),
            Stage::Probe => EncodedRequest::new(community, Ask::Get, uptime_instance()).map(Some),
            Stage::Facts { left_out } => {
                let objects = self.profile.watches.iter().chain(self.profile.facts.iter().map(|fact| &fact.object));
                get(community, objects, *left_out).map(Some)
            }
            Stage::Scalars { left_out } => {
                let objects = self.profile.watches.iter().chain(self.profile.scalars.iter().map(|scalar| &scalar.object));
                get(community, objects, *left_out).map(Some)
            }
            Stage::Walk { table, walk, .. } => {
                if walk.ask(&self.limits) {
                    return walk.request(&self.profile.tables[*table].columns, community, &self.repeated()).map(Some);
                }
                self.walked(round, now);
                Ok(None)
            }
            Stage::Poll(poll) => self.poll_request(poll).map(Some),
        }
    }

    /// Takes the reply to the request at hand.
    pub fn on_reply(&mut self, now: Now, datagram: &[u8], received_ms: i64, round_trip: Duration, sink: &dyn SampleSink) {
        let Some(mut round) = self.round.take() else { return };
        match ber::read(datagram) {
            Err(fault) => round.fail(FailureReason::Malformed(fault.to_string())),
            Ok(message) => {
                self.rtt.measured(round_trip);
                (self.answered_once, round.answered) = (true, true);
                self.answered(&mut round, now, &message, datagram.len(), received_ms, sink);
                round.attempt = 0;
            }
        }
        self.round = Some(round);
    }

    fn answered(&mut self, round: &mut Round, now: Now, message: &Message<'_>, bytes: usize, received_ms: i64, sink: &dyn SampleSink) {
        if message.error_status == STATUS_AUTHORIZATION {
            return round.fail(FailureReason::Refused(STATUS_AUTHORIZATION));
        }
        match std::mem::replace(&mut round.stage, Stage::Done) {
            Stage::Done => {}
            Stage::Probe => {
                self.scalars_said(round, now, message, received_ms, |_| None);
                self.breaker.answered();
                round.stage = self.first_stage(now);
            }
            Stage::Facts { left_out } => self.facts_answered(round, now, message, received_ms, left_out),
            Stage::Walk { table, mut walk, mut found } => {
                if message.error_status == 0 && self.repeated_said(round, now, message, received_ms) == Verdict::Moved {
                    return self.read_rows_again(round);
                }
                let shape = &self.profile.tables[table];
                let scalars = self.repeated_count();
                walk.answered(&shape.columns, message, scalars, &mut self.limits, |column, index, value| {
                    found.add(shape, column, index, value);
                });
                round.stage = Stage::Walk { table, walk, found };
            }
            Stage::Scalars { left_out } => self.scalars_answered(round, now, message, received_ms, left_out, sink),
            Stage::Poll(poll) => {
                if message.error_status == 0 && self.repeated_said(round, now, message, received_ms) == Verdict::Moved {
                    return self.read_rows_again(round);
                }
                self.poll_answered(round, poll, message, bytes, received_ms, sink);
            }
        }
    }

    /// Rows may have moved: they are read again before anything is attributed.
    pub(super) fn read_rows_again(&mut self, round: &mut Round) {
        self.inventory_wanted = true;
        self.discard(round, 0);
        round.inventories += 1;
        if round.inventories > INVENTORIES_MAX {
            return round.fail(FailureReason::Unstable);
        }
        round.stage = Stage::Facts { left_out: 0 };
    }

    fn facts_answered(&mut self, round: &mut Round, now: Now, message: &Message<'_>, received_ms: i64, left_out: u64) {
        if message.error_status != 0 {
            let places = self.watches.len() + self.facts.len();
            return match leave_out(message, left_out, places) {
                Some(left_out) => round.stage = Stage::Facts { left_out },
                None => round.fail(FailureReason::Refused(message.error_status)),
            };
        }
        self.watches.iter_mut().for_each(|watch| watch.value = None);
        self.scalars_said(round, now, message, received_ms, |watch| place(watch, left_out));
        let mut texts: Vec<Box<str>> = Vec::with_capacity(self.facts.len());
        for (at, fact) in self.profile.facts.iter().enumerate() {
            let value = place(self.watches.len() + at, left_out).and_then(|place| value_at(message, place, &fact.object.octets));
            texts.push(value.and_then(super::inventory::text).unwrap_or_default().into());
        }
        if texts != self.facts {
            self.facts = texts;
            self.own.info = UNREGISTERED;
        }
        round.rows_changed = false;
        round.stage = self.walk_stage(0);
    }

    fn walk_stage(&self, table: usize) -> Stage {
        match self.profile.tables.get(table) {
            Some(shape) => Stage::Walk { table, walk: Box::new(Walk::new(shape.columns.len(), shape.rows_max)), found: Gather::default() },
            None => Stage::Scalars { left_out: 0 },
        }
    }

    /// The walk of a table has ended.
    fn walked(&mut self, round: &mut Round, now: Now) {
        let Stage::Walk { table, walk, found } = std::mem::replace(&mut round.stage, Stage::Done) else { return };
        self.health.bad_varbinds += walk.bad_varbinds();
        self.health.column_faults += walk.faults().count() as u64;
        let first = self.inventory_at.is_none();
        round.rows_changed |= self.tables[table].replace(&self.profile.tables[table], found, first);
        if self.restarted_unseen {
            self.tables[table].restarted(&self.profile.tables[table]);
        }
        round.stage = self.walk_stage(table + 1);
        if matches!(round.stage, Stage::Walk { .. }) {
            return;
        }
        for (at, watch) in self.watches.iter_mut().enumerate().filter(|(at, _)| round.moved_by >> at & 1 == 1) {
            watch.strikes = if round.rows_changed { 0 } else { watch.strikes + 1 };
            if watch.strikes == STRIKES_MAX {
                tracing::info!(device = %self.target.device, object = %self.profile.watches[at].name, "changes without rows changing; not believed until the next inventory");
            }
        }
        round.moved_by = 0;
        (self.inventory_at, self.inventory_wanted, self.inventory_suspected) = (Some(now.elapsed), false, false);
        self.restarted_unseen = false;
        self.health.inventories += 1;
        self.health.rows = self.tables.iter().map(|state| state.rows.len() as u64).sum();
    }

    /// Takes the failure of the request at hand: it is tried again, or the round ends.
    pub fn on_failure(&mut self, failure: RequestFailure) {
        let Some(mut round) = self.round.take() else { return };
        match failure {
            RequestFailure::Send(why) => round.fail(FailureReason::Send(why)),
            RequestFailure::Busy => round.fail(FailureReason::Overloaded),
            RequestFailure::Timeout(malformed) => self.unanswered(&mut round, malformed),
        }
        self.round = Some(round);
    }

    fn unanswered(&mut self, round: &mut Round, malformed: Option<String>) {
        round.attempt += 1;
        let attempts = if matches!(round.stage, Stage::Probe) { 2 } else { self.options.attempts.max(1) };
        if round.attempt >= attempts {
            return round.fail(match malformed {
                Some(fault) => FailureReason::Malformed(fault),
                None if self.answered_once => FailureReason::Timeout { attempts },
                None => FailureReason::NoAnswer,
            });
        }
        self.health.retries += 1;
        // Lost once is bad luck; lost twice may be an answer too long for the path.
        if round.attempt >= 2 {
            match &mut round.stage {
                Stage::Walk { walk, .. } => drop(self.limits.shrink(walk.varbinds())),
                Stage::Poll(poll) => poll.halve(),
                _ => {}
            }
        }
    }

    /// Keeps breaker and schedule after a round.
    pub(super) fn settle(&mut self, round: &Round, now: Now) {
        if round.answered {
            self.breaker.answered();
        } else if !round.skipped && round.failure != Some(FailureReason::Overloaded) {
            self.breaker.silent(now.elapsed, self.target.interval);
        }
        self.health.breaker_open = self.breaker.is_open();
        self.health.rounds_missed += self.schedule.advance(now.wall_ms);
    }
}

impl Round {
    pub(super) fn fail(&mut self, reason: FailureReason) {
        self.failure = Some(reason);
        self.stage = Stage::Done;
    }
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
