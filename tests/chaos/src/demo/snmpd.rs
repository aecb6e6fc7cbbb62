//! This machine's own snmpd, if one answers: a device nobody here wrote.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use csnmp::{ObjectIdentifier, Snmp2cClient};
use serde_json::{Value, json};

const COMMUNITY: &str = "public";
const TIMEOUT: Duration = Duration::from_millis(300);
/// `ifInOctets` of IF-MIB.
const IF_IN_OCTETS: [u32; 10] = [1, 3, 6, 1, 2, 1, 2, 2, 1, 10];
/// `sysUpTime.0` of SNMPv2-MIB.
const SYS_UP_TIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];

/// The device and how many interfaces it shows.
pub struct Own {
    /// As the inventory takes it.
    pub device: Value,
    /// Rows of ifTable with ifInOctets. Debian's default view shows none.
    pub interfaces: u64,
}

/// Asks 127.0.0.1:161; `None` when nobody answers.
pub async fn probe(interval: Duration) -> Option<Own> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 161));
    let oid = |arcs: &[u32]| ObjectIdentifier::try_from(arcs).ok();
    let client = Snmp2cClient::new(target, COMMUNITY.into(), None, Some(TIMEOUT), 0).await.ok()?;
    client.get(oid(&SYS_UP_TIME)?).await.ok()?;
    let interfaces = client.walk(oid(&IF_IN_OCTETS)?).await.map_or(0, |rows| rows.len() as u64);
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let device = json!({
        "name": "this-machine",
        "pop": "nyc1",
        "address": target.to_string(),
        "community": COMMUNITY,
        "interval": interval,
        "metadata": { "kind": "snmpd" },
    });
    Some(Own { device, interfaces })
}
