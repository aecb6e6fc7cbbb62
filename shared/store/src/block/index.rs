//! A block's index: its series with their labels and kinds, and where their chunks are.
//!
//! ```text
//! index := zstd of
//!    varint(strings), per string: varint(length) bytes
//!    varint(shapes), per shape: varint(labels), per label: varint(string of its name)       shape: the names of a series' labels
//!    varint(series)
//!    column: shape of each series, varint each
//!    column: kind and width of each series, 1 byte each
//!    per shape, per label: column: string of the value, varint(zigzag(difference to the series of that shape before)) each
//!    column: chunks of each series, varint each
//!    column: first time of each chunk, varint(zigzag(difference to the chunk before)) each
//!    column: last minus first time of each chunk, varint each
//!    varint(data pages), column: chunks of each data page, varint each                      column: varint(length) bytes
//! ```
//! Chunks are in the order of the series, and pages in the order of the chunks, so that where a chunk is follows from the counts.

use std::collections::HashMap;
use std::sync::Arc;

use anemone_model::{Labels, SeriesDef};

use crate::index::{Pair, SeriesRef, kind_of_code};
use crate::varint::{Reader, put, put_bytes, zigzag};

/// Collects the index while a block is written.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    /// The process' string numbers to the block's.
    local: HashMap<u32, u32>,
    strings: Vec<u8>,
    shapes: HashMap<Vec<u32>, u32>,
    shape_bytes: Vec<u8>,
    /// Per shape, per label: the value last written and the column.
    values: Vec<Vec<(u32, Vec<u8>)>>,
    /// Label names of the series before and their shape: mostly it is the same again.
    last_shape: (Vec<u32>, u32),
    series: u32,
    shape_of_series: Vec<u8>,
    kinds: Vec<u8>,
    chunks_of_series: Vec<u8>,
    chunks: u32,
    open_chunks: u32,
    first_times: Vec<u8>,
    spans: Vec<u8>,
    last_first_ms: i64,
    pages: u32,
    chunks_of_page: Vec<u8>,
}

impl IndexBuilder {
    /// Begins the next series; its chunks follow.
    pub(crate) fn series(&mut self, pairs: impl Iterator<Item = Pair> + Clone, kind: u8, text: impl Fn(u32) -> Arc<str>) {
        self.end_series();
        let mut name_strings = Vec::with_capacity(self.last_shape.0.len());
        for pair in pairs.clone() {
            name_strings.push(self.string(pair.name, &text));
        }
        let shape = self.shape(name_strings);
        put(&mut self.shape_of_series, u64::from(shape));
        for (label, pair) in pairs.enumerate() {
            let value = self.string(pair.value, &text);
            let (last, column) = &mut self.values[shape as usize][label];
            put(column, zigzag(i64::from(value) - i64::from(*last)));
            *last = value;
        }
        self.kinds.push(kind);
        self.series += 1;
    }

    /// The next chunk of the series begun last.
    pub(crate) fn chunk(&mut self, first_ms: i64, last_ms: i64) {
        put(&mut self.first_times, zigzag(first_ms.wrapping_sub(self.last_first_ms)));
        put(&mut self.spans, last_ms.wrapping_sub(first_ms) as u64);
        self.last_first_ms = first_ms;
        self.open_chunks += 1;
        self.chunks += 1;
    }

    /// The next data page holds the next `chunks` chunks.
    pub(crate) fn page(&mut self, chunks: u32) {
        put(&mut self.chunks_of_page, u64::from(chunks));
        self.pages += 1;
    }

    /// Series, chunks and data pages so far.
    pub(crate) fn counts(&self) -> (u32, u32, u32) {
        (self.series, self.chunks, self.pages)
    }

