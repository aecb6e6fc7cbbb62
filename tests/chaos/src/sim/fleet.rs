//! A fleet as it is written down, and the devices it stands for.
//!
//! ```toml
//! port = 16100                # 0: any free one
//! first = "127.64.1.1"        # each PoP gets rows of 254 addresses from here on
//! community = "public"
//! day_s = 86400               # length of the day the rates follow
//! [[group]]
//! pop = "ams1"
//! kind = "access-switch"      # or recording = "devices/leaf.snmprec"
//! count = 12
//! ```
//!
//! Unknown keys are errors. Nothing is opened here but recordings.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize};

use crate::chance::{hash, mix};

use super::{
    device::{Content, Device, DeviceSetup},
    error::SimulatorError,
    fault::{Reboot, Start},
    recording::Recording,
    template::{Kind, Template},
};

/// Addresses used of each /24: neither .0 nor .255.
const ROW: usize = 254;

/// A fleet of devices; see the module's example for the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// UDP port all devices share; 0 takes a free one.
    #[serde(default)]
    pub port: u16,
    /// Address of the first device, within 127.0.0.0/8.
    #[serde(default = "first_address")]
    pub first: Ipv4Addr,
    /// Community of groups that name none.
    #[serde(default = "community")]
    pub community: String,
    /// Changes every counter.
    #[serde(default)]
    pub seed: u64,
    /// Length of the day the rates follow, seconds, at least 1.
    #[serde(default = "day_s")]
    pub day_s: u32,
    /// Largest response, octets.
    #[serde(default = "max_size")]
    pub max_size: u32,
    /// The moment ages count back from, milliseconds since 1970; now if absent. Fixed, a restarted simulator
    /// goes on as if it had never stopped.
    #[serde(default)]
    pub epoch_ms: Option<i64>,
    /// The devices.
    #[serde(rename = "group")]
    pub groups: Vec<GroupSpec>,
}

/// Devices that are alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupSpec {
    /// PoP they stand in.
    pub pop: String,
    /// What they are, unless they replay a recording.
    pub kind: Option<Kind>,
    /// The `.snmprec` file they replay; relative to the fleet file.
    pub recording: Option<PathBuf>,
    /// Whether counters and clocks of the recording move.
    pub animate: bool,
    /// How many.
    pub count: u32,
    /// Name without the number; `<pop>-<kind>-` if absent.
    pub name: Option<String>,
    /// Interfaces of each; the kind's usual number if absent.
    pub interfaces: Option<u16>,
    /// Community, if not the fleet's.
    pub community: Option<String>,
    /// Where counters begin.
    pub start: Start,
    /// Seconds until counters wrap, with `start = "near_wrap"`.
    pub wrap_after_s: Option<u32>,
    /// `ifHCInOctets` of the last interface stays at this value. A string in TOML, whose integers end at 2^63.
    #[serde(deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    pub pinned_counter: Option<u64>,
}

/// What an inventory needs to know of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryItem {
    /// Such as `ams1-sw-01`.
    pub name: String,
    /// Its PoP.
    pub pop: String,
    /// Where it answers.
    pub address: SocketAddrV4,
    /// Its community.
    pub community: String,
    /// Kind, or `recording`.
    pub kind: String,
    /// Number of interfaces.
    pub interfaces: usize,
}

fn first_address() -> Ipv4Addr {
    Ipv4Addr::new(127, 64, 1, 1)
}

fn community() -> String {
    "public".to_owned()
}

fn day_s() -> u32 {
    86_400
}

fn max_size() -> u32 {
    1472
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Option::<Either>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Text(text)) => {
            text.parse().map(Some).map_err(|_| serde::de::Error::custom(format!("{text:?} is no number of 64 bits")))
        }
    }
}

impl FleetSpec {
    /// A fleet without groups.
    pub fn new(port: u16, groups: Vec<GroupSpec>) -> Self {
        Self { port, first: first_address(), community: community(), seed: 0, day_s: day_s(), max_size: max_size(), epoch_ms: None, groups }
    }

    /// Reads a fleet file, JSON if it is called `.json` and TOML otherwise.
    ///
    /// # Errors
    /// If the file cannot be read, is malformed or has an unknown key.
    pub fn read(path: &Path) -> Result<Self, SimulatorError> {
        let text = fs::read_to_string(path).map_err(|source| SimulatorError::Read { path: path.to_owned(), source })?;
        let syntax = |reason: String| SimulatorError::FleetSyntax { path: path.to_owned(), reason };
        let mut fleet: Self = if path.extension().is_some_and(|extension| extension == "json") {
            serde_json::from_str(&text).map_err(|error| syntax(error.to_string()))?
        } else {
            toml::from_str(&text).map_err(|error| syntax(error.to_string()))?
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        for recording in fleet.groups.iter_mut().filter_map(|group| group.recording.as_mut()) {
            *recording = folder.join(&*recording);
        }
        Ok(fleet)
    }
}

/// All devices, by address and in order.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) devices: Vec<Device>,
    by_address: HashMap<Ipv4Addr, u32>,
}

