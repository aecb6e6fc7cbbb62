//! What happened in a demo, for the summary at its end.

use std::time::Instant;

use serde_json::{Value, json};

/// Events since the start, printed as they come.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    events: Vec<Value>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { start: Instant::now(), events: Vec::new() }
    }
}

impl Timeline {
    /// Seconds since the start.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Prints a line.
    pub fn say(&self, text: &str) {
        println!("[{:6.1}s] {text}", self.seconds());
    }

    /// Prints a line and keeps an event for the report.
    pub fn event(&mut self, kind: &str, text: &str, details: Value) {
        self.say(text);
        self.events.push(json!({ "at_seconds": self.seconds(), "event": kind, "text": text, "details": details }));
    }

    /// All events.
    #[must_use]
    pub fn events(&self) -> &[Value] {
        &self.events
    }
}
