//! Agents, PoPs, gaps and the Raft group, as this node sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::{Api, ApiError, success};
use crate::text::utc;

/// `GET /api/v1/agents`: each agent with its reachability, how far its spool is applied, and its last heartbeat here.
pub(super) async fn agents(State(api): State<Arc<Api>>) -> Response {
    let present = api.presence.all();
    let rows = api.state.with_control(|control| {
        let devices = control.inventory.iter().filter_map(|d| d.agent.as_ref()).fold(BTreeMap::new(), |mut count, agent| {
            *count.entry(agent.clone()).or_insert(0_u64) += 1;
            count
        });
        let row = |(id, agent): (&anemone_model::AgentId, &crate::state::agents::AgentState)| {
            let here = present.get(id);
            json!({
                "pop": id.pop,
                "name": id.name,
                "dark_since": agent.dark_since_ms.map(utc),
                "active": agent.active,
                "http": agent.http,
                "software": agent.software,
                "devices": devices.get(id).copied().unwrap_or(0),
                "samples": agent.samples,
                "refused_samples": agent.refused,
                "gaps": agent.gaps.len(),
                "epochs": agent.epochs.iter().map(|(epoch, state)| json!({
                    "epoch": format!("{epoch:016x}"),
                    "applied_below": state.applied.applied_below(),
                    "pieces": state.applied.pieces(),
                })).collect::<Vec<Value>>(),
                "heard_here": here.map(|p| utc(p.heard.at_ms)),
                "load": here.map(|p| json!({
                    "devices": p.load.devices,
                    "devices_failing": p.load.devices_failing,
                    "unacknowledged_batches": p.load.unacknowledged_batches,
                    "unacknowledged_bytes": p.load.unacknowledged_bytes,
                    "oldest_unacknowledged": p.load.oldest_unacknowledged_ms.map(utc),
                    "dropped_batches": p.load.dropped_batches,
                })),
            })
        };
        control.agents.iter().map(row).collect::<Vec<Value>>()
    });
    success(rows)
}

/// `GET /api/v1/pops`: each PoP with its agents, devices, and since when it is dark.
pub(super) async fn pops(State(api): State<Arc<Api>>) -> Response {
    #[derive(Default)]
    struct Pop {
        agents: u64,
        dark: Vec<i64>,
        devices: u64,
        unassigned: u64,
    }
    let pops = api.state.with_control(|control| {
        let mut pops: BTreeMap<anemone_model::Name, Pop> = BTreeMap::new();
        for (id, agent) in &control.agents {
            let pop = pops.entry(id.pop.clone()).or_default();
            pop.agents += 1;
            pop.dark.extend(agent.dark_since_ms);
        }
        for assigned in control.inventory.iter() {
            let pop = pops.entry(assigned.device.pop.clone()).or_default();
            pop.devices += 1;
            pop.unassigned += u64::from(assigned.agent.is_none());
        }
        pops
    });
    let row = |(name, pop): (&anemone_model::Name, &Pop)| {
        let state = match pop.dark.len() as u64 {
            _ if pop.agents == 0 => "no agent",
            0 => "reachable",
            dark if dark == pop.agents => "dark",
            _ => "partly dark",
        };
        json!({
            "name": name,
            "state": state,
            "dark_since": pop.dark.iter().min().map(|ms| utc(*ms)),
            "agents": pop.agents,
            "agents_dark": pop.dark.len(),
            "devices": pop.devices,
            "devices_unassigned": pop.unassigned,
        })
    };
    success(pops.iter().map(row).collect::<Vec<Value>>())
}

/// `GET /api/v1/gaps`: what agents had to give up, oldest first per agent.
pub(super) async fn gaps(State(api): State<Arc<Api>>) -> Response {
    let rows = api.state.with_control(|control| {
        let of_agent = |(id, agent): (&anemone_model::AgentId, &crate::state::agents::AgentState)| {
            let row = |gap: &crate::state::agents::Gap| {
                json!({
                    "pop": id.pop,
                    "agent": id.name,
                    "epoch": format!("{:016x}", gap.epoch),
                    "from_sequence": gap.record.from_sequence,
                    "sequences": gap.record.sequences,
                    "from": gap.record.from_ms.map(utc),
                    "to": gap.record.to_ms.map(utc),
                    "samples": gap.record.samples,
                    "reason": gap.record.reason.describe(),
                })
            };
            agent.gaps.iter().map(row).collect::<Vec<Value>>()
        };
        control.agents.iter().flat_map(of_agent).collect::<Vec<Value>>()
    });
    success(rows)
}

/// `GET /api/v1/cluster`: this node's view of the Raft group, and its store.
pub(super) async fn cluster(State(api): State<Arc<Api>>) -> Response {
    let status = api.raft.status();
    let stats = api.state.store().stats();
    let (applied, devices, series, collisions) = api.state.with_control(|c| (c.applied, c.inventory.len(), c.series, c.collisions));
    success(json!({
        "node": api.hub,
        "state": status.state.as_str(),
        "term": status.term,
        "leader": status.leader,
        "last_log": status.last_log,
        "committed": status.committed,
        "applied": applied,
        "sealed": status.sealed,
        "purged": status.purged,
        "log_bytes": status.log_bytes,
        "millis_since_quorum_ack": status.millis_since_quorum_ack,
        "replication": status.replication.iter().map(|(hub, index)| (hub.to_string(), json!(index))).collect::<serde_json::Map<_, _>>(),
        "nodes": api.http_addresses.iter().map(|(hub, http)| json!({ "id": hub, "http": format!("http://{http}") })).collect::<Vec<Value>>(),
        "sessions_turned_away": api.presence.turned_away(),
        "devices": devices,
        "series": series,
        "series_collisions": collisions,
        "store": {
            "series": stats.series,
            "head_samples": stats.head_samples,
            "head_bytes": stats.head_bytes,
            "blocks": stats.blocks,
            "block_bytes": stats.block_bytes,
            "duplicate_samples": stats.duplicates,
            "conflicting_samples": stats.conflicts,
            "quarantined": stats.quarantined.iter().map(|q| json!({ "block": q.block.to_string(), "reason": q.reason })).collect::<Vec<Value>>(),
        },
    }))
}

/// `GET /readyz`: 200 once this node follows or is a leader.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    let leader = api.raft.leadership().borrow().leader;
    leader.map(|_| "ready\n").ok_or_else(|| ApiError::unavailable("this hub node hears no leader"))
}