impl Fleet {
    /// Expands a fleet; `ledger_entries` bounds the ledger of all devices together, none keeps no ledger.
    pub(crate) fn new(spec: &FleetSpec, now_ms: i64, ledger_entries: Option<usize>) -> Result<Self, SimulatorError> {
        let total: usize = spec.groups.iter().map(|group| group.count as usize).sum();
        let ledger_limit = ledger_entries.map(|entries| entries / total.max(1));
        let mut blocks = Blocks::new(spec);
        let mut names = Names::new(spec);
        let mut shelf = Shelf::default();
        let mut fleet = Self { devices: Vec::with_capacity(total), by_address: HashMap::with_capacity(total) };
        for (position, group) in spec.groups.iter().enumerate() {
            let wrong = |reason: String| SimulatorError::Fleet { group: position, reason };
            if spec.day_s == 0 || group.pop.is_empty() {
                return Err(wrong("day_s must be positive and every group needs a pop".to_owned()));
            }
            let community: Arc<str> = group.community.as_deref().unwrap_or(&spec.community).into();
            if community.len() > 255 {
                return Err(wrong("the community is longer than 255 octets".to_owned()));
            }
            let content = shelf.content(group, &wrong)?;
            let pop: Arc<str> = group.pop.as_str().into();
            for _ in 0..group.count {
                let name = names.next(group);
                let address = blocks.next(&group.pop).ok_or_else(|| wrong("the addresses leave 127.0.0.0/8".to_owned()))?;
                let setup = DeviceSetup {
                    key: mix(spec.seed ^ hash(&name)),
                    name,
                    pop: pop.clone(),
                    address,
                    community: community.clone(),
                    content: content.clone(),
                    epoch_ms: spec.epoch_ms.unwrap_or(now_ms),
                    day_ms: u64::from(spec.day_s) * 1000,
                    start: Reboot { start: group.start, wrap_after_s: group.wrap_after_s },
                    pinned: group.pinned_counter,
                    max_size: spec.max_size as usize,
                };
                fleet.by_address.insert(address, fleet.devices.len() as u32);
                fleet.devices.push(Device::new(setup, ledger_limit));
            }
        }
        Ok(fleet)
    }

    #[inline]
    pub(crate) fn by_address(&self, address: Ipv4Addr) -> Option<&Device> {
        self.by_address.get(&address).map(|position| &self.devices[*position as usize])
    }

    /// The devices a pattern names: `*`, a name, a name with `*` behind it, `pop:<pop>`, or several with commas.
    pub(crate) fn select(&self, pattern: &str) -> Result<Vec<&Device>, SimulatorError> {
        let matches = |device: &Device, part: &str| match (part.strip_prefix("pop:"), part.strip_suffix('*')) {
            (Some(pop), _) => *device.pop == *pop,
            (None, Some(prefix)) => device.name.starts_with(prefix),
            (None, None) => *device.name == *part,
        };
        let parts: Vec<&str> = pattern.split(',').map(str::trim).collect();
        let found: Vec<&Device> = self.devices.iter().filter(|device| parts.iter().any(|part| matches(device, part))).collect();
        if found.is_empty() { Err(SimulatorError::UnknownDevice(pattern.to_owned())) } else { Ok(found) }
    }

    pub(crate) fn inventory(&self, port: u16) -> Vec<InventoryItem> {
        let item = |device: &Device| InventoryItem {
            name: device.name.to_string(),
            pop: device.pop.to_string(),
            address: SocketAddrV4::new(device.address, port),
            community: device.community.to_string(),
            kind: match &device.content {
                Content::Synthesised(template) => template.kind.name().to_owned(),
                Content::Replay { .. } => "recording".to_owned(),
            },
            interfaces: device.interfaces(),
        };
        self.devices.iter().map(item).collect()
    }
}

/// Templates and recordings already made.
#[derive(Default)]
struct Shelf {
    templates: HashMap<(&'static str, u16), Arc<Template>>,
    recordings: HashMap<PathBuf, Arc<Recording>>,
}

impl Shelf {
    fn content(&mut self, group: &GroupSpec, wrong: &dyn Fn(String) -> SimulatorError) -> Result<Content, SimulatorError> {
        match (group.kind, &group.recording) {
            (Some(kind), None) => {
                let interfaces = group.interfaces.unwrap_or(kind.default_interfaces());
                if interfaces == u16::MAX {
                    return Err(wrong("at most 65534 interfaces".to_owned()));
                }
                let template = self.templates.entry((kind.name(), interfaces)).or_insert_with(|| Arc::new(Template::new(kind, interfaces)));
                Ok(Content::Synthesised(template.clone()))
            }
            (None, Some(path)) => {
                if !self.recordings.contains_key(path) {
                    let recording = Recording::read(path)?;
                    for reason in recording.reasons() {
                        tracing::warn!("skipped {reason}");
                    }
                    self.recordings.insert(path.clone(), Arc::new(recording));
                }
                Ok(Content::Replay { recording: self.recordings[path].clone(), animated: group.animate })
            }
            _ => Err(wrong("needs either a kind or a recording".to_owned())),
        }
    }
}

/// Hands out addresses: every PoP has rows of its own.
struct Blocks {
    next: BTreeMap<String, usize>,
    first: u32,
}

impl Blocks {
    fn new(spec: &FleetSpec) -> Self {
        let mut sizes: Vec<(String, usize)> = Vec::new();
        for group in &spec.groups {
            match sizes.iter_mut().find(|(pop, _)| *pop == group.pop) {
                Some((_, size)) => *size += group.count as usize,
                None => sizes.push((group.pop.clone(), group.count as usize)),
            }
        }
        let mut slot = usize::from(spec.first.octets()[3]).saturating_sub(1);
        let mut next = BTreeMap::new();
        for (pop, size) in sizes {
            next.insert(pop, slot);
            slot = (slot + size).div_ceil(ROW) * ROW;
        }
        Self { next, first: u32::from(spec.first) & !0xff }
    }

