//! The simulator datagram by datagram: exact replies, limits, malformed replies and malformed requests.

use std::{net::UdpSocket, time::Duration};

use anemone_chaos::sim::{Faults, FleetSpec, GroupSpec, InventoryItem, Kind, LedgerBound, Malformed, Simulator};
use csnmp::message::{BindingValue, BulkPdu, ErrorStatus, InnerPdu, ObjectValue, Snmp2cMessage, Snmp2cPdu, VERSION_VALUE, VariableBinding};

fn start() -> (Simulator, InventoryItem, UdpSocket) {
    let group = GroupSpec { pop: "ams1".into(), kind: Some(Kind::CoreRouter), count: 1, ..GroupSpec::default() };
    let simulator = Simulator::start(&FleetSpec::new(0, vec![group]), LedgerBound::Entries(10_000)).expect("starts");
    let item = simulator.inventory().remove(0);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    (simulator, item, socket)
}

fn bindings(names: &[&str]) -> Vec<VariableBinding> {
    names.iter().map(|name| VariableBinding { name: name.parse().expect("an oid"), value: BindingValue::Unspecified }).collect()
}

fn inner(names: &[&str], request_id: i32) -> InnerPdu {
    InnerPdu { request_id, error_status: ErrorStatus::NoError, error_index: 0, variable_bindings: bindings(names) }
}

fn message(pdu: Snmp2cPdu) -> Vec<u8> {
    Snmp2cMessage { version: VERSION_VALUE, community: b"public".to_vec(), pdu }.to_bytes().expect("encodes")
}

fn bulk(names: &[&str], non_repeaters: u32, max_repetitions: u32) -> Vec<u8> {
    message(Snmp2cPdu::GetBulkRequest(BulkPdu { request_id: 77, non_repeaters, max_repetitions, variable_bindings: bindings(names) }))
}

/// Sends a request and returns the datagram that comes back.
fn ask(socket: &UdpSocket, item: &InventoryItem, request: &[u8]) -> Vec<u8> {
    socket.send_to(request, item.address).expect("sent");
    let mut buffer = [0; 65_535];
    let (length, sender) = socket.recv_from(&mut buffer).expect("a reply");
    assert_eq!(sender, item.address.into(), "the reply comes from where the request went");
    buffer[..length].to_vec()
}

fn decode(reply: &[u8]) -> InnerPdu {
    match Snmp2cMessage::try_from_bytes(reply).expect("decodes").pdu {
        Snmp2cPdu::Response(inner) => inner,
        other => panic!("{other:?} is no response"),
    }
}

#[test]
fn missing_names_have_their_exceptions() {
    let (_simulator, item, socket) = start();
    let request = message(Snmp2cPdu::GetRequest(inner(&["1.3.6.1.2.1.2.2.1.10.1", "1.3.6.1.9.9", "1.3.6.1.2.1.1.7.0"], 5)));
    let reply = decode(&ask(&socket, &item, &request));
    assert_eq!((reply.request_id, reply.error_status), (5, ErrorStatus::NoError));
    let values: Vec<&BindingValue> = reply.variable_bindings.iter().map(|binding| &binding.value).collect();
    assert_eq!(values, [&BindingValue::NoSuchInstance, &BindingValue::NoSuchObject, &BindingValue::Value(ObjectValue::Integer(78))]);
    let next = decode(&ask(&socket, &item, &message(Snmp2cPdu::GetNextRequest(inner(&["1.3.6.1.2.1.31.1.6.0"], 6)))));
    assert_eq!(next.variable_bindings[0].value, BindingValue::EndOfMibView);
}

#[test]
fn bulk_repeats_columns_side_by_side_and_ends_with_the_view() {
    let (_simulator, item, socket) = start();
    let reply = decode(&ask(&socket, &item, &bulk(&["1.3.6.1.2.1.1.3", "1.3.6.1.2.1.31.1.1.1.1", "1.3.6.1.2.1.31.1.5"], 1, 3)));
    let names: Vec<String> = reply.variable_bindings.iter().map(|binding| binding.name.to_string()).collect();
    assert_eq!(
        names,
        [
            "1.3.6.1.2.1.1.3.0",
            "1.3.6.1.2.1.31.1.1.1.1.501",
            "1.3.6.1.2.1.31.1.5.0",
            "1.3.6.1.2.1.31.1.1.1.1.502",
            "1.3.6.1.2.1.31.1.6.0",
            "1.3.6.1.2.1.31.1.1.1.1.503",
            "1.3.6.1.2.1.31.1.6.0"
        ]
    );
    assert_eq!(reply.variable_bindings[6].value, BindingValue::EndOfMibView);
    assert!(ask(&socket, &item, &bulk(&["1.3.6.1.2.1.1"], 0, 0)).ends_with(&[0x02, 1, 0, 0x02, 1, 0, 0x30, 0]));
    let past = decode(&ask(&socket, &item, &bulk(&["1.4"], 0, 50)));
    assert_eq!(past.variable_bindings.len(), 1, "one row of ends is enough");
}

