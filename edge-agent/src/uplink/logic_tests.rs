//! The logic of the uplink, driven event by event.

use super::*;

const EPOCH: u64 = 77;

/// A step of a scenario and what must follow.
enum Step {
    On(Event, Vec<Effect>),
    /// Milliseconds that pass, then a tick.
    After(u64),
    /// What is wanted: hub and first sequence; `None` for nothing.
    Wants(Option<(HubId, u64)>),
    /// Sends batches of 100 bytes up to, and not with, this sequence.
    Sends(u64),
}
use Step::{After, On, Sends, Wants};

fn leader(term: u64, hub: Option<HubId>) -> Leader {
    Leader { term, hub, address: None }
}

fn connected(hub: HubId, term: u64, leads: Option<HubId>, applied_below: u64) -> Step {
    let effects = if applied_below > 1 { vec![Effect::Acknowledge { below: applied_below }] } else { vec![] };
    On(Event::Connected { hub, leader: leader(term, leads), applied_below }, effects)
}

fn acked(below: u64) -> Step {
    On(Event::Acked { epoch: EPOCH, applied_below: below }, vec![Effect::Acknowledge { below }])
}

fn refused(hub: HubId, sequence: u64, refusal: Refusal, effects: Vec<Effect>) -> Step {
    On(Event::Refused { hub, epoch: EPOCH, sequence, refusal }, effects)
}

/// Runs a scenario on a spool with sequences 1 to 99 on disk and a window of 1000 bytes.
fn check(name: &str, steps: Vec<Step>) -> Logic {
    let mut now = Instant::now();
    let mut logic = Logic::new(EPOCH, 1, 100, 1000);
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            On(event, effects) => assert_eq!(logic.handle(event, now), effects, "{name}, step {at}"),
            After(ms) => {
                now += Duration::from_millis(ms);
                assert_eq!(logic.handle(Event::Tick, now), [], "{name}, step {at}");
            }
            Wants(expected) => {
                let want = logic.want(now).map(|want| (want.hub, want.sequence));
                assert_eq!(want, expected, "{name}, step {at}");
            }
            Sends(end) => {
                while let Some(want) = logic.want(now).filter(|want| want.sequence < end) {
                    logic.sent(want.sequence, 1, 100, now);
                }
            }
        }
        let sum: u64 = logic.in_flight.iter().map(|sent| sent.bytes).sum();
        assert_eq!(sum, logic.in_flight_bytes, "{name}, step {at}");
        assert!(logic.acked_below <= logic.next && logic.next <= logic.durable_below, "{name}, step {at}");
    }
    logic
}

#[test]
fn only_the_leader_gets_batches() {
    check("no leader known", vec![connected(1, 3, None, 1), Wants(None)]);
    check("the leader is not connected", vec![connected(1, 3, Some(2), 1), Wants(None)]);
    check("the leader is connected", vec![connected(1, 3, Some(1), 1), Wants(Some((1, 1)))]);
    check("another hub names it", vec![connected(2, 3, None, 1), connected(1, 3, Some(2), 1), Wants(Some((2, 1)))]);
    check("an older claim does not count", vec![connected(1, 4, Some(1), 1), connected(2, 3, Some(2), 1), Wants(Some((1, 1)))]);
    check(
        "a hub that knows no leader takes nothing away",
        vec![connected(1, 4, Some(1), 1), connected(2, 5, None, 1), Wants(Some((1, 1)))],
    );
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    check(
        "window",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(100),
            Wants(None),
            acked(4),
            Wants(Some((1, 11))),
            Sends(100),
            Wants(None),
            acked(14),
            Sends(100),
            acked(24),
        ],
    );
    let all = check("everything durable is sent, no more", vec![connected(1, 1, Some(1), 95), Sends(100), Wants(None)]);
    assert_eq!(all.tally().sent_batches, 5);
}

