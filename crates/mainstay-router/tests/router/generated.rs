//! Clients that were made up: any order of statements in any state, and a primary that dies at any moment. Each knows
//! what must have become of every row that it wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::raw::Raw;
use crate::support::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What a client does next; what makes no sense in its state is passed over.
#[derive(Clone, Copy, Debug)]
enum Step {
    Insert {
        form: Form,
        sleep_ms: u8,
    },
    Begin {
        form: Form,
    },
    /// A whole transaction at once: the answers are read when all is sent.
    Pipelined {
        form: Form,
        sleep_ms: u8,
        pause_ms: u8,
    },
    Commit,
    Rollback,
    Fail,
    Pause {
        ms: u8,
    },
}

/// How a statement is sent.
#[derive(Clone, Copy, Debug)]
enum Form {
    Simple,
    Unnamed,
    Named,
    /// With a Flush before its Sync, and a moment in between.
    Flushed,
}

fn step() -> impl Strategy<Value = Step> {
    let form = || prop_oneof![Just(Form::Simple), Just(Form::Unnamed), Just(Form::Named), Just(Form::Flushed)];
    prop_oneof![
        5 => (form(), 0_u8..15).prop_map(|(form, sleep_ms)| Step::Insert { form, sleep_ms }),
        3 => form().prop_map(|form| Step::Begin { form }),
        2 => (form(), 0_u8..8, 0_u8..8).prop_map(|(form, sleep_ms, pause_ms)| {
            Step::Pipelined { form, sleep_ms, pause_ms }
        }),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        1 => Just(Step::Fail),
        1 => (0_u8..20).prop_map(|ms| Step::Pause { ms }),
    ]
}

/// What must be true of a row in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    There,
    Absent,
    /// All rows of this group are there, or none.
    Unknown {
        group: usize,
    },
}

struct Model {
    raw: Raw,
    number: i64,
    next: i64,
    status: char,
    open: Vec<i64>,
    rows: BTreeMap<i64, Row>,
    groups: usize,
    seen: BTreeMap<String, u32>,
    is_prepared: bool,
}

impl Model {
    async fn new(router: &Router, number: i64) -> Self {
        let raw = Raw::connect(router.write).await;
        let (rows, seen) = (BTreeMap::new(), BTreeMap::new());
        Self { raw, number, next: 0, status: 'I', open: Vec::new(), rows, groups: 0, seen, is_prepared: false }
    }

    fn settle(&mut self, ids: Vec<i64>, row: Row) {
        self.rows.extend(ids.into_iter().map(|id| (id, row)));
    }

    fn unknown(&mut self) -> Row {
        self.groups += 1;
        Row::Unknown { group: self.groups }
    }

