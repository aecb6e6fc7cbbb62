//! The scalars read with every answer: sysUpTime and the profile's watches, and what follows when they change.

use anemone_model::{Discontinuity, MetricKind};
use csnmp::ObjectIdentifier;

use super::logic::{DeviceLogic, Now, Round, millis};
use super::uptime::Uptime;
use crate::collector::snmp::ber::{self, Message};
use crate::collector::snmp::request::{Ask, EncodeError, EncodedRequest};
use crate::profiles::Object;

/// SNMPv2-MIB::sysUpTime, without and with its instance.
const SYS_UPTIME: &[u32] = &[1, 3, 6, 1, 2, 1, 1, 3];
const SYS_UPTIME_OCTETS: &[u8] = &[0x2b, 6, 1, 2, 1, 1, 3, 0];
/// Times a watch may cry wolf in a row before it is not believed until the next regular inventory.
pub(super) const STRIKES_MAX: u8 = 3;

/// What an answer's scalars say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Steady,
    Moved,
}

impl DeviceLogic {
    /// The scalars asked with each request of a table, as GetBulk wants them: without their instance.
    pub(super) fn repeated(&self) -> Vec<ObjectIdentifier> {
        let supported = self.profile.watches.iter().zip(&self.watches).filter(|(_, watch)| watch.value.is_some());
        let uptime = ObjectIdentifier::try_from(SYS_UPTIME).ok();
        uptime.into_iter().chain(supported.filter_map(|(object, _)| object.oid.parent())).collect()
    }

    /// How many varbinds [`DeviceLogic::repeated`] takes.
    pub(super) fn repeated_count(&self) -> usize {
        1 + self.watches.iter().filter(|watch| watch.value.is_some()).count()
    }

    /// Reads sysUpTime and the watches that [`DeviceLogic::repeated`] asked for.
    pub(super) fn repeated_said(&mut self, round: &mut Round, now: Now, message: &Message<'_>, received_ms: i64) -> Verdict {
        let mut place = 0;
        let places: Vec<Option<usize>> = self
            .watches
            .iter()
            .map(|watch| {
                watch.value.map(|_| {
                    place += 1;
                    place
                })
            })
            .collect();
        self.scalars_said(round, now, message, received_ms, |watch| places[watch])
    }

    /// Takes sysUpTime, at place 0, and the watches, each at the place that `place_of` says. `Moved`: rows may be others now.
    pub(super) fn scalars_said(
        &mut self,
        round: &mut Round,
        now: Now,
        message: &Message<'_>,
        received_ms: i64,
        place_of: impl Fn(usize) -> Option<usize>,
    ) -> Verdict {
        let mut verdict = Verdict::Steady;
        if let Some(ticks) = number_at(message, 0, SYS_UPTIME_OCTETS).and_then(|ticks| u32::try_from(ticks).ok()) {
            let next = Uptime { ticks, at_ms: millis(now.elapsed) };
            if self.uptime.is_some_and(|before| before.restarted(&next)) {
                self.restarted();
                verdict = Verdict::Moved;
            }
            self.uptime = Some(next);
            round.uptime = Some((ticks, received_ms));
        }
        for at in 0..self.watches.len() {
            let object = &self.profile.watches[at];
            let Some(value) = place_of(at).and_then(|place| number_at(message, place, &object.octets)) else { continue };
            let watch = &mut self.watches[at];
            if watch.value.replace(value).is_some_and(|before| before != value) && watch.strikes < STRIKES_MAX {
                round.moved_by |= 1 << at.min(63);
                verdict = Verdict::Moved;
            }
        }
        verdict
    }

    fn restarted(&mut self) {
        self.health.reboots += 1;
        self.known_ticks = None;
        self.restarted_unseen |= self.inventory_at.is_none();
        for (state, table) in self.tables.iter_mut().zip(&self.profile.tables) {
            state.restarted(table);
        }
        for (slot, scalar) in self.scalars.iter_mut().zip(&self.profile.scalars) {
            if scalar.kind == MetricKind::Counter {
                slot.mark(Discontinuity::UptimeWentBack);
            }
        }
    }
}

pub(super) fn uptime_instance() -> Option<ObjectIdentifier> {
    ObjectIdentifier::try_from(SYS_UPTIME).ok()?.child(0)
}

/// A Get of sysUpTime and of those objects that are not left out.
pub(super) fn get<'a>(community: &[u8], objects: impl Iterator<Item = &'a Object>, left_out: u64) -> Result<EncodedRequest, EncodeError> {
    let wanted = objects.enumerate().filter(|(at, _)| place(*at, left_out).is_some()).map(|(_, object)| object.oid);
    EncodedRequest::new(community, Ask::Get, uptime_instance().into_iter().chain(wanted))
}

/// Place in the answer of object number `at`, after sysUpTime and without those left out.
pub(super) fn place(at: usize, left_out: u64) -> Option<usize> {
    let bit = u32::try_from(at).ok().filter(|bit| *bit < 64)?;
    (left_out >> bit & 1 == 0).then(|| 1 + at - (left_out & ((1 << bit) - 1)).count_ones() as usize)
}

/// What to leave out so that an error status costs only the object it names; all of them if it names none.
pub(super) fn leave_out(message: &Message<'_>, left_out: u64, objects: usize) -> Option<u64> {
    let all = if objects >= 64 { u64::MAX } else { (1 << objects) - 1 };
    let named = (0..objects.min(64)).find(|at| place(*at, left_out) == (message.error_index as usize).checked_sub(1));
    match named {
        Some(at) => Some(left_out | 1 << at),
        None if left_out != all => Some(all),
        None => None,
    }
}

/// The value at `place`, if its name is the one expected and it is no exception.
pub(super) fn value_at<'a>(message: &Message<'a>, place: usize, name: &[u8]) -> Option<ber::ValueView<'a>> {
    let varbind = message.varbinds().nth(place)?.ok()?;
    if varbind.name.octets() != name { None } else { varbind.value().ok().filter(|value| !value.is_exception()) }
}

fn number_at(message: &Message<'_>, place: usize, name: &[u8]) -> Option<u64> {
    value_at(message, place, name)?.as_u64()
}
