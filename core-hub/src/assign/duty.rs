//! The leader's duty: a round every half second that proposes who is dark, back or evicted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemone_model::AgentId;
use anemone_raft::{ProposeError, RaftNode};
use tokio_util::sync::CancellationToken;

use super::liveness::{Liveness, Patience};
use crate::ingest::presence::{Presence, Present, now_ms};
use crate::state::HubState;
use crate::state::agents::{AgentState, Agents};
use crate::state::command::{Command, Control};

const ROUND: Duration = Duration::from_millis(500);

/// Runs until cancelled.
pub async fn run(raft: RaftNode, state: Arc<HubState>, presence: Arc<Presence>, patience: Patience, stop: CancellationToken) {
    let mut term: Option<(u64, Liveness)> = None;
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let leadership = *raft.leadership().borrow();
        if !leadership.me {
            term = None;
            continue;
        }
        let now = Instant::now();
        if term.as_ref().is_none_or(|(known, _)| *known != leadership.term) {
            term = Some((leadership.term, Liveness::new(patience, now)));
        }
        let Some((_, liveness)) = &mut term else { continue };
        let present = presence.all();
        let heard = present.iter().map(|(id, p)| (id.clone(), p.heard)).collect();
        let proposals = state.with_control(|control| {
            let mut proposals = news(&control.agents, &present, now, patience.dark_after);
            proposals.extend(liveness.round(now, now_ms(), &control.agents, &heard));
            proposals
        });
        for control in proposals {
            // Without a majority each would take its whole time-out; the next round says again what was not said.
            if stop.is_cancelled() || !propose(&raft, &control).await {
                break;
            }
        }
    }
}

/// Agents heard now whom the state does not know, calls dark or inactive, or knows otherwise than they say.
fn news(agents: &Agents, present: &BTreeMap<AgentId, Present>, now: Instant, dark_after: Duration) -> Vec<Control> {
    let current = |known: &AgentState, p: &Present| {
        known.active && known.dark_since_ms.is_none() && known.http == p.hello.http && known.software == p.hello.software
    };
    let loud = present.iter().filter(|(_, p)| p.sessions > 0 && now.saturating_duration_since(p.heard.at) < dark_after);
    let unsaid = loud.filter(|(id, p)| agents.get(*id).is_none_or(|known| !current(known, p)));
    let seen = |(id, p): (&AgentId, &Present)| Control::AgentSeen {
        agent: id.clone(),
        http: p.hello.http.clone(),
        software: p.hello.software.clone(),
    };
    unsaid.map(seen).collect()
}

/// Proposes one command; whether it was committed.
async fn propose(raft: &RaftNode, control: &Control) -> bool {
    match &control {
        Control::AgentDark { agent, since_ms } => tracing::warn!(%agent, since_ms, "agent is dark"),
        Control::AgentSeen { agent, .. } => tracing::info!(%agent, "agent is heard"),
        Control::AgentEvicted { agent } => tracing::warn!(%agent, "agent has been dark too long; its neighbours take over its devices"),
        Control::PutDevices(_) | Control::RemoveDevices(_) => {}
    }
    let encoded = match Command::encode_control(control) {
        Ok(encoded) => encoded,
        Err(error) => {
            tracing::error!(%error, "a control command does not encode");
            return true;
        }
    };
    match raft.propose(encoded).await {
        Ok(_) => true,
        Err(ProposeError::NotLeader { .. }) => false,
        Err(error) => {
            tracing::warn!(%error, "a control command was not committed; the next round says it again");
            false
        }
    }
}
