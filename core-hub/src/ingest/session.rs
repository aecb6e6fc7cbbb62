//! One session with an agent, from its hello to its end.

use std::sync::Arc;
use std::time::Duration;

use anemone_link::{CloseCode, Established, Frame, FrameReader, LinkError, Session};
use anemone_model::Identity;
use anemone_raft::Leadership;
use anemone_wire::batch::BatchHeader;
use anemone_wire::control::{ASSIGNMENT_PART_DEVICES, AgentMessage, AssignmentPart, Hello, HubMessage, Leader, PROTOCOL, frame_kind};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::grouper::{Answer, Replies, Verdict};
use super::presence::now_ms;
use super::server::Ingest;
use crate::state::inventory::{bytes_of, parts};

/// Batches of one session that wait for their verdict; reading its lanes stops beyond.
const UNANSWERED_BATCHES: usize = 256;
/// Longest text in a hello, in bytes: it becomes part of the replicated state.
const HELLO_TEXT_MAX: usize = 256;
/// Bytes of devices in one part of an assignment, by estimate; far below the limit of a control message.
const ASSIGNMENT_PART_BYTES: usize = 256 << 10;
/// A peer that does not take a control message in this time is closed.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a session ended before the peer or the network ended it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The link failed or was closed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer said something it may not say; the session is closed.
    #[error("{agent}: {why}")]
    Protocol {
        /// Who.
        agent: Identity,
        /// What was wrong.
        why: String,
    },
}

/// Serves a session until it ends.
///
/// # Errors
/// Why it ended, unless this process is shutting down.
pub async fn serve(ingest: Arc<Ingest>, established: Established, stop: CancellationToken) -> Result<(), SessionError> {
    let Established { session, control, hello } = established;
    let hello = check_hello(&session, &hello)?;
    tracing::info!(agent = %hello.agent, address = %session.remote_address(), epoch = hello.epoch, "session opened");
    ingest.presence.opened(hello.clone());
    let agent = hello.agent.clone();
    let (replies, answers) = Replies::channel(UNANSWERED_BATCHES);
    let serving = Serving {
        told_epoch: hello.assignment_epoch,
        hello,
        session: session.clone(),
        control,
        replies,
        answers,
        lanes: JoinSet::new(),
        ingest: Arc::clone(&ingest),
    };
    let result = serving.run(stop).await;
    ingest.presence.closed(&agent);
    result
}

fn check_hello(session: &Session, frame: &Frame) -> Result<Hello, SessionError> {
    let refuse = |why: String| {
        session.reject_message(&why);
        SessionError::Protocol { agent: session.identity().clone(), why }
    };
    if frame.kind != frame_kind::CONTROL {
        return Err(refuse(format!("the first frame is of kind {}, expected {}", frame.kind, frame_kind::CONTROL)));
    }
    let hello = match AgentMessage::decode(&frame.body) {
        Ok(AgentMessage::Hello(hello)) => hello,
        Ok(_) => return Err(refuse("the first message is not a hello".to_owned())),
        Err(error) => return Err(refuse(error.to_string())),
    };
    match session.identity() {
        Identity::Agent { agent, .. } if *agent == hello.agent => {}
        other => return Err(refuse(format!("the hello is of agent {}, the certificate of {other}", hello.agent))),
    }
    for (field, text) in [("http", &hello.http), ("software", &hello.software)] {
        if text.len() > HELLO_TEXT_MAX {
            return Err(refuse(format!("{field} of the hello has {} bytes, the limit is {HELLO_TEXT_MAX}", text.len())));
        }
    }
    if hello.protocol == 0 {
        return Err(refuse("protocol version 0 does not exist".to_owned()));
    }
    Ok(hello)
}

struct Serving {
    hello: Hello,
    session: Session,
    control: anemone_link::Control,
    replies: Replies,
    answers: mpsc::Receiver<Answer>,
    lanes: JoinSet<Result<(), SessionError>>,
    ingest: Arc<Ingest>,
    /// Newest assignment epoch the agent has or was sent.
    told_epoch: u64,
}

