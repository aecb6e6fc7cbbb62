//! What a device's logic makes of a device that moves, restarts, wraps, lies or falls silent; no clock, no network.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod snmp_fake;

use std::time::Duration;

use anemone_model::{CounterWidth, Discontinuity, Value};
use csnmp::ObjectValue;
use edge_agent::device::FailureReason;
use snmp_fake::{ByName, Driver, FakeAgent, Faults, IF_TABLE, IF_X_TABLE, INTERVAL, LAST_CHANGE, UPTIME};

fn value(round: &ByName, name: &str) -> Value {
    round.get(name).unwrap_or_else(|| panic!("{name} is missing in {:?}", round.keys().collect::<Vec<_>>())).value
}

fn mark(round: &ByName, name: &str) -> Option<Discontinuity> {
    round.get(name).unwrap_or_else(|| panic!("{name} is missing")).discontinuity
}

fn marks(round: &ByName) -> Vec<(&str, Discontinuity)> {
    round.iter().filter_map(|(name, sample)| Some((name.as_str(), sample.discontinuity?))).collect()
}

#[test]
fn a_first_round_brings_every_metric_of_every_interface() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(3));
    let round = driver.round();
    assert_eq!(round.len(), 3 * 15 + 4, "{round:?}");
    assert_eq!(value(&round, "if_in_octets{eth2}"), Value::U64((2 << 36) + 6));
    assert_eq!(value(&round, "if_out_broadcast_packets{eth3}"), Value::U64((3 << 36) + 13));
    assert_eq!(value(&round, "if_in_errors{eth1}"), Value::U64(1014));
    assert_eq!(value(&round, "if_oper_status{eth1}"), Value::U64(2));
    assert_eq!(value(&round, "if_speed_bits_per_second{eth1}"), Value::F64(1e10));
    assert_eq!((value(&round, "device_up"), value(&round, "device_info")), (Value::F64(1.0), Value::U64(1)));
    assert!(matches!(value(&round, "device_uptime_seconds"), Value::F64(s) if (1000.0..1011.0).contains(&s)));
    assert_eq!(marks(&round), []);
    let definitions = driver.sink.definitions.lock().unwrap();
    let octets = definitions.iter().find(|d| d.labels.metric() == "if_in_octets").unwrap();
    assert_eq!(
        (octets.width, octets.labels.value("pop"), octets.labels.value("device")),
        (CounterWidth::Bits64, Some("ams1"), Some("sw1"))
    );
    let errors = definitions.iter().find(|d| d.labels.metric() == "if_in_errors").unwrap();
    assert_eq!(errors.width, CounterWidth::Bits32);
    let info = definitions.iter().find(|d| d.labels.metric() == "device_info").unwrap();
    assert_eq!((info.labels.value("sys_name"), info.labels.value("sys_descr")), (Some("fake"), Some("a device of tests")));
}

#[test]
fn a_steady_round_of_48_interfaces_is_compact() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(48));
    driver.round();
    driver.agent.answers.clear();
    driver.agent.largest_answer = 0;
    let round = driver.round();
    assert_eq!(round.len(), 48 * 15 + 4);
    // 16 columns (15 metrics and the discontinuity time) of 48 rows are 768 varbinds of some 22 octets.
    assert_eq!(driver.requests, 16);
    assert!(driver.agent.largest_answer <= 1472, "{}", driver.agent.largest_answer);
    let useful = 48 * 16;
    assert_eq!(driver.agent.answers.iter().sum::<usize>(), useful + 2 * driver.requests, "nothing but rows and the scalars is asked for");
}

