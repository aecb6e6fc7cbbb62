//! Child processes that cannot outlive the harness.
//!
//! A child is started through `setpriv --pdeathsig KILL` (util-linux), which asks the kernel to kill it when its
//! parent dies, however that happens. The kernel means the *thread* that started it, so all children are started
//! from one thread that lives as long as the process. Where `setpriv` is missing children are still killed when
//! their handle is dropped. Standard output and error are appended to one log file per process.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

/// What went wrong with a child process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its log file could not be opened.
    #[error("process {name}: cannot open log {}: {source}", log.display())]
    Log {
        /// Name of the process.
        name: String,
        /// The log file.
        log: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It could not be started.
    #[error("process {name}: cannot start {}: {source}", program.display())]
    Start {
        /// Name of the process.
        name: String,
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It could not be signalled or waited for.
    #[error("process {name}: cannot {what}: {source}")]
    Control {
        /// Name of the process.
        name: String,
        /// What was attempted.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What to run; the same again at a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Name in messages.
    pub name: String,
    /// Program to run.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Additions to its environment.
    pub env: Vec<(OsString, OsString)>,
    /// File its output is appended to; folders are made.
    pub log: PathBuf,
}

impl ProcessSpec {
    /// A program with arguments and a log file.
    pub fn new(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        log: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            log: log.into(),
        }
    }
}

/// How a process ended after it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// On its own, after SIGTERM or before.
    Exited(ExitStatus),
    /// The deadline passed and it was killed.
    Killed,
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    spec: ProcessSpec,
    child: Child,
}

impl Process {
    /// Starts a process. Needs a running tokio runtime.
    ///
    /// # Errors
    /// If the log cannot be opened or the program not started.
    pub async fn start(spec: ProcessSpec) -> Result<Self, ProcessError> {
        let child = spawn(&spec).await?;
        Ok(Self { spec, child })
    }

    /// What it runs.
    pub fn spec(&self) -> &ProcessSpec {
        &self.spec
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(|source| control(&self.spec, "ask for its state", source))
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If it cannot be signalled or waited for.
    pub async fn kill(&mut self) -> Result<(), ProcessError> {
        self.child.kill().await.map_err(|source| control(&self.spec, "kill it", source))
    }

    /// Asks it to stop with SIGTERM and kills it after the deadline.
    ///
    /// # Errors
    /// If it cannot be signalled or waited for.
    pub async fn stop(&mut self, deadline: Duration) -> Result<Stopped, ProcessError> {
        // Not waited for yet, so the process id cannot have been given to anybody else.
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::TERM).map_err(|error| control(&self.spec, "ask it to stop", error.into()))?;
        }
        match tokio::time::timeout(deadline, self.child.wait()).await {
            Ok(waited) => waited.map(Stopped::Exited).map_err(|source| control(&self.spec, "wait for its end", source)),
            Err(_) => {
                tracing::warn!("process {} did not stop within {deadline:?} and is killed", self.spec.name);
                self.kill().await.map(|()| Stopped::Killed)
            }
        }
    }

    /// Starts it again with the same arguments, killing it first if it still runs.
    ///
    /// # Errors
    /// As for [`Self::kill`] and [`Self::start`].
    pub async fn restart(&mut self) -> Result<(), ProcessError> {
        if self.exited()?.is_none() {
            self.kill().await?;
        }
        self.child = spawn(&self.spec).await?;
        Ok(())
    }
}

fn control(spec: &ProcessSpec, what: &'static str, source: io::Error) -> ProcessError {
    ProcessError::Control { name: spec.name.clone(), what, source }
}

fn open_log(path: &Path) -> io::Result<(File, File)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    let copy = log.try_clone()?;
    Ok((log, copy))
}

async fn spawn(spec: &ProcessSpec) -> Result<Child, ProcessError> {
    let (output, errors) =
        open_log(&spec.log).map_err(|source| ProcessError::Log { name: spec.name.clone(), log: spec.log.clone(), source })?;
    let start = |source| ProcessError::Start { name: spec.name.clone(), program: spec.program.clone(), source };
    let mut command = match &*GUARD {
        // `setpriv` would start, and fail, with a program that does not exist; say so from here.
        Some(_) if spec.program.is_absolute() && !spec.program.exists() => return Err(start(io::ErrorKind::NotFound.into())),
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(&spec.program);
            command
        }
        None => Command::new(&spec.program),
    };
    command.args(&spec.args).envs(spec.env.iter().map(|(key, value)| (key, value)));
    // A group of its own: Ctrl-C in a terminal is for this process, which then stops its children in order.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
    let (reply, started) = oneshot::channel();
    let gone = || start(io::Error::other("the thread that starts processes is gone"));
    SPAWNER.send(Order { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    started.await.map_err(|_| gone())?.map_err(start)
}

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The thread all children are started from: it must outlive them, see the module's head.
static SPAWNER: LazyLock<mpsc::SyncSender<Order>> = LazyLock::new(|| {
    let (orders, received) = mpsc::sync_channel::<Order>(16);
    let spawn_all = move || {
        for Order { mut command, runtime, reply } in received {
            let _reactor = runtime.enter();
            // If nobody waits any more the child is killed when it is dropped here.
            let _ = reply.send(command.spawn());
        }
    };
    if let Err(error) = std::thread::Builder::new().name("spawner".to_owned()).spawn(spawn_all) {
        tracing::error!("cannot start the thread that starts processes: {error}");
    }
    orders
});

/// Where `setpriv` is, if it is.
static GUARD: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("setpriv")).find(|candidate| candidate.is_file());
    if found.is_none() {
        tracing::warn!("setpriv (util-linux) is not installed: children may survive if this process is killed");
    }
    found
});

/// Asks the kernel to kill this process when its parent dies; for binaries that serve one parent.
///
/// # Errors
/// If the kernel refuses, or the parent is gone already.
pub fn exit_with_parent() -> io::Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != parent {
        return Err(io::Error::other("the parent process is gone already"));
    }
    Ok(())
}
