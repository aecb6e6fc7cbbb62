//! Kinds of synthesised devices and the template each expands to, shared by all devices of the kind.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    ber,
    objects::{Layout, WITH_HC, WITHOUT_HC},
};

/// What a synthesised device looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// 24 gigabit access ports and 2 uplinks of 10 Gbit/s.
    AccessSwitch,
    /// 48 interfaces: 100 Gbit/s ports, link aggregates, and VLAN subinterfaces of those.
    CoreRouter,
    /// Loopback, two ports and their bond.
    Server,
    /// 12 interfaces: numbered ports, a trunk, management.
    LoadBalancer,
    /// 24 ports of 100 Mbit/s and 2 of 1 Gbit/s; 32-bit counters only.
    LegacySwitch,
}

impl Kind {
    /// The spelling used in fleet files.
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessSwitch => "access-switch",
            Self::CoreRouter => "core-router",
            Self::Server => "server",
            Self::LoadBalancer => "load-balancer",
            Self::LegacySwitch => "legacy-switch",
        }
    }

    /// The part of a device's name that tells its kind, as in `ams1-sw-01`.
    pub fn abbreviation(self) -> &'static str {
        match self {
            Self::AccessSwitch => "sw",
            Self::CoreRouter => "cr",
            Self::Server => "srv",
            Self::LoadBalancer => "lb",
            Self::LegacySwitch => "old",
        }
    }

    /// Interfaces a device of this kind has unless the fleet says otherwise.
    pub fn default_interfaces(self) -> u16 {
        match self {
            Self::AccessSwitch | Self::LegacySwitch => 26,
            Self::CoreRouter => 48,
            Self::Server => 4,
            Self::LoadBalancer => 12,
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::AccessSwitch, Self::CoreRouter, Self::Server, Self::LoadBalancer, Self::LegacySwitch]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                format!("{text:?} is no kind of device; known: access-switch, core-router, server, load-balancer, legacy-switch")
            })
    }
}

/// ifType of IANAifType-MIB.
const ETHERNET: u8 = 6;
const LOOPBACK: u8 = 24;
const L2_VLAN: u8 = 135;
const LAG: u8 = 161;

/// One interface of a template.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) descr: String,
    pub(crate) alias: String,
    pub(crate) if_type: u8,
    pub(crate) mtu: u16,
    pub(crate) speed_mbps: u32,
    /// Never down; other ports are down on one device in eight.
    pub(crate) always_up: bool,
}

impl Interface {
    fn new(name: String, descr: String, if_type: u8, speed_mbps: u32) -> Self {
        let always_up = if_type != ETHERNET || speed_mbps >= 10_000;
        let mtu = if speed_mbps >= 10_000 { 9192 } else { 1500 };
        Self { name, descr, alias: String::new(), if_type, mtu, speed_mbps, always_up }
    }

    fn alias(mut self, alias: impl Into<String>) -> Self {
        self.alias = alias.into();
        self
    }
}

/// A kind with a number of interfaces.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) kind: Kind,
    pub(crate) sys_descr: &'static str,
    pub(crate) sys_object_id: Vec<u8>,
    pub(crate) sys_services: i32,
    /// The lowest ifIndex.
    pub(crate) first_index: u32,
    pub(crate) interfaces: Vec<Interface>,
}

impl Template {
    /// The template of this kind with so many interfaces.
    pub(crate) fn new(kind: Kind, interfaces: u16) -> Self {
        let (sys_descr, object_id, sys_services, first_index): (_, &[u32], _, _) = match kind {
            Kind::AccessSwitch => {
                ("Simulated access switch, 24 x 1000BASE-T, 2 x 10GBASE-R, release 15.2", &[1, 3, 6, 1, 4, 1, 9, 1, 1208], 6, 10_101)
            }
            Kind::CoreRouter => ("Simulated core router, 100GBASE-R, release 23.4R2", &[1, 3, 6, 1, 4, 1, 2636, 1, 1, 1, 2, 25], 78, 501),
            Kind::Server => ("Linux simulated 6.12.0-amd64 #1 SMP x86_64", &[1, 3, 6, 1, 4, 1, 8072, 3, 2, 10], 72, 1),
            Kind::LoadBalancer => ("Simulated load balancer, release 17.1", &[1, 3, 6, 1, 4, 1, 3375, 2, 1, 3, 4, 43], 78, 32),
            Kind::LegacySwitch => ("Simulated legacy switch, 24 x 100BASE-TX, release 12.1", &[1, 3, 6, 1, 4, 1, 9, 1, 324], 2, 1),
        };
        Self {
            kind,
            sys_descr,
            sys_object_id: ber::oid_octets(object_id),
            sys_services,
            first_index,
            interfaces: (0..u32::from(interfaces)).map(|position| interface(kind, position, u32::from(interfaces))).collect(),
        }
    }