impl Serving {
    async fn run(mut self, stop: CancellationToken) -> Result<(), SessionError> {
        let mut leadership = self.ingest.raft.leadership();
        let mut changes = self.ingest.state.subscribe();
        let now = *leadership.borrow_and_update();
        let applied_below = self.ingest.state.applied_below(&self.hello.agent, self.hello.epoch);
        let welcome = HubMessage::Welcome {
            hub: self.ingest.hub,
            protocol: PROTOCOL.min(self.hello.protocol),
            leader: self.leader(&now),
            applied_below,
        };
        self.send(&welcome).await?;
        self.tell_assignment(&now).await?;
        let mut heartbeat = tokio::time::interval(self.ingest.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.send(&HubMessage::Goodbye { why: "the hub node is shutting down".to_owned() }).await?;
                    self.session.close(CloseCode::Shutdown, "the hub node is shutting down");
                    return Ok(());
                }
                Some((verdict, _place)) = self.answers.recv() => self.answer(verdict).await?,
                frame = self.control.reader.read() => match frame {
                    Ok(Some(frame)) => self.control_frame(&frame)?,
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(self.session.reject(error).into()),
                },
                lane = self.session.accept_lane() => {
                    let (_, reader) = lane?;
                    self.lanes.spawn(read_lane(Arc::clone(&self.ingest), self.session.clone(), self.hello.clone(), reader, self.replies.clone()));
                }
                Some(ended) = self.lanes.join_next() => match ended {
                    Ok(result) => result?,
                    Err(panic) => tracing::error!(agent = %self.hello.agent, %panic, "reading a lane failed"),
                },
                Ok(()) = leadership.changed() => {
                    let now = *leadership.borrow_and_update();
                    self.send(&HubMessage::Leader(self.leader(&now))).await?;
                    self.tell_assignment(&now).await?;
                }
                Ok(()) = changes.changed() => {
                    let now = *leadership.borrow();
                    self.tell_assignment(&now).await?;
                }
                _ = heartbeat.tick() => self.send(&HubMessage::Heartbeat { at_ms: now_ms() }).await?,
            }
        }
    }

    fn leader(&self, leadership: &Leadership) -> Leader {
        let address = leadership.leader.and_then(|hub| self.ingest.quic_addresses.get(&hub)).map(ToString::to_string);
        Leader { term: leadership.term, hub: leadership.leader, address }
    }

    async fn send(&mut self, message: &HubMessage) -> Result<(), SessionError> {
        let body = match message.encode() {
            Ok(body) => body,
            Err(error) => return Err(self.broken(format!("a message does not encode: {error}"))),
        };
        match tokio::time::timeout(WRITE_DEADLINE, self.control.writer.send(frame_kind::CONTROL, body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.session.reject(error).into()),
            Err(_) => {
                let why = format!("a control message was not taken within {WRITE_DEADLINE:?}");
                self.session.close(CloseCode::ProtocolSlow, &why);
                Err(self.broken(why))
            }
        }
    }

    fn broken(&self, why: String) -> SessionError {
        SessionError::Protocol { agent: self.session.identity().clone(), why }
    }

    async fn answer(&mut self, verdict: Verdict) -> Result<(), SessionError> {
        let message = match verdict {
            Verdict::Applied { epoch, below } => HubMessage::Ack { epoch, applied_below: below },
            Verdict::Refused { epoch, sequence, refusal } => HubMessage::Refused { epoch, sequence, refusal },
        };
        self.send(&message).await
    }

    fn control_frame(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let refuse = |why: String| {
            self.session.reject_message(&why);
            Err(self.broken(why))
        };
        if frame.kind != frame_kind::CONTROL {
            return refuse(format!("a frame of kind {} on the control stream", frame.kind));
        }
        match AgentMessage::decode(&frame.body) {
            Ok(AgentMessage::Heartbeat { load, .. }) => self.ingest.presence.heard(&self.hello.agent, Some(load)),
            Ok(AgentMessage::AssignmentApplied { epoch }) => {
                self.ingest.presence.heard(&self.hello.agent, None);
                tracing::debug!(agent = %self.hello.agent, epoch, "assignment applied");
            }
            Ok(AgentMessage::Hello(_)) => return refuse("a second hello".to_owned()),
            Err(error) => return refuse(error.to_string()),
        }
        Ok(())
    }

    /// Sends the agent its devices if this node leads and the agent has an older list.
    async fn tell_assignment(&mut self, leadership: &Leadership) -> Result<(), SessionError> {
        if !leadership.me {
            return Ok(());
        }
        let told = self.told_epoch;
        let agent = &self.hello.agent;
        let news = self.ingest.state.with_control(|control| {
            let epoch = control.agents.get(agent).map(|a| a.assignment_epoch).filter(|epoch| *epoch > told)?;
            Some((epoch, control.inventory.assigned_to(agent)))
        });
        let Some((epoch, devices)) = news else { return Ok(()) };
        let mut chunks = parts(&devices, ASSIGNMENT_PART_DEVICES, ASSIGNMENT_PART_BYTES, |assigned| bytes_of(&assigned.device));
        if chunks.is_empty() {
            chunks.push(&devices);
        }
        let parts = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        tracing::info!(agent = %agent, epoch, devices = devices.len(), "sending assignment");
        for (part, devices) in (0..).zip(chunks) {
            let message = HubMessage::Assignment(AssignmentPart { epoch, part, parts, devices: devices.to_vec() });
            self.send(&message).await?;
        }
        self.told_epoch = epoch;
        Ok(())
    }
}

/// Reads batches off one lane and hands them in; ends with the stream.
async fn read_lane<R: AsyncRead + Unpin>(
    ingest: Arc<Ingest>,
    session: Session,
    hello: Hello,
    mut reader: FrameReader<R>,
    replies: Replies,
) -> Result<(), SessionError> {
    let refuse = |why: String| {
        session.reject_message(&why);
        Err(SessionError::Protocol { agent: session.identity().clone(), why })
    };
    loop {
        let frame = match reader.read().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => return Err(session.reject(error).into()),
        };
        if frame.kind != frame_kind::BATCH {
            return refuse(format!("a frame of kind {} on a lane", frame.kind));
        }
        ingest.presence.heard(&hello.agent, None);
        let header = match BatchHeader::peek(&frame.body) {
            Ok(header) => header,
            Err(error) => return refuse(error.to_string()),
        };
        if header.agent != hello.agent || header.epoch != hello.epoch {
            let BatchHeader { agent, epoch, sequence, .. } = header;
            return refuse(format!("batch {sequence} is of agent {agent} and spool epoch {epoch:016x}, which is not what the hello said"));
        }
        ingest.grouper.offer(header, hello.first_sequence, frame.body, &replies).await;
    }
}
