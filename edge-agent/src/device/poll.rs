//! The part of a device's round in which values are read and attributed, and the round's end.

use std::collections::HashMap;

use anemone_model::{CounterWidth, Discontinuity, MetricKind, Sample, Value};

use super::emit::{Named, Origin, Samples};
use super::inventory::Slot;
use super::logic::{DeviceLogic, Now, Round, Stage, millis};
use super::scalars::{Verdict, leave_out, place, value_at};
use super::{FailureReason, SampleSink};
use crate::collector::snmp::ber::{Message, ValueView};
use crate::collector::snmp::request::{EncodeError, EncodedRequest};
use crate::collector::snmp::table::{ANSWER_BYTES_MAX, Asking, Plan, Span};
use crate::collector::snmp::walk::STATUS_TOO_BIG;
use crate::profiles::{DEVICE_INFO, Role, Table};

/// Where the poll of a table stands.
pub(super) struct PollStage {
    table: usize,
    chunk: usize,
    /// What is asked for: the chunk, or what is left of it.
    span: Span,
    /// It is less than the chunk, so it has no request of its own yet.
    partial: bool,
    /// It was cut because the whole was not answered.
    halved: bool,
    /// Samples of the round before this table.
    samples_before: usize,
}

impl PollStage {
    /// Asks for half as many rows.
    pub(super) fn halve(&mut self) {
        if self.span.rows > 1 {
            (self.span.rows, self.partial, self.halved) = (self.span.rows / 2, true, true);
        }
    }
}

impl DeviceLogic {
    /// The poll of the first due table from `table` on.
    pub(super) fn next_poll(&mut self, table: usize, samples_before: usize) -> Result<Stage, EncodeError> {
        let due_ms = self.schedule.due_ms();
        for at in table..self.tables.len() {
            if self.tables[at].plan_stale {
                self.replan(at)?;
            }
            let state = &mut self.tables[at];
            let Some((span, _)) = state.plan.chunks().first() else { continue };
            if due_ms < state.next_due_ms {
                continue;
            }
            if let Some(interval) = self.profile.tables[at].interval {
                // Half a round's grace: a due time between two rounds belongs to the nearer one.
                state.next_due_ms = due_ms.saturating_add(millis(interval)).saturating_sub(millis(self.target.interval) / 2);
            }
            return Ok(Stage::Poll(PollStage { table: at, chunk: 0, span: *span, partial: false, halved: false, samples_before }));
        }
        Ok(Stage::Done)
    }

    fn replan(&mut self, table: usize) -> Result<(), EncodeError> {
        let scalars = self.repeated();
        let community = self.target.community.reveal().as_bytes();
        let ask = Asking { columns: &self.profile.tables[table].columns, community, scalars: &scalars };
        let state = &mut self.tables[table];
        state.plan = Plan::new(&ask, &state.rows, &self.limits, state.wide)?;
        state.plan_stale = false;
        Ok(())
    }

    pub(super) fn poll_request(&self, poll: &PollStage) -> Result<EncodedRequest, EncodeError> {
        let state = &self.tables[poll.table];
        match state.plan.chunks().get(poll.chunk) {
            Some((_, request)) if !poll.partial => Ok(request.clone()),
            _ => {
                let columns = &self.profile.tables[poll.table].columns;
                let ask = Asking { columns, community: self.target.community.reveal().as_bytes(), scalars: &self.repeated() };
                poll.span.request(&ask, &state.rows)
            }
        }
    }

    pub(super) fn poll_answered(
        &mut self,
        round: &mut Round,
        mut poll: PollStage,
        message: &Message<'_>,
        bytes: usize,
        received_ms: i64,
        sink: &dyn SampleSink,
    ) {
        let scalars = self.repeated_count();
        if message.error_status != 0 {
            return self.poll_refused(round, poll, message, scalars);
        }
        let (span, table) = (poll.span, &self.profile.tables[poll.table]);
        let state = &mut self.tables[poll.table];
        let origin = Origin { sink, pop: &self.target.pop, device: &self.target.device };
        let row = (usize::MAX, 0);
        let mut attribution = Attribution { table, labels: &state.labels, origin, samples: &mut round.samples, received_ms, row };
        let (slots, discontinuities, known_ticks) = (&mut state.slots, &mut state.discontinuities, self.known_ticks);
        let taken = span.take(&table.columns, &state.rows, message, scalars, |row, column, value| {
            attribution.cell(slots, discontinuities, known_ticks, row, column, value);
        });
        let (row, samples_before) = attribution.row;
        self.health.bad_varbinds += taken.bad;
        self.inventory_suspected |= taken.changed;
        if bytes > ANSWER_BYTES_MAX && !state.wide {
            (state.wide, state.plan_stale) = (true, true);
        }
        if row == span.first + taken.rows {
            // Cut within a row: it is asked for again as a whole.
            self.discard(round, samples_before);
        }
        if taken.rows == 0 {
            return self.too_big(round, poll);
        }
        if taken.rows < span.rows || poll.halved {
            self.limits.observe(taken.rows * span.columns.count_ones() as usize);
            self.tables[poll.table].plan_stale = true;
        }
        poll.halved = false;
        self.go_on(round, poll, taken.rows);
    }

