//! A bounded cache in two generations: cheap, and near enough to least recently used.
//!
//! New and used entries live in the young generation. When that holds half the budget it becomes the old one, and what was old is
//! forgotten. Never holds more than its budget plus one entry.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// A cache of shared values with a budget in bytes.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    budget: usize,
    generations: Mutex<Generations<K, V>>,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, (Arc<V>, usize)>,
    old: HashMap<K, (Arc<V>, usize)>,
    young_bytes: usize,
    old_bytes: usize,
}

impl<K: Eq + Hash + Copy, V> Cache<K, V> {
    pub(crate) fn new(budget: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, old_bytes: 0 };
        Self { budget, generations: Mutex::new(generations) }
    }

    /// The value, which counts as used.
    pub(crate) fn lookup(&self, key: K) -> Option<Arc<V>> {
        let mut g = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, _)) = g.young.get(&key) {
            return Some(Arc::clone(value));
        }
        let (value, bytes) = g.old.remove(&key)?;
        g.old_bytes -= bytes;
        g.insert(self.budget, key, Arc::clone(&value), bytes);
        Some(value)
    }

    /// Keeps `value`, which takes `bytes` of the budget.
    pub(crate) fn keep(&self, key: K, value: Arc<V>, bytes: usize) {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).insert(self.budget, key, value, bytes);
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        let g = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        g.young_bytes + g.old_bytes
    }
}

impl<K: Eq + Hash + Copy, V> Generations<K, V> {
    fn insert(&mut self, budget: usize, key: K, value: Arc<V>, bytes: usize) {
        if self.young_bytes + bytes > budget / 2 && !self.young.is_empty() {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        if let Some((_, was)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= was;
        }
        self.young_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_budget_and_keeps_what_is_used() {
        let cache = Cache::new(100);
        for n in 0..1000_u32 {
            cache.keep(n, Arc::new(n), 10);
            assert!(cache.bytes() <= 110, "{} bytes", cache.bytes());
            assert_eq!(cache.lookup(0).as_deref(), Some(&0), "a value used all the time stays");
        }
        assert!(cache.lookup(500).is_none());
        assert_eq!(cache.lookup(999).as_deref(), Some(&999));
    }
}
