//! The Anemone edge agent: polls the devices of a PoP, keeps, answers and ships what they say.

pub mod api;
pub mod app;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod config;
pub mod device;
pub mod fleet;
pub mod local;
pub mod profiles;
pub mod spool;
pub mod uplink;
pub mod vital;

mod files;
#[cfg(test)]
mod small_disk;
