//! Rules about the store's replicas: in place first, the furthest takes over when that does not mend it, and nobody is
//! made the store from what was not seen.

use std::collections::BTreeMap;

use crate::support::{A, B, Bench, at, child, fact, failed};
use mainstay_decide::plan::{Step, StepKey};
use mainstay_decide::replicas::{StoreAnswer, StoreMemberSeen, StoreRecord, StoreSeen};
use mainstay_types::{BoxId, Member, Seen, State};

const PORT: u16 = 6379;
const ENDED: i64 = 99_900;

fn c() -> Member {
    Member::nth(2).expect("there are six")
}

fn member(is_replica: bool, offset: u64, looked: i64) -> StoreMemberSeen {
    let port = if is_replica { 0 } else { PORT };
    let answer = StoreAnswer { is_replica, has_link: is_replica, offset, port };
    StoreMemberSeen { answer: fact(answer, looked), file_bytes: 1000, is_restoring: false }
}

/// Three servers, a serves; the others were looked at after the moment at which tests let it end.
fn bench() -> Bench {
    let mut bench = Bench::ready();
    bench.stack.cache.as_mut().expect("the bench is whole").store_replicas = 2;
    for name in ["store-b", "store-c"] {
        bench.run_child(name);
        bench.observed.redis.insert(name.to_owned(), fact((), 99_990));
    }
    let members = BTreeMap::from([
        (A, member(false, 900, 99_880)),
        (B, member(true, 800, 99_990)),
        (c(), member(true, 850, 99_990)),
    ]);
    bench.observed.store = Some(StoreSeen { record: fact(StoreRecord::default(), 0), port: PORT, members });
    bench
}

fn end_primary(bench: &mut Bench, quick_ends: u32) {
    bench.end_child("store", ENDED);
    bench.children().get_mut(&child("store")).expect("it ended").quick_ends = quick_ends;
    bench.observed.redis.insert("store".to_owned(), Seen::Unknown);
}

fn seen(bench: &mut Bench, member: Member) -> &mut StoreMemberSeen {
    let store = bench.observed.store.as_mut().expect("the bench is whole");
    store.members.get_mut(&member).expect("the bench is whole")
}

fn promotion(to: Member) -> Step {
    Step::PromoteStore { to, from: Some(A), epoch: 1 }
}

fn restart() -> Step {
    Step::StartChild { name: child("store") }
}

#[test]
fn at_rest_there_is_nothing_to_do_and_each_server_has_a_box() {
    let bench = bench();
    assert_eq!(bench.steps(), vec![]);
    let label = |name: &str| {
        let shown = bench.shown(BoxId::Cache { name: name.to_owned() });
        assert_eq!(shown.state, State::Ready);
        shown.label
    };
    assert_eq!(label("store"), "primary, AOF");
    assert_eq!(label("store-b"), "replica, 100 bytes behind");
}

#[test]
fn a_store_that_was_killed_is_started_in_place_which_loses_nothing() {
    let mut bench = bench();
    end_primary(&mut bench, 1);
    assert_eq!(bench.steps(), vec![restart()]);
}

#[test]
fn the_furthest_replica_takes_over_when_a_start_in_place_did_not_mend_it() {
    let mut ends_again = bench();
    end_primary(&mut ends_again, 2);
    assert_eq!(ends_again.steps(), vec![promotion(c())]);
    let mut cannot_start = bench();
    end_primary(&mut cannot_start, 1);
    let mut gone = failed(99_950, 1, "the store's file is gone");
    gone.what = "starts store".to_owned();
    cannot_start.observed.failed.insert(StepKey::Child { name: child("store") }, gone);
    assert_eq!(cannot_start.steps(), vec![promotion(c())]);
    let mut is_large = bench();
    end_primary(&mut is_large, 1);
    seen(&mut is_large, A).file_bytes = 200_000_000;
    seen(&mut is_large, B).answer = member(true, 860, 99_990).answer;
    assert_eq!(is_large.steps(), vec![promotion(B)]);
}

