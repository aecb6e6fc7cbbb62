//! What accepting over QUIC and over TCP have in common: a refusal or failure is logged once, with who and why, and counted.

use std::net::SocketAddr;

use tracing::warn;

use crate::counters::AcceptCounters;
use crate::error::LinkError;
use crate::identity::PeerIdentity;
use crate::refusal::Refusal;
use crate::verify::Verdict;

/// The identity that a finished handshake has established.
pub(crate) fn identity(address: SocketAddr, verdict: &Verdict) -> Result<PeerIdentity, LinkError> {
    match verdict.get() {
        Some(Ok(identity)) => Ok(identity.clone()),
        _ => Err(refused(address, verdict).unwrap_or_else(|| no_certificate(address))),
    }
}

/// The refusal behind a failed handshake, if there was one.
pub(crate) fn refused(address: SocketAddr, verdict: &Verdict) -> Option<LinkError> {
    let refused = verdict.get()?.as_ref().err()?.clone();
    Some(LinkError::Refused { address, claimed: refused.claimed, refusal: Box::new(refused.refusal) })
}

/// The refusal of a peer that showed nothing.
pub(crate) fn no_certificate(address: SocketAddr) -> LinkError {
    LinkError::Refused { address, claimed: "nobody".to_owned(), refusal: Box::new(Refusal::NoCertificate) }
}

/// Counts and logs an attempt of a peer that came to nothing. `listener` says where: `sessions`, `grpc`.
pub(crate) fn report(listener: &'static str, counters: &AcceptCounters, error: &LinkError) {
    match error {
        LinkError::Refused { .. } => counters.count_refused(),
        _ => counters.count_failed(),
    }
    log(listener, error);
}

/// Logs a link that came to nothing.
pub(crate) fn log(link: &'static str, error: &LinkError) {
    match error {
        LinkError::Refused { address, claimed, refusal } => {
            warn!(link, peer = %address, claimed = %claimed, reason = %refusal, "refused peer");
        }
        LinkError::RefusedByPeer { peer, reason, .. } => warn!(link, peer = %peer, reason = %reason, "peer refused this node"),
        other => warn!(link, error = %other, "link not made"),
    }
}
