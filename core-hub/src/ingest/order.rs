//! In which order batches of one spool epoch may be proposed. Sans-IO.
//!
//! Batches of an agent must be applied in sequence, since a later one uses definitions of an earlier one. A hub that fails to
//! get one through therefore takes nothing after it until the agent has gone back to it.

use std::collections::HashMap;

use anemone_model::AgentId;

/// What to do with a batch that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Propose it.
    Propose,
    /// It is applied already: acknowledge.
    Applied,
    /// Something before it is missing here: the agent must go back.
    OutOfOrder,
}

/// What is known of a spool epoch when a batch of it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Below which sequence the state has applied it; 0 when nothing of it was.
    pub applied_below: u64,
    /// The first sequence that the agent's spool held or accounted for when it said hello.
    pub spool_begins: u64,
}

/// Which sequence is next for each spool epoch.
#[derive(Debug, Default)]
pub struct Order {
    next: HashMap<(AgentId, u64), u64>,
}

impl Order {
    /// Judges a batch of `sequence..end`, given below which sequence the state has applied the epoch (0: nothing known of it) and
    /// where the agent said its spool begins, which counts only while nothing is known.
    pub fn admit(&mut self, agent: &AgentId, epoch: u64, sequence: u64, end: u64, known: Known) -> Admission {
        let Known { applied_below, spool_begins } = known;
        if end <= applied_below {
            return Admission::Applied;
        }
        let applied_below = if applied_below == 0 { spool_begins.max(1) } else { applied_below };
        let next = self.next.get(&(agent.clone(), epoch)).map_or(applied_below, |next| applied_below.max(*next));
        if sequence > next {
            return Admission::OutOfOrder;
        }
        self.next.insert((agent.clone(), epoch), next.max(end));
        Admission::Propose
    }

    /// A batch of the epoch did not get through: take none after it until the agent goes back to what is applied.
    pub fn failed(&mut self, agent: &AgentId, epoch: u64) {
        self.next.remove(&(agent.clone(), epoch));
    }

    /// Leadership changed: nothing in flight counts.
    pub fn reset(&mut self) {
        self.next.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentId {
        AgentId { pop: "ams1".parse().unwrap(), name: "a1".parse().unwrap() }
    }

    fn check(order: &mut Order, sequence: u64, applied_below: u64) -> Admission {
        order.admit(&agent(), 1, sequence, sequence + 1, Known { applied_below, spool_begins: 1 })
    }

    #[test]
    fn batches_are_taken_in_sequence_without_waiting_for_the_one_before() {
        let mut order = Order::default();
        assert_eq!(check(&mut order, 1, 0), Admission::Propose);
        assert_eq!(check(&mut order, 2, 0), Admission::Propose);
        assert_eq!(check(&mut order, 2, 0), Admission::Propose, "sent again before it was applied: the state will drop it");
        assert_eq!(check(&mut order, 4, 2), Admission::OutOfOrder);
        assert_eq!(check(&mut order, 3, 2), Admission::Propose);
        assert_eq!(check(&mut order, 1, 4), Admission::Applied);
    }

    #[test]
    fn after_a_failure_the_agent_must_go_back() {
        let mut order = Order::default();
        assert_eq!(check(&mut order, 5, 5), Admission::Propose);
        assert_eq!(check(&mut order, 6, 5), Admission::Propose);
        order.failed(&agent(), 1);
        assert_eq!(check(&mut order, 7, 5), Admission::OutOfOrder);
        assert_eq!(check(&mut order, 5, 5), Admission::Propose);
        assert_eq!(check(&mut order, 6, 5), Admission::Propose);
        order.reset();
        assert_eq!(check(&mut order, 7, 5), Admission::OutOfOrder);
    }

    #[test]
    fn a_hub_that_knows_nothing_of_a_spool_begins_where_the_spool_does() {
        let mut order = Order::default();
        let mut check = |sequence| {
            let known = Known { applied_below: 0, spool_begins: 5_000 };
            order.admit(&agent(), 1, sequence, sequence + 1, known)
        };
        assert_eq!(check(5_001), Admission::OutOfOrder);
        assert_eq!(check(5_000), Admission::Propose);
        assert_eq!(check(5_001), Admission::Propose);
    }

    #[test]
    fn a_new_spool_whose_first_batch_failed_is_not_begun_in_the_middle() {
        let mut order = Order::default();
        assert_eq!(check(&mut order, 1, 0), Admission::Propose);
        order.failed(&agent(), 1);
        assert_eq!(check(&mut order, 2, 0), Admission::OutOfOrder, "else batch 1 would count as applied");
        assert_eq!(check(&mut order, 1, 0), Admission::Propose);
    }
}
