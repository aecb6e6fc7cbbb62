//! Nanoseconds per varbind of the lazy reader against csnmp's decoder and per request of the encoder, and varbinds per CPU-second of
//! the whole engine over loopback: `cargo bench --bench snmp_codec`.

use std::hint::black_box;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use csnmp::message::{BindingValue, ErrorStatus, InnerPdu, Snmp2cMessage, Snmp2cPdu, VariableBinding};
use csnmp::{ObjectIdentifier, ObjectValue};
use edge_agent::collector::snmp::ber::{self, ValueView};
use edge_agent::collector::snmp::engine::{Engine, EngineOptions};
use edge_agent::collector::snmp::limits::Limits;
use edge_agent::collector::snmp::oid;
use edge_agent::collector::snmp::request::{Ask, EncodedRequest};
use edge_agent::collector::snmp::table::{Asking, Plan, Rows};
use edge_agent::profiles::Object;

const VARBINDS: u32 = 50;
const MEASURE: Duration = Duration::from_millis(700);

/// Runs `work` for a while; nanoseconds per call.
fn measure(mut work: impl FnMut()) -> f64 {
    for _ in 0..100 {
        work();
    }
    let (start, mut calls) = (Instant::now(), 0_u32);
    while start.elapsed() < MEASURE {
        for _ in 0..32 {
            work();
        }
        calls += 32;
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn column(last: u32) -> Object {
    let oid = ObjectIdentifier::try_from(&[1, 3, 6, 1, 2, 1, 31, 1, 1, 1, last][..]).expect("a short OID");
    Object { name: format!("column {last}"), octets: oid::encode(&oid).into(), oid }
}

fn main() {
    let varbind = |index: u32| VariableBinding {
        name: ObjectIdentifier::try_from(&[1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 6, index][..]).expect("a short OID"),
        value: BindingValue::Value(ObjectValue::Counter64(0x0012_3456_789a_bcde + u64::from(index))),
    };
    let inner = InnerPdu {
        request_id: 0x0123_4567,
        error_status: ErrorStatus::NoError,
        error_index: 0,
        variable_bindings: (1..=VARBINDS).map(varbind).collect(),
    };
    let message = Snmp2cMessage { version: 1, community: b"public".to_vec(), pdu: Snmp2cPdu::Response(inner) };
    let datagram = message.to_bytes().expect("it encodes");
    let per_varbind = |nanoseconds: f64| nanoseconds / f64::from(VARBINDS);

    let reader = measure(|| {
        let message = ber::read(black_box(&datagram)).expect("it reads");
        let mut sum = 0_u64;
        for varbind in message.varbinds() {
            if let Ok(ValueView::Counter64(value)) = varbind.expect("it reads").value() {
                sum = sum.wrapping_add(value);
            }
        }
        black_box(sum);
    });
    let csnmp = measure(|| {
        black_box(Snmp2cMessage::try_from_bytes(black_box(&datagram)).expect("it decodes"));
    });

    let columns = [column(6)];
    let mut rows = Rows::default();
    (1..=VARBINDS).for_each(|index| rows.push(&[u8::try_from(index).expect("below 128")], 1));
    let uptime = ObjectIdentifier::try_from(&[1, 3, 6, 1, 2, 1, 1, 3][..]).expect("a short OID");
    let asking = Asking { columns: &columns, community: b"public", scalars: &[] };
    let plan = Plan::new(&asking, &rows, &Limits::default(), false).expect("it encodes");
    let span = plan.chunks()[0].0;
    let attributed = measure(|| {
        let message = ber::read(black_box(&datagram)).expect("it reads");
        let mut sum = 0_u64;
        let taken =
            span.take(&columns, &rows, &message, 0, |row, _, value| sum = sum.wrapping_add(value.as_u64().unwrap_or(0) + row as u64));
        black_box((sum, taken));
    });

    let wide: Vec<ObjectIdentifier> = (1..=16).map(|last| column(last).oid).collect();
    let ask = Ask::GetBulk { non_repeaters: 1, max_repetitions: 3 };
    let encode = measure(|| {
        black_box(EncodedRequest::new(b"public", ask, [uptime].into_iter().chain(wide.iter().copied())).expect("it encodes"));
    });
    let request = EncodedRequest::new(b"public", ask, [uptime].into_iter().chain(wide.iter().copied())).expect("it encodes");
    let mut buffer = Vec::new();
    let patch = measure(|| request.write(black_box(0x0123_4567), &mut buffer));

    println!("response of {VARBINDS} Counter64, {} bytes", datagram.len());
    println!("  reader                {:>8.1} ns a varbind", per_varbind(reader));
    println!("  reader and attribution{:>8.1} ns a varbind ({} of {VARBINDS} rows in the span)", per_varbind(attributed), span.rows);
    println!("  csnmp decoder         {:>8.1} ns a varbind", per_varbind(csnmp));
    println!("request of 17 OIDs, {} bytes", request.len());
    println!("  encode with csnmp     {encode:>8.0} ns");
    println!("  patch an encoded one  {patch:>8.0} ns");

    let (rate, exchanges, lost) = exchange_rate(&datagram, &columns, &rows);
    println!("engine over loopback, {IN_FLIGHT} in flight, {exchanges} exchanges, {lost} lost");
    println!("  {:>6.2} million varbinds a client CPU-second", rate / 1e6);
}

const IN_FLIGHT: usize = 256;

/// Nanoseconds this thread has been on a CPU (Linux).
fn thread_cpu_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}

/// Exchanges with a peer that answers everything with `datagram`: varbinds per CPU-second of the client's thread, exchanges, losses.
fn exchange_rate(datagram: &[u8], columns: &[Object], rows: &Rows) -> (f64, u64, u64) {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = peer.local_addr().expect("it is bound");
    let mut answer = datagram.to_vec();
    let (answer_id, _) = ber::read(datagram).expect("it reads").request_id_octets();
    std::thread::spawn(move || {
        let mut request = [0; 2000];
        while let Ok((length, from)) = peer.recv_from(&mut request) {
            let Ok(message) = ber::read(&request[..length]) else { continue };
            answer[answer_id..answer_id + 4].copy_from_slice(&message.request_id.to_be_bytes());
            if peer.send_to(&answer, from).is_err() {
                return;
            }
        }
    });
    let asking = Asking { columns, community: b"public", scalars: &[] };
    let plan = Plan::new(&asking, rows, &Limits::default(), false).expect("it encodes");
    let (span, request) = plan.chunks()[0].clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let engine = Engine::new(&["127.0.0.1:0".parse().expect("an address")], EngineOptions::default()).expect("a socket");
        let end = Instant::now() + Duration::from_secs(3);
        let started = thread_cpu_ns();
        let poll = async || {
            let (mut varbinds, mut lost) = (0_u64, 0_u64);
            while Instant::now() < end {
                let Ok(reply) = engine.exchange(address, &request, Duration::from_secs(1)).await else {
                    lost += 1;
                    continue;
                };
                let message = ber::read(reply.datagram()).expect("it reads");
                span.take(columns, rows, &message, 0, |_, _, value| varbinds += u64::from(value.as_u64().is_some()));
            }
            (varbinds, lost)
        };
        let all = futures_util::future::join_all((0..IN_FLIGHT).map(|_| poll())).await;
        let seconds = (thread_cpu_ns() - started) / 1e9;
        let (varbinds, lost) = all.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (varbinds as f64 / seconds, engine.counts().matched, lost)
    })
}
