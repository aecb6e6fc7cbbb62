//! Frames: how messages stand on a stream.
//!
//! ```text
//! 0        4         5      6
//! +--------+---------+------+--------------------+
//! | length | version | kind | body               |
//! | u32 BE | u8      | u8   | length - 2 bytes   |
//! +--------+---------+------+--------------------+
//! ```
//!
//! Promises: no memory is taken for a length that is over the limit; version and length are judged as soon as they have
//! arrived; a frame must be complete within a deadline from its first byte; reading may be cancelled at any point and resumed.
//! Knows nothing of kinds and bodies.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::close::CloseCode;

/// The version this build speaks.
pub const FRAME_VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 6;
/// Longest body: a batch of 1 MiB and room for what a message puts around it.
pub const BODY_MAX: usize = (1 << 20) + 4096;

/// Bytes of the length field.
const LENGTH_BYTES: usize = 4;
/// Version and kind: what `length` counts besides the body.
const PREFIX_BYTES: usize = HEADER_BYTES - LENGTH_BYTES;
/// Read at least so much at once: many small frames then cost one read.
const READ_AHEAD: usize = 8 * 1024;
/// How long a frame may take from its first byte to its last.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);

/// A frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The version it was written in; [`FRAME_VERSION`] at present.
    pub version: u8,
    /// What the body is, in the application's numbering.
    pub kind: u8,
    /// The message.
    pub body: Bytes,
}

/// Which rule a stream broke.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed.
    #[error("frame with a body of {length} bytes is over the limit of {limit}")]
    Oversized {
        /// Its body's length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Shorter than version and kind.
    #[error("frame of {length} bytes is too short for its version and kind")]
    TooShort {
        /// Its length field.
        length: u32,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame: expected {expected} bytes, got {got}")]
    Truncated {
        /// Bytes the frame needs, header included; 4 while its length has not arrived.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A version not spoken here.
    #[error("frame of version {version}, this node speaks {supported}")]
    UnknownVersion {
        /// The frame's version.
        version: u8,
        /// Ours.
        supported: u8,
    },
    /// A kind the receiver does not know. Never made here: kinds belong to the application.
    #[error("frame of unknown kind {kind}")]
    UnknownKind {
        /// The frame's kind.
        kind: u8,
    },
    /// Not complete in time.
    #[error("frame not complete after {deadline:?}: expected {expected} bytes, got {got}")]
    Slow {
        /// The time allowed.
        deadline: Duration,
        /// Bytes the frame needs, header included.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// An earlier write was abandoned halfway, so the stream holds part of a frame.
    #[error("an earlier frame was written in part only; the stream cannot be used any more")]
    Torn,
    /// The stream failed.
    #[error("{action} frame: {source}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The transport's reason.
        source: io::Error,
    },
}

impl FrameError {
    /// The code to close a peer with that broke this rule; `None` when it is not the peer's doing.
    #[must_use]
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Oversized { .. } => Some(CloseCode::ProtocolOversized),
            Self::TooShort { .. } | Self::Truncated { .. } => Some(CloseCode::ProtocolTruncated),
            Self::UnknownVersion { .. } => Some(CloseCode::ProtocolVersion),
            Self::UnknownKind { .. } => Some(CloseCode::ProtocolMessage),
            Self::Slow { .. } => Some(CloseCode::ProtocolSlow),
            Self::Torn | Self::Io { .. } => None,
        }
    }
}

/// Cuts bytes into frames; does no I/O.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    body_max: usize,
}

impl FrameDecoder {
    /// Refuses bodies longer than `body_max` bytes.
    #[must_use]
    pub fn new(body_max: usize) -> Self {
        Self { buffer: BytesMut::new(), body_max }
    }

