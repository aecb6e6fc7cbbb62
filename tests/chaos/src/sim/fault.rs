//! Ways a device misbehaves, as they are set at run time.

use serde::{Deserialize, Serialize};

use crate::chance::Chance;

/// A wrong reply instead of the right one. None of these enters the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// The right reply, cut in the middle.
    Truncated,
    /// The right reply to another request id.
    WrongRequestId,
    /// The right reply from another address, 127.127.x.y.
    WrongSource,
    /// Hundreds of sequences inside one another.
    NestedBer,
    /// Random octets.
    Garbage,
}

/// A device's standing faults; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Nothing is answered.
    pub silent: bool,
    /// Share of requests lost before they are answered, 0 to 1.
    pub loss: f64,
    /// Every reply is held back so long, milliseconds.
    pub delay_ms: u32,
    /// And up to so much longer, at random, milliseconds.
    pub jitter_ms: u32,
    /// Every reply is sent twice.
    pub duplicate: bool,
    /// Replies are wrong in this way.
    pub malformed: Option<Malformed>,
    /// Share of replies that are wrong where `malformed` is set, 0 to 1; all if absent.
    pub malformed_share: Option<f64>,
    /// Largest response in octets, instead of the fleet's.
    pub max_size: Option<u32>,
    /// `ifHCInOctets` (and the low half of `ifInOctets`) of one interface stays at this value.
    pub pin: Option<Pin>,
}

/// A counter held at one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Position of the interface in its template, from 0.
    pub interface: u32,
    /// The value.
    pub value: u64,
}

/// Where counters begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// The device has been up for up to 300 days and its counters with it.
    #[default]
    Aged,
    /// Just started: uptime and counters near zero.
    Zero,
    /// Just started, with counters that reach 2^64 (and their low half 2^32) within `wrap_after_s`.
    NearWrap,
    /// Just started, with 64-bit counters above 2^63.
    High,
}

/// A restart of the device: sysUpTime and counters begin again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reboot {
    /// Where counters begin; `aged` means zero here.
    pub start: Start,
    /// Seconds until they wrap, with `near_wrap`; 30 if absent.
    pub wrap_after_s: Option<u32>,
}

/// New ifIndex values for the same interfaces. Counters go on undisturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Renumber {
    /// Interfaces move so many places along the same indices: the index of one becomes that of another.
    pub rotate: u32,
    /// All indices grow by this.
    pub shift: u32,
}

/// Four hundred sequences, each inside the one before.
pub(crate) fn nested_ber() -> Vec<u8> {
    let mut message = vec![0x05, 0x00];
    for _ in 0..400 {
        let mut outer = vec![0x30];
        super::ber::put_length(message.len(), &mut outer);
        outer.extend_from_slice(&message);
        message = outer;
    }
    message
}

/// Octets that mean nothing.
pub(crate) fn garbage(chance: &mut Chance) -> Vec<u8> {
    (0..chance.up_to(200) + 1).map(|_| chance.next() as u8).collect()
}
