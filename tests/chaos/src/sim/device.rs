//! One device: who it is, what it answers from, how it misbehaves, and what it has answered.
//!
//! Templates and recordings are shared, so a device costs a few hundred octets. Handling a datagram does no I/O
//! and reads no clock; the server passes the time in and sends what comes out.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::chance::{Chance, mix};

use super::{
    answer::{self, Scratch},
    error::SimulatorError,
    fault::{self, Faults, Malformed, Pin, Reboot, Renumber, Start},
    ledger::{DeviceLedger, LedgerSeries},
    recording::Recording,
    replay::ReplayView,
    response::Status,
    synthesised::{Identity, SynthesisedView},
    template::Template,
};

const LONGEST_AGE_MS: u64 = 300 * 86_400_000;
const DEFAULT_WRAP_AFTER_S: u32 = 30;

/// What a device answers from.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Synthesised(Arc<Template>),
    Replay { recording: Arc<Recording>, animated: bool },
}

/// Time as a device knows it while one request is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Since the device started, milliseconds.
    pub(crate) up_ms: u64,
    /// Length of a day, milliseconds.
    pub(crate) day_ms: u64,
}

impl Clock {
    /// sysUpTime (RFC 3418): hundredths of a second, modulo 2^32.
    pub(crate) fn up_ticks(&self) -> u64 {
        (self.up_ms / 10) & 0xffff_ffff
    }
}

/// Where counters began at the last start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StartOffset {
    Zero,
    High,
    NearWrap { after_ms: u32 },
}

/// What has happened to a device so far, as far as its data shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) rotate: u32,
    pub(crate) shift: u32,
    /// sysUpTime when interfaces were last renumbered.
    pub(crate) renumbered_ticks: u64,
    pub(crate) pinned: Option<(u32, u64)>,
    pub(crate) offset: StartOffset,
    pub(crate) rebooted: bool,
}

#[derive(Debug)]
struct State {
    booted_ms: i64,
    conditions: Conditions,
    faults: Faults,
    chance: Chance,
}

/// How a device is set up.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSetup {
    pub(crate) name: String,
    pub(crate) pop: Arc<str>,
    pub(crate) address: Ipv4Addr,
    pub(crate) community: Arc<str>,
    pub(crate) content: Content,
    pub(crate) key: u64,
    pub(crate) epoch_ms: i64,
    pub(crate) day_ms: u64,
    pub(crate) start: Reboot,
    pub(crate) pinned: Option<u64>,
    pub(crate) max_size: usize,
}

/// One simulated device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: Box<str>,
    pub(crate) pop: Arc<str>,
    pub(crate) address: Ipv4Addr,
    pub(crate) community: Arc<str>,
    pub(crate) content: Content,
    key: u64,
    day_ms: u64,
    max_size: usize,
    /// The counter its group pins, where no fault says otherwise.
    pinned: Option<(u32, u64)>,
    state: Mutex<State>,
    ledger: Option<Mutex<DeviceLedger>>,
}

/// A reply waiting in the scratch buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) delay_ms: u32,
    pub(crate) source: Ipv4Addr,
    pub(crate) copies: u8,
}

/// Why a datagram gets no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    NotARequest,
    WrongCommunity,
    Silent,
    Lost,
}

impl Device {
    pub(crate) fn new(setup: DeviceSetup, ledger_limit: Option<usize>) -> Self {
        let interfaces = match &setup.content {
            Content::Synthesised(template) => template.interfaces.len() as u32,
            Content::Replay { .. } => 0,
        };
        let aged = matches!(setup.content, Content::Synthesised(_)) && setup.start.start == Start::Aged;
        let age_ms = if aged { (mix(setup.key) % LONGEST_AGE_MS) as i64 } else { 0 };
        let pinned = setup.pinned.and_then(|value| Some((interfaces.checked_sub(1)?, value)));
        let conditions = Conditions {
            rotate: 0,
            shift: 0,
            renumbered_ticks: 0,
            pinned,
            offset: offset(setup.start),
            rebooted: setup.start.start != Start::Aged,
        };
        let state = State { booted_ms: setup.epoch_ms - age_ms, conditions, faults: Faults::default(), chance: Chance::new(setup.key) };
        Self {
            name: setup.name.into_boxed_str(),
            pop: setup.pop,
            address: setup.address,
            community: setup.community,
            content: setup.content,
            key: setup.key,
            day_ms: setup.day_ms,
            max_size: setup.max_size,
            pinned,
            state: Mutex::new(state),
            ledger: ledger_limit.map(|limit| Mutex::new(DeviceLedger::new(limit))),
        }
    }

