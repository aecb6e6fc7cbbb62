//! Three real hub processes and agents that speak their protocol: what holds from outside, and what a kill -9 must not break.
#![expect(clippy::unwrap_used, reason = "test code: a panic is the failure of the test")]

mod agent;
mod api;
mod bad_input;
mod failover;
mod hubs;
mod liveness;
mod shipping;
mod snapshot;
