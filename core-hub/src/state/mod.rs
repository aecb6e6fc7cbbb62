//! The replicated state: inventory, assignment, agents, and the store of samples, changed only by applying the Raft log.
//!
//! Owns everything that every hub node holds alike. Apply is deterministic: no clock, no randomness, no unordered iteration.
//! Readers see it through [`HubState`]; nothing but [`machine`] changes it.

pub mod agents;
pub mod apply;
pub mod command;
pub mod disk;
pub mod intervals;
pub mod inventory;
pub mod machine;

use serde::{Deserialize, Serialize};

use agents::Agents;
use inventory::Inventory;
pub use machine::HubState;

/// Everything replicated except samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    /// Index of the last entry applied.
    pub applied: u64,
    /// Agents by identity.
    pub agents: Agents,
    /// Devices and who polls them.
    pub inventory: Inventory,
    /// How many series have a number.
    pub series: u32,
    /// Definitions refused for a collision of series ids.
    pub collisions: u64,
}
