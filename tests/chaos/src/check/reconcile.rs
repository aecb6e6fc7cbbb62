//! The matching of one series.

use std::ops::Range;

use super::{Answered, Finding, Number, Stored, Verdict};

/// Answers with one request id further apart than this are different requests that drew the same id.
const SAME_REQUEST_MS: i64 = 60_000;

/// What counts as belonging together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A sample may be stamped so much later than its answer was sent, milliseconds.
    pub later_ms: i64,
    /// Or so much earlier: both clocks are read in whole milliseconds by different processes.
    pub earlier_ms: i64,
    /// An answer without a sample is not missing if the same series was asked for within this time before or after, under
    /// another id, and that answer was stored: the manager gave up on one, or read the table to learn its rows before it
    /// polled it. Zero where neither happens.
    pub retry_ms: i64,
    /// Answers given in these times need not be stored: whoever received them was killed before it could make them durable.
    pub excused: Vec<Range<i64>>,
    /// Only answers and samples of this time are judged; others may still belong to each other.
    pub window: Range<i64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { later_ms: 2000, earlier_ms: 50, retry_ms: 0, excused: Vec::new(), window: i64::MIN..i64::MAX }
    }
}

/// All answers to one request id.
struct Request {
    answers: Vec<(i64, Number)>,
    id: i32,
    taken: bool,
}

impl Request {
    fn first_ms(&self) -> i64 {
        self.answers[0].0
    }

    fn last_ms(&self) -> i64 {
        self.answers[self.answers.len() - 1].0
    }
}

/// Matches one series; neither side needs to be sorted.
pub fn reconcile(answered: &[Answered], stored: &[Stored], rules: &Rules) -> Verdict {
    let mut requests = group(answered);
    let mut stored = stored.to_vec();
    // From the latest back, and each sample to the latest answer that fits: where a value stands still, an early answer that was
    // not stored would else be given to the sample of the next, and that of the next after it, up to the last.
    stored.sort_by_key(|sample| std::cmp::Reverse(sample.at_ms));
    let in_window = |at_ms: i64| rules.window.contains(&at_ms);
    let mut verdict = Verdict { retransmitted: answered.len() - requests.len(), ..Verdict::default() };
    verdict.answered = requests.iter().filter(|request| in_window(request.first_ms())).count();

    let longest = requests.iter().map(|request| request.last_ms() - request.first_ms()).max().unwrap_or(0);
    let mut to = requests.len();
    let mut previous_ms = None;
    for sample in stored {
        while to > 0 && requests[to - 1].first_ms() > sample.at_ms + rules.earlier_ms {
            to -= 1;
        }
        let may_be_ours = |request: &Request| {
            let fits = |(at_ms, value): &(i64, Number)| {
                *at_ms >= sample.at_ms - rules.later_ms && *at_ms <= sample.at_ms + rules.earlier_ms && *value == sample.value
            };
            request.answers.iter().any(fits)
        };
        let near = requests[..to].iter_mut().rev().take_while(|request| request.first_ms() + longest >= sample.at_ms - rules.later_ms);
        let mut already_taken = false;
        let mut found = false;
        let same_time = previous_ms.replace(sample.at_ms) == Some(sample.at_ms);
        for request in near.filter(|request| may_be_ours(request)) {
            // Two samples of one series at one time are one sample twice, even where the value stands still.
            if request.taken || same_time {
                already_taken = true;
            } else {
                request.taken = true;
                found = true;
                break;
            }
        }
        if !in_window(sample.at_ms) {
            continue;
        }
        verdict.stored += 1;
        let finding = Finding { at_ms: sample.at_ms, value: sample.value, request_id: None };
        match (found, already_taken) {
            (true, _) => verdict.matched += 1,
            (false, true) => verdict.doubled.push(finding),
            (false, false) => verdict.invented.push(finding),
        }
    }
    judge_untaken(&requests, rules, &mut verdict);
    verdict
}

