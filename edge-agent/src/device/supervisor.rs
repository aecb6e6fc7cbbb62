//! When to restart a task that failed: at once at first, then with growing delay and jitter.
//!
//! Decides only; the actor owns the factory and performs the restart. Nothing here ever gives up on a device: it is polled again
//! after [`DELAY_MAX`] at the latest.

use std::time::Duration;

/// Delay of the first restart.
pub const DELAY_MIN: Duration = Duration::from_millis(500);
/// Longest delay between two restarts.
pub const DELAY_MAX: Duration = Duration::from_secs(60);
/// A task that ran this long counts as healthy; its next failure starts from [`DELAY_MIN`] again.
pub const STABLE_AFTER: Duration = Duration::from_secs(300);

/// Why a task ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExitReason {
    /// It was asked to.
    #[error("stopped")]
    Stopped,
    /// It panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// The runtime cancelled it.
    #[error("cancelled")]
    Cancelled,
}

/// Restarts of one task. Times are of a clock that does not jump.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    restarts: u64,
    in_a_row: u32,
    started: Duration,
    last_exit: Option<ExitReason>,
}

impl Supervisor {
    /// The task was started.
    pub fn started(&mut self, now: Duration) {
        self.started = now;
    }

    /// The task ended. The delay after which to start it again, or `None` if it was asked to stop.
    ///
    /// `jitter` from 0 to 1 spreads the delay over its upper half, so that tasks which failed together do not come back together.
    pub fn exited(&mut self, now: Duration, reason: ExitReason, jitter: f64) -> Option<Duration> {
        let stopped = reason == ExitReason::Stopped;
        self.last_exit = Some(reason);
        if stopped {
            return None;
        }
        if now.saturating_sub(self.started) >= STABLE_AFTER {
            self.in_a_row = 0;
        }
        let full = DELAY_MIN.saturating_mul(1 << self.in_a_row.min(16)).min(DELAY_MAX);
        self.in_a_row += 1;
        self.restarts += 1;
        Some(full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }

    /// How often the task was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Why it last ended.
    #[must_use]
    pub fn last_exit(&self) -> Option<&ExitReason> {
        self.last_exit.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_recover() {
        let mut supervisor = Supervisor::default();
        let panic = || ExitReason::Panicked("index out of bounds".into());
        let mut delays = Vec::new();
        for _ in 0..9 {
            delays.push(supervisor.exited(Duration::ZERO, panic(), 1.0).unwrap().as_millis());
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(supervisor.exited(Duration::ZERO, panic(), 0.0), Some(DELAY_MAX / 2));
        assert_eq!(supervisor.exited(STABLE_AFTER, panic(), 1.0), Some(DELAY_MIN));
        assert_eq!((supervisor.restarts(), supervisor.last_exit()), (11, Some(&panic())));
        assert_eq!(supervisor.exited(STABLE_AFTER, ExitReason::Stopped, 1.0), None);
        assert_eq!(supervisor.restarts(), 11);
    }
}
