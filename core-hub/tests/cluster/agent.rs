//! An agent as the hub sees one: sessions to every hub, batches, heartbeats. No spool, no devices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anemone_link::{AgentEndpoint, CloseCode, Control, Established, FrameWriter, Lane, LinkError, LinkOptions, Session, Tls};
use anemone_model::{AgentId, AssignedDevice, CounterWidth, HubId, MetricKind, Sample, SeriesDef, Value};
use anemone_wire::batch::{BatchBuilder, BatchHeader};
use anemone_wire::control::{AgentLoad, AgentMessage, Hello, HubMessage, Leader, PROTOCOL, Refusal, frame_kind};
use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::hubs::{Hubs, PATIENCE};

pub(crate) const EPOCH: u64 = 0xfeed_0000_0000_0001;
const HEARTBEAT: Duration = Duration::from_millis(200);

pub(crate) fn agent_id(pop: &str, name: &str) -> AgentId {
    AgentId { pop: pop.parse().unwrap(), name: name.parse().unwrap() }
}

/// What has come from one hub.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) leader: Option<Leader>,
    pub(crate) applied_below: u64,
    pub(crate) acks: u64,
    pub(crate) refused: Vec<(u64, Refusal)>,
    pub(crate) devices: BTreeMap<u64, Vec<AssignedDevice>>,
    pub(crate) goodbye: Option<String>,
    pub(crate) ended: Option<Arc<LinkError>>,
}

impl Heard {
    fn take(&mut self, message: HubMessage) {
        match message {
            HubMessage::Welcome { leader, applied_below, .. } => {
                (self.leader, self.applied_below) = (Some(leader), applied_below);
            }
            HubMessage::Leader(leader) => self.leader = Some(leader),
            HubMessage::Ack { epoch, applied_below } => {
                assert_eq!(epoch, EPOCH);
                assert!(applied_below >= self.applied_below, "an ack went back from {} to {applied_below}", self.applied_below);
                self.applied_below = applied_below;
                self.acks += 1;
            }
            HubMessage::Refused { sequence, refusal, .. } => self.refused.push((sequence, refusal)),
            HubMessage::Assignment(part) => self.devices.entry(part.epoch).or_default().extend(part.devices),
            HubMessage::Heartbeat { .. } => {}
            HubMessage::Goodbye { why } => self.goodbye = Some(why),
        }
    }
}

/// What is put on a stream.
pub(crate) enum Out {
    Frame(u8, Bytes),
    /// Bytes that need not be a frame.
    Raw(Vec<u8>),
    Finish,
}

fn outbox<W: AsyncWrite + Unpin + Send + 'static>(mut writer: FrameWriter<W>) -> mpsc::Sender<Out> {
    let (sender, mut outgoing) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(out) = outgoing.recv().await {
            let written = match out {
                Out::Frame(kind, body) => writer.write(kind, &body).await.is_ok(),
                Out::Raw(bytes) => writer.stream().write_all(&bytes).await.is_ok(),
                Out::Finish => writer.stream().shutdown().await.is_ok(),
            };
            if !written {
                return;
            }
        }
    });
    sender
}

/// A session with one hub.
pub(crate) struct Link {
    session: Session,
    pub(crate) heard: watch::Receiver<Heard>,
    pub(crate) control: mpsc::Sender<Out>,
    pub(crate) lane: mpsc::Sender<Out>,
}

