//! A restore in place of the present: when it is over, and what is said of it then.

use mainstay_decide::observed::{ControlFile, Errand, Wish};
use mainstay_decide::plan::StepKey;
use mainstay_decide::wish::{Progress, Stage, progress};
use mainstay_types::{Lsn, Member, Timeline};

use crate::support::{Bench, at, failed};

const A: Member = Member::A;
const B: Member = Member::B;

fn bench() -> Bench {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    let errand = Errand::Restore { incoming: "a/incoming-5".to_owned() };
    bench.observed.wish = Some(Wish { errand, asked_at: at(99_980), epoch: 1 });
    bench
}

fn look(bench: &Bench) -> Progress {
    progress(&bench.stack, &bench.observed, bench.now).expect("it is known")
}

fn reason(bench: &Bench) -> String {
    match look(bench) {
        Progress::Over { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// A failover raises the epoch too: it was told as a restore that is done.
#[test]
fn a_failover_that_came_first_is_not_taken_for_the_exchange() {
    let mut bench = bench();
    bench.recorded().promoting = Some(B);
    assert_eq!(look(&bench), Progress::Underway(Stage::Promote), "what was begun comes to its end");
    let record = bench.recorded();
    (record.epoch, record.primary, record.promoting) = (2, B, None);
    assert!(reason(&bench).contains("postgres-b took over instead"), "{}", reason(&bench));
}

#[test]
fn an_exchange_that_failed_says_which_data_is_in_place() {
    let mut bench = bench();
    bench.observed.failed.insert(StepKey::Cluster, failed(99_990, 5, "no space"));
    let mut said = |timeline: Option<u32>| {
        let control = timeline.map(|timeline| ControlFile {
            is_shut_down: true,
            timeline: Timeline(timeline),
            checkpoint: Lsn::new(9),
            redo: Lsn::new(9),
        });
        bench.database().members.get_mut(&A).expect("the bench is whole").control = control;
        reason(&bench)
    };
    assert!(said(Some(1)).contains("the present goes on"));
    assert!(said(Some(2)).contains("the restored data is in place"));
    assert!(said(None).contains("not known"));
}
