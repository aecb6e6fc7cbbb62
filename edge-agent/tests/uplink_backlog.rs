//! How fast a backlog is shipped once a hub can be reached again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod agent_bench;
#[expect(dead_code, reason = "each test binary uses a part of it")]
mod snmp_fake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_bench::hub::{Cluster, FakeHub, agent};
use agent_bench::{Certificates, wait_for};
use anemone_link::{AgentEndpoint, Credentials, LinkOptions, Tls};
use anemone_model::{CounterWidth, MetricKind, Sample, SeriesDef, Value};
use anemone_wire::batch::BatchBuilder;
use anemone_wire::control::AgentLoad;
use edge_agent::config::{ByteSize, Hub, LinkTiming, SpoolBounds};
use edge_agent::spool::{Part, Spool};
use edge_agent::uplink::assignment::Assignment;
use edge_agent::uplink::{Uplink, UplinkParts};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const BATCHES: u64 = 160;
const SAMPLES: u32 = 32_000;

fn part(n: u64) -> Part {
    let mut builder = BatchBuilder::new();
    let definition = SeriesDef::new("m", [("n", "0")], MetricKind::Gauge, CounterWidth::Unknown).unwrap();
    builder.define(0, definition.clone());
    for i in 0..SAMPLES {
        // Values that do not shrink.
        let bits = (n << 32 | u64::from(i)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        builder.push(0, Sample::new(i64::try_from(n).unwrap() * 100_000 + i64::from(i), Value::U64(bits)));
    }
    let bytes = builder.estimated_bytes();
    let sections = builder.encode().unwrap();
    Part { sections, definitions: vec![(0, definition)], generation: 0, samples: SAMPLES.into(), lost_samples: 0, span_ms: None, bytes }
}

#[test]
fn a_backlog_is_shipped_fast_in_order_and_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let bounds = SpoolBounds { max_bytes: ByteSize(1 << 30), segment_bytes: ByteSize(64 << 20), memory_bytes: ByteSize(1 << 30) };
    let (spool, _) = runtime.block_on(Spool::open(temp.path(), agent(), bounds, 0)).unwrap();
    let spool = Arc::new(spool);
    let (writing, handle) = (Arc::clone(&spool), runtime.handle().clone());
    std::thread::spawn(move || writing.run_writer(&handle));
    for n in 0..BATCHES {
        spool.enqueue(part(n));
    }
    assert_eq!(spool.drain(Instant::now() + Duration::from_secs(60)), 0);
    let bytes = spool.status().bytes;

    runtime.block_on(async {
        let (certificates, cluster) = (Certificates::new(), Cluster::new(1, Vec::new()));
        let hub = FakeHub::start(1, ([127, 0, 0, 1], 0).into(), certificates.hub(1), Arc::clone(&cluster));
        let file = |name: &str| certificates.dir.path().join(name);
        let credentials = Credentials::load(&file("agent-ams1-a1.crt"), &file("agent-ams1-a1.key"), &file("ca.crt")).unwrap();
        let endpoint = AgentEndpoint::bind(([127, 0, 0, 1], 0).into(), Tls::new(credentials).unwrap(), LinkOptions::default()).unwrap();
        let second = Duration::from_secs(1);
        let parts = UplinkParts {
            agent: agent(),
            http: "http://127.0.0.1:1".into(),
            hubs: vec![Hub { id: 1, address: hub.address.to_string() }],
            timing: LinkTiming {
                heartbeat: second,
                silence: second * 30,
                connect_timeout: second * 5,
                backoff_max: second,
                window_bytes: ByteSize(8 << 20),
            },
            endpoint,
            spool: Arc::clone(&spool),
            load: watch::Sender::new(AgentLoad::default()).subscribe(),
            assignment: watch::Sender::new(Arc::new(Assignment::default())),
            assignment_file: temp.path().join("assignment.cbor"),
            applied: watch::Sender::new(0).subscribe(),
        };
        let (started, stop) = (Instant::now(), CancellationToken::new());
        let (uplink, status) = Uplink::start(parts, stop.clone());
        let running = tokio::spawn(uplink.run());
        wait_for("the backlog", || spool.acked_below() == BATCHES + 1).await;
        let rate = bytes as f64 / started.elapsed().as_secs_f64() / 1e6;
        println!("{:.1} MB in {:?}: {rate:.0} MB/s", bytes as f64 / 1e6, started.elapsed());
        assert!(rate > 3.0, "{rate} MB/s, without optimisation and to a hub that decodes everything");
        let tally = status.read().tally;
        assert!(tally.sent_batches <= BATCHES && tally.rewinds == 0, "each batch is sent once: {tally:?}");
        assert_eq!(cluster.replicated.lock().unwrap().repeated, 0);
        stop.cancel();
        running.await.unwrap();
    });
    spool.close();
}
