//! Devices and who polls them.

use std::collections::{BTreeMap, BTreeSet};

use anemone_model::{AgentId, AssignedDevice, Device, Name};
use serde::{Deserialize, Serialize};

use super::agents::Agents;
use crate::assign::rendezvous;

/// A device and its assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The device.
    pub device: Device,
    /// Who polls it; `None` while its PoP has no agent.
    pub agent: Option<AgentId>,
    /// Log index of the last change of the device or its agent.
    pub epoch: u64,
}

/// All devices by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    devices: BTreeMap<Name, Assigned>,
}

impl Inventory {
    /// All devices in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Assigned> {
        self.devices.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Adds or replaces devices at log index `epoch`; returns how many changed.
    pub fn put(&mut self, devices: Vec<Device>, epoch: u64, agents: &mut Agents) -> u64 {
        let mut changed = 0;
        for device in devices {
            let old = self.devices.get(&device.name);
            if old.is_some_and(|old| old.device == device) {
                continue;
            }
            changed += 1;
            if let Some(agent) = old.and_then(|old| old.agent.as_ref()).and_then(|a| agents.get_mut(a)) {
                agent.assignment_epoch = epoch;
            }
            let agent = choose(&device, agents);
            if let Some(agent) = agent.as_ref().and_then(|a| agents.get_mut(a)) {
                agent.assignment_epoch = epoch;
            }
            self.devices.insert(device.name.clone(), Assigned { device, agent, epoch });
        }
        changed
    }

    /// Removes devices; returns how many there were.
    pub fn remove(&mut self, names: &[Name], epoch: u64, agents: &mut Agents) -> u64 {
        let removed: Vec<Assigned> = names.iter().filter_map(|name| self.devices.remove(name)).collect();
        for agent in removed.iter().filter_map(|d| d.agent.as_ref()) {
            if let Some(agent) = agents.get_mut(agent) {
                agent.assignment_epoch = epoch;
            }
        }
        removed.len() as u64
    }

    /// Assigns the devices of a PoP anew after its agents changed; returns how many moved.
    pub fn reassign(&mut self, pop: &Name, epoch: u64, agents: &mut Agents) -> u64 {
        let mut touched = BTreeSet::new();
        let mut moved = 0;
        for assigned in self.devices.values_mut().filter(|a| a.device.pop == *pop) {
            let agent = choose(&assigned.device, agents);
            if agent != assigned.agent {
                touched.extend(assigned.agent.take());
                touched.extend(agent.clone());
                assigned.agent = agent;
                assigned.epoch = epoch;
                moved += 1;
            }
        }
        for id in &touched {
            if let Some(agent) = agents.get_mut(id) {
                agent.assignment_epoch = epoch;
            }
        }
        moved
    }

    /// What an agent is to poll.
    #[must_use]
    pub fn assigned_to(&self, agent: &AgentId) -> Vec<AssignedDevice> {
        let of_agent = self.devices.values().filter(|a| a.agent.as_ref() == Some(agent));
        of_agent.map(|a| AssignedDevice { device: a.device.clone(), epoch: a.epoch }).collect()
    }
}

/// About how many bytes a device takes in a message.
#[must_use]
pub fn bytes_of(device: &Device) -> usize {
    let metadata: usize = device.metadata.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
    128 + device.address.len() + device.community.reveal().len() + metadata
}

/// Cuts a list into parts of at most `count` items and, but for single items that weigh more, `bytes` bytes.
pub fn parts<T>(items: &[T], count: usize, bytes: usize, weigh: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut parts, mut from, mut weight) = (Vec::new(), 0, 0_usize);
    for (at, item) in items.iter().enumerate() {
        let more = weigh(item);
        if at > from && (at - from == count || weight.saturating_add(more) > bytes) {
            parts.push(&items[from..at]);
            (from, weight) = (at, 0);
        }
        weight = weight.saturating_add(more);
    }
    if from < items.len() {
        parts.push(&items[from..]);
    }
    parts
}

