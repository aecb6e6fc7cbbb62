//! The simulator as csnmp's client sees it: the tables, the values, and what happens to them over time.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anemone_chaos::sim::{Faults, FleetSpec, GroupSpec, InventoryItem, Kind, LedgerBound, Pin, Reboot, Renumber, Simulator, Start};
use csnmp::{ObjectIdentifier, ObjectValue, Snmp2cClient};

const PINNED: u64 = 9_223_372_036_854_775_809;

fn oid(text: &str) -> ObjectIdentifier {
    text.parse().expect("an oid")
}

fn group(kind: Kind, count: u32) -> GroupSpec {
    GroupSpec { pop: "ams1".into(), kind: Some(kind), count, ..GroupSpec::default() }
}

fn start(groups: Vec<GroupSpec>) -> (Simulator, Vec<InventoryItem>) {
    let simulator = Simulator::start(&FleetSpec::new(0, groups), LedgerBound::Entries(100_000)).expect("starts");
    let inventory = simulator.inventory();
    (simulator, inventory)
}

async fn client(item: &InventoryItem) -> Snmp2cClient {
    let target = SocketAddr::V4(item.address);
    Snmp2cClient::new(target, item.community.clone().into_bytes(), None, Some(Duration::from_secs(5)), 0).await.expect("a client")
}

async fn column(client: &Snmp2cClient, base: &str) -> BTreeMap<u32, ObjectValue> {
    let rows = client.walk(oid(base)).await.expect("a walk");
    rows.into_iter().map(|(name, value)| (name.as_slice().last().copied().expect("an index"), value)).collect()
}

fn text(value: &ObjectValue) -> String {
    match value {
        ObjectValue::String(octets) => String::from_utf8_lossy(octets).into_owned(),
        other => panic!("{other:?} is no string"),
    }
}

fn counter(value: &ObjectValue) -> u64 {
    match value {
        ObjectValue::Counter64(value) => *value,
        ObjectValue::Counter32(value) => u64::from(*value),
        other => panic!("{other:?} is no counter"),
    }
}

fn ticks(value: &ObjectValue) -> u32 {
    match value {
        ObjectValue::TimeTicks(ticks) => *ticks,
        other => panic!("{other:?} is no time"),
    }
}

const IF_NAME: &str = "1.3.6.1.2.1.31.1.1.1.1";
const HC_IN: &str = "1.3.6.1.2.1.31.1.1.1.6";
const LOW_IN: &str = "1.3.6.1.2.1.2.2.1.10";
const UPTIME: &str = "1.3.6.1.2.1.1.3.0";

#[tokio::test]
async fn every_kind_has_its_tables_and_its_own_address() {
    let kinds = [Kind::AccessSwitch, Kind::CoreRouter, Kind::Server, Kind::LoadBalancer, Kind::LegacySwitch];
    let (_simulator, inventory) = start(kinds.into_iter().map(|kind| group(kind, 2)).collect());
    for item in &inventory {
        let client = client(item).await;
        assert_eq!(text(&client.get(oid("1.3.6.1.2.1.1.5.0")).await.expect("sysName")), item.name);
        let names = column(&client, IF_NAME).await;
        assert_eq!(names.len(), item.interfaces, "{}", item.name);
        assert_eq!(column(&client, LOW_IN).await.len(), item.interfaces);
        let wide = if item.kind == "legacy-switch" { 0 } else { item.interfaces };
        assert_eq!(column(&client, "1.3.6.1.2.1.31.1.1.1.10").await.len(), wide, "{}", item.name);
    }
    let bulk = client(&inventory[0]).await.walk_bulk(oid("1.3.6.1.2.1.2.2"), 25).await.expect("a bulk walk");
    assert_eq!(bulk.len(), 22 * 26);
}

#[tokio::test]
async fn counters_move_and_a_pinned_one_is_exact() {
    let pinned = GroupSpec { pinned_counter: Some(PINNED), ..group(Kind::CoreRouter, 1) };
    let (simulator, inventory) = start(vec![pinned]);
    let client = client(&inventory[0]).await;
    let before = column(&client, HC_IN).await;
    let last = *before.keys().last().expect("rows");
    assert_eq!(before[&last], ObjectValue::Counter64(PINNED));
    let mut moved = 0;
    while moved < before.len() - 1 {
        let after = column(&client, HC_IN).await;
        assert!(before.iter().all(|(row, value)| counter(&after[row]) >= counter(value)));
        moved = before.iter().filter(|(row, value)| counter(&after[*row]) > counter(value)).count();
        assert_eq!(after[&last], ObjectValue::Counter64(PINNED));
    }
    let first = oid(&format!("{HC_IN}.501"));
    simulator.set_faults("*", Faults { pin: Some(Pin { interface: 0, value: 7 }), ..Faults::default() }).expect("known");
    assert_eq!(client.get(first).await.expect("a counter"), ObjectValue::Counter64(7));
    simulator.set_faults("*", Faults::default()).expect("known");
    assert!(counter(&client.get(first).await.expect("a counter")) >= counter(&before[&501]));
    assert_eq!(column(&client, HC_IN).await[&last], ObjectValue::Counter64(PINNED));
}