#[test]
fn without_high_capacity_columns_the_32_bit_ones_are_read() {
    let mut agent = FakeAgent::with_interfaces(4);
    // Interface 2 has no 64-bit counters and says nothing by ifHighSpeed; 3 has no ifName.
    for column in 6..=13 {
        agent.mib.remove(&snmp_fake::oid(&format!("{IF_X_TABLE}.{column}.2")));
    }
    agent.cell(IF_X_TABLE, 15, 2, ObjectValue::Unsigned32(0));
    agent.cell(IF_X_TABLE, 1, 3, ObjectValue::String(Vec::new()));
    let mut driver = Driver::new(agent);
    for _ in 0..2 {
        let round = driver.round();
        assert_eq!(round.len(), 4 * 15 + 4, "{:?}", round.keys());
        assert_eq!(value(&round, "if_in_octets{eth1}"), Value::U64((1 << 36) + 6));
        assert_eq!(value(&round, "if_in_octets{eth2}"), Value::U64(2010));
        assert_eq!(value(&round, "if_out_multicast_packets{eth2}"), Value::U64(2004));
        assert_eq!(value(&round, "if_speed_bits_per_second{eth2}"), Value::F64(1e9));
        assert_eq!(value(&round, "if_in_octets{eth3 description}"), Value::U64((3 << 36) + 6));
    }
    let definitions = driver.sink.definitions.lock().unwrap();
    let width =
        |name| definitions.iter().find(|d| d.labels.metric() == "if_in_octets" && d.labels.value("if_name") == Some(name)).unwrap().width;
    assert_eq!((width("eth1"), width("eth2")), (CounterWidth::Bits64, CounterWidth::Bits32));
}

#[test]
fn rows_without_a_name_or_with_the_same_name_are_told_apart() {
    let mut agent = FakeAgent::with_interfaces(4);
    for index in [1, 3] {
        agent.cell(IF_X_TABLE, 1, index, ObjectValue::String(b"uplink\0".to_vec()));
    }
    agent.cell(IF_X_TABLE, 1, 2, ObjectValue::String(vec![b'B', 0xfc, b'r', b'o']));
    agent.mib.remove(&snmp_fake::oid(&format!("{IF_X_TABLE}.1.4")));
    agent.mib.remove(&snmp_fake::oid(&format!("{IF_TABLE}.2.4")));
    let round = Driver::new(agent).round();
    let names: Vec<&str> = round.keys().filter_map(|name| name.strip_prefix("if_in_octets")).collect();
    assert_eq!(names, ["{B\u{fc}ro}", "{if4}", "{uplink#1}", "{uplink#3}"]);
}

#[test]
fn counters_come_through_exactly_and_a_wrap_is_not_marked() {
    let mut agent = FakeAgent::with_interfaces(1);
    let large = (1_u64 << 63) + 1;
    agent.cell(IF_X_TABLE, 6, 1, ObjectValue::Counter64(large));
    agent.cell(IF_TABLE, 14, 1, ObjectValue::Counter32(4_294_967_290));
    let mut driver = Driver::new(agent);
    let round = driver.round();
    assert_eq!(value(&round, "if_in_octets{eth1}"), Value::U64(9_223_372_036_854_775_809));
    assert_eq!(value(&round, "if_in_errors{eth1}"), Value::U64(4_294_967_290));
    driver.agent.cell(IF_TABLE, 14, 1, ObjectValue::Counter32(10));
    let round = driver.round();
    assert_eq!(value(&round, "if_in_errors{eth1}"), Value::U64(10));
    assert_eq!(marks(&round), []);
}

#[test]
fn a_restart_marks_every_counter_once() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(2));
    driver.round();
    driver.agent.uptime(500);
    driver.agent.cell(IF_X_TABLE, 6, 1, ObjectValue::Counter64(3));
    let round = driver.round();
    assert_eq!(value(&round, "if_in_octets{eth1}"), Value::U64(3));
    assert_eq!(marks(&round).len(), 2 * 12);
    assert!(marks(&round).iter().all(|(_, mark)| *mark == Discontinuity::UptimeWentBack));
    assert_eq!(mark(&round, "if_oper_status{eth1}"), None);
    assert_eq!(driver.logic.health().reboots, 1);
    assert_eq!(marks(&driver.round()), []);
}

#[test]
fn a_restart_in_the_middle_of_a_round_marks_what_follows_it() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(48));
    driver.round();
    let round = driver.round_with(|agent, request| {
        if request == 5 {
            agent.uptime(1);
        }
    });
    // Rows polled before the restart are polled again, so every counter has one sample, and that is marked.
    assert_eq!(driver.logic.health().reboots, 1);
    assert_eq!((round.len(), marks(&round).len()), (48 * 15 + 4, 48 * 12));
    assert_eq!(marks(&driver.round()), []);
}

