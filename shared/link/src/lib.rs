//! Links between the processes of a cluster: QUIC sessions and TCP streams over mutual TLS, and the frames on them.
//!
//! Promises: no byte of the application is read from a peer, or sent to one, before its certificate has been checked against
//! the cluster's authority and its identity against what is expected here; each refusal is logged by the side that refuses,
//! with the reason and who it was, and reaches the caller as [`LinkError::Refused`]. Lengths are checked before memory is
//! taken, frames that trickle in are cut off, and a peer that breaks the protocol is closed with a [`CloseCode`].
//! Refuses: TLS below 1.3, session tickets and early data (they would skip the check), streams beyond the documented counts.
//! Knows nothing of what frames mean.

mod accept;
mod close;
mod counters;
mod credentials;
mod error;
mod frame;
mod grpc;
mod identity;
mod quic;
mod refusal;
mod session;
mod tls;
mod verify;

pub use close::CloseCode;
pub use counters::{AcceptCounters, AcceptCounts};
pub use credentials::{Credentials, CredentialsError};
pub use error::{Fault, LinkError, Peer};
pub use frame::{BODY_MAX, FRAME_VERSION, Frame, FrameDecoder, FrameError, FrameReader, FrameWriter, HEADER_BYTES};
pub use grpc::{TlsIncoming, TlsStream, tls_accept, tls_connect};
pub use identity::PeerIdentity;
pub use quic::{AgentEndpoint, HubEndpoint, LinkOptions};
pub use refusal::Refusal;
pub use session::{Control, Established, Lane, Session};
pub use tls::{Expected, Protocol, Tls};
