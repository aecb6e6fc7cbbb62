//! Which reference stands for which series, for the life of the process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use anemone_model::{Labels, SeriesDef, SeriesId};

use crate::device::SinkRefusal;

/// Most series an agent may have.
pub const SERIES_MAX: usize = 16_000_000;

/// Definitions by reference, and references by definition.
#[derive(Debug)]
pub(super) struct Registry {
    inner: RwLock<Inner>,
    series_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<SeriesId, u32>,
    definitions: Vec<Arc<SeriesDef>>,
    /// Names and values of labels, each once: millions of series share a few thousand.
    texts: HashSet<Arc<str>>,
}

impl Inner {
    fn shared(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        self.texts.insert(Arc::clone(text));
        Arc::clone(text)
    }

    /// The same definition on shared texts.
    fn compact(&mut self, definition: SeriesDef) -> SeriesDef {
        let pairs: Vec<_> = definition.labels.as_pairs().iter().map(|(name, value)| (self.shared(name), self.shared(value))).collect();
        match Labels::new(pairs) {
            Ok(labels) => SeriesDef { labels, ..definition },
            Err(_) => definition,
        }
    }
}

impl Registry {
    pub(super) fn new(series_max: usize) -> Self {
        Self { inner: RwLock::default(), series_max }
    }

    /// The reference of a series: the same for the same definition. A series whose kind or width changes gets another one.
    pub(super) fn register(&self, definition: SeriesDef) -> Result<u32, SinkRefusal> {
        let id = definition.id();
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(reference) = inner.by_id.get(&id).copied() {
            let known = &inner.definitions[reference as usize];
            if **known == definition {
                return Ok(reference);
            }
            if known.labels != definition.labels {
                tracing::error!(series = %definition.labels, other = %known.labels, "two series have one id; the newer one is refused");
                return Err(SinkRefusal::SeriesBudget);
            }
        }
        if inner.definitions.len() >= self.series_max {
            return Err(SinkRefusal::SeriesBudget);
        }
        let reference = u32::try_from(inner.definitions.len()).map_err(|_| SinkRefusal::SeriesBudget)?;
        let definition = inner.compact(definition);
        inner.definitions.push(Arc::new(definition));
        inner.by_id.insert(id, reference);
        Ok(reference)
    }

    pub(super) fn definition(&self, reference: u32) -> Option<Arc<SeriesDef>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).definitions.get(reference as usize).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).definitions.len()
    }
}

#[cfg(test)]
mod tests {
    use anemone_model::{CounterWidth, MetricKind};

    use super::*;

    fn def(n: &str, width: CounterWidth) -> SeriesDef {
        SeriesDef::new("m", [("n", n)], MetricKind::Counter, width).unwrap()
    }

    #[test]
    fn references_are_dense_and_stable() {
        let registry = Registry::new(3);
        assert_eq!(registry.register(def("a", CounterWidth::Bits64)), Ok(0));
        assert_eq!(registry.register(def("b", CounterWidth::Bits64)), Ok(1));
        assert_eq!(registry.register(def("a", CounterWidth::Bits64)), Ok(0));
        assert_eq!(registry.register(def("a", CounterWidth::Bits32)), Ok(2), "another width is another definition");
        assert_eq!(registry.register(def("c", CounterWidth::Bits64)), Err(SinkRefusal::SeriesBudget));
        assert_eq!(registry.register(def("a", CounterWidth::Bits32)), Ok(2));
        assert_eq!(registry.definition(1).unwrap().labels.value("n"), Some("b"));
        assert_eq!((registry.definition(3), registry.len()), (None, 3));
    }
}