    /// The index before compression; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.end_series();
        let full = std::mem::take(self);
        let mut out = Vec::with_capacity(full.strings.len() + full.series as usize * 8);
        put(&mut out, full.local.len() as u64);
        out.extend_from_slice(&full.strings);
        put(&mut out, full.values.len() as u64);
        out.extend_from_slice(&full.shape_bytes);
        put(&mut out, u64::from(full.series));
        put_bytes(&mut out, &full.shape_of_series);
        put_bytes(&mut out, &full.kinds);
        full.values.iter().flatten().for_each(|(_, column)| put_bytes(&mut out, column));
        put_bytes(&mut out, &full.chunks_of_series);
        put_bytes(&mut out, &full.first_times);
        put_bytes(&mut out, &full.spans);
        put(&mut out, u64::from(full.pages));
        put_bytes(&mut out, &full.chunks_of_page);
        out
    }

    fn end_series(&mut self) {
        if self.series > 0 {
            put(&mut self.chunks_of_series, u64::from(std::mem::take(&mut self.open_chunks)));
        }
    }

    fn string(&mut self, string: u32, text: &impl Fn(u32) -> Arc<str>) -> u32 {
        let next = self.local.len() as u32;
        *self.local.entry(string).or_insert_with(|| {
            put_bytes(&mut self.strings, text(string).as_bytes());
            next
        })
    }

    fn shape(&mut self, names: Vec<u32>) -> u32 {
        if self.last_shape.0 == names && !self.values.is_empty() {
            return self.last_shape.1;
        }
        let shape = self.shapes.get(&names).copied().unwrap_or_else(|| {
            let shape = self.values.len() as u32;
            put(&mut self.shape_bytes, names.len() as u64);
            names.iter().for_each(|n| put(&mut self.shape_bytes, u64::from(*n)));
            self.values.push(vec![(0, Vec::new()); names.len()]);
            self.shapes.insert(names.clone(), shape);
            shape
        });
        self.last_shape = (names, shape);
        shape
    }
}

/// A block's index in memory, in terms of this process' series.
#[derive(Debug)]
pub(crate) struct BlockIndex {
    /// Series, its first chunk and how many it has; sorted by series.
    series: Vec<(u32, u32, u32)>,
    /// First and last time of each chunk in units of 2^`shift` ms from `base_ms`, rounded outwards.
    ranges: Vec<(u32, u32)>,
    base_ms: i64,
    shift: u32,
    /// The first chunk of each data page, and the number of chunks.
    page_starts: Vec<u32>,
}

/// A chunk's place in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace {
    pub(crate) page: u32,
    /// Which of the page's chunks.
    pub(crate) slot: usize,
}

impl BlockIndex {
    /// Parses an index. `resolve` turns definitions into this process' series; a series that it gives nothing for is left out.
    /// `span` is the block's first and last time.
    pub(crate) fn parse(
        raw: &[u8],
        span: (i64, i64),
        mut resolve: impl FnMut(&SeriesDef) -> Option<SeriesRef>,
    ) -> Result<Self, &'static str> {
        let mut bytes = Reader::new(raw);
        let mut parser = Parser::read(&mut bytes).ok_or("the series make no sense")?;
        let shift = (64 - (span.1.wrapping_sub(span.0) as u64).leading_zeros()).saturating_sub(31);
        let mut index = Self { series: Vec::new(), ranges: Vec::new(), base_ms: span.0, shift, page_starts: vec![0] };
        for _ in 0..parser.series {
            let (def, chunks) = parser.next().ok_or("a series makes no sense")?;
            let first = index.ranges.len() as u32;
            for _ in 0..chunks {
                let (first_ms, last_ms) = parser.next_range().ok_or("a chunk makes no sense")?;
                index.push_range(first_ms, last_ms);
            }
            if let Some(series) = resolve(&def) {
                index.series.push((series.0, first, chunks));
            }
        }
        index.read_pages(&mut parser).ok_or("the pages make no sense")?;
        index.series.sort_unstable();
        if index.series.windows(2).any(|w| w[0].0 == w[1].0) {
            return Err("a series is in it twice");
        }
        index.series.shrink_to_fit();
        Ok(index)
    }

    fn push_range(&mut self, first_ms: i64, last_ms: i64) {
        let unit = |ms: i64| u32::try_from(ms.saturating_sub(self.base_ms).max(0) >> self.shift).unwrap_or(u32::MAX);
        self.ranges.push((unit(first_ms), unit(last_ms)));
    }

    fn read_pages(&mut self, parser: &mut Parser<'_>) -> Option<()> {
        for _ in 0..parser.pages {
            let next = self.page_starts.last()?.checked_add(parser.chunks_of_page.varint_u32()?)?;
            self.page_starts.push(next);
        }
        (*self.page_starts.last()? as usize == self.ranges.len()).then_some(())
    }

    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.series.len() * 12 + self.ranges.len() * 8 + self.page_starts.len() * 4 + 120
    }

    /// Series, ascending.
    pub(crate) fn series(&self) -> impl Iterator<Item = SeriesRef> {
        self.series.iter().map(|s| SeriesRef(s.0))
    }

    /// Number of chunks and data pages.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.ranges.len(), self.page_starts.len() - 1)
    }

    /// Number of chunks of a data page.
    pub(crate) fn chunks_of_page(&self, page: u32) -> Option<usize> {
        let at = page as usize;
        Some((self.page_starts.get(at + 1)? - self.page_starts.get(at)?) as usize)
    }

    /// A series' chunks that may have samples from `from_ms` to `to_ms`, in order.
    pub(crate) fn chunks(&self, series: SeriesRef, from_ms: i64, to_ms: i64) -> impl Iterator<Item = ChunkPlace> {
        let at = self.series.binary_search_by_key(&series.0, |s| s.0);
        let (first, count) = at.map_or((0, 0), |at| (self.series[at].1, self.series[at].2));
        // In units rounded down on both ends, a chunk that overlaps in time overlaps in units as well.
        let unit = |ms: i64| ms.saturating_sub(self.base_ms) >> self.shift;
        let (from, to) = (unit(from_ms), unit(to_ms));
        (first..first + count).filter_map(move |chunk| {
            let (a, b) = self.ranges[chunk as usize];
            let overlaps = i64::from(a) <= to && (i64::from(b) >= from || b == u32::MAX);
            overlaps.then(|| {
                let page = self.page_starts.partition_point(|start| *start <= chunk) - 1;
                ChunkPlace { page: page as u32, slot: (chunk - self.page_starts[page]) as usize }
            })
        })
    }
}