#[test]
fn a_restart_during_an_outage_is_noticed_from_memory() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(1));
    driver.round();
    let memory = driver.logic.memory(driver.now);
    assert_eq!(memory.varbinds, 100);
    let mut agent = FakeAgent::with_interfaces(1);
    agent.uptime(100);
    let round = Driver::remembering(agent, memory).round();
    assert_eq!(mark(&round, "if_in_octets{eth1}"), Some(Discontinuity::UptimeWentBack));
    // Without a restart nothing is marked, except where the discontinuity time lies after what is remembered.
    let mut agent = FakeAgent::with_interfaces(2);
    let (ticks, _) = memory.uptime.unwrap();
    agent.uptime(ticks + 500);
    agent.cell(IF_X_TABLE, 19, 2, ObjectValue::TimeTicks(ticks + 100));
    let round = Driver::remembering(agent, memory).round();
    assert_eq!(mark(&round, "if_in_octets{eth1}"), None);
    assert_eq!(mark(&round, "if_in_octets{eth2}"), Some(Discontinuity::CounterDiscontinuityTime));
}

#[test]
fn a_discontinuity_of_one_interface_marks_that_interface() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(2));
    driver.round();
    driver.agent.cell(IF_X_TABLE, 19, 2, ObjectValue::TimeTicks(100_900));
    let round = driver.round();
    assert_eq!(marks(&round).len(), 12);
    assert!(marks(&round).iter().all(|(name, mark)| name.ends_with("{eth2}") && *mark == Discontinuity::CounterDiscontinuityTime));
    assert_eq!(marks(&driver.round()), []);
}

/// Moves eth1..eth3 to the indices 3, 1, 2, each with its counters.
fn renumber(agent: &mut FakeAgent) {
    for (name, base, index) in [("eth1", 1_u64, 3), ("eth2", 2, 1), ("eth3", 3, 2)] {
        agent.cell(IF_X_TABLE, 1, index, ObjectValue::String(name.into()));
        agent.cell(IF_X_TABLE, 6, index, ObjectValue::Counter64((base << 36) + 6));
    }
}

#[test]
fn names_are_read_again_before_renumbered_counters_are_attributed() {
    type Sign = fn(&mut FakeAgent);
    let signs: [(&str, Sign, Option<Discontinuity>); 3] = [
        ("ifTableLastChange", |agent| agent.set(LAST_CHANGE, ObjectValue::TimeTicks(77)), None),
        ("ifNumber", |agent| agent.add_interface(9, "eth9"), None),
        ("sysUpTime", |agent| agent.uptime(10), Some(Discontinuity::UptimeWentBack)),
    ];
    for (sign, show, expected) in signs {
        for request in [0, 1] {
            let mut agent = FakeAgent::with_interfaces(8);
            agent.set(LAST_CHANGE, ObjectValue::TimeTicks(1));
            let mut driver = Driver::new(agent);
            driver.round();
            let round = driver.round_with(|agent, at| {
                if at == request {
                    renumber(agent);
                    show(agent);
                }
            });
            let last = driver.round();
            for (round, expected) in [(&round, expected), (&last, None)] {
                for base in 1..=3_u64 {
                    let name = format!("if_in_octets{{eth{base}}}");
                    assert_eq!(value(round, &name), Value::U64((base << 36) + 6), "{sign} at request {request}: {name}");
                    assert_eq!(mark(round, &name), expected, "{sign} at request {request}: {name}");
                }
            }
        }
    }
}

#[test]
fn a_watch_that_cries_wolf_is_not_believed_for_ever() {
    let mut agent = FakeAgent::with_interfaces(2);
    agent.set(LAST_CHANGE, ObjectValue::TimeTicks(0));
    let mut driver = Driver::new(agent);
    for at in 1..=10 {
        driver.agent.set(LAST_CHANGE, ObjectValue::TimeTicks(at));
        assert_eq!(driver.round().len(), 2 * 15 + 4);
    }
    assert_eq!(driver.logic.health().inventories, 4, "the first and three in vain");
    driver.pass(Duration::from_secs(1800));
    driver.round();
    assert_eq!(driver.logic.health().inventories, 5);
}

