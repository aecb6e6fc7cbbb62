//! Links over real sockets on loopback.

mod common;
mod refusals;
mod sessions;