/// Walks over the columns.
struct Parser<'a> {
    strings: Vec<Arc<str>>,
    shapes: Vec<Shape<'a>>,
    series: u32,
    shape_of_series: Reader<'a>,
    kinds: Reader<'a>,
    chunks_of_series: Reader<'a>,
    first_times: Reader<'a>,
    spans: Reader<'a>,
    last_first_ms: i64,
    pages: u32,
    chunks_of_page: Reader<'a>,
}

/// The label names of some series, and per label the value before and the column.
struct Shape<'a> {
    labels: Vec<(Arc<str>, i64, Reader<'a>)>,
}

impl<'a> Parser<'a> {
    fn read(bytes: &mut Reader<'a>) -> Option<Self> {
        let strings = bytes.varint_u32().filter(|n| *n as usize <= bytes.remaining())?;
        let strings = (0..strings).map(|_| std::str::from_utf8(bytes.bytes()?).ok().map(Arc::from)).collect::<Option<Vec<Arc<str>>>>()?;
        let count = bytes.varint_u32().filter(|n| *n as usize <= bytes.remaining())?;
        let mut shapes: Vec<Shape<'a>> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let labels = bytes.varint_u32().filter(|n| *n as usize <= bytes.remaining())?;
            let name = |bytes: &mut Reader<'a>| Some((Arc::clone(strings.get(bytes.varint_u32()? as usize)?), 0, Reader::new(&[])));
            shapes.push(Shape { labels: (0..labels).map(|_| name(bytes)).collect::<Option<_>>()? });
        }
        let series = bytes.varint_u32()?;
        let column = |bytes: &mut Reader<'a>| bytes.bytes().map(Reader::new);
        let (shape_of_series, kinds) = (column(bytes)?, column(bytes)?);
        for label in shapes.iter_mut().flat_map(|s| &mut s.labels) {
            label.2 = column(bytes)?;
        }
        let parser = Self {
            strings,
            shapes,
            series,
            shape_of_series,
            kinds,
            chunks_of_series: column(bytes)?,
            first_times: column(bytes)?,
            spans: column(bytes)?,
            last_first_ms: 0,
            pages: bytes.varint_u32()?,
            chunks_of_page: column(bytes)?,
        };
        bytes.is_empty().then_some(parser)
    }

    /// The next series and its number of chunks.
    fn next(&mut self) -> Option<(SeriesDef, u32)> {
        let shape = self.shapes.get_mut(self.shape_of_series.varint_u32()? as usize)?;
        let mut pairs = Vec::with_capacity(shape.labels.len());
        for (name, last, column) in &mut shape.labels {
            *last = last.checked_add(column.signed()?)?;
            pairs.push((Arc::clone(name), Arc::clone(self.strings.get(usize::try_from(*last).ok()?)?)));
        }
        let (kind, width) = kind_of_code(self.kinds.byte()?)?;
        Some((SeriesDef { labels: Labels::new(pairs).ok()?, kind, width }, self.chunks_of_series.varint_u32()?))
    }

    /// The next chunk's first and last time.
    fn next_range(&mut self) -> Option<(i64, i64)> {
        let first_ms = self.last_first_ms.wrapping_add(self.first_times.signed()?);
        self.last_first_ms = first_ms;
        Some((first_ms, first_ms.wrapping_add(self.spans.varint()? as i64)))
    }
}

