//! A session: one QUIC connection with a peer whose identity is known.
//!
//! ```text
//! agent                                       hub
//!   |== control: bidirectional, frames both ways ==|   opened by the agent, its first frame is the hello
//!   |-- lane: [u8 lane] frames... --------------->|   one unidirectional stream for each lane
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anemone_model::Identity;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::close::CloseCode;
use crate::error::{LinkError, Peer};
use crate::frame::{Frame, FrameError, FrameReader, FrameWriter};
use crate::identity::PeerIdentity;

/// How long the lane byte of a new stream may take.
const LANE_DEADLINE: Duration = Duration::from_secs(30);
/// Control frames overtake batches, live batches overtake backlog.
const CONTROL_PRIORITY: i32 = 2;

/// What a stream of batches carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Batches as they are sealed.
    Live,
    /// Batches that piled up while the hub could not be reached.
    Backlog,
}

impl Lane {
    fn number(self) -> u8 {
        match self {
            Self::Live => 1,
            Self::Backlog => 2,
        }
    }

    fn priority(self) -> i32 {
        match self {
            Self::Live => 1,
            Self::Backlog => 0,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Live, Self::Backlog].into_iter().find(|lane| lane.number() == number)
    }
}

/// Both directions of the control stream.
#[derive(Debug)]
pub struct Control {
    /// Frames of the peer.
    pub reader: FrameReader<RecvStream>,
    /// Frames to the peer.
    pub writer: FrameWriter<SendStream>,
}

/// A session whose peer has been checked and has spoken.
#[derive(Debug)]
pub struct Established {
    /// The session.
    pub session: Session,
    /// Its control stream.
    pub control: Control,
    /// The peer's first frame.
    pub hello: Frame,
}

/// A session with a known peer. Clones are the same session; dropping the last one closes it with [`CloseCode::Normal`].
#[derive(Clone, Debug)]
pub struct Session {
    connection: Connection,
    peer: Arc<PeerIdentity>,
    address: SocketAddr,
    /// A lane stream whose lane byte has not come yet: kept here so that `accept_lane` may be cancelled.
    unnamed: Arc<Mutex<Option<RecvStream>>>,
}

impl Session {
    pub(crate) fn new(connection: Connection, peer: PeerIdentity) -> Self {
        let address = connection.remote_address();
        Self { connection, peer: Arc::new(peer), address, unnamed: Arc::default() }
    }

