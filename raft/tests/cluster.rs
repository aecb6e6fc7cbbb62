//! Three hubs over TCP loopback, on real directories: elections, kills, restarts, snapshots, partitions.

#[cfg(test)]
mod common;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anemone_raft::{ProposeError, Role};
use bytes::Bytes;
use common::{Cluster, propose_all, wait};

fn commands(name: &str, range: std::ops::Range<usize>, bytes: usize) -> Vec<Bytes> {
    let command = |number: usize| {
        let mut command = format!("{name}-{number}-").into_bytes();
        command.resize(command.len().max(bytes), b'x');
        Bytes::from(command)
    };
    range.map(command).collect()
}

fn assert_all_in(state: &[Bytes], acknowledged: &[Bytes]) {
    let state: HashSet<&Bytes> = state.iter().collect();
    let lost = acknowledged.iter().filter(|command| !state.contains(command)).count();
    assert_eq!(lost, 0, "acknowledged proposals were lost");
}

#[test]
fn a_dead_leader_is_replaced_in_time_and_catches_up_from_its_disk() {
    let mut cluster = Cluster::start(|_| ());
    let old = cluster.leader();
    let follower = cluster.hubs[&(old % 3 + 1)].node.clone();
    let refused = wait("the follower to know the leader", || {
        let refused = cluster.runtime.block_on(follower.propose(Bytes::from_static(b"x"))).unwrap_err();
        (refused != ProposeError::NotLeader { leader: None }).then_some(refused)
    });
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(old) });
    assert_eq!(cluster.runtime.block_on(follower.read_index()), Err(ProposeError::NotLeader { leader: Some(old) }));

    let started = Instant::now();
    let sent = commands("first", 0..1000, 0);
    let mut acknowledged = cluster.runtime.block_on(propose_all(cluster.hubs[&old].node.clone(), sent, 64));
    assert_eq!(acknowledged.len(), 1000);
    eprintln!("1000 proposals in {:?}", started.elapsed());
    let read = cluster.runtime.block_on(cluster.hubs[&old].node.read_index()).unwrap();
    assert!(cluster.hubs[&old].node.status().applied.unwrap() >= read);

    let killed = Instant::now();
    cluster.kill(old);
    let mark = Bytes::from_static(b"after the kill");
    cluster.propose(&mark);
    let gap = killed.elapsed();
    eprintln!("first proposal acknowledged {gap:?} after the leader was killed");
    assert!(gap < Duration::from_secs(3), "{gap:?}");
    acknowledged.push(mark);
    assert_ne!(cluster.leader(), old);

    cluster.open(old);
    let state = cluster.settled();
    assert_all_in(&state, &acknowledged);
    assert_eq!(state.len(), 1001);
    let status = cluster.hubs[&old].node.status();
    assert_eq!((status.snapshots_received, status.state), (0, Role::Follower));
    assert_eq!(status.members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);

    cluster.runtime.block_on(cluster.hubs[&old].node.shutdown()).unwrap();
    cluster.runtime.block_on(cluster.hubs[&old].node.stopped()).unwrap();
    let after = cluster.runtime.block_on(cluster.hubs[&old].node.propose(Bytes::from_static(b"x")));
    assert_eq!(after, Err(ProposeError::Stopped));
}

#[test]
fn two_hubs_form_the_cluster_and_the_third_does_not_disturb() {
    let mut cluster = Cluster::empty(|_| ());
    cluster.open(2);
    cluster.open(3);
    let formed = cluster.agreed();
    cluster.propose(&Bytes::from_static(b"without the first"));
    cluster.open(1);
    assert_eq!(cluster.settled().len(), 1);
    assert_eq!(cluster.agreed(), formed, "same leader, same term");
}

#[test]
fn nothing_acknowledged_is_lost_when_all_die_at_once() {
    let mut cluster = Cluster::start(|config| config.seal_log_bytes = 256 << 10);
    let node = cluster.hubs[&cluster.leader()].node.clone();
    let proposing = cluster.runtime.spawn(propose_all(node, commands("load", 0..4000, 1000), 32));
    wait("some load, and a seal on every hub", || {
        let busy = |id: &u64| cluster.hubs[id].ledger.commands().len() > 800 && cluster.hubs[id].node.status().sealed.is_some();
        [1, 2, 3].iter().all(busy).then_some(())
    });
    for id in 1..=3 {
        cluster.kill(id);
    }
    let acknowledged = cluster.runtime.block_on(proposing).unwrap();
    assert!(acknowledged.len() > 500);
    for id in 1..=3 {
        cluster.open(id);
    }
    cluster.propose(&Bytes::from_static(b"goes on"));
    assert_all_in(&cluster.settled(), &acknowledged);
    for hub in cluster.hubs.values() {
        assert!(hub.ledger.first_applied().unwrap() > 100, "restarts where it was sealed");
    }
}

