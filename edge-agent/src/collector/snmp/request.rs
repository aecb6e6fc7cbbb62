//! Requests, encoded once and sent many times.
//!
//! The encoder is csnmp's. Its request id is a placeholder of four octets whose place is known, so that each send patches in a
//! fresh id and nothing else changes. Request ids are drawn from [`REQUEST_IDS`], where BER always takes four octets.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use csnmp::ObjectIdentifier;
use csnmp::message::{BindingValue, BulkPdu, ErrorStatus, InnerPdu, Snmp2cMessage, Snmp2cPdu, VariableBinding};

use super::ber;

/// The integers that BER encodes in exactly four octets and that are not negative.
pub const REQUEST_IDS: RangeInclusive<u32> = 0x0080_0000..=0x7fff_ffff;

/// Version number of SNMPv2c in a message.
const VERSION: i64 = csnmp::message::VERSION_VALUE;

/// What a request asks of its OIDs (RFC 3416, 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The values of exactly these.
    Get,
    /// The successors of these.
    GetNext,
    /// The successor of the first few, and several successors of the others.
    GetBulk {
        /// How many OIDs at the start are asked for one successor only.
        non_repeaters: u32,
        /// How many successors of each of the others.
        max_repetitions: u32,
    },
}

/// Why a request could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// csnmp refused it, for an OID that BER cannot carry.
    #[error("cannot encode a request of {oids} OIDs: {source}")]
    Encode {
        /// How many OIDs it asks for.
        oids: usize,
        /// csnmp's reason.
        source: Box<csnmp::message::SnmpMessageError>,
    },
    /// The encoder did not put a request id of four octets where it belongs.
    #[error("the encoded request id has {octets} octets instead of 4")]
    RequestId {
        /// How many it has.
        octets: usize,
    },
}

/// An encoded request without its id. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedRequest {
    bytes: Arc<[u8]>,
    request_id_at: u16,
}

impl fmt::Debug for EncodedRequest {
    /// The community is in the bytes, so they are not printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedRequest({} bytes)", self.bytes.len())
    }
}

impl EncodedRequest {
    /// Encodes a v2c request for `oids`.
    ///
    /// # Errors
    /// [`EncodeError`]; it cannot occur for OIDs that start with 0.x, 1.x or 2.x.
    pub fn new(community: &[u8], ask: Ask, oids: impl IntoIterator<Item = ObjectIdentifier>) -> Result<Self, EncodeError> {
        let variable_bindings: Vec<_> = oids.into_iter().map(|name| VariableBinding { name, value: BindingValue::Unspecified }).collect();
        let count = variable_bindings.len();
        let request_id = REQUEST_IDS.start().cast_signed();
        let inner = |variable_bindings| InnerPdu { request_id, error_status: ErrorStatus::NoError, error_index: 0, variable_bindings };
        let pdu = match ask {
            Ask::Get => Snmp2cPdu::GetRequest(inner(variable_bindings)),
            Ask::GetNext => Snmp2cPdu::GetNextRequest(inner(variable_bindings)),
            Ask::GetBulk { non_repeaters, max_repetitions } => {
                Snmp2cPdu::GetBulkRequest(BulkPdu { request_id, non_repeaters, max_repetitions, variable_bindings })
            }
        };
        let message = Snmp2cMessage { version: VERSION, community: community.to_vec(), pdu };
        let bytes = message.to_bytes().map_err(|source| EncodeError::Encode { oids: count, source: Box::new(source) })?;
        let (at, octets) = ber::read(&bytes).map_or((0, 0), |message| message.request_id_octets());
        match u16::try_from(at) {
            Ok(request_id_at) if octets == 4 => Ok(Self { bytes: bytes.into(), request_id_at }),
            _ => Err(EncodeError::RequestId { octets }),
        }
    }

    /// Size of the datagram.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a request has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes the datagram with this request id over `out`. The id must be one of [`REQUEST_IDS`], or the datagram is not minimal BER.
    pub fn write(&self, request_id: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let at = usize::from(self.request_id_at);
        out[at..at + 4].copy_from_slice(&request_id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_the_request_id_changes(
            community in prop::collection::vec(any::<u8>(), 0..200),
            columns in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..10), 1..40),
            request_id in prop_oneof![Just(*REQUEST_IDS.start()), Just(*REQUEST_IDS.end()), REQUEST_IDS],
            bulk in any::<bool>(),
        ) {
            let oids: Vec<_> = columns.iter().map(|tail| ObjectIdentifier::try_from(&[&[1, 3], &tail[..]].concat()[..]).unwrap()).collect();
            let ask = if bulk { Ask::GetBulk { non_repeaters: 1, max_repetitions: 25 } } else { Ask::GetNext };
            let request = EncodedRequest::new(&community, ask, oids.clone()).unwrap();
            let mut datagram = Vec::new();
            request.write(request_id, &mut datagram);
            // Byte for byte what csnmp would have sent with that id.
            let mut expected = Snmp2cMessage::try_from_bytes(&datagram).unwrap();
            prop_assert_eq!(expected.pdu.request_id(), request_id.cast_signed());
            prop_assert_eq!(expected.to_bytes().unwrap(), datagram);
            let bindings = match &mut expected.pdu {
                Snmp2cPdu::GetBulkRequest(pdu) => { prop_assert_eq!((pdu.non_repeaters, pdu.max_repetitions), (1, 25)); &pdu.variable_bindings }
                Snmp2cPdu::GetNextRequest(pdu) => &pdu.variable_bindings,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(bindings.iter().map(|b| b.name).collect::<Vec<_>>(), oids);
        }
    }

    #[test]
    fn the_community_is_never_printed() {
        let request = EncodedRequest::new(b"s3cret", Ask::Get, []).unwrap();
        assert!(!format!("{request:?}").contains("s3cret"));
        assert!(!request.is_empty() && request.len() > 20);
    }
}