#[test]
fn a_store_that_runs_is_never_replaced() {
    let mut bench = bench();
    seen(&mut bench, A).file_bytes = 200_000_000;
    assert_eq!(bench.steps(), vec![]);
    bench.observed.redis.insert("store".to_owned(), Seen::Silent { since: at(80_000) });
    seen(&mut bench, A).answer = Seen::Silent { since: at(80_000) };
    let steps = bench.steps();
    assert!(
        matches!(steps.as_slice(), [Step::Stop { name, .. }] if *name == child("store")),
        "fenced first: {steps:?}"
    );
}

#[test]
fn who_was_not_looked_at_since_the_end_is_waited_for_and_not_for_ever() {
    let mut bench = bench();
    end_primary(&mut bench, 2);
    seen(&mut bench, B).answer = member(true, 10_000, ENDED - 1).answer;
    assert_eq!(bench.steps(), vec![], "what it says is from before");
    bench.now = at(ENDED + 2_000);
    assert_eq!(bench.steps(), vec![promotion(c())]);
    seen(&mut bench, c()).answer = Seen::Unknown;
    assert_eq!(bench.steps(), vec![restart()], "nobody can take over: in place, again and again");
}

#[test]
fn a_replica_that_was_never_in_step_does_not_take_over() {
    let mut bench = bench();
    end_primary(&mut bench, 2);
    bench.now = at(ENDED + 2_000);
    for one in [B, c()] {
        seen(&mut bench, one).answer = member(true, 1, 99_990).answer;
    }
    assert_eq!(bench.steps(), vec![restart()]);
}

#[test]
fn a_copy_that_a_person_put_there_is_not_outrun() {
    let mut bench = bench();
    end_primary(&mut bench, 2);
    bench.now = at(ENDED + 30_000);
    seen(&mut bench, A).is_restoring = true;
    assert_eq!(bench.steps(), vec![restart()]);
}

fn after_failover() -> Bench {
    let mut bench = bench();
    let record = StoreRecord { epoch: 1, primary: c(), former: Some(A) };
    let store = bench.observed.store.as_mut().expect("the bench is whole");
    store.record = fact(record, 99_950);
    store.members.insert(A, member(true, 900, 99_990));
    bench
}

#[test]
fn a_promotion_that_was_cut_off_is_finished_by_the_record() {
    let finish = Step::PromoteStore { to: c(), from: None, epoch: 1 };
    let mut bench = after_failover();
    assert_eq!(bench.steps(), vec![finish.clone()], "it follows another still");
    seen(&mut bench, c()).answer =
        fact(StoreAnswer { is_replica: false, has_link: false, offset: 900, port: 0 }, 99_990);
    assert_eq!(bench.steps(), vec![finish], "it is not at the store's port");
    bench.observed.done.insert(StepKey::Store, at(99_995));
    assert_eq!(bench.steps(), vec![], "it was looked at before it was made the store");
    seen(&mut bench, c()).answer = member(false, 900, 99_990).answer;
    assert_eq!(bench.steps(), vec![]);
    assert_eq!(bench.shown(BoxId::Cache { name: "store".to_owned() }).label, "replica, 0 bytes behind");
}

#[test]
fn the_former_primary_comes_back_as_a_replica_and_a_surplus_one_goes() {
    let mut bench = after_failover();
    seen(&mut bench, c()).answer = member(false, 900, 99_990).answer;
    bench.end_child("store", ENDED);
    assert_eq!(bench.steps(), vec![restart()]);
    bench.stack.cache.as_mut().expect("the bench is whole").store_replicas = 0;
    let stopped: Vec<String> = bench
        .steps()
        .into_iter()
        .map(|step| match step {
            Step::Stop { name, .. } => name.to_string(),
            other => other.to_string(),
        })
        .collect();
    assert_eq!(stopped, ["store-b"], "the one that serves stays, whichever it is");
}

#[test]
fn nothing_is_started_as_the_store_while_nobody_knows_who_serves() {
    let mut bench = bench();
    end_primary(&mut bench, 2);
    bench.observed.store.as_mut().expect("the bench is whole").record = Seen::Unknown;
    assert_eq!(bench.steps(), vec![]);
    assert_eq!(bench.shown(BoxId::Cache { name: "store".to_owned() }).state, State::Unknown);
}
