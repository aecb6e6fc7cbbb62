//! When a device's rounds are due: every interval, at a phase that depends on the device's name alone.
//!
//! Rounds are due at `phase + k * interval` of the wall clock. So devices spread evenly over the interval, a device keeps its phase
//! when it moves to another agent or the agent restarts, and a clock that jumps shifts at most one round.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

/// Due times of one device, in milliseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    interval_ms: i64,
    phase_ms: i64,
    due_ms: i64,
}

impl Schedule {
    /// The schedule of the device called `name`; its first round is due within one interval after `now_ms`.
    #[must_use]
    pub fn new(name: &str, interval: Duration, now_ms: i64) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let phase_ms = (xxh3_64(name.as_bytes()) % interval_ms.cast_unsigned()).cast_signed();
        let mut schedule = Self { interval_ms, phase_ms, due_ms: 0 };
        schedule.due_ms = schedule.after(now_ms.saturating_sub(1));
        schedule
    }

    /// The first due time after `ms`.
    fn after(&self, ms: i64) -> i64 {
        let since = ms.saturating_sub(self.phase_ms).rem_euclid(self.interval_ms);
        ms.saturating_sub(since).saturating_add(self.interval_ms)
    }

    /// How long until a round is due; zero if one is.
    pub fn wait(&mut self, now_ms: i64) -> Duration {
        if self.due_ms.saturating_sub(now_ms) > self.interval_ms {
            // The clock went back.
            self.due_ms = self.after(now_ms);
        }
        Duration::from_millis(u64::try_from(self.due_ms.saturating_sub(now_ms)).unwrap_or(0))
    }

    /// When the round at hand was due.
    #[must_use]
    pub fn due_ms(&self) -> i64 {
        self.due_ms
    }

    /// A round has ended: sets the next due time and says how many were missed meanwhile.
    pub fn advance(&mut self, now_ms: i64) -> u64 {
        let next = self.after(now_ms.max(self.due_ms));
        let missed = (next - self.due_ms) / self.interval_ms - 1;
        self.due_ms = next;
        u64::try_from(missed).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn devices_spread_over_the_interval() {
        let mut buckets = [0_u32; 60];
        for device in 0..6_000 {
            let wait = Schedule::new(&format!("device-{device}"), MINUTE, 1_000_000).wait(1_000_000);
            assert!(wait <= MINUTE);
            buckets[(wait.as_secs() % 60) as usize] += 1;
        }
        assert!(buckets.iter().all(|count| (60..=145).contains(count)), "{buckets:?}");
    }

    #[test]
    fn rounds_follow_each_other_and_missed_ones_are_counted() {
        let mut schedule = Schedule::new("sw1", MINUTE, 1_000_000);
        let first = schedule.due_ms();
        assert_eq!(schedule.wait(first), Duration::ZERO);
        assert_eq!(schedule.advance(first + 200), 0);
        assert_eq!(schedule.due_ms(), first + 60_000);
        assert_eq!(schedule.wait(first + 200), Duration::from_millis(59_800));
        assert_eq!(schedule.advance(first + 60_000 + 150_000), 2);
        assert_eq!(schedule.due_ms(), first + 4 * 60_000);
        // Another agent gives it the same phase.
        assert_eq!(Schedule::new("sw1", MINUTE, first + 1).due_ms(), first + 60_000);
    }

    #[test]
    fn a_clock_that_jumps_costs_at_most_one_round() {
        let mut schedule = Schedule::new("sw1", MINUTE, 10_000_000);
        assert!(schedule.wait(5_000_000) <= MINUTE);
        assert_eq!(schedule.wait(50_000_000), Duration::ZERO);
        assert!(Schedule::new("sw1", Duration::MAX, i64::MIN).wait(i64::MAX) == Duration::ZERO);
    }
}
