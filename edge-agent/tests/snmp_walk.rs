//! The table walk against agents that obey, and agents that do not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod snmp_fake;

use std::collections::BTreeMap;

use csnmp::message::{BindingValue, ErrorStatus};
use csnmp::{ObjectIdentifier, ObjectValue};
use edge_agent::collector::snmp::ber;
use edge_agent::collector::snmp::limits::Limits;
use edge_agent::collector::snmp::oid::{self, index_text};
use edge_agent::collector::snmp::table::{Asking, Plan, Rows, Span, Taken};
use edge_agent::collector::snmp::walk::{ColumnEnd, Walk};
use edge_agent::profiles::Object;
use snmp_fake::{FakeAgent, IF_TABLE, IF_X_TABLE, response};

fn columns(names: &[&str]) -> Vec<Object> {
    names
        .iter()
        .map(|name| {
            let oid: ObjectIdentifier = name.parse().unwrap();
            Object { name: (*name).to_owned(), octets: oid::encode(&oid).into(), oid }
        })
        .collect()
}

struct Outcome {
    cells: BTreeMap<(usize, String), String>,
    requests: usize,
    faults: Vec<(usize, ColumnEnd)>,
    limits: Limits,
}

fn walk(columns: &[Object], rows_max: usize, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> Outcome {
    let scalars = ["1.3.6.1.2.1.1.3".parse().unwrap()];
    let (mut limits, mut walk) = (Limits::default(), Walk::new(columns.len(), rows_max));
    let (mut cells, mut requests) = (BTreeMap::new(), 0);
    while walk.ask(&limits) {
        requests += 1;
        assert!(requests < 1000, "the walk does not end");
        let mut datagram = Vec::new();
        walk.request(columns, b"public", &scalars).unwrap().write(0x0080_0001, &mut datagram);
        let answer = answer(&datagram);
        let message = ber::read(&answer).unwrap();
        walk.answered(columns, &message, 1, &mut limits, |column, index, value| {
            cells.insert((column, index_text(index)), format!("{value:?}"));
        });
    }
    Outcome { cells, requests, faults: walk.faults().collect(), limits }
}

#[test]
fn a_table_is_walked_to_its_end_with_few_requests() {
    let mut agent = FakeAgent::with_interfaces(100);
    // Sparse: every other row lacks its name; one column has a last row of its own; one is absent.
    for index in (1..=100).step_by(2) {
        agent.mib.remove(&snmp_fake::oid(&format!("{IF_X_TABLE}.1.{index}")));
    }
    agent.cell(IF_TABLE, 10, 70_000, ObjectValue::Counter32(5));
    let columns = columns(&["1.3.6.1.2.1.31.1.1.1.1", "1.3.6.1.2.1.2.2.1.10", "1.3.6.1.2.1.2.2.1.999", "1.3.6.1.2.1.31.1.1.1.6"]);
    let outcome = walk(&columns, 1000, |datagram| agent.answer(datagram).unwrap());
    let count = |column| outcome.cells.keys().filter(|(at, _)| *at == column).count();
    assert_eq!((count(0), count(1), count(2), count(3)), (50, 101, 0, 100));
    assert_eq!(outcome.cells[&(1, "70000".to_owned())], "Counter32(5)");
    assert_eq!(outcome.faults, []);
    assert!(outcome.requests <= 12, "{}", outcome.requests);
}

#[test]
fn rows_are_capped() {
    let mut agent = FakeAgent::with_interfaces(50);
    let outcome = walk(&columns(&["1.3.6.1.2.1.2.2.1.10"]), 20, |datagram| agent.answer(datagram).unwrap());
    assert_eq!((outcome.cells.len(), &outcome.faults[..]), (20, &[(0, ColumnEnd::RowLimit)][..]));
}

#[test]
fn too_big_halves_down_to_get_next() {
    let mut agent = FakeAgent::with_interfaces(9);
    agent.faults.too_big_above = Some(2);
    let outcome = walk(&columns(&["1.3.6.1.2.1.2.2.1.10", "1.3.6.1.2.1.2.2.1.16"]), 1000, |datagram| agent.answer(datagram).unwrap());
    assert_eq!((outcome.cells.len(), outcome.limits.varbinds(), outcome.faults.len()), (18, 1, 0));
    // A device that finds one varbind too big is given up, column by column.
    agent.faults.too_big_above = Some(0);
    let outcome = walk(&columns(&["1.3.6.1.2.1.2.2.1.10", "1.3.6.1.2.1.2.2.1.16"]), 1000, |datagram| agent.answer(datagram).unwrap());
    assert_eq!(outcome.faults, [(0, ColumnEnd::Status(1)), (1, ColumnEnd::Status(1))]);
}

#[test]
fn the_column_an_error_names_ends_and_the_others_go_on() {
    let mut agent = FakeAgent::with_interfaces(30);
    agent.faults.gen_err_column = Some(13);
    let names = ["1.3.6.1.2.1.2.2.1.10", "1.3.6.1.2.1.2.2.1.13", "1.3.6.1.2.1.2.2.1.16"];
    let outcome = walk(&columns(&names), 1000, |datagram| agent.answer(datagram).unwrap());
    assert_eq!((outcome.cells.len(), &outcome.faults[..]), (60, &[(1, ColumnEnd::Status(5))][..]));
    // Without an index, it is found by asking for one column at a time.
    let outcome = walk(&columns(&names), 1000, |datagram| {
        let answer = agent.answer(datagram).unwrap();
        if ber::read(&answer).unwrap().error_status == 0 { answer } else { response(0x0080_0001, ErrorStatus::GenErr, 0, Vec::new()) }
    });
    assert_eq!((outcome.cells.len(), &outcome.faults[..]), (60, &[(1, ColumnEnd::Status(5))][..]));
}

/// An answer of sysUpTime and these cells.
fn cells(given: &[(&str, ObjectValue)]) -> Vec<u8> {
    let uptime = ("1.3.6.1.2.1.1.3.0", ObjectValue::TimeTicks(1));
    let bindings = [uptime].iter().chain(given).map(|(name, value)| (snmp_fake::oid(name), BindingValue::Value(value.clone()))).collect();
    response(0x0080_0001, ErrorStatus::NoError, 0, bindings)
}

#[test]
fn oids_that_do_not_increase_end_their_column_only() {
    let columns = columns(&["1.3.6.1.9.1", "1.3.6.1.9.2"]);
    let value = || ObjectValue::Integer(1);
    let mut turn = 0;
    let outcome = walk(&columns, 1000, |_| {
        turn += 1;
        match turn {
            1 => cells(&[("1.3.6.1.9.1.5", value()), ("1.3.6.1.9.2.5", value()), ("1.3.6.1.9.1.5", value()), ("1.3.6.1.9.2.6", value())]),
            2 => cells(&[("1.3.6.1.9.2.200", value())]),
            _ => cells(&[("1.3.6.1.9.3.1", value())]),
        }
    });
    assert_eq!(outcome.faults, [(0, ColumnEnd::NotIncreasing)]);
    let found: Vec<_> = outcome.cells.keys().map(|(column, index)| (*column, index.as_str())).collect();
    assert_eq!(found, [(0, "5"), (1, "200"), (1, "5"), (1, "6")]);
}

#[test]
fn answers_that_say_nothing_end_the_walk() {
    let columns = columns(&["1.3.6.1.9.1", "1.3.6.1.9.2"]);
    let outcome = walk(&columns, 1000, |_| cells(&[]));
    assert_eq!(outcome.faults, [(0, ColumnEnd::NoProgress), (1, ColumnEnd::NoProgress)]);
    assert!(outcome.requests < 20);
    // The column's own OID, without an index, is no row.
    let outcome = walk(&columns, 1000, |_| cells(&[("1.3.6.1.9.1", ObjectValue::Integer(1)), ("1.3.6.1.9.2", ObjectValue::Integer(1))]));
    assert_eq!((outcome.cells.len(), outcome.requests), (0, 1));
}

#[test]
fn a_value_that_cannot_be_read_costs_itself() {
    let mut agent = FakeAgent::with_interfaces(3);
    let outcome = walk(&columns(&["1.3.6.1.2.1.2.2.1.10"]), 1000, |datagram| {
        let mut answer = agent.answer(datagram).unwrap();
        // Row 2's Counter32 becomes a type that SNMP does not know.
        let name = [0x2b, 6, 1, 2, 1, 2, 2, 1, 10, 2];
        if let Some(at) = answer.windows(name.len()).position(|window| window == name) {
            answer[at + name.len()] = 0x4f;
        }
        answer
    });
    let rows: Vec<_> = outcome.cells.keys().map(|(_, index)| index.as_str()).collect();
    assert_eq!((rows, outcome.faults.len()), (vec!["1", "3"], 0));
}

#[test]
fn eight_counters_of_48_interfaces_take_sixteen_packets() {
    let names: Vec<String> = [19, 6, 7, 8, 9, 10, 11, 12, 13].iter().map(|column| format!("{IF_X_TABLE}.{column}")).collect();
    let columns = columns(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut rows = Rows::default();
    (1..=48).for_each(|index| rows.push(&[index], (1 << columns.len()) - 1));
    let scalars = ["1.3.6.1.2.1.1.3".parse().unwrap(), "1.3.6.1.2.1.2.1".parse().unwrap()];
    let asking = Asking { columns: &columns, community: b"public", scalars: &scalars };
    let plan = Plan::new(&asking, &rows, &Limits::default(), false).unwrap();
    assert_eq!(plan.chunks().len(), 8, "eight requests and eight answers");
    // A device that bears little is asked in pieces that cover each cell once.
    for most in [20, 9, 4, 1] {
        let plan = Plan::new(&asking, &rows, &Limits::remembered(most), true).unwrap();
        assert!(plan.chunks().iter().all(|(span, _)| span.varbinds() <= usize::from(most)));
        assert_eq!(plan.chunks().iter().map(|(span, _)| span.varbinds()).sum::<usize>(), 48 * 9);
    }
}

/// A table of two columns and three rows, an answer to all of it, and what is taken of that.
fn taken(given: &[(&str, ObjectValue)]) -> (Vec<(usize, usize)>, Taken) {
    let columns = columns(&["1.3.6.1.9.1", "1.3.6.1.9.2"]);
    let mut rows = Rows::default();
    [2, 4, 6].iter().for_each(|index| rows.push(&[*index], 0b11));
    let answer = cells(given);
    let mut seen = Vec::new();
    let span = Span { columns: 0b11, first: 0, rows: 3 };
    let taken = span.take(&columns, &rows, &ber::read(&answer).unwrap(), 1, |row, column, _| seen.push((row, column)));
    (seen, taken)
}

#[test]
fn answers_to_a_poll_are_taken_for_what_they_are() {
    let value = || ObjectValue::Integer(1);
    let whole = ["1.2", "2.2", "1.4", "2.4", "1.6", "2.6"].map(|cell| format!("1.3.6.1.9.{cell}"));
    let pairs = |names: &[String]| names.iter().map(|name| (name.clone(), value())).collect::<Vec<_>>();
    let check = |names: &[String], seen: &[(usize, usize)], expected: Taken| {
        let pairs = pairs(names);
        let given: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        assert_eq!(taken(&given), (seen.to_vec(), expected), "{names:?}");
    };
    let all = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)];
    check(&whole, &all, Taken { rows: 3, changed: false, bad: 0 });
    check(&whole[..3], &all[..3], Taken { rows: 1, changed: false, bad: 0 });
    check(&[], &[], Taken { rows: 0, changed: false, bad: 0 });
    let named = |cells: [&str; 6]| cells.map(|cell| format!("1.3.6.1.9.{cell}"));
    // Row 2 is gone from column 1, so its later rows come early; what follows them is not of the table.
    check(
        &named(["1.4", "2.2", "1.6", "2.4", "3.1", "2.6"]),
        &[(1, 0), (0, 1), (2, 0), (1, 1), (2, 1)],
        Taken { rows: 3, changed: true, bad: 0 },
    );
    // An unknown row.
    check(&named(["1.2", "2.2", "1.3", "2.3", "1.4", "2.4"]), &[(0, 0), (0, 1), (1, 0), (1, 1)], Taken { rows: 3, changed: true, bad: 0 });
    // Rows that repeat themselves are taken once.
    check(&named(["1.2", "2.2", "1.2", "2.2", "1.2", "2.2"]), &[(0, 0), (0, 1)], Taken { rows: 3, changed: true, bad: 0 });
}