impl Link {
    async fn new(established: Established, beating: Arc<AtomicBool>) -> Self {
        let Established { session, control: Control { mut reader, writer }, hello: first } = established;
        let mut state = Heard::default();
        state.take(HubMessage::decode(&first.body).unwrap());
        assert!(state.leader.is_some(), "the first message is the welcome");
        let (sender, heard) = watch::channel(state);
        let closed = session.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.read().await {
                let message = HubMessage::decode(&frame.body).unwrap();
                sender.send_modify(|heard| heard.take(message));
            }
            let ended = Arc::new(closed.closed().await);
            sender.send_modify(|heard| heard.ended = Some(ended));
        });
        let lane = outbox(session.open_lane(Lane::Live).await.unwrap());
        let control = outbox(writer);
        tokio::spawn(beat(control.clone(), beating));
        Self { session, heard, control, lane }
    }

    /// Waits until what was heard is as described.
    pub(crate) async fn wait(&self, what: &str, ready: impl FnMut(&Heard) -> bool) -> Heard {
        let mut heard = self.heard.clone();
        match tokio::time::timeout(PATIENCE, heard.wait_for(ready)).await {
            Ok(heard) => heard.unwrap().clone(),
            Err(_) => panic!("waited {PATIENCE:?} for {what}, heard {:?}", self.heard.borrow()),
        }
    }

    pub(crate) async fn ship(&self, batch: Bytes) {
        // A session that has ended is noticed by whoever waits for the acknowledgement.
        let _ = self.lane.send(Out::Frame(frame_kind::BATCH, batch)).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.session.close(CloseCode::Normal, "");
    }
}