    /// Names of its interfaces.
    pub(crate) fn interfaces(&self) -> usize {
        match &self.content {
            Content::Synthesised(template) => template.interfaces.len(),
            Content::Replay { recording, .. } => recording.interfaces().len(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one datagram at this time; the reply is left in `scratch`.
    pub(crate) fn handle(&self, datagram: &[u8], now_ms: i64, scratch: &mut Scratch) -> Result<Reply, Unanswered> {
        scratch.request.read(datagram).map_err(|_| Unanswered::NotARequest)?;
        if scratch.request.community(datagram) != self.community.as_bytes() {
            return Err(Unanswered::WrongCommunity);
        }
        let (faults, conditions, clock, malformed) = {
            let mut state = self.state();
            let faults = state.faults;
            if faults.silent {
                return Err(Unanswered::Silent);
            }
            if state.chance.hit(faults.loss) {
                return Err(Unanswered::Lost);
            }
            let malformed = faults.malformed.filter(|_| state.chance.hit(faults.malformed_share.unwrap_or(1.0)));
            (faults, state.conditions, self.clock(state.booted_ms, now_ms), malformed)
        };
        let max_size = faults.max_size.map_or(self.max_size, |size| size as usize);
        match &self.content {
            Content::Synthesised(template) => {
                let identity = Identity { name: &self.name, location: &self.pop, key: self.key };
                answer::answer(&SynthesisedView::new(template, identity, clock, conditions), datagram, max_size, scratch);
            }
            Content::Replay { recording, animated } => {
                let view = ReplayView { recording, key: self.key, animated: *animated, clock, conditions };
                answer::answer(&view, datagram, max_size, scratch);
            }
        }
        let mut reply = Reply { delay_ms: faults.delay_ms, source: self.address, copies: if faults.duplicate { 2 } else { 1 } };
        if faults.jitter_ms > 0 {
            reply.delay_ms += self.state().chance.up_to(faults.jitter_ms);
        }
        match (malformed, &self.ledger) {
            (Some(kind), _) => self.spoil(kind, datagram, scratch, &mut reply),
            (None, Some(ledger)) if !scratch.noted.is_empty() => {
                let answered_ms = now_ms + i64::from(reply.delay_ms);
                ledger.lock().unwrap_or_else(PoisonError::into_inner).record(answered_ms, scratch.request.request_id, &scratch.noted);
            }
            _ => {}
        }
        Ok(reply)
    }

    fn clock(&self, booted_ms: i64, now_ms: i64) -> Clock {
        Clock { up_ms: u64::try_from(now_ms - booted_ms).unwrap_or(0), day_ms: self.day_ms }
    }

    /// Turns the right reply into a wrong one.
    fn spoil(&self, kind: Malformed, datagram: &[u8], scratch: &mut Scratch, reply: &mut Reply) {
        match kind {
            Malformed::Truncated => {
                let message = scratch.response.message();
                let half = message[..message.len() / 2].to_vec();
                scratch.response.replace(&half);
            }
            Malformed::WrongRequestId => {
                scratch.request.request_id ^= 0x0055_aa55;
                scratch.response.finish(&scratch.request, scratch.request.community(datagram), Status::NoError, 0);
            }
            Malformed::WrongSource => {
                let [_, _, third, fourth] = self.address.octets();
                reply.source = Ipv4Addr::new(127, 127, third, fourth);
            }
            Malformed::NestedBer => scratch.response.replace(&fault::nested_ber()),
            Malformed::Garbage => {
                let octets = fault::garbage(&mut self.state().chance);
                scratch.response.replace(&octets);
            }
        }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        let mut state = self.state();
        state.conditions.pinned = faults.pin.map(|Pin { interface, value }| (interface, value)).or(self.pinned);
        state.faults = faults;
    }

    pub(crate) fn reboot(&self, reboot: Reboot, now_ms: i64) {
        let mut state = self.state();
        state.booted_ms = now_ms;
        state.conditions.offset = offset(reboot);
        state.conditions.rebooted = true;
        state.conditions.renumbered_ticks = 0;
    }

    pub(crate) fn renumber(&self, renumber: Renumber, now_ms: i64) -> Result<(), SimulatorError> {
        let Content::Synthesised(template) = &self.content else {
            return Err(SimulatorError::Unsupported { device: self.name.to_string(), reason: "a recording cannot be renumbered" });
        };
        let mut state = self.state();
        let ticks = self.clock(state.booted_ms, now_ms).up_ticks();
        let conditions = &mut state.conditions;
        let count = (template.interfaces.len() as u32).max(1);
        conditions.rotate = (conditions.rotate % count + renumber.rotate % count) % count;
        // ifIndex is an Integer32 (RFC 2863 section 3.1.5).
        let most = i32::MAX as u32 - template.first_index - count;
        conditions.shift = conditions.shift.saturating_add(renumber.shift).min(most);
        conditions.renumbered_ticks = ticks;
        Ok(())
    }

    /// What it answered in `from_ms..to_ms`; nothing where no ledger is kept.
    pub(crate) fn ledger(&self, from_ms: i64, to_ms: i64) -> Vec<LedgerSeries> {
        let Some(ledger) = &self.ledger else { return Vec::new() };
        let if_name = |position: u16| match &self.content {
            Content::Synthesised(template) => template.interfaces.get(usize::from(position)).map(|interface| interface.name.clone()),
            Content::Replay { recording, .. } => recording.interfaces().get(usize::from(position)).cloned(),
        };
        let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.read(&self.name, &self.pop, from_ms, to_ms, |position| if_name(position).unwrap_or_default())
    }
}

fn offset(reboot: Reboot) -> StartOffset {
    match reboot.start {
        Start::Aged | Start::Zero => StartOffset::Zero,
        Start::High => StartOffset::High,
        Start::NearWrap => StartOffset::NearWrap { after_ms: reboot.wrap_after_s.unwrap_or(DEFAULT_WRAP_AFTER_S).saturating_mul(1000) },
    }
}