    fn next(&mut self, pop: &str) -> Option<Ipv4Addr> {
        let slot = self.next.get_mut(pop)?;
        let offset = u32::try_from(*slot / ROW * 256 + *slot % ROW + 1).ok()?;
        *slot += 1;
        let address = Ipv4Addr::from(self.first.checked_add(offset)?);
        address.is_loopback().then_some(address)
    }
}

/// Numbers devices of one prefix from 1, all with the same number of digits.
struct Names {
    given: HashMap<String, (u32, usize)>,
}

impl Names {
    fn prefix(group: &GroupSpec) -> String {
        let kind = group.kind.map_or("rec", Kind::abbreviation);
        group.name.clone().unwrap_or_else(|| format!("{}-{kind}-", group.pop))
    }

    fn new(spec: &FleetSpec) -> Self {
        let mut given: HashMap<String, (u32, usize)> = HashMap::new();
        for group in &spec.groups {
            given.entry(Self::prefix(group)).or_default().0 += group.count;
        }
        for (total, digits) in given.values_mut() {
            *digits = total.to_string().len().max(2);
            *total = 0;
        }
        Self { given }
    }

    fn next(&mut self, group: &GroupSpec) -> String {
        let prefix = Self::prefix(group);
        let (number, digits) = self.given.entry(prefix.clone()).or_insert((0, 2));
        *number += 1;
        format!("{prefix}{number:0digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pop_has_rows_of_addresses_and_names_of_its_own() {
        let group = |pop: &str, kind, count| GroupSpec { pop: pop.into(), kind: Some(kind), count, ..GroupSpec::default() };
        let spec = FleetSpec::new(
            0,
            vec![group("ams1", Kind::AccessSwitch, 300), group("nyc1", Kind::Server, 2), group("ams1", Kind::CoreRouter, 1)],
        );
        let fleet = Fleet::new(&spec, 0, None).expect("a sound fleet");
        let inventory = fleet.inventory(161);
        let shown: Vec<String> = [0, 253, 254, 299, 300, 301, 302]
            .iter()
            .map(|at: &usize| format!("{} {}", inventory[*at].name, inventory[*at].address))
            .collect();
        assert_eq!(
            shown,
            [
                "ams1-sw-001 127.64.1.1:161",
                "ams1-sw-254 127.64.1.254:161",
                "ams1-sw-255 127.64.2.1:161",
                "ams1-sw-300 127.64.2.46:161",
                "nyc1-srv-01 127.64.3.1:161",
                "nyc1-srv-02 127.64.3.2:161",
                "ams1-cr-01 127.64.2.47:161"
            ]
        );
        assert_eq!(fleet.select("pop:nyc1").expect("known").len(), 2);
        assert_eq!(fleet.select("ams1-sw-29*, nyc1-srv-01").expect("known").len(), 11);
        assert!(fleet.select("fra1*").is_err());
        assert!(size_of::<Device>() < 400, "{}", size_of::<Device>());
    }

    #[test]
    fn a_fleet_file_is_strict() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fleet.toml");
        let read = |text: &str| {
            fs::write(&path, text).expect("written");
            FleetSpec::read(&path).and_then(|spec| Fleet::new(&spec, 0, None).map(|_| spec)).map_err(|error| error.to_string())
        };
        let good = read("port = 1\n[[group]]\npop = \"a\"\nkind = \"core-router\"\ncount = 1\npinned_counter = \"9223372036854775809\"\nstart = \"near_wrap\"\n").expect("a sound file");
        assert_eq!((good.groups[0].pinned_counter, good.groups[0].start), (Some(9_223_372_036_854_775_809), Start::NearWrap));
        for (text, expected) in [
            ("[[group]]\npop = \"a\"\nknid = \"server\"\n", "unknown field `knid`"),
            ("[[group]]\npop = \"a\"\ncount = 1\n", "fleet group 0: needs either a kind or a recording"),
            ("[[group]]\npop = \"a\"\nrecording = \"none.snmprec\"\n", "none.snmprec"),
            ("first = \"127.255.255.1\"\n[[group]]\npop = \"a\"\nkind = \"server\"\ncount = 300\n", "leave 127.0.0.0/8"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