    /// Asks for what is left of the chunk after `rows` rows of the span, or for the next one.
    fn go_on(&mut self, round: &mut Round, mut poll: PollStage, rows: usize) {
        let chunks = self.tables[poll.table].plan.chunks();
        let first = poll.span.first + rows;
        match chunks.get(poll.chunk) {
            Some((chunk, _)) if first < chunk.first + chunk.rows => {
                let rows = poll.span.rows.min(chunk.first + chunk.rows - first);
                (poll.span, poll.partial) = (Span { columns: chunk.columns, first, rows }, true);
            }
            _ => {
                poll.chunk += 1;
                match chunks.get(poll.chunk) {
                    Some((chunk, _)) => (poll.span, poll.partial) = (*chunk, false),
                    None => {
                        match self.next_poll(poll.table + 1, round.samples.taken.len()) {
                            Ok(stage) => round.stage = stage,
                            Err(error) => round.fail(FailureReason::Encode(error.to_string())),
                        }
                        return;
                    }
                }
            }
        }
        round.stage = Stage::Poll(poll);
    }

    /// An error status: the rows are cut down to the one it is about, and that row loses the column named, or all.
    fn poll_refused(&mut self, round: &mut Round, mut poll: PollStage, message: &Message<'_>, scalars: usize) {
        if message.error_status == STATUS_TOO_BIG {
            return self.too_big(round, poll);
        }
        if poll.span.rows > 1 {
            (poll.span.rows, poll.partial) = (poll.span.rows / 2, true);
            round.stage = Stage::Poll(poll);
            return;
        }
        self.health.bad_varbinds += 1;
        let named = (message.error_index as usize).checked_sub(scalars + 1);
        let column = named.and_then(|nth| (0..u64::BITS).filter(|bit| poll.span.columns >> bit & 1 == 1).nth(nth));
        let left = column.map_or(0, |bit| poll.span.columns & !(1 << bit));
        if left == 0 {
            return self.go_on(round, poll, 1);
        }
        (poll.span.columns, poll.partial) = (left, true);
        round.stage = Stage::Poll(poll);
    }

    /// Fewer rows, then fewer columns, then the table is polled again in pieces the device can bear.
    fn too_big(&mut self, round: &mut Round, mut poll: PollStage) {
        let fewer = self.limits.shrink(poll.span.varbinds());
        self.tables[poll.table].plan_stale = true;
        if poll.span.rows > 1 {
            (poll.span.rows, poll.partial) = (poll.span.rows / 2, true);
            round.stage = Stage::Poll(poll);
        } else if fewer {
            self.discard(round, poll.samples_before);
            self.tables[poll.table].next_due_ms = 0;
            match self.next_poll(poll.table, poll.samples_before) {
                Ok(stage) => round.stage = stage,
                Err(error) => round.fail(FailureReason::Encode(error.to_string())),
            }
        } else {
            self.health.bad_varbinds += 1;
            self.go_on(round, poll, 1);
        }
    }

    pub(super) fn scalars_answered(
        &mut self,
        round: &mut Round,
        now: Now,
        message: &Message<'_>,
        received_ms: i64,
        left_out: u64,
        sink: &dyn SampleSink,
    ) {
        if message.error_status != 0 {
            return match leave_out(message, left_out, self.watches.len() + self.scalars.len()) {
                Some(left_out) => round.stage = Stage::Scalars { left_out },
                None => round.fail(FailureReason::Refused(message.error_status)),
            };
        }
        if self.scalars_said(round, now, message, received_ms, |watch| place(watch, left_out)) == Verdict::Moved {
            return self.read_rows_again(round);
        }
        let origin = Origin { sink, pop: &self.target.pop, device: &self.target.device };
        for (at, (scalar, slot)) in self.profile.scalars.iter().zip(&mut self.scalars).enumerate() {
            let value = place(self.watches.len() + at, left_out).and_then(|place| value_at(message, place, &scalar.object.octets));
            if let Some(value) = value {
                let series = Named { metric: &scalar.metric, kind: scalar.kind, width: scalar.source.width, labels: [] };
                round.samples.measured(origin, slot, series, &scalar.source, value, received_ms);
            }
        }
        match self.next_poll(0, round.samples.taken.len()) {
            Ok(stage) => round.stage = stage,
            Err(error) => round.fail(FailureReason::Encode(error.to_string())),
        }
    }