#[test]
fn a_follower_behind_the_purged_log_gets_the_files_while_writes_go_on() {
    let mut cluster = Cluster::start(|config| config.seal_log_bytes = 1 << 20);
    let leader = cluster.leader();
    let behind = leader % 3 + 1;
    cluster.propose(&Bytes::from_static(b"seen by all"));
    cluster.settled();
    let end = cluster.hubs[&behind].node.status().last_log;
    cluster.kill(behind);
    let node = cluster.hubs[&leader].node.clone();
    let sent = commands("bulk", 0..100, 64 << 10);
    assert_eq!(cluster.runtime.block_on(propose_all(node.clone(), sent, 8)).len(), 100);
    cluster.runtime.block_on(node.seal()).unwrap();
    wait("the leader to seal all of it, and purge what the follower needs", || {
        let status = node.status();
        (status.sealed == status.applied && status.purged > end).then_some(())
    });

    let started = Instant::now();
    let writes = cluster.runtime.spawn(propose_all(node, commands("meanwhile", 0..200, 4 << 10), 4));
    cluster.open(behind);
    assert_eq!(cluster.runtime.block_on(writes).unwrap().len(), 200);
    let state = cluster.settled();
    eprintln!("caught up {:?} after its start", started.elapsed());
    assert_eq!(state.len(), 301);
    let status = cluster.hubs[&behind].node.status();
    assert!(status.snapshots_received >= 1);
    assert!(status.snapshot_bytes_received > 4 << 20, "{}", status.snapshot_bytes_received);

    // It is on disk: a restart needs no other snapshot.
    cluster.kill(behind);
    cluster.propose(&Bytes::from_static(b"one more"));
    cluster.open(behind);
    assert_eq!(cluster.settled().len(), 302);
    assert_eq!(cluster.hubs[&behind].node.status().snapshots_received, 0);
    let left = std::fs::read_dir(cluster.dir(behind).join("raft")).unwrap();
    assert_eq!(left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["log"]);
}

#[test]
fn what_an_isolated_leader_could_not_commit_is_undone() {
    let cluster = Cluster::start(|config| {
        config.timeout = Duration::from_secs(4);
        config.queue_bytes = 64 << 10;
        config.proposal_bytes_max = 32 << 10;
    });
    let old = cluster.leader();
    cluster.propose(&Bytes::from_static(b"before"));
    cluster.isolate(old);
    let node = cluster.hubs[&old].node.clone();
    let too_large = cluster.runtime.block_on(node.propose(Bytes::from(vec![0; 40 << 10])));
    assert_eq!(too_large, Err(ProposeError::TooLarge { bytes: 40 << 10, limit: 32 << 10 }));
    let cut_off = |bytes: usize| {
        let node = node.clone();
        cluster.runtime.spawn(async move { node.propose(Bytes::from(vec![b'c'; bytes])).await })
    };
    let lost = [cut_off(30 << 10), cut_off(30 << 10)];
    wait("both to be in its log", || (node.status().last_log > node.status().committed.map(|index| index + 1)).then_some(()));
    assert_eq!(cluster.runtime.block_on(cut_off(30 << 10)).unwrap(), Err(ProposeError::Busy));
    wait("the isolated leader to notice", || (!node.leadership().borrow().me).then_some(()));
    assert_eq!(cluster.runtime.block_on(node.read_index()), Err(ProposeError::Timeout));

    cluster.propose(&Bytes::from_static(b"by the others"));
    cluster.heal();
    let state = cluster.settled();
    assert_eq!(state, [&b"before"[..], b"by the others"]);
    for lost in lost {
        let answer = cluster.runtime.block_on(lost).unwrap();
        assert!(matches!(answer, Err(ProposeError::Timeout | ProposeError::NotLeader { .. })), "{answer:?}");
    }
    assert_eq!(node.status().proposals_refused, 1);
    wait("its queue to be free again", || {
        matches!(cluster.runtime.block_on(node.propose(Bytes::from(vec![b'c'; 30 << 10]))), Ok(_) | Err(ProposeError::NotLeader { .. }))
            .then_some(())
    });
}

#[test]
fn a_hub_whose_state_was_lost_does_not_start() {
    let mut cluster = Cluster::start(|config| config.seal_log_bytes = 128 << 10);
    let leader = cluster.leader();
    let node = cluster.hubs[&leader].node.clone();
    cluster.runtime.block_on(propose_all(node.clone(), commands("bulk", 0..100, 4 << 10), 8));
    wait("a purge", || node.status().purged);
    drop(node);
    cluster.kill(leader);
    std::fs::remove_dir_all(cluster.dir(leader).join("state")).unwrap();
    let error = cluster.try_open(leader).err().unwrap().to_string();
    assert!(error.starts_with("the raft log is purged below"), "{error}");
    assert!(error.ends_with("but the state machine is sealed only below 0: its state was lost"), "{error}");
}
