//! Power cuts under the spool: its log lies on the simulated disk of `anemone-log`, which keeps for certain only what was synced.
//!
//! The sidecars (gaps, dictionaries) are not on that disk; no test here makes any, and that is asserted. That these tests see a
//! missing fsync is itself tested: with the log's syncs switched off the same cuts lose batches.

use anemone_log::{LogOptions, SimDisk};

use super::*;

const BATCHES: u64 = 60;

/// A few batches to the segment.
fn small_segments() -> SpoolBounds {
    SpoolBounds { segment_bytes: ByteSize(32 << 10), memory_bytes: ByteSize(64 * MIB), ..bounds(64) }
}

/// Opens the spool with its log on `disk`; `sync` false takes the fsyncs away and changes nothing else.
fn open_on(disk: &Arc<SimDisk>, dir: &Path, sync: bool) -> Result<Running, SpoolError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let disk = Arc::clone(disk);
    let open = move |path: &Path, options: LogOptions| disk.open_log(path, LogOptions { sync, ..options });
    let opened = runtime.block_on(Spool::open_with(&open, dir, agent(), small_segments(), 0))?;
    Ok(Running::start(runtime, opened))
}

/// A disk as a power cut left it, and what had been called durable before.
struct Cut {
    disk: Arc<SimDisk>,
    durable_below: u64,
}

/// Appends batches over several segments, cutting the power all the while; gives what was written and the cuts.
fn write_through_cuts(dir: &Path, sync: bool) -> (Vec<Batch>, Vec<Cut>) {
    let disk = SimDisk::new();
    let running = open_on(&disk, dir, sync).unwrap();
    let durable = running.spool.subscribe_durable();
    let mut cuts = Vec::new();
    for n in 0..BATCHES {
        running.spool.enqueue(part(u32::try_from(n).unwrap(), 0, 300));
        if n % 10 == 9 {
            running.drain();
        }
        // Twice at the same batch: the writer goes on meanwhile, and what is not synced comes out differently.
        for cut in 0..2 {
            // First what was promised, then the cut.
            let durable_below = *durable.borrow();
            cuts.push(Cut { disk: disk.crash(n * 2 + cut), durable_below });
        }
    }
    running.drain();
    assert!(running.spool.log.segments().len() > 3);
    let cut_at = *durable.borrow();
    assert_eq!(cut_at, BATCHES + 1, "drained means durable");
    cuts.extend((0..20).map(|n| Cut { disk: disk.crash(1000 + n), durable_below: cut_at }));
    let written = running.shipped();
    assert_eq!(written.len() as u64, BATCHES);
    running.close();
    (written, cuts)
}

/// Opens what the cut left and says what of the durable is missing or different.
fn verify(cut: &Cut, dir: &Path, written: &[Batch]) -> Result<(), String> {
    let running = open_on(&cut.disk, dir, true).map_err(|error| error.to_string())?;
    let verdict = (|| {
        let next = running.spool.next_sequence();
        if next < cut.durable_below {
            return Err(format!("below {} was durable, the log ends at {next}", cut.durable_below));
        }
        for (sequence, batch) in (1..next).zip(written) {
            // The epoch is checked too: it is in the header.
            let outgoing = running.spool.log.read(sequence).map_err(|error| error.to_string())?.ok_or("missing")?;
            if Batch::decode(outgoing).map_err(|error| error.to_string())? != *batch {
                return Err(format!("batch {sequence} has changed"));
            }
        }
        let status = running.spool.status();
        if status.gaps.is_empty() { Ok(()) } else { Err(format!("gaps: {:?}", status.gaps)) }
    })();
    running.close();
    verdict
}

#[test]
fn what_was_durable_is_there_after_a_power_cut() {
    let temp = tempfile::tempdir().unwrap();
    let (written, cuts) = write_through_cuts(temp.path(), true);
    assert!(cuts.iter().any(|cut| cut.durable_below > 1 && cut.durable_below <= BATCHES), "some fall between the batches");
    for (n, cut) in cuts.iter().enumerate() {
        if let Err(lost) = verify(cut, temp.path(), &written) {
            panic!("cut {n}: {lost}");
        }
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "the log is all there is");
}

#[test]
fn without_syncs_the_same_cuts_lose_batches() {
    let temp = tempfile::tempdir().unwrap();
    let (written, cuts) = write_through_cuts(temp.path(), false);
    // Those after the last batch. One cut may spare everything by chance, not half of them.
    let late: Vec<&Cut> = cuts.iter().filter(|cut| cut.durable_below > BATCHES).collect();
    let lossy = late.iter().filter(|cut| verify(cut, temp.path(), &written).is_err()).count();
    assert!(lossy > late.len() / 2, "{lossy} of {}", late.len());
}