#[test]
fn responses_keep_to_the_largest_size() {
    let (simulator, item, socket) = start();
    let reply = ask(&socket, &item, &bulk(&["1.3.6.1.2.1.31.1.1.1.6"], 0, 1000));
    assert!(reply.len() <= 1472 && reply.len() > 1400, "{}", reply.len());
    simulator.set_faults("*", Faults { max_size: Some(484), ..Faults::default() }).expect("known");
    let reply = ask(&socket, &item, &bulk(&["1.3.6.1.2.1.31.1.1.1.6"], 0, 1000));
    assert!(reply.len() <= 484 && reply.len() > 430, "{}", reply.len());
    let names = vec!["1.3.6.1.2.1.31.1.1.1.6.501"; 40];
    let reply = ask(&socket, &item, &message(Snmp2cPdu::GetRequest(inner(&names, 9))));
    assert!(reply.ends_with(&[0x02, 1, 1, 0x02, 1, 0, 0x30, 0]), "tooBig without bindings: {reply:02x?}");
}

#[test]
fn malformed_replies_are_malformed_as_ordered_and_stay_out_of_the_ledger() {
    let (simulator, item, socket) = start();
    let request = message(Snmp2cPdu::GetRequest(inner(&["1.3.6.1.2.1.31.1.1.1.6.501"], 1234)));
    let good = ask(&socket, &item, &request);
    let order = |malformed| simulator.set_faults("*", Faults { malformed: Some(malformed), ..Faults::default() }).expect("known");
    order(Malformed::Truncated);
    assert!(ask(&socket, &item, &request).len() < good.len() - 5);
    order(Malformed::WrongRequestId);
    assert_ne!(decode(&ask(&socket, &item, &request)).request_id, 1234);
    order(Malformed::NestedBer);
    let nested = ask(&socket, &item, &request);
    assert!(nested.len() > 800 && nested.starts_with(&[0x30, 0x82]));
    order(Malformed::Garbage);
    ask(&socket, &item, &request);
    order(Malformed::WrongSource);
    socket.send_to(&request, item.address).expect("sent");
    let (_, sender) = socket.recv_from(&mut [0; 2000]).expect("a reply");
    assert!(sender.ip().to_string().starts_with("127.127."), "{sender}");
    let ledger = simulator.ledger("*", i64::MIN, i64::MAX).expect("known");
    assert_eq!(ledger.iter().map(|series| series.entries.len()).sum::<usize>(), 1);
}

#[test]
fn a_retransmission_is_answered_twice_under_one_id() {
    let (simulator, item, socket) = start();
    let request = message(Snmp2cPdu::GetRequest(inner(&["1.3.6.1.2.1.31.1.1.1.6.501"], 4321)));
    ask(&socket, &item, &request);
    ask(&socket, &item, &request);
    let ledger = simulator.ledger("*", i64::MIN, i64::MAX).expect("known");
    let ids: Vec<i32> = ledger[0].entries.iter().map(|entry| entry.request_id).collect();
    assert_eq!(ids, [4321, 4321]);
    simulator.set_faults("*", Faults { duplicate: true, ..Faults::default() }).expect("known");
    let first = ask(&socket, &item, &request);
    let (length, _) = socket.recv_from(&mut [0; 2000]).expect("the copy");
    assert_eq!(length, first.len());
}

#[test]
fn malformed_requests_are_counted_and_never_answered() {
    let (simulator, item, socket) = start();
    let good = message(Snmp2cPdu::GetRequest(inner(&["1.3.6.1.2.1.1.3.0"], 1)));
    for cut in 0..good.len() {
        socket.send_to(&good[..cut], item.address).expect("sent");
    }
    for octet in 0..=255_u8 {
        socket.send_to(&[octet; 40], item.address).expect("sent");
    }
    // The reply to a good request says that all before it were dealt with; a bad one answered would come first.
    assert_eq!(ask(&socket, &item, &good).len(), ask(&socket, &item, &good).len());
    assert_eq!(simulator.tallies().malformed_requests, good.len() as u64 + 256);
}
