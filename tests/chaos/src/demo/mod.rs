//! The demo: three hubs, two PoPs and forty simulated devices as separate processes on loopback, without root.
//!
//! ```text
//! simulator ◀── SNMP ── edge-agent ams1/a1 ─┐ relays ams1 ─┐
//!                       edge-agent ams1/a2 ─┘              ├── QUIC ──▶ core-hub 1, 2, 3
//!                       edge-agent nyc1/n1 ── relays nyc1 ─┘
//! ```
//!
//! Every link between a PoP and a hub runs through a relay of the demo process, so a second terminal can cut and delay it.
//! The ledger of the simulator is what everything stored is checked against.

pub mod cli;
pub mod cluster;
pub mod console;
pub mod http;
pub mod load;
pub mod plan;
pub mod remote;
pub mod report;
pub mod snmpd;
pub mod usage;
pub mod verify;
