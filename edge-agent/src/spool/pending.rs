//! Sealed parts on their way to the disk: the queue between the batcher and the spool's writer.
//!
//! Short while the disk works. While it refuses, parts pile up to a bound; then the oldest gives way. What it defined and how many
//! samples it held is carried over and goes first once writes work again, as a batch of definitions and one gap record.

use std::collections::VecDeque;

use anemone_model::SeriesDef;
use anemone_wire::WireError;
use anemone_wire::batch::{BatchBuilder, EncodedSections};
use anemone_wire::gap::{GapReason, GapRecord};

/// Most definitions in one carried batch.
const CARRIED_DEFINITIONS: usize = 20_000;

/// What becomes one batch once it has a sequence.
#[derive(Clone, Debug)]
pub struct Part {
    /// The encoded sections.
    pub sections: EncodedSections,
    /// What they define, in case the part has to be dropped.
    pub definitions: Vec<(u32, SeriesDef)>,
    /// The batcher's dictionary it belongs to, counted from 0.
    pub generation: u64,
    /// How many samples.
    pub samples: u64,
    /// Samples lost earlier that its gap record speaks for.
    pub lost_samples: u64,
    /// Time of the first and last sample, in milliseconds since 1970 UTC.
    pub span_ms: Option<(i64, i64)>,
    /// About how many bytes.
    pub bytes: usize,
}

/// What is left of parts that were dropped.
#[derive(Clone, Debug, Default, PartialEq)]
struct Carried {
    generation: u64,
    definitions: VecDeque<(u32, SeriesDef)>,
    samples: u64,
    span_ms: Option<(i64, i64)>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Pending {
    queue: VecDeque<Part>,
    bytes: usize,
    bytes_max: usize,
    carried: Option<Carried>,
    /// Whether the writer has taken a part and not said what became of it.
    in_hand: bool,
    dropped_parts: u64,
    dropped_samples: u64,
}

fn union(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some((a0, a1)), Some((b0, b1))) => Some((a0.min(b0), a1.max(b1))),
        (one, other) => one.or(other),
    }
}

impl Pending {
    /// An empty queue that holds about so many bytes.
    #[must_use]
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, bytes_max, carried: None, in_hand: false, dropped_parts: 0, dropped_samples: 0 }
    }

    /// Parts waiting and their bytes.
    #[must_use]
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.queue.len() + usize::from(self.in_hand), self.bytes)
    }

    /// Parts and samples dropped so far.
    #[must_use]
    pub(super) fn dropped(&self) -> (u64, u64) {
        (self.dropped_parts, self.dropped_samples)
    }

    /// Whether there is nothing to write and nothing being written.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.carried.is_none() && !self.in_hand
    }

    /// Adds a part; past the bound the oldest give way. Gives how many samples were dropped.
    pub(super) fn push(&mut self, part: Part) -> u64 {
        let before = self.dropped_samples;
        self.bytes += part.bytes;
        self.queue.push_back(part);
        while self.bytes > self.bytes_max && self.queue.len() > 1 {
            let Some(oldest) = self.pop() else { break };
            self.drop_part(oldest);
        }
        self.dropped_samples - before
    }

    fn pop(&mut self) -> Option<Part> {
        let part = self.queue.pop_front()?;
        self.bytes -= part.bytes;
        Some(part)
    }

    /// Gives up a part, keeping what later ones need of it.
    pub(super) fn drop_part(&mut self, part: Part) {
        self.dropped_parts += 1;
        self.dropped_samples += part.samples;
        let carried = self.carried.get_or_insert_with(|| Carried { generation: part.generation, ..Carried::default() });
        if carried.generation != part.generation {
            // No later part uses the definitions of an older dictionary: parts leave in order.
            carried.generation = part.generation;
            carried.definitions.clear();
        }
        carried.definitions.extend(part.definitions);
        carried.samples += part.samples + part.lost_samples;
        carried.span_ms = union(carried.span_ms, part.span_ms);
    }

    /// The next part to write, until [`Pending::settled`] or [`Pending::put_back`]; what was dropped goes first. `sequence` is what it will be called if the write succeeds.
    ///
    /// # Errors
    /// What was dropped does not encode; it is then lost, and counted already.
    pub(super) fn next(&mut self, sequence: u64) -> Result<Option<Part>, WireError> {
        let Some(carried) = &mut self.carried else {
            let part = self.pop();
            self.in_hand = part.is_some();
            return Ok(part);
        };
        let mut builder = BatchBuilder::new();
        let count = carried.definitions.len().min(CARRIED_DEFINITIONS);
        let definitions: Vec<(u32, SeriesDef)> = carried.definitions.drain(..count).collect();
        for (reference, def) in &definitions {
            builder.define(*reference, def.clone());
        }
        let (generation, span_ms, mut lost_samples) = (carried.generation, carried.span_ms, 0);
        if carried.definitions.is_empty() {
            builder.push_gap(GapRecord {
                from_sequence: sequence,
                sequences: 0,
                from_ms: span_ms.map(|(from, _)| from),
                to_ms: span_ms.map(|(_, to)| to),
                samples: carried.samples,
                reason: GapReason::DiskFailed,
            });
            lost_samples = carried.samples;
            self.carried = None;
        }
        let bytes = builder.estimated_bytes();
        let sections = builder.encode()?;
        self.in_hand = true;
        Ok(Some(Part { sections, definitions, generation, samples: 0, lost_samples, span_ms, bytes }))
    }

    /// The part that was taken is written or given up.
    pub(super) fn settled(&mut self) {
        self.in_hand = false;
    }

    /// Puts back the part that could not be written.
    pub(super) fn put_back(&mut self, part: Part) {
        self.in_hand = false;
        self.bytes += part.bytes;
        self.queue.push_front(part);
    }
}