    pub(crate) fn layout(&self) -> &'static Layout {
        if self.kind == Kind::LegacySwitch { &WITHOUT_HC } else { &WITH_HC }
    }
}

/// The interface at this position of a device with `count` of them.
fn interface(kind: Kind, position: u32, count: u32) -> Interface {
    let number = position + 1;
    let uplinks_from = count.saturating_sub(2);
    match kind {
        Kind::AccessSwitch if position >= uplinks_from => {
            let number = position - uplinks_from + 1;
            Interface::new(format!("Te1/1/{number}"), format!("TenGigabitEthernet1/1/{number}"), ETHERNET, 10_000)
                .alias(format!("uplink {number}"))
        }
        Kind::AccessSwitch => Interface::new(format!("Gi1/0/{number}"), format!("GigabitEthernet1/0/{number}"), ETHERNET, 1000)
            .alias(format!("desk {number:02}")),
        Kind::LegacySwitch if position >= uplinks_from => {
            let number = position - uplinks_from + 1;
            Interface::new(format!("Gi0/{number}"), format!("GigabitEthernet0/{number}"), ETHERNET, 1000)
        }
        Kind::LegacySwitch => Interface::new(format!("Fa0/{number}"), format!("FastEthernet0/{number}"), ETHERNET, 100),
        Kind::CoreRouter => core_interface(position, count),
        Kind::Server => match position {
            0 => Interface::new("lo".into(), "lo".into(), LOOPBACK, 10),
            position if position + 1 == count => Interface::new("bond0".into(), "bond0".into(), LAG, 20_000),
            position => {
                Interface::new(format!("eth{}", position - 1), format!("Simulated 10GbE adapter {}", position - 1), ETHERNET, 10_000)
            }
        },
        Kind::LoadBalancer => match position {
            0 => Interface::new("mgmt".into(), "mgmt".into(), ETHERNET, 1000),
            position if position + 1 == count => Interface::new("trunk-1".into(), "trunk-1".into(), LAG, 40_000),
            position => {
                Interface::new(format!("1.{position}"), format!("1.{position}"), ETHERNET, 10_000).alias(format!("pool {position}"))
            }
        },
    }
}

/// Ports first, then a sixth of the positions as aggregates, each followed by one subinterface.
fn core_interface(position: u32, count: u32) -> Interface {
    let aggregates = count / 12;
    let ports = count - 2 * aggregates;
    if position < ports {
        let name = format!("et-{}/0/{}", position / 12, position % 12);
        return Interface::new(name.clone(), name, ETHERNET, 100_000).alias(format!("core link {position}"));
    }
    let (aggregate, part) = ((position - ports) / 2, (position - ports) % 2);
    let (name, if_type) = if part == 0 { (format!("ae{aggregate}"), LAG) } else { (format!("ae{aggregate}.{}", 100 + aggregate), L2_VLAN) };
    Interface::new(name.clone(), name, if_type, 200_000).alias(format!("customer {aggregate}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_the_interfaces_asked_for_under_different_names() {
        for (kind, expected) in [
            (Kind::AccessSwitch, ["Gi1/0/1", "Te1/1/2"]),
            (Kind::CoreRouter, ["et-0/0/0", "ae3.103"]),
            (Kind::Server, ["lo", "bond0"]),
            (Kind::LoadBalancer, ["mgmt", "trunk-1"]),
            (Kind::LegacySwitch, ["Fa0/1", "Gi0/2"]),
        ] {
            let count = kind.default_interfaces();
            let template = Template::new(kind, count);
            let names: BTreeSet<&str> = template.interfaces.iter().map(|interface| interface.name.as_str()).collect();
            assert_eq!(names.len(), usize::from(count), "{kind:?}");
            assert!(expected.iter().all(|name| names.contains(name)), "{kind:?}: {names:?}");
            assert_eq!(Kind::from_str(kind.name()), Ok(kind));
        }
        assert!(Kind::from_str("toaster").is_err());
        assert_eq!(Template::new(Kind::CoreRouter, 1).interfaces.len(), 1);
    }
}
