//! What answers of this node are annotated with: PoPs that are dark, and a node that hears no leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use anemone_model::{Labels, Name};
use anemone_query::source::{Annotate, Found, Limits, SelectRequest, Selection, SeriesRequest, Source};
use anemone_query::{QueryError, StoreSource};
use anemone_raft::RaftNode;
use anemone_store::matcher::Matcher;
use async_trait::async_trait;

use crate::state::HubState;
use crate::state::agents::Agents;
use crate::text::utc;

/// Calls of one query that may read the store at once.
const READERS: usize = 4;

/// What this node holds now; installing a snapshot replaces the store under it.
pub struct CurrentStore {
    state: Arc<HubState>,
}

impl CurrentStore {
    /// Over the state of this node.
    #[must_use]
    pub fn new(state: Arc<HubState>) -> Self {
        Self { state }
    }

    fn source(&self) -> StoreSource {
        StoreSource::new(self.state.store(), READERS)
    }
}

#[async_trait]
impl Source for CurrentStore {
    async fn select(&self, request: &SelectRequest, limits: &Limits) -> Result<Selection, QueryError> {
        self.source().select(request, limits).await
    }

    async fn series(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<Labels>, QueryError> {
        self.source().series(request, limits).await
    }

    async fn label_names(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError> {
        self.source().label_names(request, limits).await
    }

    async fn label_values(&self, name: &str, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError> {
        self.source().label_values(name, request, limits).await
    }
}

/// Warns of what this node's data may lack.
pub struct Freshness {
    state: Arc<HubState>,
    raft: RaftNode,
}

impl Freshness {
    /// Over the state of this node.
    #[must_use]
    pub fn new(state: Arc<HubState>, raft: RaftNode) -> Self {
        Self { state, raft }
    }
}

impl Annotate for Freshness {
    fn warnings(&self, selectors: &[Vec<Matcher>], _from_ms: i64, to_ms: i64) -> Vec<String> {
        let mut warnings = self.state.with_control(|control| dark_warnings(&control.agents, selectors, to_ms));
        let leadership = *self.raft.leadership().borrow();
        if leadership.leader.is_none() {
            warnings.push("this hub node hears no leader; what was written since may be missing".to_owned());
        }
        warnings
    }
}

/// One warning per dark PoP, or per dark agents of a PoP that others still serve, that the selectors could concern.
fn dark_warnings(agents: &Agents, selectors: &[Vec<Matcher>], to_ms: i64) -> Vec<String> {
    let mut pops: BTreeMap<&Name, Vec<_>> = BTreeMap::new();
    for (id, agent) in agents {
        pops.entry(&id.pop).or_default().push((id, agent));
    }
    let concerned = |pop: &Name| {
        let fits = |set: &Vec<Matcher>| set.iter().filter(|m| m.name == "pop").all(|m| m.matches(pop.as_str()));
        selectors.is_empty() || selectors.iter().any(fits)
    };
    let mut warnings = Vec::new();
    for (pop, agents) in pops.into_iter().filter(|(pop, _)| concerned(pop)) {
        let dark: Vec<_> =
            agents.iter().filter_map(|(id, a)| Some((a.dark_since_ms?, *id, *a))).filter(|(since, ..)| *since <= to_ms).collect();
        let Some(since) = dark.iter().map(|(since, ..)| *since).min() else { continue };
        let names: Vec<&str> = dark.iter().map(|(_, id, _)| id.name.as_str()).collect();
        let urls: Vec<&str> = dark.iter().map(|(.., a)| a.http.as_str()).filter(|u| !u.is_empty()).collect();
        let who = if dark.len() == agents.len() {
            format!("PoP {pop} is dark since {}", utc(since))
        } else {
            format!("PoP {pop} is partly dark since {}", utc(since))
        };
        let ask = if urls.is_empty() { String::new() } else { format!("; it can be asked itself at {}", urls.join(" and ")) };
        let agent = if names.len() == 1 { "agent" } else { "agents" };
        warnings.push(format!("{who}: {agent} {} not heard, newer samples have not arrived{ask}", names.join(", ")));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::agents::AgentState;
    use anemone_model::AgentId;
    use anemone_store::matcher::MatchOp;

    fn agents() -> Agents {
        let agent = |pop: &str, name: &str, dark: Option<i64>| {
            let id = AgentId { pop: pop.parse().unwrap(), name: name.parse().unwrap() };
            (id, AgentState { dark_since_ms: dark, http: format!("http://{name}"), ..AgentState::default() })
        };
        [
            agent("ams1", "a1", Some(1_763_838_000_000)),
            agent("ams1", "a2", Some(1_763_838_001_000)),
            agent("nyc1", "n1", None),
            agent("nyc1", "n2", Some(5_000)),
        ]
        .into_iter()
        .collect()
    }

    fn pop(op: MatchOp, value: &str) -> Vec<Vec<Matcher>> {
        vec![vec![Matcher::new("pop", op, value).unwrap()]]
    }

    #[test]
    fn a_dark_pop_is_named_with_the_time_and_where_to_ask() {
        let warnings = dark_warnings(&agents(), &pop(MatchOp::Equal, "ams1"), i64::MAX);
        assert_eq!(
            warnings,
            [
                "PoP ams1 is dark since 2025-11-22T19:00:00Z: agents a1, a2 not heard, newer samples have not arrived; it can be asked itself at http://a1 and http://a2"
            ]
        );
    }

    #[test]
    fn only_what_the_selectors_concern_is_warned_of() {
        assert_eq!(dark_warnings(&agents(), &[], i64::MAX).len(), 2);
        let partly = dark_warnings(&agents(), &pop(MatchOp::NotEqual, "ams1"), i64::MAX);
        assert!(partly[0].starts_with("PoP nyc1 is partly dark since 1970-01-01T00:00:05Z: agent n2 not heard"), "{partly:?}");
        assert_eq!(dark_warnings(&agents(), &pop(MatchOp::Regex, "fra.*"), i64::MAX).len(), 0);
        assert_eq!(dark_warnings(&agents(), &pop(MatchOp::Equal, "ams1"), 1_700_000_000_000).len(), 0, "a range that ended before");
    }
}