/// Who should poll a device: an active agent of its PoP. With none active, whoever is known there keeps it, since a PoP that is
/// cut off goes on polling.
fn choose(device: &Device, agents: &Agents) -> Option<AgentId> {
    let of_pop = || agents.iter().filter(|(id, _)| id.pop == device.pop);
    let active = rendezvous::choose(&device.name, of_pop().filter(|(_, a)| a.active).map(|(id, _)| id));
    active.or_else(|| rendezvous::choose(&device.name, of_pop().map(|(id, _)| id))).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::agents::AgentState;
    use anemone_model::{Community, PollInterval};

    fn device(name: &str, address: &str) -> Device {
        Device {
            name: name.parse().unwrap(),
            pop: "ams1".parse().unwrap(),
            address: address.into(),
            community: Community::new("public"),
            interval: PollInterval::default(),
            metadata: BTreeMap::new(),
        }
    }

    fn agents(names: &[&str]) -> Agents {
        let agent = |name: &&str| AgentId { pop: "ams1".parse().unwrap(), name: name.parse().unwrap() };
        names.iter().map(|n| (agent(n), AgentState { active: true, ..AgentState::default() })).collect()
    }

    #[test]
    fn devices_wait_for_an_agent_and_are_shared_when_another_comes() {
        let (mut inventory, mut agents_) = (Inventory::default(), Agents::new());
        assert_eq!(inventory.put((0..20).map(|n| device(&format!("sw{n}"), "h:1")).collect(), 5, &mut agents_), 20);
        assert!(inventory.iter().all(|a| a.agent.is_none()));
        agents_ = agents(&["a1"]);
        assert_eq!(inventory.reassign(&"ams1".parse().unwrap(), 6, &mut agents_), 20);
        agents_.extend(agents(&["a2"]).split_off(&AgentId { pop: "ams1".parse().unwrap(), name: "a2".parse().unwrap() }));
        let moved = inventory.reassign(&"ams1".parse().unwrap(), 7, &mut agents_);
        assert!((3..18).contains(&moved), "{moved}");
        assert!(agents_.values().all(|a| a.assignment_epoch == 7));
        let held: usize = agents_.keys().map(|a| inventory.assigned_to(a).len()).sum();
        assert_eq!(held, 20);
    }

    #[test]
    fn putting_the_same_device_again_changes_nothing() {
        let (mut inventory, mut agents) = (Inventory::default(), agents(&["a1"]));
        assert_eq!(inventory.put(vec![device("sw1", "h:1")], 5, &mut agents), 1);
        assert_eq!(inventory.put(vec![device("sw1", "h:1")], 6, &mut agents), 0);
        assert_eq!(agents.values().next().unwrap().assignment_epoch, 5);
        assert_eq!(inventory.put(vec![device("sw1", "h:2")], 7, &mut agents), 1);
        assert_eq!(inventory.iter().next().unwrap().epoch, 7);
        assert_eq!(inventory.remove(&["sw1".parse().unwrap(), "nope".parse().unwrap()], 8, &mut agents), 1);
        assert_eq!(agents.values().next().unwrap().assignment_epoch, 8);
    }

    #[test]
    fn parts_hold_to_both_limits_and_lose_nothing() {
        let cut = |items: &[usize]| parts(items, 3, 10, |weight| *weight).iter().map(|part| part.to_vec()).collect::<Vec<_>>();
        assert_eq!(cut(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[1, 1, 1, 1]), [vec![1, 1, 1], vec![1]]);
        assert_eq!(cut(&[6, 6, 4, 50, 1]), [vec![6], vec![6, 4], vec![50], vec![1]]);
    }

    #[test]
    fn a_pop_whose_agents_are_all_evicted_keeps_its_assignment() {
        let (mut inventory, mut agents) = (Inventory::default(), agents(&["a1"]));
        inventory.put(vec![device("sw1", "h:1")], 5, &mut agents);
        agents.values_mut().for_each(|a| a.active = false);
        assert_eq!(inventory.reassign(&"ams1".parse().unwrap(), 6, &mut agents), 0);
    }
}