fn judge_untaken(requests: &[Request], rules: &Rules, verdict: &mut Verdict) {
    for (position, request) in requests.iter().enumerate() {
        if request.taken || !rules.window.contains(&request.first_ms()) {
            continue;
        }
        let near = |other: &&Request| {
            other.first_ms() - request.last_ms() <= rules.retry_ms && request.first_ms() - other.last_ms() <= rules.retry_ms
        };
        let after = requests[position + 1..].iter().take_while(near);
        let before = requests[..position].iter().rev().take_while(near);
        let repeated = rules.retry_ms > 0 && after.chain(before).any(|other| other.taken);
        if rules.excused.iter().any(|excused| excused.contains(&request.first_ms())) {
            continue;
        }
        if repeated {
            verdict.superseded += 1;
        } else {
            let (at_ms, value) = request.answers[0];
            verdict.missing.push(Finding { at_ms, value, request_id: Some(request.id) });
        }
    }
}

/// Groups answers by request id, in order of time.
fn group(answered: &[Answered]) -> Vec<Request> {
    let mut sorted = answered.to_vec();
    sorted.sort_by_key(|answer| (answer.request_id, answer.at_ms));
    let mut requests: Vec<Request> = Vec::with_capacity(sorted.len());
    for answer in sorted {
        match requests.last_mut() {
            Some(last) if last.id == answer.request_id && answer.at_ms - last.last_ms() <= SAME_REQUEST_MS => {
                last.answers.push((answer.at_ms, answer.value))
            }
            _ => requests.push(Request { answers: vec![(answer.at_ms, answer.value)], id: answer.request_id, taken: false }),
        }
    }
    requests.sort_by_key(Request::first_ms);
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(list: &[(i64, u64, i32)]) -> Vec<Answered> {
        list.iter()
            .map(|(at_ms, value, request_id)| Answered { at_ms: *at_ms, value: Number::Exact(*value), request_id: *request_id })
            .collect()
    }

    fn samples(list: &[(i64, u64)]) -> Vec<Stored> {
        list.iter().map(|(at_ms, value)| Stored { at_ms: *at_ms, value: Number::Exact(*value) }).collect()
    }

    /// Checks (matched, missing, doubled, invented, superseded).
    fn check(what: &str, ledger: &[(i64, u64, i32)], stored: &[(i64, u64)], retry_ms: i64, expected: (usize, usize, usize, usize, usize)) {
        let verdict = reconcile(&answers(ledger), &samples(stored), &Rules { retry_ms, ..Rules::default() });
        let found = (verdict.matched, verdict.missing.count, verdict.doubled.count, verdict.invented.count, verdict.superseded);
        assert_eq!(found, expected, "{what}: {verdict:?}");
    }

    #[test]
    fn verdicts() {
        let ledger = [(0, 10, 1), (10_000, 20, 2), (20_000, 30, 3)];
        check("all stored", &ledger, &[(3, 10), (10_001, 20), (20_900, 30)], 0, (3, 0, 0, 0, 0));
        check("clocks a little apart", &ledger, &[(-1, 10), (9_999, 20), (19_999, 30)], 0, (3, 0, 0, 0, 0));
        check("one lost", &ledger, &[(3, 10), (20_001, 30)], 0, (2, 1, 0, 0, 0));
        check("one twice at another time", &ledger, &[(3, 10), (10_001, 20), (10_400, 20), (20_001, 30)], 0, (3, 0, 1, 0, 0));
        check("one twice at the same time", &ledger, &[(3, 10), (3, 10), (10_001, 20), (20_001, 30)], 0, (3, 0, 1, 0, 0));
        check("wrong value", &ledger, &[(3, 10), (10_001, 21), (20_001, 30)], 0, (2, 1, 0, 1, 0));
        check("far too late", &ledger, &[(3, 10), (10_001, 20), (25_000, 30)], 0, (2, 1, 0, 1, 0));
        check("from nowhere", &[], &[(5, 1)], 0, (0, 0, 0, 1, 0));
        let still = [(0, 7, 1), (1000, 7, 2), (2000, 7, 3)];
        check("a value that stands still", &still, &[(2, 7), (1002, 7), (2002, 7)], 0, (3, 0, 0, 0, 0));
        check("a value that stands still, twice", &still, &[(2, 7), (2, 7), (1002, 7), (2002, 7)], 0, (3, 0, 1, 0, 0));
        check("a value that stands still, one lost", &still, &[(2, 7), (2002, 7)], 0, (2, 1, 0, 0, 0));
        let asked_twice = [(0, 7, 1), (400, 7, 2), (1000, 7, 3), (2000, 7, 4)];
        check("a value that stands still, asked for twice", &asked_twice, &[(402, 7), (1002, 7), (2002, 7)], 700, (3, 0, 0, 0, 1));
        check("the other answer stored", &asked_twice, &[(2, 7), (1002, 7), (2002, 7)], 700, (3, 0, 0, 0, 1));
        let repeated = [(0, 10, 1), (700, 12, 1), (10_000, 20, 2)];
        check("a retransmission answered twice", &repeated, &[(701, 12), (10_001, 20)], 0, (2, 0, 0, 0, 0));
        check("and both stored", &repeated, &[(1, 10), (701, 12), (10_001, 20)], 0, (2, 0, 1, 0, 0));
        let given_up = [(0, 10, 1), (1500, 12, 2), (10_000, 20, 3)];
        check("asked again under a new id", &given_up, &[(1501, 12), (10_001, 20)], 3000, (2, 0, 0, 0, 1));
        check("which must be allowed", &given_up, &[(1501, 12), (10_001, 20)], 0, (2, 1, 0, 0, 0));
        check("and is no excuse for a real loss", &given_up, &[(1501, 12)], 3000, (1, 1, 0, 0, 1));
        let huge = 9_223_372_036_854_775_809;
        check("exact beyond 2^53", &[(0, huge, 1)], &[(1, huge - 1)], 0, (0, 1, 0, 1, 0));
        check("exact beyond 2^53", &[(0, huge, 1)], &[(1, huge)], 0, (1, 0, 0, 0, 0));
    }

    #[test]
    fn the_window_limits_what_is_judged_and_not_what_belongs_together() {
        let rules = Rules { window: 5..10_000, ..Rules::default() };
        let verdict = reconcile(&answers(&[(0, 1, 1), (9_999, 2, 2), (20_000, 3, 3)]), &samples(&[(6, 1), (10_001, 2)]), &rules);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.answered, verdict.stored, verdict.matched), (1, 1, 1));
        let gauge = [Answered { at_ms: 0, value: Number::Float(0.1 + 0.2), request_id: 1 }];
        assert!(reconcile(&gauge, &[Stored { at_ms: 0, value: Number::Float(0.3) }], &Rules::default()).is_clean());
    }

    proptest! {
        /// Dropping and repeating samples of a growing counter is counted exactly.
        #[test]
        fn losses_and_doubles_are_counted(fates in proptest::collection::vec(0_usize..3, 1..60), lag in 0_i64..900) {
            let ledger: Vec<(i64, u64, i32)> = (0..).zip(&fates).map(|(n, _)| (n * 1000, 100 + n as u64, n as i32)).collect();
            let stored: Vec<(i64, u64)> = ledger.iter().zip(&fates)
                .flat_map(|((at, value, _), copies)| (0..*copies).map(move |copy| (at + lag + copy as i64, *value))).collect();
            let verdict = reconcile(&answers(&ledger), &samples(&stored), &Rules::default());
            prop_assert_eq!(verdict.missing.count, fates.iter().filter(|copies| **copies == 0).count());
            prop_assert_eq!(verdict.doubled.count, fates.iter().filter(|copies| **copies == 2).count());
            prop_assert_eq!(verdict.invented.count, 0);
        }
    }
}
