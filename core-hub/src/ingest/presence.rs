//! Which agents have a session with this node, when each was last heard, and how it said it is doing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anemone_model::AgentId;
use anemone_wire::control::{AgentLoad, Hello};

use crate::assign::liveness::Heard;

/// An agent as this node hears it.
#[derive(Clone, Debug)]
pub struct Present {
    /// When it was last heard.
    pub heard: Heard,
    /// What it said of itself when it opened its newest session.
    pub hello: Hello,
    /// How it is doing, by its last heartbeat.
    pub load: AgentLoad,
    /// How many sessions it has open here; more than one only while an old one times out.
    pub sessions: usize,
}

/// All agents heard since this process started.
#[derive(Debug, Default)]
pub struct Presence {
    turned_away: AtomicU64,
    agents: Mutex<BTreeMap<AgentId, Present>>,
}

/// Milliseconds since 1970 UTC, now.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn heard_now() -> Heard {
    Heard { at: Instant::now(), at_ms: now_ms() }
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentId, Present>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session was refused because there are as many as this node takes; returns how many have been so far.
    pub fn turn_away(&self) -> u64 {
        self.turned_away.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sessions refused so far because there were too many.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// An agent opened a session.
    pub fn opened(&self, hello: Hello) {
        let mut agents = self.lock();
        let sessions = agents.get(&hello.agent).map_or(0, |p| p.sessions) + 1;
        let load = agents.get(&hello.agent).map(|p| p.load.clone()).unwrap_or_default();
        agents.insert(hello.agent.clone(), Present { heard: heard_now(), hello, load, sessions });
    }

    /// Something came from it.
    pub fn heard(&self, agent: &AgentId, load: Option<AgentLoad>) {
        if let Some(present) = self.lock().get_mut(agent) {
            present.heard = heard_now();
            if let Some(load) = load {
                present.load = load;
            }
        }
    }

    /// A session of it ended.
    pub fn closed(&self, agent: &AgentId) {
        if let Some(present) = self.lock().get_mut(agent) {
            present.sessions = present.sessions.saturating_sub(1);
        }
    }

    /// Everything known, by agent.
    #[must_use]
    pub fn all(&self) -> BTreeMap<AgentId, Present> {
        self.lock().clone()
    }
}
