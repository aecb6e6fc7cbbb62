//! SNMP v2c (RFC 1901, RFC 3416) over one shared UDP socket for all devices of a thread.
//!
//! Owns the codec of the hot path ([`ber`], [`request`]), the exchange of datagrams ([`engine`]), and the rules by which tables are
//! walked ([`walk`]) and polled ([`table`]). The last two do no I/O: they say what to ask and take what came back. Nothing here knows
//! what a metric is; that is `device`'s.

pub mod ber;
pub mod engine;
pub mod limits;
pub mod oid;
pub mod request;
pub mod rtt;
pub mod table;
pub mod walk;
