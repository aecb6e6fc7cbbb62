//! Which agents the leader calls dark, back, or evicted. Sans-IO: heard times and `now` in, control commands out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anemone_model::{AgentId, Name};

use crate::state::agents::Agents;
use crate::state::command::Control;

/// Limits of patience.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Silence after which an agent is called dark.
    pub dark_after: Duration,
    /// Darkness, while a neighbour of its PoP is heard, after which an agent loses its devices.
    pub grace: Duration,
}

/// When an agent was last heard here.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// On the monotonic clock.
    pub at: Instant,
    /// On the wall clock, in milliseconds since 1970 UTC.
    pub at_ms: i64,
}

/// What the leader remembers between rounds; begins anew with each term.
#[derive(Debug)]
pub struct Liveness {
    patience: Patience,
    leader_since: Instant,
    /// Since when each PoP is heard through at least one agent without a break.
    pop_heard_since: BTreeMap<Name, Instant>,
}

impl Liveness {
    /// Begins a term of leadership.
    #[must_use]
    pub fn new(patience: Patience, now: Instant) -> Self {
        Self { patience, leader_since: now, pop_heard_since: BTreeMap::new() }
    }

    /// What has to be proposed now.
    pub fn round(&mut self, now: Instant, now_ms: i64, agents: &Agents, heard: &BTreeMap<AgentId, Heard>) -> Vec<Control> {
        let silence =
            |id: &AgentId| now.saturating_duration_since(heard.get(id).map_or(self.leader_since, |h| h.at.max(self.leader_since)));
        let loud = |id: &AgentId| heard.contains_key(id) && silence(id) < self.patience.dark_after;
        let heard_pops: Vec<Name> = agents.keys().filter(|id| loud(id)).map(|id| id.pop.clone()).collect();
        self.pop_heard_since.retain(|pop, _| heard_pops.contains(pop));
        for pop in heard_pops {
            self.pop_heard_since.entry(pop).or_insert(now);
        }
        let mut proposals = Vec::new();
        for (id, agent) in agents {
            let silent = silence(id);
            if agent.dark_since_ms.is_none() && silent >= self.patience.dark_after {
                let since_ms = heard.get(id).map_or(now_ms - i64::try_from(silent.as_millis()).unwrap_or(0), |h| h.at_ms);
                proposals.push(Control::AgentDark { agent: id.clone(), since_ms });
            }
            let neighbour_heard = self.pop_heard_since.get(&id.pop).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since));
            if agent.active && silent.min(neighbour_heard) >= self.patience.grace {
                proposals.push(Control::AgentEvicted { agent: id.clone() });
            }
        }
        proposals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::agents::AgentState;

    const PATIENCE: Patience = Patience { dark_after: Duration::from_secs(5), grace: Duration::from_secs(60) };

    fn id(name: &str) -> AgentId {
        AgentId { pop: "ams1".parse().unwrap(), name: name.parse().unwrap() }
    }

    struct Case {
        liveness: Liveness,
        start: Instant,
        agents: Agents,
        heard: BTreeMap<AgentId, Heard>,
    }

    impl Case {
        fn new(names: &[&str]) -> Self {
            let start = Instant::now();
            let agents = names.iter().map(|n| (id(n), AgentState { active: true, ..AgentState::default() })).collect();
            Self { liveness: Liveness::new(PATIENCE, start), start, agents, heard: BTreeMap::new() }
        }

        fn hear(&mut self, name: &str, second: u64) {
            let at = self.start + Duration::from_secs(second);
            self.heard.insert(id(name), Heard { at, at_ms: 1_000_000 + second as i64 * 1000 });
        }

        fn round(&mut self, second: u64) -> Vec<Control> {
            let now = self.start + Duration::from_secs(second);
            self.liveness.round(now, 1_000_000 + second as i64 * 1000, &self.agents, &self.heard)
        }
    }

    #[test]
    fn a_silent_agent_is_dark_since_it_was_last_heard() {
        let mut case = Case::new(&["a1"]);
        case.hear("a1", 2);
        assert_eq!(case.round(6), []);
        assert_eq!(case.round(7), [Control::AgentDark { agent: id("a1"), since_ms: 1_002_000 }]);
        case.agents.get_mut(&id("a1")).unwrap().dark_since_ms = Some(1_002_000);
        assert_eq!(case.round(8), [], "said once");
    }

    #[test]
    fn a_new_leader_waits_before_it_judges() {
        let mut case = Case::new(&["a1"]);
        assert_eq!(case.round(4), []);
        assert_eq!(case.round(5), [Control::AgentDark { agent: id("a1"), since_ms: 1_000_000 }]);
    }

    #[test]
    fn a_pop_that_is_wholly_dark_keeps_its_assignment() {
        let mut case = Case::new(&["a1", "a2"]);
        for agent in case.agents.values_mut() {
            agent.dark_since_ms = Some(1);
        }
        assert_eq!(case.round(600), []);
    }

    #[test]
    fn an_agent_is_evicted_once_its_neighbour_was_heard_for_the_grace_period() {
        let mut case = Case::new(&["a1", "a2"]);
        for agent in case.agents.values_mut() {
            agent.dark_since_ms = Some(1);
        }
        case.round(100);
        for second in 101..=160 {
            case.hear("a1", second);
            assert_eq!(case.round(second), [], "second {second}: the heal of a PoP must not move devices at once");
        }
        case.hear("a1", 161);
        assert_eq!(case.round(161), [Control::AgentEvicted { agent: id("a2") }]);
    }
}
