//! Rules about copies of the store: one process at a time, from what was seen, and never at a store that is not there.

use crate::support::{Bench, at, fact};
use mainstay_decide::backups::JobRecord;
use mainstay_decide::plan::Step;
use mainstay_decide::store::{CopiesSeen, CopySeen};
use mainstay_types::{BoxId, Seen, State};

/// At 15:48 of the bench.
const NOW: i64 = 7_300_000;

fn bench(list: Vec<CopySeen>) -> Bench {
    let mut bench = Bench::ready();
    bench.now = at(NOW);
    bench.observed.redis.insert("store".to_owned(), fact((), NOW - 10));
    let seen = CopiesSeen { since: at(0), list, job: None, trouble: None };
    bench.observed.store_copies = fact(seen, NOW - 10);
    bench
}

fn copy(millis: i64, is_right: bool) -> CopySeen {
    CopySeen {
        id: "one".to_owned(),
        at: at(millis),
        keys: 1,
        bytes: 1,
        proof: Some((at(millis), is_right)),
        was_right: is_right,
    }
}

fn is_begun(bench: &Bench) -> bool {
    bench.steps().contains(&Step::StartStoreCopy)
}

#[test]
fn a_copy_that_is_due_is_begun_once_and_from_what_was_seen() {
    assert!(is_begun(&bench(vec![])));
    assert!(is_begun(&bench(vec![copy(4_000_000, true)])), "an hour began since");
    assert!(!is_begun(&bench(vec![copy(7_250_000, true)])));
    let mut unseen = bench(vec![]);
    unseen.observed.store_copies = Seen::Unknown;
    assert!(!is_begun(&unseen), "nobody has looked");
    let mut silent = bench(vec![]);
    silent.observed.redis.insert("store".to_owned(), Seen::Silent { since: at(NOW - 1000) });
    assert!(!is_begun(&silent), "the store does not answer");
    let mut running = bench(vec![]);
    running.run_child("store-copy-run");
    assert!(!is_begun(&running), "one is taken already");
    running.end_child("store-copy-run", NOW - 5);
    assert!(!is_begun(&running), "what it left was not looked at");
    running.observed.store_copies = fact(CopiesSeen { since: at(0), list: vec![], job: None, trouble: None }, NOW - 1);
    assert!(is_begun(&running));
    let mut stopping = bench(vec![]);
    stopping.observed.is_stopping = true;
    assert!(!is_begun(&stopping));
}

#[test]
fn a_copy_that_failed_is_taken_again_after_a_pause() {
    let failed = |ended: i64| {
        let job = JobRecord { began: at(0), ended: Some(at(ended)), error: Some("no room".to_owned()), attempts: 2 };
        let mut bench = bench(vec![copy(7_250_000, false)]);
        let seen = CopiesSeen { since: at(0), list: vec![copy(7_250_000, false)], job: Some(job), trouble: None };
        bench.observed.store_copies = fact(seen, NOW - 10);
        bench
    };
    assert!(!is_begun(&failed(NOW - 15_000)), "20 s after the second failure");
    assert!(is_begun(&failed(NOW - 25_000)));
    let shown = failed(NOW - 15_000).shown(BoxId::Cache { name: "store".to_owned() });
    assert_eq!(shown.state, State::Ready, "a store without a fresh copy serves as well");
    assert!(shown.reason.is_some_and(|reason| reason.contains("is not right")));
    let shown = bench(vec![copy(7_250_000, true)]).shown(BoxId::Cache { name: "store".to_owned() });
    assert_eq!((shown.label.as_str(), shown.reason), ("AOF, copy proven 01-12 15:47", None));
}
