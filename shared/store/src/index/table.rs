//! An open-addressing hash table of dense numbers; keys live elsewhere and are compared through a closure.
//!
//! Costs 4 bytes a slot at 3/8 to 3/4 full. Nothing is ever removed.

const EMPTY: u32 = u32::MAX;

/// Finds dense numbers (below `u32::MAX`) by hash.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<u32>,
    len: usize,
}

impl Table {
    /// The number with this hash for which `is_it` says so.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                EMPTY => return None,
                n if is_it(n) => return Some(n),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds a number that is not in the table; `hash_of` is asked for those already in it when the table grows.
    pub(super) fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            let slots = vec![EMPTY; (self.slots.len() * 2).max(16)];
            for number in std::mem::replace(&mut self.slots, slots).into_iter().filter(|n| *n != EMPTY) {
                self.place(hash_of(number), number);
            }
        }
        self.place(hash, number);
        self.len += 1;
    }

    fn place(&mut self, hash: u64, number: u32) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_is_found() {
        let keys: Vec<u64> = (0..1000).map(|n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).collect();
        let mut table = Table::default();
        assert_eq!(table.find(1, |_| true), None);
        for n in 0..keys.len() {
            table.insert(keys[n], n as u32, |n| keys[n as usize]);
        }
        for n in 0..keys.len() as u32 {
            assert_eq!(table.find(keys[n as usize], |found| found == n), Some(n));
        }
        assert_eq!(table.find(1 << 60, |n| keys[n as usize] == 1 << 60), None);
    }
}