#[test]
fn rows_that_never_hold_still_end_the_round() {
    let mut agent = FakeAgent::with_interfaces(2);
    agent.set(LAST_CHANGE, ObjectValue::TimeTicks(0));
    let mut driver = Driver::new(agent);
    driver.round();
    let round = driver.round_with(|agent, request| {
        agent.set(LAST_CHANGE, ObjectValue::TimeTicks(1000 + request as u32));
        agent.cell(IF_X_TABLE, 1, 1, ObjectValue::String(format!("eth{request}").into_bytes()));
    });
    assert_eq!(driver.logic.health().last_failure.as_ref().unwrap().1, FailureReason::Unstable);
    assert!(round.keys().all(|name| name.starts_with("device_")), "nothing is attributed: {round:?}");
    assert_eq!(driver.round().len(), 2 * 15 + 4);
}

#[test]
fn an_interface_that_comes_back_does_not_continue_its_counters() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(3));
    driver.round();
    driver.agent.remove_interface(2);
    assert_eq!(driver.round().len(), 2 * 15 + 4);
    driver.agent.add_interface(2, "eth2");
    let round = driver.round();
    assert_eq!(mark(&round, "if_in_octets{eth2}"), Some(Discontinuity::Reassigned));
    assert_eq!(marks(&round).len(), 12);
}

#[test]
fn a_row_that_vanishes_unannounced_is_looked_for_after_a_while() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(3));
    driver.round();
    let count = driver.agent.mib[&snmp_fake::oid(snmp_fake::IF_NUMBER)].clone();
    driver.agent.remove_interface(2);
    driver.agent.set(snmp_fake::IF_NUMBER, count);
    for _ in 0..10 {
        assert_eq!(driver.round().len(), 2 * 15 + 4);
    }
    assert_eq!(driver.logic.health().inventories, 2);
}

#[test]
fn devices_that_bear_little_are_asked_for_little() {
    for (faults, what) in [
        (Faults { too_big_above: Some(20), ..Faults::default() }, "tooBig above 20"),
        (Faults { too_big_above: Some(7), ..Faults::default() }, "tooBig above 7"),
        (Faults { cut_after: Some(21), ..Faults::default() }, "cut after 21"),
        (Faults { silent_above: Some(21), ..Faults::default() }, "silent above 21"),
    ] {
        let mut agent = FakeAgent::with_interfaces(10);
        agent.faults = faults;
        let mut driver = Driver::new(agent);
        let mut round = driver.round();
        for _ in 0..12 {
            if round.len() == 10 * 15 + 4 {
                break;
            }
            round = driver.round();
        }
        let round = driver.round();
        assert_eq!(round.len(), 10 * 15 + 4, "{what}: {:?}", driver.logic.health());
        let before = driver.logic.health().retries;
        driver.agent.answers.clear();
        driver.round();
        assert_eq!(driver.logic.health().retries, before, "{what}: the limit is remembered");
        assert!(!driver.agent.answers.contains(&0), "{what}: {:?}", driver.agent.answers);
        assert!(driver.logic.memory(driver.now).varbinds < 50, "{what}");
    }
}

#[test]
fn a_column_the_device_trips_over_costs_itself() {
    let mut agent = FakeAgent::with_interfaces(6);
    agent.faults.gen_err_column = Some(14);
    let mut driver = Driver::new(agent);
    let round = driver.round();
    assert_eq!(round.len(), 6 * 14 + 4, "{:?}", round.keys());
    assert!(!round.contains_key("if_in_errors{eth1}"));
    // A column that breaks later costs its values and a few requests.
    driver.agent.faults.gen_err_column = Some(20);
    let round = driver.round();
    assert_eq!(round.len(), 6 * 13 + 4);
    assert_eq!(driver.logic.health().rounds_failed, 0);
}

#[test]
fn a_value_that_does_not_fit_its_metric_costs_itself() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(3));
    driver.round();
    driver.agent.cell(IF_TABLE, 14, 2, ObjectValue::Integer(-5));
    driver.agent.cell(IF_TABLE, 20, 2, ObjectValue::String(b"many".to_vec()));
    let round = driver.round();
    assert_eq!(round.len(), 3 * 15 + 4 - 2);
    assert_eq!(driver.logic.health().bad_varbinds, 2);
}