#[test]
fn a_new_leader_gets_everything_unacknowledged_again() {
    check(
        "leader change",
        vec![
            connected(1, 1, Some(1), 1),
            connected(2, 1, Some(1), 1),
            Sends(9),
            acked(5),
            On(Event::Led { hub: 2, leader: leader(2, Some(2)) }, vec![]),
            Wants(Some((2, 5))),
            On(Event::Led { hub: 1, leader: leader(2, Some(2)) }, vec![]),
            Wants(Some((2, 5))),
        ],
    );
    check(
        "the leader dies and another takes over",
        vec![
            connected(1, 1, Some(1), 1),
            connected(2, 1, Some(1), 1),
            Sends(9),
            On(Event::Disconnected { hub: 1 }, vec![]),
            Wants(None),
            On(Event::Led { hub: 2, leader: leader(2, Some(2)) }, vec![]),
            Wants(Some((2, 1))),
        ],
    );
    check(
        "the same hub comes back and says what it has",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(9),
            On(Event::Disconnected { hub: 1 }, vec![]),
            connected(1, 1, Some(1), 7),
            Wants(Some((1, 7))),
        ],
    );
    check(
        "a new session without the end of the old one being noticed",
        vec![connected(1, 1, Some(1), 1), Sends(9), connected(1, 1, Some(1), 3), Wants(Some((1, 3)))],
    );
}

#[test]
fn acknowledgements_may_repeat_and_come_late() {
    let logic = check(
        "acks",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(9),
            acked(5),
            On(Event::Acked { epoch: EPOCH, applied_below: 5 }, vec![]),
            On(Event::Acked { epoch: EPOCH, applied_below: 3 }, vec![]),
            On(Event::Acked { epoch: EPOCH + 1, applied_below: 9 }, vec![]),
            Wants(Some((1, 9))),
            On(Event::Acked { epoch: EPOCH, applied_below: 500 }, vec![Effect::Acknowledge { below: 100 }]),
            Wants(None),
        ],
    );
    assert_eq!(logic.tally().impossible_acks, 1);
}

#[test]
fn refusals() {
    check(
        "not the leader: passed over, then asked again",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(5),
            refused(1, 1, Refusal::NotLeader, vec![]),
            Wants(None),
            After(600),
            Wants(Some((1, 1))),
        ],
    );
    check(
        "not the leader: another is named",
        vec![
            connected(1, 1, Some(1), 1),
            connected(2, 1, Some(1), 1),
            Sends(5),
            refused(1, 1, Refusal::NotLeader, vec![]),
            On(Event::Led { hub: 1, leader: leader(2, Some(2)) }, vec![]),
            Wants(Some((2, 1))),
        ],
    );
    check(
        "busy: a pause, then everything unacknowledged",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(9),
            refused(1, 4, Refusal::Busy { retry_ms: 200 }, vec![]),
            refused(1, 5, Refusal::Busy { retry_ms: 200 }, vec![]),
            Wants(None),
            After(199),
            Wants(None),
            After(1),
            Wants(Some((1, 1))),
        ],
    );
    let malformed = || Refusal::Malformed { why: "crc".into() };
    let give_up = || vec![Effect::GiveUp { sequence: 4, why: "crc".into() }];
    check(
        "malformed: given up, then bare, then left for a while",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(9),
            refused(1, 4, malformed(), give_up()),
            Wants(Some((1, 4))),
            Sends(5),
            refused(1, 4, malformed(), give_up()),
            Sends(5),
            refused(1, 4, malformed(), vec![]),
            Wants(None),
            After(30_000),
            Wants(Some((1, 1))),
        ],
    );
    let unknown = || Refusal::UnknownSeries { dictionary: 1, reference: 9 };
    let why = "reference 9 of dictionary 1 was never defined".to_owned();
    check(
        "unknown series: amended, then given up",
        vec![
            connected(1, 1, Some(1), 1),
            Sends(9),
            refused(1, 4, unknown(), vec![Effect::Amend { sequence: 4 }]),
            Wants(Some((1, 4))),
            Sends(9),
            refused(1, 4, unknown(), vec![Effect::GiveUp { sequence: 4, why }]),
            acked(9),
            Wants(Some((1, 9))),
        ],
    );
    check(
        "refusals of the acknowledged or by others do not count",
        vec![
            connected(1, 1, Some(1), 1),
            connected(2, 1, Some(1), 1),
            Sends(9),
            acked(5),
            refused(1, 4, malformed(), vec![]),
            refused(2, 6, malformed(), vec![]),
            Wants(Some((1, 9))),
        ],
    );
}

#[test]
fn a_silent_leader_is_sent_to_again() {
    let logic = check(
        "no progress",
        vec![connected(1, 1, Some(1), 1), Sends(9), After(14_999), Wants(Some((1, 9))), After(1), Wants(Some((1, 1)))],
    );
    assert_eq!(logic.tally().rewinds, 1);
}

#[test]
fn what_becomes_durable_is_wanted() {
    check("durable", vec![connected(1, 1, Some(1), 100), Wants(None), On(Event::Durable { below: 102 }, vec![]), Wants(Some((1, 100)))]);
}