    /// Ends a round: the device's own series, health, breaker and schedule.
    pub(super) fn finish(&mut self, mut round: Round, now: Now, sink: &dyn SampleSink) -> Vec<(u32, Sample)> {
        self.settle(&round, now);
        let duration = now.elapsed.saturating_sub(round.started);
        let origin = Origin { sink, pop: &self.target.pop, device: &self.target.device };
        let gauge = |metric| Named { metric, kind: MetricKind::Gauge, width: CounterWidth::Unknown, labels: [] };
        let samples = &mut round.samples;
        samples.own(origin, &mut self.own.up, gauge("device_up"), Value::F64(f64::from(u8::from(round.answered))), now.wall_ms);
        if !round.skipped {
            let seconds = Value::F64(duration.as_secs_f64());
            samples.own(origin, &mut self.own.duration, gauge("device_poll_duration_seconds"), seconds, now.wall_ms);
        }
        if let Some((ticks, received_ms)) = round.uptime {
            let seconds = Value::F64(f64::from(ticks) / 100.0);
            samples.own(origin, &mut self.own.uptime, gauge("device_uptime_seconds"), seconds, received_ms);
        }
        if round.answered && self.facts.iter().any(|text| !text.is_empty()) {
            let labels = self.profile.facts.iter().map(|fact| fact.label.as_str()).zip(self.facts.iter().map(|text| &**text));
            let info = Named { metric: DEVICE_INFO, kind: MetricKind::Info, width: CounterWidth::Unknown, labels };
            samples.own(origin, &mut self.own.info, info, Value::U64(1), now.wall_ms);
        }
        let health = &mut self.health;
        match (round.skipped, &round.failure) {
            (true, _) => health.rounds_skipped += 1,
            (false, None) => {
                health.rounds_complete += 1;
                self.known_ticks = None;
            }
            (false, Some(reason)) => {
                health.rounds_failed += 1;
                health.last_failure = Some((now.wall_ms, reason.clone()));
            }
        }
        health.up = Some(round.answered);
        health.bad_varbinds += samples.bad;
        health.samples_dropped += samples.refused;
        health.samples += samples.taken.len() as u64;
        (health.last_round_ms, health.last_duration_ms) = (Some(now.wall_ms), u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        health.round_trip_us = self.rtt.smoothed().map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        round.samples.taken
    }

    /// The sink refused a round of so many samples; `marked` are the series in it that carried a mark, which is still due.
    pub fn on_dropped(&mut self, samples: usize, marked: &[(u32, Discontinuity)]) {
        self.health.samples = self.health.samples.saturating_sub(samples as u64);
        self.health.samples_dropped += samples as u64;
        self.mark_again(marked);
    }

    /// Takes back the samples of the round from number `from` on: what they say is asked for again.
    pub(super) fn discard(&mut self, round: &mut Round, from: usize) {
        let marked: Vec<(u32, Discontinuity)> =
            round.samples.taken.drain(from..).filter_map(|(series, sample)| Some((series, sample.discontinuity?))).collect();
        self.mark_again(&marked);
    }

    fn mark_again(&mut self, marked: &[(u32, Discontinuity)]) {
        if marked.is_empty() {
            return;
        }
        let marked: HashMap<u32, Discontinuity> = marked.iter().copied().collect();
        for slot in self.tables.iter_mut().flat_map(|state| &mut state.slots).chain(&mut self.scalars) {
            if let Some(reason) = marked.get(&slot.series) {
                slot.mark(*reason);
            }
        }
    }
}

/// Turns cells of a table into samples.
struct Attribution<'a> {
    table: &'a Table,
    labels: &'a [Box<str>],
    origin: Origin<'a>,
    samples: &'a mut Samples,
    received_ms: i64,
    /// The row at hand, and how many samples there were before it.
    row: (usize, usize),
}

impl Attribution<'_> {
    fn cell(
        &mut self,
        slots: &mut [Slot],
        discontinuities: &mut [Option<u32>],
        known_ticks: Option<u32>,
        row: usize,
        column: usize,
        value: ValueView<'_>,
    ) {
        if self.row.0 != row {
            self.row = (row, self.samples.taken.len());
        }
        let width = self.table.metrics.len();
        let slots = &mut slots[row * width..(row + 1) * width];
        match self.table.roles[column] {
            Role::Label { .. } => {}
            Role::Discontinuity => {
                let Some(ticks) = value.as_u64().and_then(|ticks| u32::try_from(ticks).ok()) else {
                    self.samples.bad += 1;
                    return;
                };
                let before = discontinuities[row].replace(ticks);
                // Not seen before, but later than the device was last seen: it happened in between.
                let broken = before.map_or_else(|| known_ticks.is_some_and(|known| ticks > known), |before| before != ticks);
                for (slot, _) in
                    slots.iter_mut().zip(&self.table.metrics).filter(|(_, metric)| broken && metric.kind == MetricKind::Counter)
                {
                    slot.mark(Discontinuity::CounterDiscontinuityTime);
                }
            }
            Role::Metric { metric, rank } => {
                let slot = &mut slots[metric];
                if !slot.reads(column) {
                    return;
                }
                let described = &self.table.metrics[metric];
                let source = &described.sources[rank].1;
                let width = self.table.labels.len();
                let labels = self.table.labels.iter().map(|label| &*label.name).zip(self.labels[row * width..].iter().map(|text| &**text));
                let series = Named { metric: &described.metric, kind: described.kind, width: source.width, labels };
                self.samples.measured(self.origin, slot, series, source, value, self.received_ms);
            }
        }
    }
}
