//! A moving buffer over a file, so that a 64 MiB segment is scanned in about a megabyte of memory.
//! Bytes the disk refuses to read come back as zero and are remembered in [`Window::unreadable`].

use crate::disk::DiskFile;

const STEP: usize = 1 << 20;
/// What a failed read is narrowed down to.
const BLOCK: usize = 4096;

pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    buf: Vec<u8>,
    unreadable: bool,
}

impl<'a> Window<'a> {
    /// A window over the first `len` bytes of `file`.
    pub(crate) fn new(file: &'a dyn DiskFile, len: u64) -> Self {
        Self { file, len, start: 0, buf: Vec::new(), unreadable: false }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn unreadable(&self) -> bool {
        self.unreadable
    }

    /// `want` bytes at `offset`, fewer when the file ends before.
    pub(crate) fn at(&mut self, offset: u64, want: usize) -> &[u8] {
        let want = self.len.saturating_sub(offset).min(want as u64) as usize;
        let held = offset >= self.start && offset + want as u64 <= self.start + self.buf.len() as u64;
        if !held {
            self.fill(offset, want);
        }
        let from = (offset.saturating_sub(self.start) as usize).min(self.buf.len());
        &self.buf[from..(from + want).min(self.buf.len())]
    }

    /// How many bytes from `offset` on are zero, as far as the buffer reaches.
    pub(crate) fn zeros_from(&mut self, offset: u64) -> usize {
        self.at(offset, 1);
        let from = (offset.saturating_sub(self.start) as usize).min(self.buf.len());
        let rest = &self.buf[from..];
        rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len())
    }

    fn fill(&mut self, offset: u64, want: usize) {
        let wanted = self.len.saturating_sub(offset).min(want.max(STEP) as u64) as usize;
        self.start = offset;
        self.buf.clear();
        self.buf.resize(wanted, 0);
        match self.file.read_at(&mut self.buf, offset) {
            Ok(count) => self.buf.truncate(count),
            Err(_) => {
                for (at, block) in self.buf.chunks_mut(BLOCK).enumerate() {
                    if self.file.read_at(block, offset + (at * BLOCK) as u64).is_err() {
                        block.fill(0);
                        self.unreadable = true;
                    }
                }
            }
        }
    }
}
