//! What must not die quietly: a panic in spool, uplink or store ends the process, which comes back through the ordinary recovery.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

/// Something vital ended that should not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} failed: {reason}")]
pub struct VitalFailure {
    /// What it was.
    pub name: &'static str,
    /// Why it ended.
    pub reason: String,
}

/// Hands failures to whoever ends the process. Clones report to the same.
#[derive(Clone, Debug)]
pub struct Vitals {
    failures: mpsc::Sender<VitalFailure>,
}

impl Vitals {
    /// The reporting end and the listening end; only the first failure matters, so the queue holds few and drops the rest.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<VitalFailure>) {
        let (failures, listening) = mpsc::channel(8);
        (Self { failures }, listening)
    }

    /// Runs `work` on a thread of its own; a panic is reported, an ordinary end is not.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn thread(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        let vitals = self.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Whatever state the panic left behind is never looked at again: the process ends.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                vitals.report(name, panic_message(&*panic));
            }
        })
    }

    /// Runs `work` on the current runtime; a panic is reported, an ordinary end is not.
    pub fn task(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        let vitals = self.clone();
        let inner = tokio::spawn(work);
        let abort = inner.abort_handle();
        tokio::spawn(async move {
            let _abort = AbortOnDrop(abort);
            if let Err(error) = inner.await
                && error.is_panic()
            {
                vitals.report(name, panic_message(&*error.into_panic()));
            }
        })
    }

    /// Reports a failure that is no panic.
    pub fn report(&self, name: &'static str, reason: String) {
        // A full queue means that earlier failures are being acted on already.
        let _ = self.failures.try_send(VitalFailure { name, reason });
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panics_are_reported_and_ordinary_ends_are_not() {
        let (vitals, mut failures) = Vitals::new();
        vitals.thread("calm thread", || {}).unwrap().join().unwrap();
        vitals.task("calm task", async {}).await.unwrap();
        vitals.thread("spool", || panic!("out of order")).unwrap().join().unwrap();
        assert_eq!(failures.recv().await.unwrap().to_string(), "spool failed: out of order");
        vitals.task("uplink", async { panic!("{} of {}", 1, 2) }).await.unwrap();
        assert_eq!(failures.recv().await.unwrap().to_string(), "uplink failed: 1 of 2");
    }
}
