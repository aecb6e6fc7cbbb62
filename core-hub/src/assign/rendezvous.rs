//! Rendezvous hashing: which agent of a PoP polls a device. Adding or losing an agent moves only the devices it gains or had.

use anemone_model::{AgentId, Name};
use xxhash_rust::xxh3::Xxh3;

/// The agent with the highest score for the device; `None` where there are no agents.
pub fn choose<'a>(device: &Name, agents: impl IntoIterator<Item = &'a AgentId>) -> Option<&'a AgentId> {
    agents.into_iter().max_by_key(|agent| (score(device, agent), *agent))
}

fn score(device: &Name, agent: &AgentId) -> u64 {
    let mut hash = Xxh3::new();
    for part in [device, &agent.pop, &agent.name] {
        hash.update(part.as_str().as_bytes());
        hash.update(&[0xff]);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(count: usize) -> Vec<AgentId> {
        (0..count).map(|n| AgentId { pop: "ams1".parse().unwrap(), name: format!("a{n}").parse().unwrap() }).collect()
    }

    #[test]
    fn devices_are_spread_and_moves_are_minimal() {
        let (three, four) = (agents(3), agents(4));
        let mut count = [0; 4];
        for n in 0..4000 {
            let device: Name = format!("sw{n}").parse().unwrap();
            let (before, after) = (choose(&device, &three).unwrap(), choose(&device, &four).unwrap());
            assert!(before == after || *after == four[3], "{device} moved between agents that stayed");
            count[four.iter().position(|a| a == after).unwrap()] += 1;
        }
        assert!(count.iter().all(|n| (850..1150).contains(n)), "{count:?}");
        assert_eq!(choose(&"sw1".parse().unwrap(), &[]), None);
    }
}