    /// The error of a cycle, if it had one, and the status it left.
    async fn answer(&mut self) -> (Option<String>, char) {
        let kinds = self.raw.cycle().await;
        let code = kinds.iter().find(|kind| kind.len() == 5).cloned();
        if let Some(code) = &code {
            *self.seen.entry(code.clone()).or_default() += 1;
        }
        (code, kinds.last().unwrap().chars().nth(1).unwrap())
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Pause { ms } => tokio::time::sleep(Duration::from_millis(ms.into())).await,
            Step::Begin { form } if self.status == 'I' => {
                self.send(form, "begin").await;
                let (code, status) = self.answer().await;
                // Whatever became of it, what follows is meant for its transaction.
                let is_expected = matches!((code.as_deref(), status), (None, 'T') | (Some("40001" | "08007"), 'E'));
                assert!(is_expected, "{code:?} {status}");
                self.status = status;
            }
            Step::Pipelined { form, sleep_ms, pause_ms } if self.status == 'I' => {
                self.pipelined(form, sleep_ms, pause_ms).await;
            }
            Step::Commit if self.status != 'I' => self.commit().await,
            Step::Rollback if self.status != 'I' => {
                self.raw.query("rollback").await;
                let (code, status) = self.answer().await;
                assert!(matches!((code.as_deref(), status), (None | Some("08007"), 'I')), "{code:?} {status}");
                let open = std::mem::take(&mut self.open);
                self.settle(open, Row::Absent);
                self.status = 'I';
            }
            Step::Fail if self.status == 'T' => {
                self.raw.query("select 1/0").await;
                let (code, status) = self.answer().await;
                assert!(matches!((code.as_deref(), status), (Some("22012" | "40001"), 'E')), "{code:?} {status}");
                self.failed();
            }
            Step::Insert { form, sleep_ms } => self.insert(form, sleep_ms).await,
            Step::Begin { .. } | Step::Pipelined { .. } | Step::Commit | Step::Rollback | Step::Fail => {}
        }
    }

    fn failed(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.settle(open, Row::Absent);
        self.status = 'E';
    }

    async fn commit(&mut self) {
        self.raw.query("commit").await;
        let (code, status) = self.answer().await;
        assert_eq!(status, 'I', "{code:?}");
        let row = match (code.as_deref(), self.status) {
            // Of a failed transaction COMMIT is ROLLBACK.
            (None | Some("08007"), 'E') | (Some("40001"), _) => Row::Absent,
            (None, _) => Row::There,
            (Some("08007"), _) => self.unknown(),
            other => panic!("{other:?}"),
        };
        let open = std::mem::take(&mut self.open);
        self.settle(open, row);
        self.status = 'I';
    }

    async fn send(&mut self, form: Form, text: &str) {
        match form {
            Form::Simple => self.raw.query(text).await,
            Form::Unnamed => {
                self.raw.execute(text).await;
                self.raw.send(b'S', b"").await;
            }
            Form::Flushed => {
                self.raw.execute(text).await;
                self.raw.send(b'H', b"").await;
                tokio::time::sleep(Duration::from_millis(3)).await;
                self.raw.send(b'S', b"").await;
            }
            Form::Named => {
                // Under the same name again and again, as drivers do.
                if std::mem::replace(&mut self.is_prepared, true) {
                    self.raw.send(b'C', b"Sinsert\0").await;
                }
                self.raw.send(b'P', format!("insert\0{text}\0\0\0").as_bytes()).await;
                self.raw.send(b'B', b"\0insert\0\0\0\0\0\0\0").await;
                self.raw.send(b'E', &[0; 5]).await;
                self.raw.send(b'S', b"").await;
            }
        }
    }

    async fn insert(&mut self, form: Form, sleep_ms: u8) {
        let id = self.number * 1_000 + self.next;
        self.next += 1;
        let text = format!("insert into ledger select {id} from pg_sleep(0.0{sleep_ms:02})");
        self.send(form, &text).await;
        let (code, status) = self.answer().await;
        match (self.status, code.as_deref(), status) {
            ('I', None, 'I') => self.settle(vec![id], Row::There),
            ('I', Some("08007"), 'I') => {
                let row = self.unknown();
                self.settle(vec![id], row);
            }
            ('T', None, 'T') => self.open.push(id),
            ('T', Some("40001"), 'E') => {
                self.settle(vec![id], Row::Absent);
                self.failed();
            }
            ('E', Some("25P02" | "40001"), 'E') => self.settle(vec![id], Row::Absent),
            other => panic!("{other:?} of {form:?}"),
        }
    }

    /// Whatever is lost of it: all rows of the transaction are there, or none.
    async fn pipelined(&mut self, form: Form, sleep_ms: u8, pause_ms: u8) {
        let ids: Vec<i64> = (0..3).map(|more| self.number * 1_000 + self.next + more).collect();
        self.next += 3;
        self.send(form, "begin").await;
        for id in &ids {
            tokio::time::sleep(Duration::from_millis(pause_ms.into())).await;
            self.send(form, &format!("insert into ledger select {id} from pg_sleep(0.0{sleep_ms:02})")).await;
        }
        self.send(form, "commit").await;
        let mut codes = Vec::new();
        let mut last = 'I';
        for _ in 0..ids.len() + 2 {
            let (code, status) = self.answer().await;
            codes.push(code);
            last = status;
        }
        assert_eq!(last, 'I', "{codes:?}");
        let row = match codes.last().unwrap().as_deref() {
            None if codes.iter().all(Option::is_none) => Row::There,
            // A COMMIT behind an error is a ROLLBACK.
            None => Row::Absent,
            Some("40001") => Row::Absent,
            Some("08007") => self.unknown(),
            other => panic!("{other:?}"),
        };
        self.settle(ids, row);
    }

    async fn finish(&mut self) {
        if self.status != 'I' {
            self.run(Step::Rollback).await;
        }
    }
}

fn scripts(seed: u64) -> Vec<Vec<Step>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let script = proptest::collection::vec(step(), 30..50);
    (0..6).map(|_| script.new_tree(&mut runner).unwrap().current()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_clients_know_what_became_of_every_row() {
    let seeds = match std::env::var("MAINSTAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => vec![1, 2, 3],
    };
    let (mut primary, router, mut control) = single().await;
    let mut patient = policy();
    patient.generation = mainstay_types::Generation(2);
    patient.hold_ms = 60_000;
    control.policy(patient).await;
    let mut seen = BTreeMap::new();
    for (round, seed) in seeds.iter().enumerate() {
        println!("seed = {seed}");
        let mut models = Vec::new();
        for (client, script) in scripts(*seed).into_iter().enumerate() {
            let number = i64::try_from(round * 100 + client).unwrap();
            let mut model = Model::new(&router, number).await;
            models.push(tokio::spawn(async move {
                for step in script {
                    model.run(step).await;
                }
                model.finish().await;
                model
            }));
        }
        // Killed and started again in place, which keeps what was committed; the moments differ with the seed.
        for pause_ms in [40 + seed * 17 % 60, 80 + seed * 29 % 90] {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            primary.kill();
            primary.start().await;
        }
        for model in models {
            let model = model.await.unwrap();
            check(&primary, &model).await;
            for (code, count) in model.seen {
                *seen.entry(code).or_insert(0) += count;
            }
        }
    }
    println!("{seen:?}");
    assert!(seen.contains_key("08007") && seen.contains_key("40001"), "nobody was hit: {seen:?}");
}

async fn check(primary: &Cluster, model: &Model) {
    let admin = primary.admin("app").await;
    let (from, to) = (model.number * 1_000, model.number * 1_000 + 999);
    let question = "select id, count(*) from ledger where id between $1 and $2 group by id";
    let found = admin.query(question, &[&from, &to]).await.unwrap();
    let found: BTreeMap<i64, i64> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut groups = BTreeMap::new();
    for (id, row) in &model.rows {
        let count = found.get(id).copied().unwrap_or_default();
        match row {
            Row::There => assert_eq!(count, 1, "{id} was acknowledged"),
            Row::Absent => assert_eq!(count, 0, "{id} was not committed"),
            Row::Unknown { group } => {
                assert!(count <= 1, "{id} is there {count} times");
                assert_eq!(*groups.entry(group).or_insert(count), count, "half of a transaction, at {id}");
            }
        }
    }
    assert!(found.keys().all(|id| model.rows.contains_key(id)), "rows that nobody wrote");
}
