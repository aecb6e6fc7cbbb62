//! What an accepting side has counted since it was made.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one listener, shared with it. All start at 0 and only grow.
#[derive(Debug, Default)]
pub struct AcceptCounters {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    overloaded: AtomicU64,
}

/// One reading of [`AcceptCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptCounts {
    /// Peers let in.
    pub accepted: u64,
    /// Peers refused for their certificate or identity.
    pub refused: u64,
    /// Handshakes that failed or ran out of time.
    pub failed: u64,
    /// Attempts turned away because too many were under way.
    pub overloaded: u64,
}

impl AcceptCounters {
    /// The present values.
    #[must_use]
    pub fn counts(&self) -> AcceptCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AcceptCounts {
            accepted: read(&self.accepted),
            refused: read(&self.refused),
            failed: read(&self.failed),
            overloaded: read(&self.overloaded),
        }
    }

    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_overloaded(&self) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
    }
}