#[test]
fn silence_opens_the_breaker_and_an_answer_closes_it() {
    let mut agent = FakeAgent::with_interfaces(1);
    agent.faults.silent = true;
    let mut driver = Driver::new(agent);
    for _ in 0..3 {
        let round = driver.round();
        assert_eq!(value(&round, "device_up"), Value::F64(0.0));
        assert_eq!(driver.requests, 3, "one request and two retries");
    }
    assert_eq!(driver.logic.health().last_failure.as_ref().unwrap().1, FailureReason::NoAnswer);
    assert!(driver.logic.health().breaker_open);
    let mut requests = 0;
    for _ in 0..30 {
        assert_eq!(value(&driver.round(), "device_up"), Value::F64(0.0));
        requests += driver.requests;
    }
    let skipped = driver.logic.health().rounds_skipped;
    assert!(skipped >= 20 && requests <= 20, "{skipped} skipped, {requests} requests");
    driver.agent.faults.silent = false;
    let rounds = (0..10).position(|_| driver.round().len() == 15 + 4).unwrap();
    assert!(rounds <= 7, "back after {rounds} rounds");
    assert!(!driver.logic.health().breaker_open);
    driver.agent.faults.silent = true;
    driver.round();
    assert_eq!(driver.logic.health().last_failure.as_ref().unwrap().1, FailureReason::Timeout { attempts: 3 });
}

#[test]
fn a_wrong_community_is_an_answer_that_never_comes() {
    let mut agent = FakeAgent::with_interfaces(1);
    agent.community = "other".into();
    let mut driver = Driver::new(agent);
    driver.round();
    let (_, reason) = driver.logic.health().last_failure.clone().unwrap();
    assert!(reason.to_string().contains("the community is wrong"), "{reason}");
}

#[test]
fn rounds_missed_while_a_device_is_slow_are_counted() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(1));
    driver.round();
    // Two attempts of each request are lost, so a round takes longer than its interval.
    driver.round_with(|agent, request| {
        agent.faults.silent = request % 3 != 2;
    });
    driver.pass(INTERVAL * 3);
    driver.agent.faults.silent = false;
    driver.round();
    assert!(driver.logic.health().rounds_missed >= 2, "{:?}", driver.logic.health());
}

#[test]
fn marks_of_a_dropped_round_are_not_lost() {
    let mut driver = Driver::new(FakeAgent::with_interfaces(1));
    driver.round();
    driver.agent.uptime(3);
    let round = driver.round();
    let marked: Vec<_> = {
        let definitions = driver.sink.definitions.lock().unwrap();
        let place =
            |name: &str| definitions.iter().position(|d| name.starts_with(d.labels.metric()) && d.labels.metric().len() + 6 == name.len());
        marks(&round).iter().map(|(name, mark)| (u32::try_from(place(name).unwrap()).unwrap(), *mark)).collect()
    };
    assert_eq!(marked.len(), 12);
    driver.logic.on_dropped(round.len(), &marked);
    assert_eq!(marks(&driver.round()).len(), 12);
    assert_eq!(driver.logic.health().samples_dropped, round.len() as u64);
}

#[test]
fn a_device_without_a_scalar_or_interface_still_has_a_health() {
    let mut agent = FakeAgent::new();
    agent.mib.clear();
    agent.set(UPTIME, ObjectValue::TimeTicks(7));
    let mut driver = Driver::new(agent);
    for _ in 0..3 {
        let round = driver.round();
        assert_eq!(round.keys().collect::<Vec<_>>(), ["device_poll_duration_seconds", "device_up", "device_uptime_seconds"]);
        assert_eq!(value(&round, "device_up"), Value::F64(1.0));
    }
    let mut agent = FakeAgent::new();
    agent.mib.clear();
    let round = Driver::new(agent).round();
    assert_eq!(value(&round, "device_up"), Value::F64(1.0), "an agent with an empty view answers");
}

#[test]
fn the_state_of_a_device_and_its_requests_stay_small() {
    // The state machine itself; requests, slots and labels of rows come on top, some 14 KB for 48 interfaces.
    let size = size_of::<edge_agent::device::logic::DeviceLogic>();
    assert!(size <= 1024, "{size} bytes");
    let mut driver = Driver::new(FakeAgent::with_interfaces(48));
    driver.round();
    driver.round();
    assert!(driver.request_bytes <= 16 * 400, "{} bytes of requests", driver.request_bytes);
}
