//! An SNMP agent for tests: a table of values answered by the rules of RFC 3416, with faults to order. It encodes and decodes with
//! csnmp, so that it shares no code with what is tested. Also a driver that runs a device's logic against it without a clock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::time::Duration;

use anemone_model::{Community, Sample, SeriesDef};
use csnmp::message::{BindingValue, ErrorStatus, InnerPdu, Snmp2cMessage, Snmp2cPdu, VariableBinding};
use csnmp::{ObjectIdentifier, ObjectValue};
use edge_agent::device::logic::{DeviceLogic, LogicOptions, Next, Now, RequestFailure, Target};
use edge_agent::device::{DeviceMemory, SampleSink, SinkRefusal};
use edge_agent::profiles::Profiles;

pub(crate) fn oid(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap()).collect()
}

pub(crate) const IF_TABLE: &str = "1.3.6.1.2.1.2.2.1";
pub(crate) const IF_X_TABLE: &str = "1.3.6.1.2.1.31.1.1.1";
pub(crate) const UPTIME: &str = "1.3.6.1.2.1.1.3.0";
pub(crate) const IF_NUMBER: &str = "1.3.6.1.2.1.2.1.0";
pub(crate) const LAST_CHANGE: &str = "1.3.6.1.2.1.31.1.5.0";

/// What to answer instead of the truth.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// tooBig for requests that would be answered with more varbinds.
    pub(crate) too_big_above: Option<usize>,
    /// Answers are cut after so many varbinds.
    pub(crate) cut_after: Option<usize>,
    /// Requests with a longer answer are not answered.
    pub(crate) silent_above: Option<usize>,
    /// Nothing is answered.
    pub(crate) silent: bool,
    /// genErr for a request that touches this column (last part before the index) of ifTable.
    pub(crate) gen_err_column: Option<u32>,
}

pub(crate) struct FakeAgent {
    pub(crate) mib: BTreeMap<Vec<u32>, ObjectValue>,
    pub(crate) community: String,
    pub(crate) faults: Faults,
    /// Varbinds of each answer given.
    pub(crate) answers: Vec<usize>,
    pub(crate) largest_answer: usize,
}

impl FakeAgent {
    pub(crate) fn new() -> Self {
        let mut agent =
            Self { mib: BTreeMap::new(), community: "public".into(), faults: Faults::default(), answers: Vec::new(), largest_answer: 0 };
        agent.set("1.3.6.1.2.1.1.1.0", ObjectValue::String(b"a device of tests".to_vec()));
        agent.set("1.3.6.1.2.1.1.5.0", ObjectValue::String(b"fake".to_vec()));
        agent.set(UPTIME, ObjectValue::TimeTicks(100_000));
        agent
    }

    pub(crate) fn with_interfaces(count: u32) -> Self {
        let mut agent = Self::new();
        for index in 1..=count {
            agent.add_interface(index, &format!("eth{index}"));
        }
        agent
    }

    pub(crate) fn set(&mut self, name: &str, value: ObjectValue) {
        self.mib.insert(oid(name), value);
    }

    pub(crate) fn cell(&mut self, table: &str, column: u32, index: u32, value: ObjectValue) {
        self.set(&format!("{table}.{column}.{index}"), value);
    }

    pub(crate) fn add_interface(&mut self, index: u32, name: &str) {
        let base = u64::from(index) << 36;
        for column in [6, 7, 8, 9, 10, 11, 12, 13] {
            self.cell(IF_X_TABLE, column, index, ObjectValue::Counter64(base + u64::from(column)));
        }
        for column in [10, 11, 13, 14, 16, 17, 19, 20] {
            self.cell(IF_TABLE, column, index, ObjectValue::Counter32(index * 1000 + column));
        }
        for column in [2, 3, 4, 5] {
            self.cell(IF_X_TABLE, column, index, ObjectValue::Counter32(index * 1000 + column));
        }
        self.cell(IF_TABLE, 2, index, ObjectValue::String(format!("{name} description").into_bytes()));
        self.cell(IF_TABLE, 5, index, ObjectValue::Unsigned32(1_000_000_000));
        self.cell(IF_TABLE, 7, index, ObjectValue::Integer(1));
        self.cell(IF_TABLE, 8, index, ObjectValue::Integer(2));
        self.cell(IF_X_TABLE, 1, index, ObjectValue::String(name.as_bytes().to_vec()));
        self.cell(IF_X_TABLE, 15, index, ObjectValue::Unsigned32(10_000));
        self.cell(IF_X_TABLE, 19, index, ObjectValue::TimeTicks(0));
        self.count_interfaces();
    }

