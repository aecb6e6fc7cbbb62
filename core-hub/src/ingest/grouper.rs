//! Packs batches of many agents into Raft entries, proposes them in order, and hands back what became of each.
//!
//! One entry is in flight at a time; what arrives meanwhile makes up the next, so that under load entries grow to their
//! limit and fsyncs are shared. Waiting batches are bounded by bytes: a session waits for room and so stops reading.

use std::sync::Arc;
use std::time::Duration;

use anemone_raft::{ProposeError, RaftNode};
use anemone_wire::batch::BatchHeader;
use anemone_wire::control::Refusal;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::order::{Admission, Known, Order};
use crate::state::HubState;
use crate::state::command::{BatchOutcome, Command, Outcome};

/// Bytes of batches after which an entry is proposed without waiting for more.
const ENTRY_BYTES: usize = 512 << 10;
/// How long the first batch of an entry waits for company.
const LINGER: Duration = Duration::from_millis(10);
/// Batches waiting, at most; each also counts its bytes.
const QUEUE_BATCHES: usize = 4096;
/// What an agent is told to wait when a proposal did not get through.
const RETRY_MS: u32 = 200;

/// What became of a batch.
#[derive(Debug)]
pub enum Verdict {
    /// Everything of the epoch below this is applied.
    Applied {
        /// The spool epoch.
        epoch: u64,
        /// The bound, exclusive.
        below: u64,
    },
    /// Not taken.
    Refused {
        /// The spool epoch.
        epoch: u64,
        /// The batch.
        sequence: u64,
        /// Why.
        refusal: Refusal,
    },
}

/// A verdict, and the place of its batch among the unanswered of the session, free again once this is dropped.
pub type Answer = (Verdict, OwnedSemaphorePermit);

/// Where the verdicts of one session go. At most as many batches as the channel holds are without a verdict at a time, so
/// that a session that does not read never holds up the others.
#[derive(Clone)]
pub struct Replies {
    sender: mpsc::Sender<Answer>,
    places: Arc<Semaphore>,
}

impl Replies {
    /// A way for verdicts with room for `unanswered` of them.
    #[must_use]
    pub fn channel(unanswered: usize) -> (Self, mpsc::Receiver<Answer>) {
        let (sender, receiver) = mpsc::channel(unanswered);
        (Self { sender, places: Arc::new(Semaphore::new(unanswered)) }, receiver)
    }
}

/// A batch on its way into the log.
struct Offer {
    header: BatchHeader,
    spool_begins: u64,
    bytes: Bytes,
    sender: mpsc::Sender<Answer>,
    place: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

impl Offer {
    fn answer(self, verdict: Verdict) {
        // There is room, since this offer holds a place. A session that is gone needs no answer.
        let _ = self.sender.try_send((verdict, self.place));
    }

    fn applied(self, below: u64) {
        let epoch = self.header.epoch;
        self.answer(Verdict::Applied { epoch, below });
    }

    fn refuse(self, refusal: Refusal) {
        let BatchHeader { epoch, sequence, .. } = self.header;
        self.answer(Verdict::Refused { epoch, sequence, refusal });
    }
}

/// Where sessions hand in batches. Cheap to clone.
#[derive(Clone)]
pub struct Grouper {
    offers: mpsc::Sender<Offer>,
    room: Arc<Semaphore>,
}

impl Grouper {
    /// Starts the task that packs and proposes; it ends when all handles are dropped.
    #[must_use]
    pub fn start(raft: RaftNode, state: Arc<HubState>, queue_bytes: u32) -> Self {
        let (offers, received) = mpsc::channel(QUEUE_BATCHES);
        tokio::spawn(Packing { raft, state, received, order: Order::default(), term: 0 }.run());
        Self { offers, room: Arc::new(Semaphore::new(queue_bytes as usize)) }
    }

