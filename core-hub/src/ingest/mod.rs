//! Sessions with agents: batches in, acknowledgements and assignments out.
//!
//! Promises that a batch is acknowledged only after a majority has it on disk and it is applied here, and that the batches
//! of an agent are proposed in sequence. Refuses batches while this node does not lead, and batches of another identity
//! than the session's certificate.

pub mod grouper;
pub mod order;
pub mod presence;
pub mod server;
pub mod session;
