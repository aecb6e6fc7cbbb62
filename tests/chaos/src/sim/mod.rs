//! The device simulator: thousands of SNMP v1/v2c devices in one process, told apart by destination address.
//!
//! Owns one UDP socket on `0.0.0.0:port`; a request sent to `127.64.x.y` is answered from that address
//! (`IP_PKTINFO`, RFC 1122 section 3.2.1.3 gives all of 127/8 to the host). Devices either replay an `.snmprec`
//! recording or are synthesised by kind, with counters that are a pure function of time, so an idle fleet
//! costs nothing. Promises a ledger of every interface value it answered. Refuses SNMPv3 and `Set`.

mod answer;
mod ber;
mod control;
mod counters;
mod device;
mod error;
mod fault;
mod fleet;
mod ledger;
mod objects;
mod recording;
mod replay;
mod request;
mod response;
mod server;
mod simulator;
mod synthesised;
mod template;
mod view;

pub use control::{Control, Ready};
pub use error::SimulatorError;
pub use fault::{Faults, Malformed, Pin, Reboot, Renumber, Start};
pub use fleet::{FleetSpec, GroupSpec, InventoryItem};
pub use ledger::{LedgerEntry, LedgerSeries};
pub use recording::Recording;
pub use server::Tallies;
pub(crate) use server::now_ms;
pub use simulator::{LedgerBound, Simulator};
pub use template::Kind;
