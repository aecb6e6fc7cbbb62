//! What can go wrong with a link, and whose fault it is.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anemone_model::Identity;
use quinn::ConnectionError;

use crate::close::CloseCode;
use crate::frame::FrameError;
use crate::refusal::{Refusal, alert_meaning};

/// A peer as named in errors and log lines: its address, and its identity once that is certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it was when the link was made.
    pub address: SocketAddr,
    /// Who it is, if its certificate has passed.
    pub identity: Option<Box<Identity>>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => write!(f, "{identity} at {}", self.address),
            None => write!(f, "peer at {}", self.address),
        }
    }
}

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody: try again later.
    Retry,
    /// The peer, or whoever gave it or us a certificate: trying again soon will not help.
    Peer,
    /// This process or its configuration.
    Ours,
}

/// Why a link could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The local address cannot be used.
    #[error("bind {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The attempt to connect failed before TLS.
    #[error("connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// We refused the peer.
    #[error("refused peer at {address}, which claims to be {claimed}: {refusal}")]
    Refused {
        /// Its address.
        address: SocketAddr,
        /// Who its certificate claims, unverified; `nobody` without one.
        claimed: String,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// The peer refused us.
    #[error("{peer} refused this node: {reason}")]
    RefusedByPeer {
        /// The peer.
        peer: Peer,
        /// The TLS alert it sent (RFC 8446 section 6.2).
        alert: u8,
        /// What the alert means, and the peer's words if it sent any.
        reason: String,
    },
    /// The handshake failed for another reason than a certificate.
    #[error("handshake with {peer}: {reason}")]
    Handshake {
        /// The peer.
        peer: Peer,
        /// Why.
        reason: String,
    },
    /// Something did not happen in time.
    #[error("{peer}: {what} took longer than {after:?}")]
    TimedOut {
        /// The peer.
        peer: Peer,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The peer ended the control stream before its first frame.
    #[error("{peer} ended the control stream without a first frame")]
    NoHello {
        /// The peer.
        peer: Peer,
    },
    /// A frame of the peer broke a rule.
    #[error("{peer}: {source}")]
    Frame {
        /// The peer.
        peer: Peer,
        /// Which rule.
        source: FrameError,
    },
    /// The peer opened a stream of a lane not known here.
    #[error("{peer} opened a stream of the unknown lane {lane}")]
    UnknownLane {
        /// The peer.
        peer: Peer,
        /// The lane's number.
        lane: u8,
    },
    /// The peer closed the session on purpose.
    #[error("{peer} closed the session: {code}: {reason}")]
    Closed {
        /// The peer.
        peer: Peer,
        /// Its code.
        code: CloseCode,
        /// Its words.
        reason: String,
    },
    /// The session was lost: silence beyond the idle time-out, a restart of the peer...
    #[error("session with {peer} lost: {source}")]
    Lost {
        /// The peer.
        peer: Peer,
        /// The transport's reason.
        source: ConnectionError,
    },
    /// The session was closed on this side.
    #[error("session with {peer} was closed here")]
    ClosedHere {
        /// The peer.
        peer: Peer,
    },
}

impl LinkError {
    /// Who has to act.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Bind { .. } => Fault::Ours,
            Self::Refused { .. } | Self::RefusedByPeer { .. } | Self::UnknownLane { .. } => Fault::Peer,
            Self::Frame { source, .. } if source.close_code().is_some() => Fault::Peer,
            Self::Closed { code: CloseCode::Normal | CloseCode::Shutdown | CloseCode::Replaced | CloseCode::Overloaded, .. } => {
                Fault::Retry
            }
            Self::Closed { .. } => Fault::Peer,
            _ => Fault::Retry,
        }
    }

    /// The end of a QUIC connection in our terms.
    pub(crate) fn from_connection(peer: Peer, error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                peer,
                code: CloseCode::from_number(close.error_code.into_inner()),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            ConnectionError::ConnectionClosed(close) => {
                let words = String::from_utf8_lossy(&close.reason).into_owned();
                match tls_alert(u64::from(close.error_code)) {
                    Some(alert) => Self::from_alert(peer, alert, &words),
                    None => Self::Handshake { peer, reason: format!("aborted by the peer: {}: {words}", close.error_code) },
                }
            }
            ConnectionError::LocallyClosed => Self::ClosedHere { peer },
            source => Self::Lost { peer, source },
        }
    }

    /// A TLS alert that the peer sent.
    pub(crate) fn from_alert(peer: Peer, alert: u8, words: &str) -> Self {
        let words = if words.is_empty() { String::new() } else { format!(" ({words})") };
        match alert_meaning(alert) {
            Some(meaning) => Self::RefusedByPeer { peer, alert, reason: format!("{meaning}{words}") },
            None => Self::Handshake { peer, reason: format!("peer sent TLS alert {alert}{words}") },
        }
    }
}

/// The TLS alert in a QUIC error code: 0x100 to 0x1ff (RFC 9001 section 4.8).
pub(crate) fn tls_alert(code: u64) -> Option<u8> {
    code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}