#[cfg(test)]
mod tests {
    use anemone_model::{CounterWidth, MetricKind, Sample, Value};
    use anemone_wire::batch::{Batch, BatchHeader};

    use super::*;

    fn def(n: u32) -> (u32, SeriesDef) {
        let name = n.to_string();
        (n, SeriesDef::new("m", [("n", name.as_str())], MetricKind::Gauge, CounterWidth::Unknown).unwrap())
    }

    fn part(n: u32, generation: u64) -> Part {
        let mut builder = BatchBuilder::new();
        builder.define(n, def(n).1);
        builder.push(n, Sample::new(i64::from(n), Value::U64(1)));
        let span_ms = Some((i64::from(n), i64::from(n)));
        Part {
            sections: builder.encode().unwrap(),
            definitions: vec![def(n)],
            generation,
            samples: 1,
            lost_samples: 0,
            span_ms,
            bytes: 100,
        }
    }

    fn decode(part: &Part) -> Batch {
        let agent = anemone_model::AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() };
        let header = BatchHeader { agent, epoch: 7, sequence: 1, covers: 1, dictionary: 1, sealed_at_ms: 0 };
        Batch::decode(part.sections.seal(&header).unwrap()).unwrap()
    }

    #[test]
    fn parts_leave_in_order() {
        let mut pending = Pending::new(1_000);
        for n in 0..5 {
            assert_eq!(pending.push(part(n, 0)), 0);
        }
        let first = pending.next(1).unwrap().unwrap();
        pending.put_back(first);
        let order: Vec<u32> = std::iter::from_fn(|| pending.next(1).unwrap()).map(|p| p.definitions[0].0).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        let last = pending.push(part(5, 0)) + pending.next(1).unwrap().unwrap().samples;
        assert!(last == 1 && !pending.is_empty(), "a part that is being written still counts");
        pending.settled();
        assert!(pending.is_empty());
        assert_eq!(pending.waiting(), (0, 0));
    }

    #[test]
    fn past_the_bound_the_oldest_give_way_to_a_gap() {
        let mut pending = Pending::new(300);
        let dropped: u64 = (0..5).map(|n| pending.push(part(n, 0))).sum();
        assert_eq!((dropped, pending.dropped()), (2, (2, 2)));
        let gap = decode(&pending.next(9).unwrap().unwrap());
        assert_eq!(gap.definitions().unwrap(), [def(0), def(1)]);
        let record = &gap.gaps().unwrap()[0];
        assert_eq!((record.from_sequence, record.sequences, record.samples), (9, 0, 2));
        assert_eq!((record.from_ms, record.to_ms, record.reason), (Some(0), Some(1), GapReason::DiskFailed));
        assert_eq!(pending.next(10).unwrap().unwrap().definitions, [def(2)]);
    }

    #[test]
    fn a_gap_part_dropped_again_keeps_its_definitions() {
        let mut pending = Pending::new(200);
        for n in 0..3 {
            pending.push(part(n, 0));
        }
        let gap = pending.next(1).unwrap().unwrap();
        pending.put_back(gap);
        pending.push(part(3, 0));
        let gap = decode(&pending.next(1).unwrap().unwrap());
        assert_eq!(gap.definitions().unwrap(), [def(0), def(1)]);
        assert_eq!(gap.gaps().unwrap()[0].samples, 2);
    }

    #[test]
    fn definitions_of_an_older_dictionary_are_not_carried() {
        let mut pending = Pending::new(100);
        pending.push(part(0, 0));
        pending.push(part(1, 1));
        pending.push(part(2, 1));
        let gap = pending.next(1).unwrap().unwrap();
        assert_eq!((gap.generation, gap.definitions), (1, vec![def(1)]));
    }
}
