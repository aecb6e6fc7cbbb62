//! The codes a QUIC session is closed with. The numbers are part of the protocol: never reuse one.

use std::fmt;

/// Why a session was closed on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 0: nothing more to say; also what QUIC sends when a process just drops its session.
    Normal,
    /// 1: this process is shutting down; come back later.
    Shutdown,
    /// 2: the same peer has opened a newer session.
    Replaced,
    /// 3: too many sessions; come back later.
    Overloaded,
    /// 16: a frame longer than the limit.
    ProtocolOversized,
    /// 17: a frame shorter than its header, or a stream that ended inside one.
    ProtocolTruncated,
    /// 18: a frame of a version not spoken here.
    ProtocolVersion,
    /// 19: a frame of an unknown kind, or whose body does not decode, or that is not allowed at this point.
    ProtocolMessage,
    /// 20: a stream that is not allowed, or of an unknown lane.
    ProtocolStream,
    /// 21: a frame that did not complete in time.
    ProtocolSlow,
    /// 32: the certificate is in order, its identity is not wanted here.
    IdentityRefused,
    /// 48: this process failed.
    Internal,
    /// A code of a newer version.
    Other(u64),
}

impl CloseCode {
    const NUMBERS: [(Self, u32); 12] = [
        (Self::Normal, 0),
        (Self::Shutdown, 1),
        (Self::Replaced, 2),
        (Self::Overloaded, 3),
        (Self::ProtocolOversized, 16),
        (Self::ProtocolTruncated, 17),
        (Self::ProtocolVersion, 18),
        (Self::ProtocolMessage, 19),
        (Self::ProtocolStream, 20),
        (Self::ProtocolSlow, 21),
        (Self::IdentityRefused, 32),
        (Self::Internal, 48),
    ];

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Other(number) => number,
            known => Self::NUMBERS.iter().find(|(code, _)| *code == known).map_or(0, |(_, number)| u64::from(*number)),
        }
    }

    /// The code of a number.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self::NUMBERS.iter().find(|(_, known)| u64::from(*known) == number).map_or(Self::Other(number), |(code, _)| *code)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Normal => "normal",
            Self::Shutdown => "shutdown",
            Self::Replaced => "replaced by a newer session",
            Self::Overloaded => "overloaded",
            Self::ProtocolOversized => "protocol: oversized frame",
            Self::ProtocolTruncated => "protocol: truncated frame",
            Self::ProtocolVersion => "protocol: unknown version",
            Self::ProtocolMessage => "protocol: message not understood",
            Self::ProtocolStream => "protocol: stream not allowed",
            Self::ProtocolSlow => "protocol: frame too slow",
            Self::IdentityRefused => "identity refused",
            Self::Internal => "internal failure",
            Self::Other(_) => "unknown",
        };
        write!(f, "{text} ({})", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_come_back() {
        for (index, (code, number)) in CloseCode::NUMBERS.iter().enumerate() {
            assert_eq!(CloseCode::from_number(u64::from(*number)), *code);
            assert_eq!(code.number(), u64::from(*number));
            assert!(CloseCode::NUMBERS[..index].iter().all(|(_, earlier)| earlier < number));
        }
        assert_eq!(CloseCode::from_number(999), CloseCode::Other(999));
        assert_eq!(CloseCode::Other(999).number(), 999);
    }
}
