//! A state machine for tests: the list of all commands, sealed into several files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anemone_raft::{Entry, Export, ExportFile, RemoveOnDrop, StateError, StateMachine};
use bytes::Bytes;

const FILE_BYTES: usize = 1 << 20;

/// ```text
/// <dir>/current           name of the seal that counts
/// <dir>/seal-<n>/meta     raft meta
/// <dir>/seal-<n>/commands/<m>    [length u32, command]...
/// ```
pub(crate) struct Ledger {
    dir: PathBuf,
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    commands: Vec<Bytes>,
    /// The first entry applied since open, to prove that a restart continues where it was sealed.
    first_applied: Option<u64>,
    sealed: Option<(PathBuf, Bytes)>,
}

impl Ledger {
    pub(crate) fn open(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let ledger = Self { dir: dir.to_owned(), next: AtomicU64::new(1), state: Mutex::default() };
        if let Ok(name) = fs::read_to_string(dir.join("current")) {
            ledger.next.store(name.strip_prefix("seal-").unwrap().parse::<u64>().unwrap() + 1, Ordering::Relaxed);
            ledger.load(&dir.join(name));
        }
        ledger
    }

    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.state.lock().unwrap().commands.clone()
    }

    pub(crate) fn first_applied(&self) -> Option<u64> {
        self.state.lock().unwrap().first_applied
    }

    fn load(&self, seal: &Path) -> Bytes {
        let mut commands = Vec::new();
        let mut files: Vec<PathBuf> = fs::read_dir(seal.join("commands")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files {
            let mut bytes = Bytes::from(fs::read(file).unwrap());
            while !bytes.is_empty() {
                let length = u32::from_le_bytes(bytes.split_to(4)[..].try_into().unwrap());
                commands.push(bytes.split_to(length as usize));
            }
        }
        let meta = Bytes::from(fs::read(seal.join("meta")).unwrap());
        let mut state = self.state.lock().unwrap();
        state.commands = commands;
        state.sealed = Some((seal.to_owned(), meta.clone()));
        meta
    }

    fn fresh(&self, kind: &str) -> PathBuf {
        loop {
            let dir = self.dir.join(format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed)));
            if fs::create_dir(&dir).is_ok() {
                return dir;
            }
        }
    }

    /// Makes `seal` the one that counts, atomically.
    fn switch_to(&self, seal: &Path) {
        let new = self.dir.join("current.new");
        write_synced(&new, seal.file_name().unwrap().to_str().unwrap().as_bytes());
        fs::rename(&new, self.dir.join("current")).unwrap();
        File::open(&self.dir).unwrap().sync_all().unwrap();
    }
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

impl StateMachine for Ledger {
    fn apply(&self, entries: &[Entry]) -> Vec<Bytes> {
        let mut state = self.state.lock().unwrap();
        let apply = |entry: &Entry| {
            state.first_applied.get_or_insert(entry.index);
            let Some(command) = &entry.command else { return Bytes::new() };
            state.commands.push(command.clone());
            Bytes::from(state.commands.len().to_string())
        };
        entries.iter().map(apply).collect()
    }

    fn seal(&self, raft_meta: Bytes) -> Result<(), StateError> {
        let seal = self.fresh("seal");
        fs::create_dir(seal.join("commands")).map_err(|e| StateError::at("creating", &seal, e))?;
        let mut files = vec![Vec::new()];
        let mut state = self.state.lock().unwrap();
        for command in &state.commands {
            if files.last().unwrap().len() > FILE_BYTES {
                files.push(Vec::new());
            }
            let file = files.last_mut().unwrap();
            file.extend_from_slice(&u32::try_from(command.len()).unwrap().to_le_bytes());
            file.extend_from_slice(command);
        }
        for (number, bytes) in files.iter().enumerate() {
            write_synced(&seal.join(format!("commands/{number:06}")), bytes);
        }
        write_synced(&seal.join("meta"), &raft_meta);
        self.switch_to(&seal);
        if let Some((old, _)) = state.sealed.replace((seal, raft_meta)) {
            fs::remove_dir_all(&old).map_err(|e| StateError::at("removing", &old, e))?;
        }
        Ok(())
    }

    fn restored(&self) -> Option<Bytes> {
        self.state.lock().unwrap().sealed.as_ref().map(|(_, meta)| meta.clone())
    }

    fn export(&self) -> Result<Export, StateError> {
        let target = self.fresh("export");
        let state = self.state.lock().unwrap();
        let (seal, raft_meta) = state.sealed.clone().unwrap();
        let mut files = Vec::new();
        let mut names = vec!["meta".to_owned()];
        names
            .extend(fs::read_dir(seal.join("commands")).unwrap().map(|e| format!("commands/{}", e.unwrap().file_name().to_str().unwrap())));
        for (number, name) in names.into_iter().enumerate() {
            let path = target.join(number.to_string());
            fs::hard_link(seal.join(&name), &path).map_err(|e| StateError::at("linking", &path, e))?;
            files.push(ExportFile { bytes: fs::metadata(&path).unwrap().len(), name, path });
        }
        Ok(Export::new(raft_meta, files, RemoveOnDrop::new(target)))
    }

    fn import(&self, dir: &Path) -> Result<Bytes, StateError> {
        let seal = self.fresh("seal");
        fs::remove_dir(&seal).map_err(|e| StateError::at("replacing", &seal, e))?;
        fs::rename(dir, &seal).map_err(|e| StateError::at("moving", dir, e))?;
        self.switch_to(&seal);
        Ok(self.load(&seal))
    }
}
