//! What the cluster tests and the demo are made of: a device simulator, a UDP relay with faults,
//! guarded child processes, and the checker that proves nothing was lost or counted twice.
//!
//! Promises: everything here runs without root, on loopback, and leaves nothing behind. Refuses: to know
//! how the agent or the hub work inside; they are driven from outside, as processes and over their APIs.

mod chance;
pub mod check;
pub mod demo;
pub mod process;
pub mod relay;
pub mod sim;
