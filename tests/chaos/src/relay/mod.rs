//! A userspace UDP relay that can be told to misbehave: the only road between a PoP and a hub.
//!
//! ```text
//! client A ─┐              ┌─ socket A ─┐
//!           ├─ listen ─────┤            ├─ target
//! client B ─┘              └─ socket B ─┘
//!              to target ▶   ◀ to client      one lane of faults each way
//! ```
//!
//! Each client, by source address, has an upstream socket of its own, so the target tells clients apart. Promises
//! that every datagram is forwarded or counted under a reason. Refuses to look inside a datagram.

mod forward;
mod lane;

pub use forward::{Direction, Relay, RelayTallies};
pub use lane::Fault;