async fn beat(control: mpsc::Sender<Out>, beating: Arc<AtomicBool>) {
    let body = AgentMessage::Heartbeat { at_ms: 0, load: AgentLoad { devices: 7, ..AgentLoad::default() } }.encode().unwrap();
    loop {
        if beating.load(Ordering::Relaxed) && control.send(Out::Frame(frame_kind::CONTROL, body.clone())).await.is_err() {
            return;
        }
        if control.is_closed() {
            return;
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// The fake agent.
pub(crate) struct FakeAgent {
    pub(crate) id: AgentId,
    pub(crate) beating: Arc<AtomicBool>,
    pub(crate) links: BTreeMap<HubId, Link>,
    endpoint: AgentEndpoint,
    addresses: BTreeMap<HubId, SocketAddr>,
}

impl FakeAgent {
    /// Without sessions as yet.
    pub(crate) fn new(hubs: &Hubs, id: AgentId) -> Self {
        let tls: Arc<Tls> = hubs.agent_tls(&id);
        let endpoint = AgentEndpoint::bind("127.0.0.1:0".parse().unwrap(), tls, LinkOptions::default()).unwrap();
        let addresses = hubs.quic().into_iter().collect();
        Self { id, beating: Arc::new(AtomicBool::new(true)), links: BTreeMap::new(), endpoint, addresses }
    }

    /// With a session to every running hub.
    pub(crate) async fn connected(hubs: &Hubs, id: AgentId) -> Self {
        let mut agent = Self::new(hubs, id);
        for hub in hubs.running() {
            agent.connect(hub).await;
        }
        agent
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            agent: self.id.clone(),
            epoch: EPOCH,
            first_sequence: 1,
            next_sequence: 1,
            http: format!("http://{}.example", self.id.name),
            software: "fake".into(),
            assignment_epoch: 0,
        }
    }

    /// A session that begins with `kind` and `first`.
    pub(crate) async fn try_connect(&self, hub: HubId, kind: u8, first: Bytes) -> Result<Established, LinkError> {
        self.endpoint.connect(self.addresses[&hub], Some(hub), kind, first).await
    }

    /// Opens a session, in place of a former one; tries until the hub answers.
    pub(crate) async fn connect(&mut self, hub: HubId) -> &Link {
        let hello = AgentMessage::Hello(self.hello()).encode().unwrap();
        let begun = std::time::Instant::now();
        let established = loop {
            match self.try_connect(hub, frame_kind::CONTROL, hello.clone()).await {
                Ok(established) => break established,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "hub {hub}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.links.insert(hub, Link::new(established, Arc::clone(&self.beating)).await);
        &self.links[&hub]
    }

    /// The hub that the sessions which are open call leader, by the highest term; it must have a session.
    pub(crate) fn named_leader(&self) -> Option<HubId> {
        let open = self.links.values().map(|link| link.heard.borrow().clone()).filter(|heard| heard.ended.is_none());
        let newest = open.filter_map(|heard| heard.leader).max_by_key(|leader| (leader.term, leader.hub));
        newest?.hub.filter(|hub| self.links.get(hub).is_some_and(|link| link.heard.borrow().ended.is_none()))
    }

    /// A batch of [`SERIES`] counters.
    pub(crate) fn batch(&self, sequence: u64) -> Bytes {
        self.sealed(sequence, 1, &self.id)
    }

    /// A batch of which each series has `samples` samples, by any agent.
    pub(crate) fn sealed(&self, sequence: u64, samples: u64, agent: &AgentId) -> Bytes {
        let mut builder = BatchBuilder::new();
        for series in 0..SERIES {
            if sequence == 1 {
                let if_name = format!("eth{series}");
                let labels = [("pop", agent.pop.as_str()), ("device", "sw1"), ("if_name", if_name.as_str())];
                let def = SeriesDef::new("if_in_octets", labels, MetricKind::Counter, CounterWidth::Bits64);
                builder.define(series, def.unwrap());
            }
            for sample in 0..samples {
                let (ts_ms, value) = point(sequence, series, sample);
                builder.push(series, Sample::new(ts_ms, Value::U64(value)));
            }
        }
        let header = BatchHeader { agent: agent.clone(), epoch: EPOCH, sequence, covers: 1, dictionary: 1, sealed_at_ms: 0 };
        builder.encode().unwrap().seal(&header).unwrap()
    }

    /// Ships batches to the leader from what it acknowledged on, until `last` is; returns when it is.
    pub(crate) async fn ship_to_leader(&self, leader: HubId, last: u64) {
        let link = &self.links[&leader];
        let from = link.heard.borrow().applied_below.max(1);
        for sequence in from..=last {
            link.ship(self.batch(sequence)).await;
        }
        link.wait("everything to be acknowledged", |heard| heard.applied_below == last + 1).await;
    }
}

/// Series of each batch.
pub(crate) const SERIES: u32 = 4;
/// Far above what a float can tell apart by one; the first series starts at 2^63 + 1.
const FIRST_VALUE: u64 = 9_223_372_036_854_775_809;
/// A whole second.
const FIRST_MS: i64 = 1_763_838_000_000;

/// Time and value of a sample: a pure function, so that tests know what hubs must answer.
pub(crate) fn point(sequence: u64, series: u32, sample: u64) -> (i64, u64) {
    let ts_ms = FIRST_MS + i64::try_from((sequence - 1) * 1000 + sample).unwrap();
    // Low bits that do not compress, so that large batches are large.
    let noise = (sequence * 100_000 + sample).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    (ts_ms, FIRST_VALUE + u64::from(series) + if sample == 0 { (sequence - 1) * 10 } else { noise })
}

/// All samples of an agent's batches up to `last`, by series.
pub(crate) fn expected(last: u64, samples: u64) -> BTreeMap<String, Vec<(i64, String)>> {
    let of_series = |series| {
        let all = (1..=last).flat_map(|sequence| (0..samples).map(move |sample| point(sequence, series, sample)));
        (format!("eth{series}"), all.map(|(ts_ms, value)| (ts_ms, value.to_string())).collect())
    };
    (0..SERIES).map(of_series).collect()
}

/// When the last sample of batch `sequence` was taken, as an argument of a query.
pub(crate) fn time_of(sequence: u64) -> String {
    format!("{}", point(sequence, 0, 0).0 / 1000 + 1)
}

/// What a hub holds of the device, by interface, exactly as it prints it.
pub(crate) fn held(hubs: &Hubs, hub: HubId, last: u64) -> BTreeMap<String, Vec<(i64, String)>> {
    let time = time_of(last);
    let query = [("query", "if_in_octets{device=\"sw1\"}[1d]"), ("time", time.as_str())];
    let Some(answer) = hubs.try_get(hub, "/api/v1/query", &query) else { return BTreeMap::new() };
    assert_eq!(answer.status, 200, "{answer:?}");
    let rows = answer.body["data"]["result"].as_array().unwrap().iter();
    let point = |pair: &serde_json::Value| {
        #[expect(clippy::cast_possible_truncation, reason = "a time in seconds with three decimals")]
        let ts_ms = (pair[0].as_f64().unwrap() * 1000.0).round() as i64;
        (ts_ms, pair[1].as_str().unwrap().to_owned())
    };
    rows.map(|row| {
        let values = row["values"].as_array().unwrap().iter().map(point).collect();
        (row["metric"]["if_name"].as_str().unwrap().to_owned(), values)
    })
    .collect()
}
