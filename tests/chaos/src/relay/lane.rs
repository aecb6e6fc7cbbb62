//! What happens to datagrams in one direction of one client: pure logic, time passed in.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::chance::Chance;

/// Most datagrams held in a lane; further ones are dropped and counted.
pub(crate) const HELD_MOST: usize = 4096;
/// A reordered datagram is overtaken for at least this long.
const OVERTAKEN_FOR: Duration = Duration::from_millis(10);

/// Faults of one direction; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Nothing passes, nor does what is still held.
    pub cut: bool,
    /// Every datagram is held so long, milliseconds.
    pub delay_ms: u32,
    /// And up to so much longer, at random; the order stays.
    pub jitter_ms: u32,
    /// Share lost, 0 to 1.
    pub loss: f64,
    /// Share overtaken by those behind, 0 to 1.
    pub reorder: f64,
    /// Share sent twice, 0 to 1.
    pub duplicate: f64,
    /// Bytes a second that pass; unlimited if absent.
    pub bytes_per_second: Option<u64>,
}

/// What became of an offered datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Held { copies: u8, reordered: bool },
    Cut,
    Lost,
    Full,
}

struct Held {
    due: Instant,
    order: u64,
    datagram: Vec<u8>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

/// One direction of one client.
pub(crate) struct Lane {
    held: BinaryHeap<Reverse<Held>>,
    order: u64,
    chance: Chance,
    last_due: Option<Instant>,
    line_free: Option<Instant>,
}

impl Lane {
    pub(crate) fn new(seed: u64) -> Self {
        Self { held: BinaryHeap::new(), order: 0, chance: Chance::new(seed), last_due: None, line_free: None }
    }

    /// Takes a datagram that has arrived now.
    pub(crate) fn offer(&mut self, now: Instant, datagram: &[u8], fault: &Fault) -> Offered {
        if fault.cut {
            return Offered::Cut;
        }
        if self.chance.hit(fault.loss) {
            return Offered::Lost;
        }
        if self.held.len() >= HELD_MOST {
            return Offered::Full;
        }
        let mut leaves = now;
        if let Some(rate) = fault.bytes_per_second {
            let takes = Duration::from_secs_f64(datagram.len() as f64 / rate.max(1) as f64);
            leaves = self.line_free.map_or(now, |free| free.max(now)) + takes;
            self.line_free = Some(leaves);
        }
        let due = leaves + Duration::from_millis(u64::from(fault.delay_ms) + u64::from(self.chance.up_to(fault.jitter_ms)));
        let reordered = self.chance.hit(fault.reorder);
        let due = if reordered {
            due + OVERTAKEN_FOR.max(Duration::from_millis(u64::from(fault.jitter_ms)))
        } else {
            let due = self.last_due.map_or(due, |last| last.max(due));
            self.last_due = Some(due);
            due
        };
        let copies = if self.chance.hit(fault.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            self.order += 1;
            self.held.push(Reverse(Held { due, order: self.order, datagram: datagram.to_vec() }));
        }
        Offered::Held { copies, reordered }
    }

    /// When the next datagram is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse(held)| held.due)
    }

    /// The next datagram that is due now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.held.pop().map(|Reverse(held)| held.datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lane: &mut Lane, now: Instant) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| lane.take_due(now)).collect()
    }

    fn numbered(lane: &mut Lane, start: Instant, fault: &Fault) -> Vec<Offered> {
        (0..200_u8).map(|number| lane.offer(start + Duration::from_millis(u64::from(number)), &[number], fault)).collect()
    }

    #[test]
    fn delay_and_jitter_hold_back_but_keep_the_order() {
        let (start, mut lane) = (Instant::now(), Lane::new(1));
        numbered(&mut lane, start, &Fault { delay_ms: 100, jitter_ms: 50, ..Fault::default() });
        assert!(drain(&mut lane, start + Duration::from_millis(99)).is_empty());
        let all = drain(&mut lane, start + Duration::from_millis(500));
        assert_eq!(all, (0..200_u8).map(|number| vec![number]).collect::<Vec<_>>());
    }

    #[test]
    fn cut_loss_duplication_and_reordering_do_what_they_say() {
        let start = Instant::now();
        let outcome = |fault: Fault| {
            let mut lane = Lane::new(2);
            let offered = numbered(&mut lane, start, &fault);
            (offered, drain(&mut lane, start + Duration::from_secs(60)))
        };
        let (offered, passed) = outcome(Fault { cut: true, ..Fault::default() });
        assert!(passed.is_empty() && offered.iter().all(|offered| *offered == Offered::Cut));
        let (offered, passed) = outcome(Fault { loss: 0.5, ..Fault::default() });
        assert!((60..140).contains(&passed.len()), "{}", passed.len());
        assert_eq!(offered.iter().filter(|offered| **offered == Offered::Lost).count(), 200 - passed.len());
        let (_, passed) = outcome(Fault { duplicate: 1.0, ..Fault::default() });
        assert_eq!(passed.len(), 400);
        let (_, passed) = outcome(Fault { reorder: 0.2, ..Fault::default() });
        assert!(passed.len() == 200 && !passed.is_sorted());
    }

    #[test]
    fn a_rate_spaces_datagrams_and_the_queue_is_bounded() {
        let (start, mut lane) = (Instant::now(), Lane::new(3));
        let fault = Fault { bytes_per_second: Some(1000), ..Fault::default() };
        for _ in 0..10 {
            lane.offer(start, &[0; 100], &fault);
        }
        assert_eq!(drain(&mut lane, start + Duration::from_millis(550)).len(), 5);
        for _ in 5..HELD_MOST + 5 {
            lane.offer(start, &[0], &fault);
        }
        assert_eq!(lane.offer(start, &[0], &fault), Offered::Full);
    }
}
