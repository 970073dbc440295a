//! Rules about the store's replicas: in place first, the furthest takes over when that does not mend it, and nobody is
//! made the store from what was not seen.

use std::collections::BTreeMap;

use crate::support::{A, B, Bench, at, child, fact, failed};
use mainstay_decide::observed::RunningStep;
use mainstay_decide::plan::{Step, StepKey};
use mainstay_decide::replicas::{Served, StoreAnswer, StoreLook, StoreMemberSeen, StoreRecord, StoreSeen};
use mainstay_types::{BoxId, Member, Seen, State};

const PORT: u16 = 6379;
const ENDED: i64 = 99_900;

fn c() -> Member {
    Member::nth(2).expect("there are six")
}

fn says(is_replica: bool, offset: u64) -> StoreAnswer {
    let port = if is_replica { 0 } else { PORT };
    let history = "first".to_owned();
    StoreAnswer { is_replica, has_link: is_replica, history, offset, is_on_disk: true, port }
}

fn member(is_replica: bool, offset: u64, looked: i64) -> StoreMemberSeen {
    let served = (!is_replica).then(|| Served { history: "first".to_owned(), offset });
    StoreMemberSeen { answer: fact(says(is_replica, offset), looked), file_bytes: 1000, is_restoring: false, served }
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
        (A, member(false, 700, 99_880)),
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
    assert_eq!(label("store-b"), "replica, 0 bytes behind");
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
fn a_replica_that_has_not_all_that_the_primary_was_seen_with_does_not_take_over() {
    let with = |change: fn(&mut StoreAnswer)| {
        let mut bench = bench();
        end_primary(&mut bench, 2);
        bench.now = at(ENDED + 2_000);
        for one in [B, c()] {
            let mut answer = says(true, 800);
            change(&mut answer);
            seen(&mut bench, one).answer = fact(answer, 99_990);
        }
        bench.steps()
    };
    assert_eq!(with(|_| ()), vec![promotion(B)]);
    assert_eq!(with(|answer| answer.offset = 699), vec![restart()], "its stream broke off");
    assert_eq!(with(|answer| answer.history = "before".to_owned()), vec![restart()], "further, in another stream");
    assert_eq!(with(|answer| answer.is_on_disk = false), vec![restart()], "killed it would come back without");
    let mut never_seen = bench();
    end_primary(&mut never_seen, 2);
    seen(&mut never_seen, A).served = None;
    assert_eq!(never_seen.steps(), vec![restart()], "nobody knows what it had");
    // Until the first write a primary and who has all of it are at 0.
    let mut idle = bench();
    end_primary(&mut idle, 2);
    seen(&mut idle, A).served = Some(Served { history: "first".to_owned(), offset: 0 });
    seen(&mut idle, B).answer = fact(says(true, 0), 99_990);
    seen(&mut idle, c()).answer = fact(says(true, 0), 99_990);
    assert_eq!(idle.steps(), vec![promotion(B)]);
}

#[test]
fn nothing_is_begun_beside_a_step_that_may_change_who_serves() {
    let running = |what: &str| RunningStep { since: at(99_000), what: what.to_owned() };
    let mut starting = bench();
    end_primary(&mut starting, 2);
    starting.observed.running.insert(StepKey::Child { name: child("store") }, running("starts store"));
    assert_eq!(starting.steps(), vec![]);
    let mut promoting = bench();
    end_primary(&mut promoting, 1);
    promoting.observed.running.insert(StepKey::Store, running("makes store-b the store"));
    assert_eq!(promoting.steps(), vec![]);
}

#[test]
fn who_follows_nobody_and_does_not_serve_is_ended() {
    let mut bench = bench();
    seen(&mut bench, B).answer = fact(StoreAnswer { port: 0, ..says(false, 900) }, 99_990);
    let steps = bench.steps();
    assert!(matches!(steps.as_slice(), [Step::Stop { name, .. }] if *name == child("store-b")), "{steps:?}");
    bench.observed.done.insert(StepKey::Store, at(99_995));
    assert_eq!(bench.steps(), vec![], "it was looked at before it was made what it is");
}

#[test]
fn a_record_on_disk_that_is_ahead_counts_and_one_that_is_behind_does_not() {
    let mut bench = bench();
    let store = bench.observed.store.as_mut().expect("the bench is whole");
    let look = |epoch, primary| StoreLook {
        answer: Seen::Unknown,
        file_bytes: None,
        is_restoring: false,
        record: fact(StoreRecord { epoch, primary, former: None }, 99_000),
    };
    store.look(A, look(3, B));
    assert_eq!(store.record.value().map(|record| (record.epoch, record.primary)), Some((3, B)));
    store.look(A, look(2, A));
    store.look(A, StoreLook { record: Seen::Unknown, ..look(0, A) });
    assert_eq!(store.record.value().map(|record| (record.epoch, record.primary)), Some((3, B)));
    let known = &store.members[&A];
    assert_eq!((known.file_bytes, known.served.as_ref().map(|served| served.offset)), (1000, Some(700)), "kept");
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
    seen(&mut bench, c()).answer = fact(StoreAnswer { port: 0, ..says(false, 900) }, 99_990);
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
