//! What a store can be told.

/// Two hours: the width of a block's window.
pub(crate) const WINDOW_MS: i64 = 2 * 3_600_000;

/// Limits and sizes of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Most series held at a time; blocks found on disk are always admitted.
    pub max_series: u32,
    /// Samples older than this before the caller's last `note_now` are refused; none keeps everything. Milliseconds.
    pub retention_ms: Option<i64>,
    /// Samples further than this after the caller's last `note_now` are refused. Milliseconds.
    pub future_ms: i64,
    /// Memory for decoded pages, in bytes.
    pub page_cache_bytes: usize,
    /// Memory for the indexes of blocks, in bytes.
    pub index_cache_bytes: usize,
    /// Aligned time spans that compaction merges blocks into, ascending, in milliseconds.
    pub compact_spans_ms: Vec<i64>,
    /// How many freshly sealed blocks of an unfinished smallest span are merged at once.
    pub compact_at: usize,
}

impl Default for StoreOptions {
    /// 16 M series, no age limit, an hour of future, 64 MiB of pages, 256 MiB of indexes, spans of 2 h and 24 h, 8 blocks at once.
    fn default() -> Self {
        Self {
            max_series: 16_000_000,
            retention_ms: None,
            future_ms: 3_600_000,
            page_cache_bytes: 64 << 20,
            index_cache_bytes: 256 << 20,
            compact_spans_ms: vec![WINDOW_MS, 12 * WINDOW_MS],
            compact_at: 8,
        }
    }
}
