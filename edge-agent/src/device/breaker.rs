//! Circuit breaker of one device: a silent device is asked for little.
//!
//! Closed: rounds run. After [`FAILURES_MAX`] silent rounds in a row it opens; then a round is only a probe of sysUpTime, and only
//! once the backoff has passed. A probe that is answered closes it, one that is not doubles the backoff.

use std::time::Duration;

/// Silent rounds in a row after which the breaker opens.
pub const FAILURES_MAX: u32 = 3;

/// Longest time between probes; also how long a device that has come back may go unnoticed.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a round that is due may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Everything.
    Full,
    /// Ask for sysUpTime, and go on only if that is answered.
    Probe,
    /// Nothing.
    Skip,
}

/// State of the breaker. Times are of a clock that does not jump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    opened_until: Option<Duration>,
}

impl Breaker {
    /// What a round starting now may do.
    #[must_use]
    pub fn permit(&self, now: Duration) -> Permit {
        match self.opened_until {
            None => Permit::Full,
            Some(until) if now >= until => Permit::Probe,
            Some(_) => Permit::Skip,
        }
    }

    /// A round or probe was answered.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// A round or probe was not. The first backoff is one `interval`.
    pub fn silent(&mut self, now: Duration, interval: Duration) {
        self.failures = self.failures.saturating_add(1);
        if let Some(doublings) = self.failures.checked_sub(FAILURES_MAX) {
            let backoff = interval.saturating_mul(1 << doublings.min(10)).min(BACKOFF_MAX);
            self.opened_until = Some(now + backoff);
        }
    }

    /// Whether only probes are sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opened_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_probes_and_closes() {
        let second = Duration::from_secs(1);
        let mut breaker = Breaker::default();
        for at in 0..FAILURES_MAX {
            assert_eq!(breaker.permit(second * at), Permit::Full);
            breaker.silent(second * at, second * 10);
        }
        assert!(breaker.is_open());
        assert_eq!(breaker.permit(second * 11), Permit::Skip);
        assert_eq!(breaker.permit(second * 12), Permit::Probe);
        breaker.silent(second * 12, second * 10);
        assert_eq!(breaker.permit(second * 31), Permit::Skip);
        assert_eq!(breaker.permit(second * 32), Permit::Probe);
        for _ in 0..100 {
            breaker.silent(second * 100, second * 10);
        }
        assert_eq!(breaker.permit(second * 100 + BACKOFF_MAX), Permit::Probe);
        breaker.answered();
        assert_eq!(breaker.permit(Duration::ZERO), Permit::Full);
    }
}
