//! Bounds how many requests are evaluated and how many wait.
//!
//! Overflow policy: the newest is refused, with 503.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::QueryError;

/// The bound.
pub(crate) struct Admission {
    running: Semaphore,
    /// Running and waiting together.
    admitted: Semaphore,
    running_max: usize,
    waiting_max: usize,
}

/// Held while a request is evaluated.
pub(crate) struct Admitted<'a> {
    _running: SemaphorePermit<'a>,
    _admitted: SemaphorePermit<'a>,
}

impl Admission {
    pub(crate) fn new(running_max: usize, waiting_max: usize) -> Self {
        let running_max = running_max.clamp(1, Semaphore::MAX_PERMITS / 2);
        let waiting_max = waiting_max.min(Semaphore::MAX_PERMITS / 2);
        let (running, admitted) = (Semaphore::new(running_max), Semaphore::new(running_max + waiting_max));
        Self { running, admitted, running_max, waiting_max }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`QueryError::Busy`] where too many wait already.
    pub(crate) async fn enter(&self) -> Result<Admitted<'_>, QueryError> {
        let busy = QueryError::Busy { running: self.running_max, waiting: self.waiting_max };
        let Ok(admitted) = self.admitted.try_acquire() else {
            tracing::warn!(running = self.running_max, waiting = self.waiting_max, "query refused: too many at once");
            return Err(busy);
        };
        let running = self.running.acquire().await.map_err(|_| busy)?;
        Ok(Admitted { _running: running, _admitted: admitted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_is_refused_when_all_places_are_taken() {
        let admission = Admission::new(1, 1);
        let first = admission.enter().await.unwrap();
        let second = admission.enter();
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(admission.enter().await.err(), Some(QueryError::Busy { running: 1, waiting: 1 }));
        drop(first);
        assert!(second.await.is_ok());
    }
}
