//! Tests of the reader: exact errors, tolerated encodings, agreement with csnmp's decoder, and no panic on anything.

use std::net::Ipv4Addr;

use csnmp::message::{BindingValue, ErrorStatus, InnerPdu, Snmp2cMessage, Snmp2cPdu, VariableBinding};
use csnmp::{ObjectIdentifier, ObjectValue};
use proptest::prelude::*;

use super::*;

/// A response to `varbinds`, which are whole encoded varbinds.
fn response(varbinds: &[u8]) -> Vec<u8> {
    let body = [&[0x02, 4, 0x12, 0x34, 0x56, 0x78, 0x02, 1, 0, 0x02, 1, 0][..], &tlv(0x30, varbinds)].concat();
    tlv(0x30, &[&[0x02, 1, 1][..], &tlv(0x04, b"public"), &tlv(0xa2, &body)].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = if content.len() < 0x80 { vec![length[1]] } else { vec![0x82, length[0], length[1]] };
    [&[tag][..], &length, content].concat()
}

/// A varbind of 1.3.6.1 with the given encoded value.
fn varbind_of(value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[&[0x06, 3, 0x2b, 6, 1][..], value].concat())
}

fn only_value(value: &[u8]) -> Result<String, String> {
    let datagram = response(&varbind_of(value));
    let message = read(&datagram).map_err(|e| e.to_string())?;
    let varbind = message.varbinds().next().unwrap().map_err(|e| e.to_string())?;
    varbind.value().map(|v| format!("{v:?}")).map_err(|e| e.to_string())
}

#[test]
fn a_header_is_read_whole() {
    let datagram = response(&varbind_of(&[0x05, 0]));
    let message = read(&datagram).unwrap();
    assert_eq!((message.version, message.pdu, message.community), (Version::V2c, PduType::Response, &b"public"[..]));
    assert_eq!((message.request_id, message.error_status, message.error_index), (0x1234_5678, 0, 0));
    let (at, octets) = message.request_id_octets();
    assert_eq!((octets, &datagram[at..at + octets]), (4, &[0x12, 0x34, 0x56, 0x78][..]));
}

