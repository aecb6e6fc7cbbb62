//! Child processes: their end, their restart, their logs, and that none outlives its parent.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anemone_chaos::process::{Process, ProcessError, ProcessSpec, Stopped};

fn shell(script: &str, log: &Path) -> ProcessSpec {
    ProcessSpec::new("shell", "/bin/sh", ["-c", script], log)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come about within 10 s");
}

fn contains(log: &Path, text: &str) -> bool {
    std::fs::read_to_string(log).is_ok_and(|content| content.contains(text))
}

fn is_alive(pid: u32) -> bool {
    // A zombie is dead: only its parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_process_that_obeys_is_asked_and_one_that_does_not_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("deep/obedient.log");
    let mut obedient =
        Process::start(shell("trap 'echo bye; exit 3' TERM; echo up >&2; while :; do sleep 0.01; done", &log)).await.expect("starts");
    until("the log", || contains(&log, "up")).await;
    let stopped = obedient.stop(Duration::from_secs(10)).await.expect("stops");
    assert!(matches!(stopped, Stopped::Exited(status) if status.code() == Some(3)), "{stopped:?}");
    assert!(contains(&log, "bye"));

    let log = folder.path().join("stubborn.log");
    let mut stubborn = Process::start(shell("trap '' TERM; echo up; while :; do sleep 0.01; done", &log)).await.expect("starts");
    until("the log", || contains(&log, "up")).await;
    assert_eq!(stubborn.stop(Duration::from_millis(100)).await.expect("stops"), Stopped::Killed);
}

#[tokio::test]
async fn a_killed_process_is_restarted_with_the_same_arguments() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("again.log");
    let mut process = Process::start(shell("echo started; exec sleep 60", &log)).await.expect("starts");
    until("the first start", || contains(&log, "started")).await;
    let first = process.pid().expect("running");
    process.kill().await.expect("killed");
    assert!(process.exited().expect("known").is_some() && !is_alive(first));
    process.restart().await.expect("restarted");
    until("the second start", || contains(&log, "started\nstarted")).await;
    assert_ne!(process.pid(), Some(first));
    let second = process.pid().expect("running");
    drop(process);
    until("death by drop", || !is_alive(second)).await;
}

#[tokio::test]
async fn what_cannot_start_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = ProcessSpec::new("ghost", folder.path().join("no-such-program"), [""; 0], folder.path().join("ghost.log"));
    let error = Process::start(missing).await.expect_err("no such program");
    assert!(matches!(error, ProcessError::Start { .. }) && error.to_string().contains("process ghost: cannot start"), "{error}");
    let unlogged = ProcessSpec::new("mute", "/bin/true", [""; 0], PathBuf::from("/proc/nowhere/mute.log"));
    assert!(matches!(Process::start(unlogged).await, Err(ProcessError::Log { .. })));
}

/// Runs this very test binary as a parent that starts a child and is then killed with SIGKILL.
#[tokio::test]
async fn a_child_dies_with_its_parent_however_that_dies() {
    const ROLE: &str = "ANEMONE_TEST_CHILD_LOG";
    if let Some(log) = std::env::var_os(ROLE) {
        let _child = Process::start(shell("echo child $$; exec sleep 60", Path::new(&log))).await.expect("starts");
        std::future::pending::<()>().await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("child.log");
    let myself = std::env::current_exe().expect("a path");
    let args = ["--exact", "a_child_dies_with_its_parent_however_that_dies", "--nocapture"];
    let mut spec = ProcessSpec::new("parent", myself, args, folder.path().join("parent.log"));
    spec.env.push((ROLE.into(), log.clone().into()));
    let mut parent = Process::start(spec).await.expect("starts");
    until("the child", || contains(&log, "child ") && contains(&log, "\n")).await;
    let text = std::fs::read_to_string(&log).expect("readable");
    let child: u32 = text.trim().trim_start_matches("child ").parse().expect("a process id");
    assert!(is_alive(child));
    parent.kill().await.expect("killed");
    until("the child's death", || !is_alive(child)).await;
}
