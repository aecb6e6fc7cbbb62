//! Frames over streams that break in every way.

use std::time::Duration;

use anemone_link::{BODY_MAX, CloseCode, FRAME_VERSION, Frame, FrameDecoder, FrameError, FrameReader, FrameWriter, HEADER_BYTES};
use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::Instant;

fn encoded(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 2).expect("a short body");
    [&length.to_be_bytes()[..], &[FRAME_VERSION, kind], body].concat()
}

/// Feeds `bytes` in pieces of the given sizes (the last one repeated) and collects what comes out.
fn decode(bytes: &[u8], pieces: &[usize], body_max: usize) -> (Vec<Frame>, Option<FrameError>, FrameDecoder) {
    let mut decoder = FrameDecoder::new(body_max);
    let (mut frames, mut rest, mut index) = (Vec::new(), bytes, 0);
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Err(error) => return (frames, Some(error), decoder),
            Ok(None) if rest.is_empty() => return (frames, None, decoder),
            Ok(None) => {
                let mut room = decoder.room();
                let size = pieces[index.min(pieces.len() - 1)].clamp(1, rest.len()).min(room.remaining_mut());
                room.put_slice(&rest[..size]);
                rest = &rest[size..];
                index += 1;
            }
        }
    }
}

/// What a reader makes of `bytes` followed by the end of the stream.
async fn error_of(bytes: &[u8]) -> FrameError {
    let (mut near, far) = duplex(64 * 1024);
    near.write_all(bytes).await.expect("room in the pipe");
    drop(near);
    match FrameReader::new(far).read().await {
        Err(error) => error,
        Ok(frame) => panic!("read {frame:?}"),
    }
}

#[tokio::test]
async fn frames_arrive_as_written_and_the_end_is_an_end() {
    let (near, far) = duplex(1000);
    let bodies = [vec![], vec![7; 1], vec![8; 999], vec![9; BODY_MAX], b"last".to_vec()];
    let sent = bodies.clone();
    let writing = tokio::spawn(async move {
        let mut writer = FrameWriter::new(near);
        for (kind, body) in (0..).zip(&sent) {
            writer.write(kind, body).await.unwrap();
        }
    });
    let mut reader = FrameReader::new(far);
    for (kind, body) in (0..).zip(bodies) {
        let frame = reader.read().await.unwrap().unwrap();
        assert_eq!((frame.version, frame.kind, frame.body.len()), (FRAME_VERSION, kind, body.len()));
        assert_eq!(frame.body, body);
    }
    writing.await.unwrap();
    assert!(reader.read().await.unwrap().is_none());
}