#[tokio::test]
async fn a_reboot_begins_again_and_counters_near_their_wrap_wrap() {
    let (simulator, inventory) = start(vec![group(Kind::LegacySwitch, 1)]);
    let client = client(&inventory[0]).await;
    let old = ticks(&client.get(oid(UPTIME)).await.expect("uptime"));
    assert!(old > 1000);
    let reboot = Reboot { start: Start::NearWrap, wrap_after_s: Some(1) };
    assert_eq!(simulator.reboot("ams1-old-01", reboot).expect("known"), 1);
    assert!(ticks(&client.get(oid(UPTIME)).await.expect("uptime")) < 1000);
    let states = column(&client, "1.3.6.1.2.1.2.2.1.8").await;
    let up = states.iter().find(|(_, state)| **state == ObjectValue::Integer(1)).map(|(row, _)| *row).expect("an interface that is up");
    let name = oid(&format!("{LOW_IN}.{up}"));
    let first = counter(&client.get(name).await.expect("a counter"));
    assert!(first > u64::from(u32::MAX) - 500_000_000, "{first} is near the wrap");
    let mut value = first;
    while value >= first {
        value = counter(&client.get(name).await.expect("a counter"));
    }
    assert!(value < 500_000_000, "{value} is after the wrap");
}

#[tokio::test]
async fn renumbering_moves_interfaces_along_the_indices() {
    let (simulator, inventory) = start(vec![group(Kind::AccessSwitch, 1)]);
    let client = client(&inventory[0]).await;
    let before = column(&client, IF_NAME).await;
    let octets = column(&client, HC_IN).await;
    simulator.renumber("*", Renumber { rotate: 1, shift: 0 }).expect("renumbered");
    let after = column(&client, IF_NAME).await;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert_eq!(after[&10_101], before[&10_102]);
    assert!(counter(&column(&client, HC_IN).await[&10_101]) >= counter(&octets[&10_102]));
    simulator.renumber("*", Renumber { rotate: 0, shift: 500 }).expect("renumbered");
    assert_eq!(column(&client, IF_NAME).await[&10_601], before[&10_102]);
    let changed = client.get(oid("1.3.6.1.2.1.31.1.5.0")).await.expect("ifTableLastChange");
    assert!(ticks(&changed) > 0);
}

#[tokio::test]
async fn the_ledger_has_every_value_asked_for_and_no_overshoot() {
    let (simulator, inventory) = start(vec![group(Kind::Server, 1)]);
    let client = client(&inventory[0]).await;
    // Asks for more rows than there are: the rest comes from the next column and must not be kept.
    let answer = client.get_bulk(&[oid(HC_IN)], 0, 10).await.expect("a reply");
    assert_eq!(answer.values.len(), 10);
    let value = client.get(oid(&format!("{LOW_IN}.2"))).await.expect("a counter");
    let ledger = simulator.ledger("*", i64::MIN, i64::MAX).expect("known");
    let kept: Vec<(String, Option<String>, usize)> =
        ledger.iter().map(|series| (series.object.clone(), series.if_name.clone(), series.entries.len())).collect();
    let expected = |object: &str, name: &str| (object.to_owned(), Some(name.to_owned()), 1);
    assert_eq!(
        kept,
        [
            expected("ifHCInOctets", "lo"),
            expected("ifInOctets", "eth0"),
            expected("ifHCInOctets", "eth0"),
            expected("ifHCInOctets", "eth1"),
            expected("ifHCInOctets", "bond0")
        ]
    );
    assert_eq!(ledger[1].entries[0].value, counter(&value));
    assert_eq!((ledger[1].metric.as_str(), ledger[1].width, ledger[1].scale), ("if_in_octets", 32, 1.0));
}

#[tokio::test]
async fn silence_loss_and_delay_are_as_told() {
    let (simulator, inventory) = start(vec![group(Kind::Server, 2)]);
    let mut quick = client(&inventory[0]).await;
    quick.set_timeout(Some(Duration::from_millis(100)));
    simulator.set_faults("ams1-srv-01", Faults { silent: true, ..Faults::default() }).expect("known");
    assert!(quick.get(oid(UPTIME)).await.is_err());
    assert!(client(&inventory[1]).await.get(oid(UPTIME)).await.is_ok(), "the neighbour is not affected");
    simulator.set_faults("*", Faults { loss: 1.0, ..Faults::default() }).expect("known");
    assert!(quick.get(oid(UPTIME)).await.is_err());
    simulator.set_faults("*", Faults { delay_ms: 80, ..Faults::default() }).expect("known");
    quick.set_timeout(Some(Duration::from_secs(5)));
    let asked = std::time::Instant::now();
    assert!(quick.get(oid(UPTIME)).await.is_ok());
    assert!(asked.elapsed() >= Duration::from_millis(80));
    simulator.set_faults("*", Faults::default()).expect("known");
    assert!(quick.get(oid(UPTIME)).await.is_ok());
    let wrong = Snmp2cClient::new(quick.target(), b"private".to_vec(), None, Some(Duration::from_millis(100)), 0).await.expect("a client");
    assert!(wrong.get(oid(UPTIME)).await.is_err());
    let tallies = simulator.tallies();
    assert_eq!((tallies.silent, tallies.lost, tallies.wrong_community), (1, 1, 1));
}
