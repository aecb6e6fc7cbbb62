//! Hubs for tests: they speak the protocol, share one applied state, and do as they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anemone_link::{CloseCode, Established, FrameReader, HubEndpoint, LinkOptions, Tls};
use anemone_model::{AgentId, AssignedDevice, HubId, Labels, Sample};
use anemone_wire::batch::Batch;
use anemone_wire::control::{AgentMessage, AssignmentPart, Hello, HubMessage, Leader, PROTOCOL, Refusal, frame_kind};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// What all hubs of a cluster agree on, and what they were told to do.
#[derive(Default)]
pub(crate) struct Replicated {
    /// Batches applied, by epoch and sequence.
    pub(crate) batches: BTreeMap<(u64, u64), Batch>,
    /// Batches that came although they were applied already.
    pub(crate) repeated: u64,
    /// Batches that came to a hub that does not lead.
    pub(crate) misdirected: u64,
    /// Batches whose series nobody defined before.
    pub(crate) undefined: u64,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) applied_assignments: BTreeSet<u64>,
    /// Refusals to give for a sequence, one after the other.
    pub(crate) refusals: BTreeMap<u64, Vec<Refusal>>,
    defined: BTreeSet<(u64, u64, u32)>,
}

impl Replicated {
    pub(crate) fn applied_below(&self, epoch: u64) -> u64 {
        let mut below = 1;
        while let Some(batch) = self.batches.get(&(epoch, below)) {
            below += batch.header.covers;
        }
        below
    }

    /// Every sample by its series, times in order; a time twice fails the test.
    pub(crate) fn samples(&self) -> BTreeMap<Labels, Vec<Sample>> {
        let mut names: BTreeMap<(u64, u64, u32), Labels> = BTreeMap::new();
        let mut samples: BTreeMap<Labels, BTreeMap<i64, Sample>> = BTreeMap::new();
        for ((epoch, _), batch) in &self.batches {
            let dictionary = batch.header.dictionary;
            names.extend(batch.definitions().unwrap().into_iter().map(|(n, def)| ((*epoch, dictionary, n), def.labels)));
            for (reference, sample) in batch.samples().unwrap() {
                let labels = &names[&(*epoch, dictionary, reference)];
                let twice = samples.entry(labels.clone()).or_default().insert(sample.ts_ms, sample);
                assert_eq!(twice, None, "a sample of {labels} twice");
            }
        }
        samples.into_iter().map(|(labels, samples)| (labels, samples.into_values().collect())).collect()
    }
}

pub(crate) struct Cluster {
    pub(crate) replicated: Mutex<Replicated>,
    pub(crate) leader: watch::Sender<(u64, HubId)>,
    pub(crate) assignment: watch::Sender<(u64, Vec<AssignedDevice>)>,
}

impl Cluster {
    pub(crate) fn new(leader: HubId, devices: Vec<AssignedDevice>) -> Arc<Self> {
        let (leader, assignment) = (watch::Sender::new((1, leader)), watch::Sender::new((1, devices)));
        Arc::new(Self { replicated: Mutex::default(), leader, assignment })
    }

    pub(crate) fn count(&self) -> usize {
        self.replicated.lock().unwrap().batches.len()
    }

    fn named(&self) -> Leader {
        let (term, hub) = *self.leader.borrow();
        Leader { term, hub: Some(hub), address: None }
    }

    fn leads(&self, hub: HubId) -> bool {
        self.leader.borrow().1 == hub
    }

    /// Takes a batch as the state machine would.
    fn apply(&self, hub: HubId, bytes: Bytes) -> HubMessage {
        let batch = Batch::decode(bytes).unwrap();
        let (epoch, sequence) = (batch.header.epoch, batch.header.sequence);
        let mut state = self.replicated.lock().unwrap();
        let refuse = |refusal| HubMessage::Refused { epoch, sequence, refusal };
        if !self.leads(hub) {
            state.misdirected += 1;
            return refuse(Refusal::NotLeader);
        }
        if let Some(refusals) = state.refusals.get_mut(&sequence)
            && !refusals.is_empty()
        {
            return refuse(refusals.remove(0));
        }
        if state.batches.contains_key(&(epoch, sequence)) {
            state.repeated += 1;
        } else {
            let dictionary = batch.header.dictionary;
            let definitions = batch.definitions().unwrap();
            state.defined.extend(definitions.into_iter().map(|(n, _)| (epoch, dictionary, n)));
            let known = batch.samples().unwrap().iter().all(|(n, _)| state.defined.contains(&(epoch, dictionary, *n)));
            state.undefined += u64::from(!known);
            state.batches.insert((epoch, sequence), batch);
        }
        HubMessage::Ack { epoch, applied_below: state.applied_below(epoch) }
    }
}