#[tokio::test]
async fn broken_streams_name_the_rule() {
    let over = u32::try_from(BODY_MAX + 3).unwrap().to_be_bytes();
    for (bytes, text, code) in [
        (&over[..], format!("frame with a body of {} bytes is over the limit of {BODY_MAX}", BODY_MAX + 1), CloseCode::ProtocolOversized),
        (
            b"GET / HTTP/1.1\r\n\r\n",
            format!("frame with a body of 1195725854 bytes is over the limit of {BODY_MAX}"),
            CloseCode::ProtocolOversized,
        ),
        (&[0xff; 64], format!("frame with a body of 4294967293 bytes is over the limit of {BODY_MAX}"), CloseCode::ProtocolOversized),
        (&[0, 0, 0, 1, 1], "frame of 1 bytes is too short for its version and kind".to_owned(), CloseCode::ProtocolTruncated),
        (&[0, 0], "stream ended inside a frame: expected 4 bytes, got 2".to_owned(), CloseCode::ProtocolTruncated),
        (&[0, 0, 0, 10, 1, 5, 1, 2, 3], "stream ended inside a frame: expected 14 bytes, got 9".to_owned(), CloseCode::ProtocolTruncated),
        (&[0, 0, 0, 2, 9, 5], "frame of version 9, this node speaks 1".to_owned(), CloseCode::ProtocolVersion),
        // The body of an unknown version is not waited for.
        (&[0, 0, 1, 0, 2], "frame of version 2, this node speaks 1".to_owned(), CloseCode::ProtocolVersion),
    ] {
        let error = error_of(bytes).await;
        assert_eq!(error.to_string(), text);
        assert_eq!(error.close_code(), Some(code));
    }
    assert_eq!(FrameError::UnknownKind { kind: 200 }.close_code(), Some(CloseCode::ProtocolMessage));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_trickles_in_is_cut_off_after_thirty_seconds() {
    let (mut near, far) = duplex(64);
    let trickle = tokio::spawn(async move {
        for byte in encoded(1, &[0; 200]) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if near.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    let started = Instant::now();
    let error = FrameReader::new(far).read().await.unwrap_err();
    assert!(matches!(error, FrameError::Slow { expected: 206, got: 30 | 31, .. }), "{error}");
    assert_eq!(error.close_code(), Some(CloseCode::ProtocolSlow));
    assert_eq!(started.elapsed().as_secs(), 31);
    trickle.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn between_frames_there_is_no_deadline() {
    let (mut near, far) = duplex(64);
    let mut reader = FrameReader::new(far);
    let writing = tokio::spawn(async move {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            near.write_all(&encoded(1, b"late")).await.unwrap();
        }
        near
    });
    for _ in 0..2 {
        assert_eq!(reader.read().await.unwrap().unwrap().body, &b"late"[..]);
    }
    drop(writing.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn reading_may_be_cancelled_anywhere() {
    let (mut near, far) = duplex(64);
    let mut reader = FrameReader::new(far);
    let bytes = encoded(3, b"in pieces");
    for byte in &bytes[..bytes.len() - 1] {
        near.write_all(&[*byte]).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), reader.read()).await.is_err());
    }
    near.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    assert_eq!(reader.read().await.unwrap().unwrap(), Frame { version: 1, kind: 3, body: Bytes::from_static(b"in pieces") });
}

#[tokio::test(start_paused = true)]
async fn a_writer_refuses_what_the_peer_would() {
    let (near, far) = duplex(64);
    let mut writer = FrameWriter::new(near);
    assert!(matches!(writer.write(1, &vec![0; BODY_MAX + 1]).await, Err(FrameError::Oversized { .. })));
    writer.write(1, b"still good").await.unwrap();

    // Nobody reads: the write is abandoned with a part of the frame on the stream.
    assert!(tokio::time::timeout(Duration::from_millis(1), writer.write(1, &[0; 100])).await.is_err());
    assert!(matches!(writer.write(1, b"x").await, Err(FrameError::Torn)));
    drop(far);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_frames_survive_any_cutting(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..20_000)), 0..8),
        pieces in prop::collection::vec(1_usize..9000, 1..20),
    ) {
        let bytes = frames.iter().flat_map(|(kind, body)| encoded(*kind, body)).collect::<Vec<_>>();
        let (decoded, error, decoder) = decode(&bytes, &pieces, BODY_MAX);
        prop_assert!(error.is_none());
        prop_assert_eq!(decoder.pending(), 0);
        let decoded = decoded.into_iter().map(|frame| (frame.kind, frame.body.to_vec())).collect::<Vec<_>>();
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn a_cut_stream_gives_a_prefix(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = frames.iter().flat_map(|(kind, body)| encoded(*kind, body)).collect::<Vec<_>>();
        let cut = cut.index(bytes.len());
        let (decoded, error, decoder) = decode(&bytes[..cut], &[7], BODY_MAX);
        prop_assert!(error.is_none());
        let whole = decoded.iter().map(|frame| frame.body.len() + HEADER_BYTES).sum::<usize>();
        prop_assert_eq!(whole + decoder.pending(), cut);
        prop_assert!(decoder.pending() < decoder.expected());
    }

    #[test]
    fn garbage_takes_no_more_memory_than_the_limit(
        bytes in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..2000),
        pieces in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let body_max = 500;
        let (decoded, error, mut decoder) = decode(&bytes, &pieces, body_max);
        prop_assert!(decoded.iter().all(|frame| frame.body.len() <= body_max && frame.version == FRAME_VERSION));
        match error {
            // The error stays.
            Some(error) => prop_assert_eq!(decoder.next_frame().unwrap_err().to_string(), error.to_string()),
            None => prop_assert!(decoder.room().remaining_mut() <= 8192),
        }
    }
}