    /// Hands in a batch, waiting for room. Exactly one verdict comes, unless this process ends. `spool_begins` is the first
    /// sequence of the agent's spool as of its hello.
    pub async fn offer(&self, header: BatchHeader, spool_begins: u64, bytes: Bytes, replies: &Replies) {
        let weight = u32::try_from(bytes.len()).expect("a batch is at most 1 MiB");
        let Ok(place) = Arc::clone(&replies.places).acquire_owned().await else { return };
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(weight).await else { return };
        // The receiver lives as long as the process serves; when it is gone there is nobody left to answer.
        let _ = self.offers.send(Offer { header, spool_begins, bytes, sender: replies.sender.clone(), place, _room: room }).await;
    }
}

struct Packing {
    raft: RaftNode,
    state: Arc<HubState>,
    received: mpsc::Receiver<Offer>,
    order: Order,
    term: u64,
}

impl Packing {
    async fn run(mut self) {
        while let Some(first) = self.received.recv().await {
            let leadership = *self.raft.leadership().borrow();
            if leadership.term != self.term {
                self.term = leadership.term;
                self.order.reset();
            }
            let mut entry = Vec::new();
            let mut bytes = self.admit(first, leadership.me, &mut entry);
            let linger = tokio::time::sleep(LINGER);
            tokio::pin!(linger);
            while bytes < ENTRY_BYTES {
                let offer = tokio::select! {
                    biased;
                    offer = self.received.recv() => offer,
                    () = &mut linger => None,
                };
                match offer {
                    Some(offer) => bytes += self.admit(offer, leadership.me, &mut entry),
                    None => break,
                }
            }
            if !entry.is_empty() {
                self.propose(entry).await;
            }
        }
    }

    /// Puts an offer into the entry or answers it; returns the bytes it adds.
    fn admit(&mut self, offer: Offer, leads: bool, entry: &mut Vec<Offer>) -> usize {
        let BatchHeader { agent, epoch, sequence, covers, .. } = &offer.header;
        if !leads {
            offer.refuse(Refusal::NotLeader);
            return 0;
        }
        let below = self.state.applied_below(agent, *epoch);
        let known = Known { applied_below: below, spool_begins: offer.spool_begins };
        match self.order.admit(agent, *epoch, *sequence, sequence + covers, known) {
            Admission::Propose => {
                let bytes = offer.bytes.len();
                entry.push(offer);
                bytes
            }
            Admission::Applied => {
                offer.applied(below);
                0
            }
            Admission::OutOfOrder => {
                offer.refuse(Refusal::Busy { retry_ms: RETRY_MS });
                0
            }
        }
    }

    async fn propose(&mut self, entry: Vec<Offer>) {
        let batches: Vec<Bytes> = entry.iter().map(|offer| offer.bytes.clone()).collect();
        let proposed = self.raft.propose(Command::encode_batches(&batches)).await;
        let outcomes = match proposed.map(|response| Outcome::decode(&response)) {
            Ok(Ok(Outcome::Batches(outcomes))) if outcomes.len() == entry.len() => outcomes,
            Ok(other) => {
                tracing::error!(?other, "applying a group of batches gave no outcome for each");
                return self.fail_all(entry, &Refusal::Busy { retry_ms: RETRY_MS });
            }
            Err(ProposeError::NotLeader { .. }) => return self.fail_all(entry, &Refusal::NotLeader),
            Err(error) => {
                tracing::warn!(%error, batches = entry.len(), "batches were not committed; agents will send them again");
                return self.fail_all(entry, &Refusal::Busy { retry_ms: RETRY_MS });
            }
        };
        for (offer, (outcome, below)) in entry.into_iter().zip(outcomes) {
            self.settle(offer, outcome, below);
        }
    }

    fn settle(&mut self, offer: Offer, outcome: BatchOutcome, below: u64) {
        let BatchHeader { agent, epoch, sequence, .. } = &offer.header;
        match outcome {
            BatchOutcome::Applied | BatchOutcome::Duplicate => offer.applied(below),
            BatchOutcome::AfterRefused => {
                self.order.failed(agent, *epoch);
                offer.refuse(Refusal::Busy { retry_ms: RETRY_MS });
            }
            BatchOutcome::UnknownSeries { dictionary, reference } => {
                tracing::warn!(%agent, sequence, dictionary, reference, "batch uses a series that was never defined");
                self.order.failed(agent, *epoch);
                offer.refuse(Refusal::UnknownSeries { dictionary, reference });
            }
            BatchOutcome::Malformed(why) => {
                tracing::warn!(%agent, sequence, why, "batch refused as malformed");
                self.order.failed(agent, *epoch);
                offer.refuse(Refusal::Malformed { why });
            }
        }
    }

    fn fail_all(&mut self, entry: Vec<Offer>, refusal: &Refusal) {
        for offer in entry {
            self.order.failed(&offer.header.agent, offer.header.epoch);
            offer.refuse(refusal.clone());
        }
    }
}