    /// Who the peer is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.peer.identity
    }

    /// Who the peer is, and by which certificate.
    #[must_use]
    pub fn peer_identity(&self) -> &PeerIdentity {
        &self.peer
    }

    /// The peer's present address; it changes when the peer's path does.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The smoothed round-trip time.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Opens the stream of a lane. The agent's side.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn open_lane(&self, lane: Lane) -> Result<FrameWriter<SendStream>, LinkError> {
        let mut stream = self.connection.open_uni().await.map_err(|error| self.ended(error))?;
        let written = stream.write_all(&[lane.number()]).await;
        written.map_err(|error| self.explain(FrameError::Io { action: "write", source: error.into() }))?;
        set_priority(&stream, lane.priority());
        Ok(FrameWriter::new(stream))
    }

    /// Waits for the peer to open the stream of a lane. The hub's side. May be cancelled: no stream is lost.
    ///
    /// # Errors
    /// When the session has ended, or the peer opened a lane that does not exist, for which it is closed.
    pub async fn accept_lane(&self) -> Result<(Lane, FrameReader<RecvStream>), LinkError> {
        let mut unnamed = self.unnamed.lock().await;
        let stream = match &mut *unnamed {
            Some(stream) => stream,
            empty => empty.insert(self.connection.accept_uni().await.map_err(|error| self.ended(error))?),
        };
        let mut number = [0];
        let read = timeout(LANE_DEADLINE, stream.read(&mut number)).await;
        let stream = unnamed.take().expect("filled above, and the lock is held");
        match read {
            Err(_) => Err(self.reject(FrameError::Slow { deadline: LANE_DEADLINE, expected: 1, got: 0 })),
            Ok(Err(error)) => Err(self.reject(FrameError::Io { action: "read", source: error.into() })),
            Ok(Ok(None)) => Err(self.reject(FrameError::Truncated { expected: 1, got: 0 })),
            Ok(Ok(Some(_))) => match Lane::from_number(number[0]) {
                Some(lane) => Ok((lane, FrameReader::new(stream))),
                None => {
                    let error = LinkError::UnknownLane { peer: self.peer(), lane: number[0] };
                    self.close_for(CloseCode::ProtocolStream, &error.to_string());
                    Err(error)
                }
            },
        }
    }

    /// Ends the session on purpose.
    pub fn close(&self, code: CloseCode, reason: &str) {
        info!(peer = %self.peer(), %code, reason, "closing session");
        self.connection.close(number(code), reason.as_bytes());
    }

    /// What a frame error on one of this session's streams means. If the peer broke the protocol, the session is closed with
    /// the code of the rule, and a line is logged; if the session is over, the error says how it ended.
    pub fn reject(&self, error: FrameError) -> LinkError {
        if let Some(code) = error.close_code() {
            self.close_for(code, &error.to_string());
        }
        self.explain(error)
    }

    /// Closes the session because the peer sent a message that does not decode, or that is not allowed at this point.
    pub fn reject_message(&self, reason: &str) {
        self.close_for(CloseCode::ProtocolMessage, reason);
    }

    /// Waits for the session to end, and says how it did.
    pub async fn closed(&self) -> LinkError {
        self.ended(self.connection.closed().await)
    }

    /// The first stream, on the agent's side: sends the hello and waits for the hub's first frame.
    pub(crate) async fn open_control(self, kind: u8, hello: bytes::Bytes) -> Result<Established, LinkError> {
        let (send, receive) = self.connection.open_bi().await.map_err(|error| self.ended(error))?;
        set_priority(&send, CONTROL_PRIORITY);
        let mut writer = FrameWriter::new(send);
        writer.send(kind, hello).await.map_err(|error| self.explain(error))?;
        self.first_frame(FrameReader::new(receive), writer).await
    }

    /// The first stream, on the hub's side: waits for the agent's hello.
    pub(crate) async fn accept_control(self) -> Result<Established, LinkError> {
        let (send, receive) = self.connection.accept_bi().await.map_err(|error| self.ended(error))?;
        set_priority(&send, CONTROL_PRIORITY);
        self.first_frame(FrameReader::new(receive), FrameWriter::new(send)).await
    }

    async fn first_frame(self, mut reader: FrameReader<RecvStream>, writer: FrameWriter<SendStream>) -> Result<Established, LinkError> {
        match reader.read().await {
            Ok(Some(hello)) => Ok(Established { session: self, control: Control { reader, writer }, hello }),
            Ok(None) => {
                let error = LinkError::NoHello { peer: self.peer() };
                self.close_for(CloseCode::ProtocolTruncated, "no first frame");
                Err(error)
            }
            Err(error) => Err(self.reject(error)),
        }
    }

    fn peer(&self) -> Peer {
        Peer { address: self.address, identity: Some(Box::new(self.peer.identity.clone())) }
    }

    fn close_for(&self, code: CloseCode, reason: &str) {
        warn!(peer = %self.peer(), %code, reason, "peer broke the protocol, closing its session");
        self.connection.close(number(code), reason.as_bytes());
    }

    fn ended(&self, error: quinn::ConnectionError) -> LinkError {
        LinkError::from_connection(self.peer(), error)
    }

    fn explain(&self, error: FrameError) -> LinkError {
        match (&error, self.connection.close_reason()) {
            (FrameError::Io { .. }, Some(reason)) => self.ended(reason),
            _ => LinkError::Frame { peer: self.peer(), source: error },
        }
    }
}

/// A close code as QUIC carries it; ours all fit.
pub(crate) fn number(code: CloseCode) -> VarInt {
    VarInt::from_u64(code.number()).unwrap_or(VarInt::MAX)
}

fn set_priority(stream: &SendStream, priority: i32) {
    // It fails only on a stream that has ended, whose next write says so.
    let _ = stream.set_priority(priority);
}