pub(crate) struct FakeHub {
    pub(crate) address: SocketAddr,
    endpoint: Arc<HubEndpoint>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FakeHub {
    pub(crate) fn start(id: HubId, address: SocketAddr, tls: Arc<Tls>, cluster: Arc<Cluster>) -> Self {
        let endpoint = Arc::new(HubEndpoint::bind(address, tls, LinkOptions::default()).unwrap());
        let address = endpoint.local_address().unwrap();
        let listening = Arc::clone(&endpoint);
        let accepting = tokio::spawn(async move {
            while let Some(established) = listening.accept().await {
                tokio::spawn(serve(id, established, Arc::clone(&cluster)));
            }
        });
        Self { address, endpoint, accepting }
    }

    /// Dies at once, with a word to its sessions as a process that is killed does not have, and gives its port back.
    pub(crate) async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
        self.endpoint.close(CloseCode::Shutdown, "test").await;
    }
}

async fn serve(id: HubId, established: Established, cluster: Arc<Cluster>) {
    let Established { session, mut control, hello } = established;
    let Ok(AgentMessage::Hello(hello)) = AgentMessage::decode(&hello.body) else { panic!("no hello") };
    let mut told = hello.assignment_epoch;
    let applied_below = {
        let mut state = cluster.replicated.lock().unwrap();
        state.hellos.push(hello.clone());
        state.applied_below(hello.epoch)
    };
    let (mut leader, mut assignment) = (cluster.leader.subscribe(), cluster.assignment.subscribe());
    assignment.mark_changed();
    let (said, mut to_say) = mpsc::channel(1000);
    said.send(HubMessage::Welcome { hub: id, protocol: PROTOCOL, leader: cluster.named(), applied_below }).await.unwrap();
    let mut heartbeat = tokio::time::interval(Duration::from_millis(300));
    loop {
        tokio::select! {
            Some(message) = to_say.recv() => {
                if control.writer.send(frame_kind::CONTROL, message.encode().unwrap()).await.is_err() {
                    return;
                }
            }
            frame = control.reader.read() => match frame {
                Ok(Some(frame)) => {
                    if let Ok(AgentMessage::AssignmentApplied { epoch }) = AgentMessage::decode(&frame.body) {
                        cluster.replicated.lock().unwrap().applied_assignments.insert(epoch);
                    }
                }
                _ => return,
            },
            lane = session.accept_lane() => match lane {
                Ok((_, reader)) => drop(tokio::spawn(read_lane(id, reader, Arc::clone(&cluster), said.clone()))),
                Err(_) => return,
            },
            Ok(()) = leader.changed() => {
                leader.borrow_and_update();
                said.send(HubMessage::Leader(cluster.named())).await.unwrap();
            }
            Ok(()) = assignment.changed(), if cluster.leads(id) => {
                let (epoch, devices) = assignment.borrow_and_update().clone();
                if epoch > told {
                    told = epoch;
                    // In two parts, the second first.
                    let half = devices.len() / 2;
                    for (part, devices) in [(1, &devices[half..]), (0, &devices[..half])] {
                        let part = AssignmentPart { epoch, part, parts: 2, devices: devices.to_vec() };
                        said.send(HubMessage::Assignment(part)).await.unwrap();
                    }
                }
            }
            _ = heartbeat.tick() => said.send(HubMessage::Heartbeat { at_ms: 0 }).await.unwrap(),
        }
    }
}

async fn read_lane<R: tokio::io::AsyncRead + Unpin>(
    id: HubId,
    mut reader: FrameReader<R>,
    cluster: Arc<Cluster>,
    said: mpsc::Sender<HubMessage>,
) {
    while let Ok(Some(frame)) = reader.read().await {
        assert_eq!(frame.kind, frame_kind::BATCH);
        let message = cluster.apply(id, frame.body);
        if said.send(message).await.is_err() {
            return;
        }
    }
}

pub(crate) fn agent() -> AgentId {
    AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() }
}