    pub(crate) fn remove_interface(&mut self, index: u32) {
        self.mib
            .retain(|name, _| !((name.starts_with(&oid(IF_TABLE)) || name.starts_with(&oid(IF_X_TABLE))) && name.last() == Some(&index)));
        self.count_interfaces();
    }

    fn count_interfaces(&mut self) {
        let column = oid(&format!("{IF_TABLE}.8"));
        let count = self.mib.keys().filter(|name| name.starts_with(&column)).count();
        self.set(IF_NUMBER, ObjectValue::Integer(i32::try_from(count).unwrap()));
    }

    pub(crate) fn uptime(&mut self, ticks: u32) {
        self.set(UPTIME, ObjectValue::TimeTicks(ticks));
    }

    fn get(&self, name: &[u32]) -> (Vec<u32>, BindingValue) {
        let value = self.mib.get(name).map_or(BindingValue::NoSuchInstance, |value| BindingValue::Value(value.clone()));
        (name.to_vec(), value)
    }

    fn next(&self, name: &[u32]) -> (Vec<u32>, BindingValue) {
        let after = (Bound::Excluded(name.to_vec()), Bound::Unbounded);
        match self.mib.range(after).next() {
            Some((name, value)) => (name.clone(), BindingValue::Value(value.clone())),
            None => (name.to_vec(), BindingValue::EndOfMibView),
        }
    }

    /// The answer to a datagram, or `None` for silence.
    pub(crate) fn answer(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let request = Snmp2cMessage::try_from_bytes(datagram).unwrap();
        if self.faults.silent || request.community != self.community.as_bytes() {
            return None;
        }
        let names = |bindings: &[VariableBinding]| bindings.iter().map(|b| b.name.as_slice().to_vec()).collect::<Vec<_>>();
        let mut bindings = Vec::new();
        let asked = match &request.pdu {
            Snmp2cPdu::GetRequest(pdu) => {
                bindings.extend(names(&pdu.variable_bindings).iter().map(|name| self.get(name)));
                names(&pdu.variable_bindings)
            }
            Snmp2cPdu::GetNextRequest(pdu) => {
                bindings.extend(names(&pdu.variable_bindings).iter().map(|name| self.next(name)));
                names(&pdu.variable_bindings)
            }
            Snmp2cPdu::GetBulkRequest(pdu) => {
                let names = names(&pdu.variable_bindings);
                let (once, mut repeated) = (names[..pdu.non_repeaters as usize].to_vec(), names[pdu.non_repeaters as usize..].to_vec());
                bindings.extend(once.iter().map(|name| self.next(name)));
                for _ in 0..pdu.max_repetitions {
                    for name in &mut repeated {
                        let given = self.next(name);
                        name.clone_from(&given.0);
                        bindings.push(given);
                    }
                }
                names
            }
            other => panic!("{other:?}"),
        };
        if self.faults.silent_above.is_some_and(|most| bindings.len() > most) {
            return None;
        }
        let (mut status, mut error_index) = (ErrorStatus::NoError, 0);
        if self.faults.too_big_above.is_some_and(|most| bindings.len() > most) {
            (status, bindings) = (ErrorStatus::TooBig, Vec::new());
        }
        if let Some(column) = self.faults.gen_err_column {
            let column = oid(&format!("{IF_TABLE}.{column}"));
            if let Some(at) = asked.iter().position(|name| name.starts_with(&column)) {
                (status, error_index) = (ErrorStatus::GenErr, u32::try_from(at + 1).unwrap());
            }
        }
        if let Some(most) = self.faults.cut_after {
            bindings.truncate(most);
        }
        self.answers.push(bindings.len());
        let answer = response(request.pdu.request_id(), status, error_index, bindings);
        self.largest_answer = self.largest_answer.max(answer.len());
        Some(answer)
    }
}

pub(crate) fn response(request_id: i32, error_status: ErrorStatus, error_index: u32, bindings: Vec<(Vec<u32>, BindingValue)>) -> Vec<u8> {
    let variable_bindings =
        bindings.into_iter().map(|(name, value)| VariableBinding { name: ObjectIdentifier::try_from(&name[..]).unwrap(), value }).collect();
    let inner = InnerPdu { request_id, error_status, error_index, variable_bindings };
    Snmp2cMessage { version: 1, community: b"public".to_vec(), pdu: Snmp2cPdu::Response(inner) }.to_bytes().unwrap()
}

/// Device and samples.
type RecordedRound = (String, Vec<(u32, Sample)>);

/// Keeps what it is given.
#[derive(Default)]
pub(crate) struct RecordingSink {
    pub(crate) definitions: Mutex<Vec<SeriesDef>>,
    pub(crate) rounds: Mutex<Vec<RecordedRound>>,
    pub(crate) refusal: Mutex<Option<SinkRefusal>>,
    pub(crate) panics: Mutex<u32>,
}