#[test]
fn encodings_of_real_devices_are_accepted() {
    for (encoded, expected) in [
        (&[0x02, 0][..], "Integer(0)"),
        (&[0x02, 3, 0, 0, 5], "Integer(5)"),
        (&[0x02, 5, 0xff, 0xff, 0xff, 0xff, 0xfe], "Integer(-2)"),
        (&[0x02, 0x81, 1, 7], "Integer(7)"),
        (&[0x02, 0x84, 0, 0, 0, 1, 7], "Integer(7)"),
        (&[0x41, 4, 0xff, 0xff, 0xff, 0xfa], "Counter32(4294967290)"),
        (&[0x41, 5, 0, 0xff, 0xff, 0xff, 0xfa], "Counter32(4294967290)"),
        (&[0x41, 1, 0x80], "Counter32(128)"),
        (&[0x41, 0], "Counter32(0)"),
        (&[0x42, 6, 0, 0, 0, 0, 0, 9], "Unsigned32(9)"),
        (&[0x47, 1, 9], "Unsigned32(9)"),
        (&[0x43, 2, 1, 0], "TimeTicks(256)"),
        (&[0x46, 9, 0, 0x80, 0, 0, 0, 0, 0, 0, 1], "Counter64(9223372036854775809)"),
        (&[0x46, 8, 0x80, 0, 0, 0, 0, 0, 0, 1], "Counter64(9223372036854775809)"),
        (&[0x46, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "Counter64(18446744073709551615)"),
        (&[0x40, 4, 10, 0, 0, 1], "IpAddress([10, 0, 0, 1])"),
        (&[0x80, 0], "NoSuchObject"),
        (&[0xa1, 0], "NoSuchInstance"),
        (&[0x82, 0], "EndOfMibView"),
    ] {
        assert_eq!(only_value(encoded).as_deref(), Ok(expected), "{encoded:02x?}");
    }
}

#[test]
fn bad_values_are_named_with_their_offset() {
    for (encoded, expected) in [
        (&[0x41, 5, 1, 0, 0, 0, 0][..], "varbind value at byte 38: integer out of range"),
        (&[0x46, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0], "varbind value at byte 38: an integer of 9 octets"),
        (&[0x46, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "varbind value at byte 38: an integer of 10 octets"),
        (&[0x02, 5, 1, 0, 0, 0, 0], "varbind value at byte 38: integer out of range"),
        (&[0x02, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], "varbind value at byte 38: an integer of 9 octets"),
        (&[0x40, 3, 1, 2, 3], "varbind value at byte 38: 3 octets where 4 are due"),
        (&[0x05, 1, 0], "varbind value at byte 38: 1 octets where 0 are due"),
        (&[0x06, 0], "varbind value at byte 38: not an object identifier"),
        (&[0x45, 1, 0], "varbind value at byte 38: unknown tag 0x45"),
        (&[0x1f, 1, 0], "varbind value at byte 38: unknown tag 0x1f"),
        (&[0x30, 0x80, 0, 0], "varbind value at byte 36: indefinite length"),
        (&[0x02, 0x85, 0, 0, 0, 0, 1], "varbind value at byte 36: a length of 5 octets"),
        (&[0x02, 0xff], "varbind value at byte 36: a length of 127 octets"),
        (&[0x04, 9, 1], "varbind value at byte 36: cut short: 8 bytes are missing"),
        (&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff], "varbind value at byte 36: cut short: 4294967295 bytes are missing"),
        (&[0x04], "varbind value at byte 36: cut short: 1 bytes are missing"),
        (&[], "varbind value at byte 36: cut short: 2 bytes are missing"),
        (&[0x05, 0, 0x05, 0], "varbind at byte 38: 2 bytes too many"),
    ] {
        assert_eq!(only_value(encoded).unwrap_err(), expected, "{encoded:02x?}");
    }
}

#[test]
fn bad_headers_are_named_with_their_offset() {
    let good = response(&varbind_of(&[0x05, 0]));
    type Spoil = fn(&mut Vec<u8>);
    let table: [(Spoil, &str); 9] = [
        (|d| d.clear(), "message at byte 0: cut short: 2 bytes are missing"),
        (|d| d.push(0), "message at byte 38: 1 bytes too many"),
        (|d| d.truncate(20), "message at byte 0: cut short: 18 bytes are missing"),
        (|d| d[0] = 0x31, "message at byte 0: tag 0x31 where 0x30 is due"),
        (|d| d[1] = 0x80, "message at byte 0: indefinite length"),
        (|d| d[4] = 3, "version at byte 5: SNMP version number 3 is neither 0 (v1) nor 1 (v2c)"),
        (|d| d[5] = 0x05, "community at byte 5: tag 0x05 where 0x04 is due"),
        (|d| d[13] = 0xa4, "PDU at byte 13: unknown tag 0xa4"),
        (|d| d[23] = 0xff, "error status at byte 21: integer out of range"),
    ];
    for (spoil, expected) in table {
        let mut datagram = good.clone();
        spoil(&mut datagram);
        assert_eq!(read(&datagram).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_bad_varbind_costs_only_itself() {
    let list =
        [varbind_of(&[0x02, 1, 1]), tlv(0x30, &[0x04, 1, 1, 0x05, 0]), tlv(0x30, &[0x06, 1, 0x80, 0x05, 0]), varbind_of(&[0x02, 1, 2])]
            .concat();
    let datagram = response(&list);
    let read: Vec<String> =
        read(&datagram).unwrap().varbinds().map(|v| v.map_or_else(|e| e.to_string(), |v| format!("{:?}", v.value().unwrap()))).collect();
    assert_eq!(
        read,
        [
            "Integer(1)",
            "varbind name at byte 41: tag 0x04 where 0x06 is due",
            "varbind name at byte 50: not an object identifier",
            "Integer(2)"
        ]
    );
    // A broken frame ends the list: where the next varbind starts is not known.
    let datagram = response(&[varbind_of(&[0x02, 1, 1]), vec![0x31, 0], varbind_of(&[0x02, 1, 2])].concat());
    assert_eq!(super::read(&datagram).unwrap().varbinds().map(|v| v.is_ok()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn nesting_costs_no_stack() {
    let depth = 15_000;
    let nested: Vec<u8> =
        (1..=depth).rev().flat_map(|level| [&[0x30, 0x82][..], &u16::try_from(4 * (level - 1)).unwrap().to_be_bytes()].concat()).collect();
    let _ = read(&nested);
    let datagram = response(&varbind_of(&nested));
    assert!(read(&datagram).unwrap().varbinds().next().unwrap().unwrap().value().is_err());
}

fn any_oid() -> impl Strategy<Value = ObjectIdentifier> {
    prop::collection::vec(any::<u32>(), 0..14).prop_map(|tail| ObjectIdentifier::try_from(&[&[1, 3], &tail[..]].concat()[..]).unwrap())
}

fn any_value() -> impl Strategy<Value = BindingValue> {
    let octets = || prop::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        any::<i32>().prop_map(|v| BindingValue::Value(ObjectValue::Integer(v))),
        octets().prop_map(|v| BindingValue::Value(ObjectValue::String(v))),
        any_oid().prop_map(|v| BindingValue::Value(ObjectValue::ObjectId(v))),
        any::<u32>().prop_map(|v| BindingValue::Value(ObjectValue::IpAddress(Ipv4Addr::from(v)))),
        any::<u32>().prop_map(|v| BindingValue::Value(ObjectValue::Counter32(v))),
        any::<u32>().prop_map(|v| BindingValue::Value(ObjectValue::Unsigned32(v))),
        any::<u32>().prop_map(|v| BindingValue::Value(ObjectValue::TimeTicks(v))),
        octets().prop_map(|v| BindingValue::Value(ObjectValue::Opaque(v))),
        any::<u64>().prop_map(|v| BindingValue::Value(ObjectValue::Counter64(v))),
        Just(BindingValue::Unspecified),
        Just(BindingValue::NoSuchObject),
        Just(BindingValue::NoSuchInstance),
        Just(BindingValue::EndOfMibView),
    ]
}

prop_compose! {
    fn any_response()(
        community in prop::collection::vec(any::<u8>(), 0..40),
        request_id in any::<i32>(),
        status in 0..=18_u8,
        error_index in 0..100_u32,
        // csnmp does not read an empty list.
        varbinds in prop::collection::vec((any_oid(), any_value()), 1..30),
    ) -> Snmp2cMessage {
        let variable_bindings = varbinds.into_iter().map(|(name, value)| VariableBinding { name, value }).collect();
        let error_status = ErrorStatus::try_from(status).unwrap();
        Snmp2cMessage { version: 1, community, pdu: Snmp2cPdu::Response(InnerPdu { request_id, error_status, error_index, variable_bindings }) }
    }
}

/// What our reader makes of `datagram`, in csnmp's words.
fn as_csnmp(datagram: &[u8]) -> Result<Snmp2cMessage, BerError> {
    let message = read(datagram)?;
    let bad = |what| BerError { what, offset: 0, fault: Fault::ObjectIdentifier };
    let mut variable_bindings = Vec::new();
    for varbind in message.varbinds() {
        let varbind = varbind?;
        let value = match varbind.value()? {
            ValueView::Integer(v) => BindingValue::Value(ObjectValue::Integer(v)),
            ValueView::OctetString(v) => BindingValue::Value(ObjectValue::String(v.to_vec())),
            ValueView::ObjectIdentifier(v) => BindingValue::Value(ObjectValue::ObjectId(v.decode().ok_or_else(|| bad("value"))?)),
            ValueView::IpAddress(v) => BindingValue::Value(ObjectValue::IpAddress(v.into())),
            ValueView::Counter32(v) => BindingValue::Value(ObjectValue::Counter32(v)),
            ValueView::Unsigned32(v) => BindingValue::Value(ObjectValue::Unsigned32(v)),
            ValueView::TimeTicks(v) => BindingValue::Value(ObjectValue::TimeTicks(v)),
            ValueView::Opaque(v) => BindingValue::Value(ObjectValue::Opaque(v.to_vec())),
            ValueView::Counter64(v) => BindingValue::Value(ObjectValue::Counter64(v)),
            ValueView::Null => BindingValue::Unspecified,
            ValueView::NoSuchObject => BindingValue::NoSuchObject,
            ValueView::NoSuchInstance => BindingValue::NoSuchInstance,
            ValueView::EndOfMibView => BindingValue::EndOfMibView,
        };
        variable_bindings.push(VariableBinding { name: varbind.name.decode().ok_or_else(|| bad("name"))?, value });
    }
    let inner = InnerPdu {
        request_id: message.request_id,
        error_status: ErrorStatus::try_from(u8::try_from(message.error_status).unwrap_or(u8::MAX)).unwrap_or(ErrorStatus::GenErr),
        error_index: message.error_index,
        variable_bindings,
    };
    Ok(Snmp2cMessage { version: 1, community: message.community.to_vec(), pdu: Snmp2cPdu::Response(inner) })
}

proptest! {
    #[test]
    fn the_reader_agrees_with_csnmp(message in any_response()) {
        let datagram = message.to_bytes().unwrap();
        prop_assert_eq!(Snmp2cMessage::try_from_bytes(&datagram).unwrap(), as_csnmp(&datagram).unwrap());
    }

    #[test]
    fn what_both_accept_after_a_change_they_read_alike(message in any_response(), at in any::<prop::sample::Index>(), octet in any::<u8>()) {
        let mut datagram = message.to_bytes().unwrap();
        let at = at.index(datagram.len());
        datagram[at] = octet;
        // csnmp wraps over-long unsigned integers silently and reads any application tag as primitive; both are ours to refuse.
        if let (Ok(ours), Ok(theirs)) = (as_csnmp(&datagram), Snmp2cMessage::try_from_bytes(&datagram))
            && matches!(theirs.pdu, Snmp2cPdu::Response(_))
            && read(&datagram).unwrap().version == Version::V2c
        {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn cut_messages_are_refused(message in any_response(), at in any::<prop::sample::Index>()) {
        let datagram = message.to_bytes().unwrap();
        prop_assert!(read(&datagram[..at.index(datagram.len())]).is_err());
    }

    #[test]
    fn no_bytes_panic(message in any_response(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12), noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = as_csnmp(&noise);
        let mut datagram = message.to_bytes().unwrap();
        for (at, octet) in edits {
            let at = at.index(datagram.len());
            datagram[at] = octet;
        }
        let _ = as_csnmp(&datagram);
        let _ = as_csnmp(&response(&noise));
    }
}
