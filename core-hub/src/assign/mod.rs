//! Who polls what: rendezvous hashing, and the leader's judgement of which agents are there.

pub mod duty;
pub mod liveness;
pub mod rendezvous;