#[cfg(test)]
mod tests {
    use anemone_model::{CounterWidth, MetricKind};

    use super::*;
    use crate::index::SeriesIndex;

    fn defs() -> Vec<SeriesDef> {
        let def =
            |m: &str, labels: &[(&str, &str)]| SeriesDef::new(m, labels.iter().copied(), MetricKind::State, CounterWidth::Bits32).unwrap();
        vec![
            def("a", &[("x", "1"), ("y", "2")]),
            def("a", &[("x", "2"), ("y", "2")]),
            def("b", &[("x", "1")]),
            def("c", &[("x", "9"), ("y", "1")]),
        ]
    }

    #[test]
    fn series_and_chunks_are_found_again() {
        let (mut index, mut builder) = (SeriesIndex::default(), IndexBuilder::default());
        for (n, def) in defs().iter().enumerate() {
            let series = index.register(def, 10).unwrap();
            let pairs: Vec<Pair> = index.pairs_of_series(series).collect();
            builder.series(pairs.into_iter(), index.kind(series), |s| Arc::clone(index.text(s)));
            for chunk in 0..=n as i64 {
                builder.chunk(1000 * chunk, 1000 * chunk + 500);
            }
        }
        for chunks in [3, 0, 7] {
            builder.page(chunks);
        }
        assert_eq!(builder.counts(), (4, 10, 3));
        let raw = builder.finish();

        let mut seen = Vec::new();
        let parsed = BlockIndex::parse(&raw, (0, 3500), |def| {
            seen.push(def.clone());
            Some(SeriesRef(100 - seen.len() as u32))
        })
        .unwrap();
        assert_eq!(seen, defs());
        assert_eq!(parsed.series().map(|s| s.0).collect::<Vec<_>>(), [96, 97, 98, 99]);
        let places = |series, from, to| parsed.chunks(SeriesRef(series), from, to).map(|p| (p.page, p.slot)).collect::<Vec<_>>();
        assert_eq!(places(99, 0, i64::MAX), [(0, 0)]);
        assert_eq!(places(98, i64::MIN, i64::MAX), [(0, 1), (0, 2)]);
        assert_eq!(places(96, 1500, 2000), [(2, 4), (2, 5)]);
        assert_eq!(places(96, 1501, 1999), []);
        assert_eq!(places(95, 0, 9999), []);
        for end in 0..raw.len() {
            assert!(BlockIndex::parse(&raw[..end], (0, 3500), |_| None).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_series_twice_or_wide_times_do_no_harm() {
        let (mut index, mut builder) = (SeriesIndex::default(), IndexBuilder::default());
        for def in &defs()[..2] {
            let series = index.register(def, 10).unwrap();
            let pairs: Vec<Pair> = index.pairs_of_series(series).collect();
            builder.series(pairs.into_iter(), index.kind(series), |s| Arc::clone(index.text(s)));
            builder.chunk(0, 10);
            builder.chunk(1 << 50, (1 << 50) + 10);
        }
        builder.page(4);
        let raw = builder.finish();
        assert_eq!(BlockIndex::parse(&raw, (0, 1 << 51), |_| Some(SeriesRef(1))).unwrap_err(), "a series is in it twice");
        let mut next = 0;
        let parsed = BlockIndex::parse(&raw, (0, 1 << 51), |_| {
            next += 1;
            Some(SeriesRef(next))
        });
        let parsed = parsed.unwrap();
        assert_eq!(parsed.chunks(SeriesRef(1), 5, 5).map(|p| p.slot).collect::<Vec<_>>(), [0]);
        assert_eq!(parsed.chunks(SeriesRef(2), (1 << 50) + 5, i64::MAX).map(|p| p.slot).collect::<Vec<_>>(), [3]);
    }
}