impl SampleSink for RecordingSink {
    fn register(&self, definition: SeriesDef) -> Result<u32, SinkRefusal> {
        let mut definitions = self.definitions.lock().unwrap();
        let known = definitions.iter().position(|known| *known == definition);
        let at = known.unwrap_or(definitions.len());
        if known.is_none() {
            definitions.push(definition);
        }
        Ok(u32::try_from(at).unwrap())
    }

    fn round(&self, device: &str, samples: Vec<(u32, Sample)>) -> Result<(), SinkRefusal> {
        let panics = std::mem::take(&mut *self.panics.lock().unwrap());
        if panics > 0 {
            *self.panics.lock().unwrap() = panics - 1;
            panic!("the sink was told to");
        }
        if let Some(refusal) = *self.refusal.lock().unwrap() {
            return Err(refusal);
        }
        self.rounds.lock().unwrap().push((device.to_owned(), samples));
        Ok(())
    }
}

impl RecordingSink {
    pub(crate) fn definition(&self, series: u32) -> SeriesDef {
        self.definitions.lock().unwrap()[series as usize].clone()
    }
}

/// A round's samples by `metric{if_name}`.
pub(crate) type ByName = BTreeMap<String, Sample>;

pub(crate) fn by_name(sink: &RecordingSink, samples: &[(u32, Sample)]) -> ByName {
    let mut named = ByName::new();
    for (series, sample) in samples {
        let labels = sink.definition(*series).labels;
        let name = match labels.value("if_name") {
            Some(interface) => format!("{}{{{interface}}}", labels.metric()),
            None => labels.metric().to_owned(),
        };
        assert!(named.insert(name.clone(), *sample).is_none(), "{name} twice in a round");
    }
    named
}

pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// Runs a device's logic against the agent, without a clock or network.
pub(crate) struct Driver {
    pub(crate) logic: DeviceLogic,
    pub(crate) agent: FakeAgent,
    pub(crate) sink: RecordingSink,
    pub(crate) now: Now,
    pub(crate) requests: usize,
    pub(crate) request_bytes: usize,
}

pub(crate) fn target() -> Target {
    Target { pop: "ams1".parse().unwrap(), device: "sw1".parse().unwrap(), community: Community::new("public"), interval: INTERVAL }
}

impl Driver {
    pub(crate) fn new(agent: FakeAgent) -> Self {
        Self::remembering(agent, DeviceMemory::default())
    }

    pub(crate) fn remembering(agent: FakeAgent, memory: DeviceMemory) -> Self {
        let now = Now { elapsed: Duration::from_secs(5000), wall_ms: START_MS };
        let profile = Profiles::built_in().unwrap().by_name("interfaces").unwrap().clone();
        let logic = DeviceLogic::new(target(), profile, LogicOptions::default(), memory, now);
        Self { logic, agent, sink: RecordingSink::default(), now, requests: 0, request_bytes: 0 }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.elapsed += time;
        self.now.wall_ms += i64::try_from(time.as_millis()).unwrap();
    }

    /// Until the end of the next round; `interfere` may change the agent before each request.
    pub(crate) fn round_with(&mut self, mut interfere: impl FnMut(&mut FakeAgent, usize)) -> ByName {
        self.requests = 0;
        self.request_bytes = 0;
        for _ in 0..10_000 {
            match self.logic.next(self.now, &self.sink) {
                Next::Wait(time) => {
                    self.pass(time);
                    let ticks = u32::try_from(time.as_millis() / 10).unwrap();
                    if let Some(ObjectValue::TimeTicks(uptime)) = self.agent.mib.get_mut(&oid(UPTIME)) {
                        *uptime = uptime.wrapping_add(ticks);
                    }
                }
                Next::Send { request, timeout } => {
                    interfere(&mut self.agent, self.requests);
                    self.requests += 1;
                    self.request_bytes += request.len();
                    let mut datagram = Vec::new();
                    request.write(0x0123_4567, &mut datagram);
                    match self.agent.answer(&datagram) {
                        Some(answer) => {
                            self.pass(Duration::from_millis(1));
                            self.logic.on_reply(self.now, &answer, self.now.wall_ms, Duration::from_millis(1), &self.sink);
                        }
                        None => {
                            self.pass(timeout);
                            self.logic.on_failure(RequestFailure::Timeout(None));
                        }
                    }
                }
                Next::Round(samples) => return by_name(&self.sink, &samples),
            }
        }
        panic!("the round does not end");
    }

    pub(crate) fn round(&mut self) -> ByName {
        self.round_with(|_, _| {})
    }
}