    /// The next frame, `None` when more bytes are needed. After an error, the same error again.
    ///
    /// # Errors
    /// [`FrameError::Oversized`], [`FrameError::TooShort`] or [`FrameError::UnknownVersion`], as soon as it shows.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.length() else { return Ok(None) };
        let body = (length as usize).checked_sub(PREFIX_BYTES).ok_or(FrameError::TooShort { length })?;
        if body > self.body_max {
            return Err(FrameError::Oversized { length: body as u64, limit: self.body_max as u64 });
        }
        let Some(&version) = self.buffer.get(LENGTH_BYTES) else { return Ok(None) };
        if version != FRAME_VERSION {
            return Err(FrameError::UnknownVersion { version, supported: FRAME_VERSION });
        }
        if self.buffer.len() < HEADER_BYTES + body {
            return Ok(None);
        }
        let kind = self.buffer[HEADER_BYTES - 1];
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Frame { version, kind, body: self.buffer.split_to(body).freeze() }))
    }

    /// Where to put received bytes: room for the rest of the present frame, or a little read-ahead if that is more.
    /// Call [`FrameDecoder::next_frame`] until it gives `None` first: it judges the length that this trusts.
    pub fn room(&mut self) -> impl BufMut + '_ {
        let room = self.expected().saturating_sub(self.buffer.len()).clamp(READ_AHEAD, HEADER_BYTES + self.body_max.max(READ_AHEAD));
        self.buffer.reserve(room);
        (&mut self.buffer).limit(room)
    }

    /// Bytes received that are not yet part of a complete frame.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes that the present frame needs, header included; 4 while its length has not arrived.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.length().map_or(LENGTH_BYTES, |length| LENGTH_BYTES.saturating_add(length as usize))
    }

    fn length(&self) -> Option<u32> {
        self.buffer.first_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    decoder: FrameDecoder,
    deadline: Duration,
    /// When the first byte of the present frame came.
    begun: Option<Instant>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// With the usual limits: bodies of [`BODY_MAX`] bytes, 30 s for a frame from its first byte to its last.
    pub fn new(stream: R) -> Self {
        Self::with_limits(stream, BODY_MAX, FRAME_DEADLINE)
    }

    /// With limits of one's own.
    pub fn with_limits(stream: R, body_max: usize, deadline: Duration) -> Self {
        Self { stream, decoder: FrameDecoder::new(body_max), deadline, begun: None }
    }

    /// The next frame; `None` when the stream ended between two frames. May be cancelled: nothing is lost.
    /// Waits without limit for a frame to begin.
    ///
    /// # Errors
    /// The rule broken, or [`FrameError::Io`]. The stream is of no use afterwards.
    pub async fn read(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                self.begun = (self.decoder.pending() > 0).then(Instant::now);
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                let (expected, got) = (self.decoder.expected(), self.decoder.pending());
                return if got == 0 { Ok(None) } else { Err(FrameError::Truncated { expected, got }) };
            }
            self.begun.get_or_insert_with(Instant::now);
        }
    }

    async fn fill(&mut self) -> Result<usize, FrameError> {
        let begun = self.begun;
        let filled = {
            let mut room = self.decoder.room();
            let read = self.stream.read_buf(&mut room);
            match begun {
                None => Some(read.await),
                Some(begun) => timeout_at(begun + self.deadline, read).await.ok(),
            }
        };
        match filled {
            Some(outcome) => outcome.map_err(|source| FrameError::Io { action: "read", source }),
            None => Err(FrameError::Slow { deadline: self.deadline, expected: self.decoder.expected(), got: self.decoder.pending() }),
        }
    }
}

/// Writes frames to a stream.
///
/// A write that is cancelled may leave part of a frame on the stream; the writer then refuses further use
/// ([`FrameError::Torn`]). So give it a task of its own, or wait for each write.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    body_max: usize,
    torn: bool,
}

impl<W> FrameWriter<W> {
    /// Refuses bodies longer than [`BODY_MAX`].
    pub fn new(stream: W) -> Self {
        Self { stream, body_max: BODY_MAX, torn: false }
    }

    /// The stream itself, to set its priority or finish it.
    pub fn stream(&mut self) -> &mut W {
        &mut self.stream
    }

    fn begin(&mut self, kind: u8, body: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
        if self.torn {
            return Err(FrameError::Torn);
        }
        let oversized = FrameError::Oversized { length: body as u64, limit: self.body_max as u64 };
        let length = match u32::try_from(body + PREFIX_BYTES) {
            Ok(length) if body <= self.body_max => length.to_be_bytes(),
            _ => return Err(oversized),
        };
        self.torn = true;
        Ok([length[0], length[1], length[2], length[3], FRAME_VERSION, kind])
    }
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes one frame and flushes.
    ///
    /// # Errors
    /// [`FrameError::Oversized`] (nothing is written), [`FrameError::Torn`], or [`FrameError::Io`].
    pub async fn write(&mut self, kind: u8, body: &[u8]) -> Result<(), FrameError> {
        let failed = |source| FrameError::Io { action: "write", source };
        let header = self.begin(kind, body.len())?;
        let mut bytes = Buf::chain(&header[..], body);
        self.stream.write_all_buf(&mut bytes).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)?;
        self.torn = false;
        Ok(())
    }
}

impl FrameWriter<quinn::SendStream> {
    /// As [`FrameWriter::write`], without copying the body.
    ///
    /// # Errors
    /// As [`FrameWriter::write`].
    pub async fn send(&mut self, kind: u8, body: Bytes) -> Result<(), FrameError> {
        let header = self.begin(kind, body.len())?;
        let mut chunks = [Bytes::copy_from_slice(&header), body];
        self.stream.write_all_chunks(&mut chunks).await.map_err(|error| FrameError::Io { action: "write", source: error.into() })?;
        self.torn = false;
        Ok(())
    }

    /// Says that no further frame follows. What was written is still delivered.
    pub fn finish(&mut self) {
        // It fails only when the stream is over already, which is what is wanted.
        let _ = self.stream.finish();
    }
}
