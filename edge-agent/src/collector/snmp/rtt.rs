//! Adaptive time-out of one device, after RFC 6298.
//!
//! Each attempt carries its own request id, so every reply belongs to a known attempt and Karn's problem does not arise.

use std::time::Duration;

/// Bounds of a time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutBounds {
    /// Before anything has been measured.
    pub initial: Duration,
    /// Never below; an SNMP agent that is busy answers late without being far away.
    pub min: Duration,
    /// Never above, backoff included.
    pub max: Duration,
}

impl Default for TimeoutBounds {
    /// 1 s at first, then 300 ms to 5 s.
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), min: Duration::from_millis(300), max: Duration::from_secs(5) }
    }
}

/// Smoothed round-trip time and its variation, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct RttEstimator {
    smoothed_us: u32,
    variation_us: u32,
}

impl Default for RttEstimator {
    fn default() -> Self {
        Self::new()
    }
}

impl RttEstimator {
    /// Nothing measured yet.
    #[must_use]
    pub fn new() -> Self {
        Self { smoothed_us: 0, variation_us: 0 }
    }

    /// Takes one measurement (RFC 6298, 2.2 and 2.3).
    pub fn measured(&mut self, round_trip: Duration) {
        // 0 means "nothing measured"; an hour is far above any time-out.
        let sample = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX).clamp(1, 3_600_000_000);
        if self.smoothed_us == 0 {
            (self.smoothed_us, self.variation_us) = (sample, sample / 2);
            return;
        }
        let deviation = self.smoothed_us.abs_diff(sample);
        self.variation_us = self.variation_us - self.variation_us / 4 + deviation / 4;
        self.smoothed_us = (self.smoothed_us - self.smoothed_us / 8 + sample / 8).max(1);
    }

    /// Smoothed round-trip time, once measured.
    #[must_use]
    pub fn smoothed(&self) -> Option<Duration> {
        (self.smoothed_us > 0).then(|| Duration::from_micros(u64::from(self.smoothed_us)))
    }

    /// Time-out of attempt number `attempt` (0 = first); each later one waits twice as long.
    #[must_use]
    pub fn timeout(&self, bounds: &TimeoutBounds, attempt: u32) -> Duration {
        let base = match self.smoothed() {
            None => bounds.initial,
            Some(smoothed) => smoothed + Duration::from_micros(u64::from(self.variation_us)) * 4,
        };
        base.max(bounds.min).saturating_mul(1 << attempt.min(8)).min(bounds.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_out_follows_the_device() {
        let bounds = TimeoutBounds::default();
        let mut rtt = RttEstimator::new();
        assert_eq!(rtt.timeout(&bounds, 0), Duration::from_secs(1));
        assert_eq!(rtt.timeout(&bounds, 1), Duration::from_secs(2));
        assert_eq!(rtt.timeout(&bounds, 9), Duration::from_secs(5));
        rtt.measured(Duration::from_millis(400));
        assert_eq!(rtt.timeout(&bounds, 0), Duration::from_millis(400 + 4 * 200));
        for _ in 0..100 {
            rtt.measured(Duration::from_millis(2));
        }
        assert_eq!(rtt.timeout(&bounds, 0), bounds.min);
        assert!(rtt.smoothed().unwrap() < Duration::from_millis(5));
        for _ in 0..100 {
            rtt.measured(Duration::from_millis(900));
        }
        let timeout = rtt.timeout(&bounds, 0);
        assert!(timeout > Duration::from_millis(899) && timeout < Duration::from_millis(1200), "{timeout:?}");
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut rtt = RttEstimator::new();
        for sample in [Duration::ZERO, Duration::MAX, Duration::ZERO, Duration::MAX] {
            rtt.measured(sample);
        }
        assert_eq!(rtt.timeout(&TimeoutBounds::default(), 40), Duration::from_secs(5));
    }
}
