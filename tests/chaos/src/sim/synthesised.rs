//! A synthesised device's data at one moment.

use crate::chance::mix;

use super::{
    ber,
    counters::{Law, Metric},
    device::{Clock, Conditions, StartOffset},
    ledger::SeriesKey,
    objects::{Field, Layout, Rows},
    response::Value,
    template::{Interface, Template},
    view::{Cursor, Found, View},
};

const CONTACT: &str = "noc@example.net";

/// Borrowed while one request is answered.
pub(crate) struct SynthesisedView<'a> {
    template: &'a Template,
    layout: &'static Layout,
    identity: Identity<'a>,
    clock: Clock,
    conditions: Conditions,
    rows: Rows,
}

/// What tells one device of a kind from another.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) name: &'a str,
    pub(crate) location: &'a str,
    pub(crate) key: u64,
}

impl<'a> SynthesisedView<'a> {
    pub(crate) fn new(template: &'a Template, identity: Identity<'a>, clock: Clock, conditions: Conditions) -> Self {
        let count = template.interfaces.len() as u32;
        let rows = Rows { first: template.first_index.saturating_add(conditions.shift), count };
        Self { template, layout: template.layout(), identity, clock, conditions, rows }
    }

    /// Which interface of the template stands in this row; renumbering rotates them.
    fn interface_of(&self, row: u32) -> u32 {
        (row + self.conditions.rotate) % self.rows.count.max(1)
    }

    fn is_up(&self, number: u32, interface: &Interface) -> bool {
        interface.always_up || !mix(self.identity.key ^ u64::from(number) << 32).is_multiple_of(8)
    }

    fn counter(&self, number: u32, interface: &Interface, metric: Metric) -> u64 {
        if let (Metric::InOctets, Some((pinned, value))) = (metric, self.conditions.pinned)
            && pinned == number
        {
            return value;
        }
        let law = Law::of(self.identity.key, number, metric, u64::from(interface.speed_mbps) * 1_000_000, self.clock.day_ms);
        let growth = if self.is_up(number, interface) { law.growth(self.clock.up_ms) } else { 0 };
        let offset = match self.conditions.offset {
            StartOffset::Zero => 0,
            StartOffset::High => 1 << 63 | mix(law.key) >> 2,
            // Reaches 2^64, and so also 2^32 in its low half, so many milliseconds after the start.
            StartOffset::NearWrap { after_ms } => 0_u64.wrapping_sub(law.growth(u64::from(after_ms)).max(1)),
        };
        growth.wrapping_add(offset)
    }

    fn column(&self, field: Field, row: u32) -> Value<'_> {
        let number = self.interface_of(row);
        let Some(interface) = self.template.interfaces.get(number as usize) else { return Value::Empty(ber::NO_SUCH_INSTANCE) };
        match field {
            Field::IfIndex => Value::Integer((self.rows.first + row) as i32),
            Field::IfDescr => text(&interface.descr),
            Field::IfType => Value::Integer(i32::from(interface.if_type)),
            Field::IfMtu => Value::Integer(i32::from(interface.mtu)),
            // RFC 2863 section 3.1.15: 2^32 - 1 where the speed does not fit.
            Field::IfSpeed => Value::Unsigned(ber::GAUGE32, (u64::from(interface.speed_mbps) * 1_000_000).min(u64::from(u32::MAX))),
            Field::IfPhysAddress => {
                let [_, _, _, a, b, c, d, e] = (mix(self.identity.key) & 0xff_ffff_ff00 | u64::from(number & 0xff)).to_be_bytes();
                Value::Mac([0x02, a, b, c, d, e])
            }
            Field::IfAdminStatus => Value::Integer(1),
            Field::IfOperStatus => Value::Integer(if self.is_up(number, interface) { 1 } else { 2 }),
            Field::Low(metric) => Value::Unsigned(ber::COUNTER32, self.counter(number, interface, metric) & 0xffff_ffff),
            Field::Full(metric) => Value::Unsigned(ber::COUNTER64, self.counter(number, interface, metric)),
            Field::IfOutQLen => Value::Unsigned(ber::GAUGE32, 0),
            Field::IfSpecific => Value::Octets(ber::OBJECT_ID, &[0]),
            Field::IfName => text(&interface.name),
            Field::IfLinkUpDownTrapEnable => Value::Integer(1),
            Field::IfHighSpeed => Value::Unsigned(ber::GAUGE32, u64::from(interface.speed_mbps)),
            Field::IfPromiscuousMode => Value::Integer(2),
            Field::IfConnectorPresent => Value::Integer(if interface.if_type == 6 { 1 } else { 2 }),
            Field::IfAlias => text(&interface.alias),
            Field::IfCounterDiscontinuityTime | Field::IfLastChange => Value::Unsigned(ber::TIME_TICKS, 0),
            _ => Value::Empty(ber::NO_SUCH_INSTANCE),
        }
    }
}

impl View for SynthesisedView<'_> {
    fn find(&self, oid: &[u32]) -> Found {
        self.layout.find(oid, self.rows)
    }

    fn after(&self, oid: &[u32]) -> Option<Cursor> {
        self.layout.after(oid, self.rows)
    }

    #[inline]
    fn step(&self, cursor: Cursor) -> Option<Cursor> {
        self.layout.step(cursor, self.rows)
    }

    #[inline]
    fn oid_len(&self, cursor: Cursor) -> usize {
        self.layout.oid_len(cursor, self.rows)
    }

    #[inline]
    fn put_oid(&self, cursor: Cursor, out: &mut Vec<u8>) {
        self.layout.put_oid(cursor, self.rows, out);
    }

    fn value(&self, cursor: Cursor) -> Value<'_> {
        let field = self.layout.object(cursor).field;
        match field {
            Field::SysDescr => Value::Octets(ber::OCTET_STRING, self.template.sys_descr.as_bytes()),
            Field::SysObjectId => Value::Octets(ber::OBJECT_ID, &self.template.sys_object_id),
            Field::SysUpTime => Value::Unsigned(ber::TIME_TICKS, self.clock.up_ticks()),
            Field::SysContact => Value::Octets(ber::OCTET_STRING, CONTACT.as_bytes()),
            Field::SysName => Value::Octets(ber::OCTET_STRING, self.identity.name.as_bytes()),
            Field::SysLocation => Value::Octets(ber::OCTET_STRING, self.identity.location.as_bytes()),
            Field::SysServices => Value::Integer(self.template.sys_services),
            Field::IfNumber => Value::Integer(self.rows.count as i32),
            Field::IfTableLastChange | Field::IfStackLastChange => Value::Unsigned(ber::TIME_TICKS, self.conditions.renumbered_ticks),
            field => self.column(field, cursor.row),
        }
    }

    #[inline]
    fn series(&self, cursor: Cursor) -> Option<SeriesKey> {
        let object = self.layout.object(cursor);
        let interface = if object.scalar { SeriesKey::DEVICE } else { self.interface_of(cursor.row) as u16 };
        object.ledger.map(|object| SeriesKey { interface, object })
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Octets(ber::OCTET_STRING, text.as_bytes())
}
