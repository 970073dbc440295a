//! Clients that were made up: any order of statements in any state, and a primary that dies at any moment. Each knows
//! what must have become of every row that it wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::raw::{Answer, Raw};
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
    /// Rows by COPY, which the client ends well or not.
    CopyIn {
        is_extended: bool,
        rows: u8,
        pause_ms: u8,
        fails: bool,
    },
    /// Its own rows, read as this says.
    Read(Reading),
    /// A statement that is longer than any buffer. Its answer is not: who has half of a message cannot be told anything.
    Large {
        form: Form,
        kib: u16,
    },
    /// A statement that would take too long, ended by a request to cancel it.
    Cancel {
        form: Form,
        after_ms: u8,
    },
}

/// How rows are read.
#[derive(Clone, Copy, Debug)]
enum Reading {
    Copy,
    /// By a portal that stops after so many rows, and goes on; only in a transaction.
    Portal(u8),
    Statement(Form),
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
        2 => (any::<bool>(), 1_u8..40, 0_u8..6, prop::bool::weighted(0.3)).prop_map(
            |(is_extended, rows, pause_ms, fails)| Step::CopyIn { is_extended, rows, pause_ms, fails }
        ),
        2 => prop_oneof![
            Just(Reading::Copy),
            (1_u8..6).prop_map(Reading::Portal),
            form().prop_map(Reading::Statement)
        ].prop_map(Step::Read),
        1 => (form(), 1_u16..1500).prop_map(|(form, kib)| Step::Large { form, kib }),
        1 => (form(), 0_u8..20).prop_map(|(form, after_ms)| Step::Cancel { form, after_ms }),
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
        let (code, status, _) = self.whole().await;
        (code, status)
    }

    /// The same with all of it.
    async fn whole(&mut self) -> (Option<String>, char, Answer) {
        let answer = self.raw.whole().await;
        let code = answer.kinds.iter().find(|kind| kind.len() == 5).cloned();
        if let Some(code) = &code {
            *self.seen.entry(code.clone()).or_default() += 1;
        }
        (code, answer.kinds.last().unwrap().chars().nth(1).unwrap(), answer)
    }

    /// Ids of rows that were never tried before.
    fn new_ids(&mut self, count: i64) -> Vec<i64> {
        self.next += count;
        (self.next - count..self.next).map(|id| self.number * 10_000 + id).collect()
    }

    /// Of what was sent as one statement: which rows are there, and what state is left.
    fn settle_statement(&mut self, ids: Vec<i64>, (code, status): (Option<&str>, char), own: &str) {
        match (self.status, code, status) {
            ('I', None, 'I') => self.settle(ids, Row::There),
            ('I', Some("08007"), 'I') => {
                let row = self.unknown();
                self.settle(ids, row);
            }
            ('I', Some(code), 'I') if code == own => self.settle(ids, Row::Absent),
            ('T', None, 'T') => self.open.extend(ids),
            ('T', Some(code), 'E') if code == "40001" || code == own => {
                self.settle(ids, Row::Absent);
                self.failed();
            }
            ('E', Some("25P02" | "40001"), 'E') => self.settle(ids, Row::Absent),
            other => panic!("{other:?} of client {}", self.number),
        }
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
            Step::CopyIn { is_extended, rows, pause_ms, fails } => {
                self.copy_in(is_extended, (rows, pause_ms), fails).await;
            }
            Step::Read(Reading::Portal(rows)) if self.status == 'T' => self.portal(rows).await,
            Step::Read(Reading::Portal(_)) => {}
            Step::Read(Reading::Copy) => {
                let text = format!("copy ({}) to stdout", self.question());
                self.read(Form::Simple, &text).await;
            }
            Step::Read(Reading::Statement(form)) => {
                let text = self.question();
                self.read(form, &text).await;
            }
            Step::Large { form, kib } => self.large(form, kib.into()).await,
            Step::Cancel { form, after_ms } => self.cancelled(form, after_ms).await,
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
        let ids = self.new_ids(1);
        let text = format!("insert into ledger select {} from pg_sleep(0.0{sleep_ms:02})", ids[0]);
        self.send(form, &text).await;
        let (code, status) = self.answer().await;
        self.settle_statement(ids, (code.as_deref(), status), "");
    }

    async fn copy_in(&mut self, is_extended: bool, (rows, pause_ms): (u8, u8), fails: bool) {
        let ids = self.new_ids(rows.into());
        let text = "copy ledger (id) from stdin";
        self.send(if is_extended { Form::Unnamed } else { Form::Simple }, text).await;
        let mut first = self.raw.peek().await;
        while matches!(first, b'1' | b'2') {
            self.raw.next().await;
            first = self.raw.peek().await;
        }
        if first == b'G' {
            for some in ids.chunks(7) {
                let lines: String = some.iter().map(|id| format!("{id}\n")).collect();
                self.raw.send(b'd', lines.as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(pause_ms.into())).await;
            }
            let (kind, body): (_, &[u8]) = if fails { (b'f', b"no more\0") } else { (b'c', b"") };
            self.raw.send(kind, body).await;
            // As libpq has it: the Sync behind Execute is for a COPY that does not begin.
            if is_extended {
                self.raw.send(b'S', b"").await;
            }
        }
        let (code, status) = self.answer().await;
        assert!(!(first == b'G' && fails && code.is_none()), "a COPY that the client gave up was done");
        self.settle_statement(ids, (code.as_deref(), status), if fails { "57014" } else { "" });
    }

    /// Its own rows.
    fn question(&self) -> String {
        let (from, to) = (self.number * 10_000, self.number * 10_000 + 9_999);
        format!("select id from ledger where id between {from} and {to} order by id")
    }

    async fn read(&mut self, form: Form, text: &str) {
        self.send(form, text).await;
        let (code, status, answer) = self.whole().await;
        self.settle_statement(Vec::new(), (code.as_deref(), status), "");
        if code.is_none() {
            self.are_mine(&answer.rows);
        }
    }

    /// What it was told is there, is, and nothing that it was told is not.
    fn are_mine(&self, rows: &[String]) {
        let mut found: Vec<i64> = rows.iter().map(|row| row.parse().unwrap()).collect();
        let is_certain = |id: &i64| self.open.contains(id) || self.rows.get(id) == Some(&Row::There);
        for id in self.rows.keys().chain(&self.open).filter(|id| is_certain(id)) {
            assert!(found.contains(id), "{id} was acknowledged, and is not read");
        }
        found.retain(|id| !is_certain(id) && !matches!(self.rows.get(id), Some(Row::Unknown { .. })));
        assert!(found.is_empty(), "{found:?} should not be there");
    }

    async fn portal(&mut self, at_once: u8) {
        let question = self.question();
        self.raw.send(b'P', format!("\0{question}\0\0\0").as_bytes()).await;
        self.raw.send(b'B', b"cursor\0\0\0\0\0\0\0\0").await;
        let mut found = Vec::new();
        // It is there until its transaction ends, over any number of Syncs.
        loop {
            self.raw.send(b'E', &[b"cursor\0\0\0\0".as_slice(), &[at_once]].concat()).await;
            self.raw.send(b'S', b"").await;
            let (code, status, answer) = self.whole().await;
            self.settle_statement(Vec::new(), (code.as_deref(), status), "");
            if code.is_some() {
                return;
            }
            assert!(answer.rows.len() <= usize::from(at_once), "{answer:?}");
            found.extend(answer.rows);
            if answer.kinds.iter().all(|kind| kind != "s") {
                break;
            }
        }
        self.are_mine(&found);
        self.raw.send(b'C', b"Pcursor\0").await;
        self.raw.send(b'S', b"").await;
        let (code, status) = self.answer().await;
        match (code, status) {
            // A Close asks for nothing that could be refused: the next statement is told.
            (None, 'E') => self.failed(),
            (code, status) => self.settle_statement(Vec::new(), (code.as_deref(), status), ""),
        }
    }

    async fn large(&mut self, form: Form, kib: usize) {
        let ids = self.new_ids(1);
        let filling = "x".repeat(kib << 10);
        // A named one of this length is not kept, and ties the session to its server.
        let form = if matches!(form, Form::Named) { Form::Unnamed } else { form };
        let text =
            format!("insert into ledger select {} where length('{filling}') > 0 returning repeat('y', 3000)", ids[0]);
        self.send(form, &text).await;
        let (code, status, answer) = self.whole().await;
        if code.is_none() {
            assert_eq!(answer.rows[0].len(), 3_000);
        }
        self.settle_statement(ids, (code.as_deref(), status), "");
    }

    async fn cancelled(&mut self, form: Form, after_ms: u8) {
        self.send(form, "select pg_sleep(40)").await;
        let mut pause = Duration::from_millis(after_ms.into());
        // A request that comes before the statement, or while its server dies, ends nothing.
        let answered = loop {
            match tokio::time::timeout(pause, self.raw.peek()).await {
                Ok(kind) if kind == b'1' || kind == b'2' || kind == b'3' => drop(self.raw.next().await),
                Ok(_) => break self.answer().await,
                Err(_) => self.raw.cancel().await,
            }
            pause = Duration::from_millis(100);
        };
        assert!(answered.0.is_some(), "it slept to its end");
        self.settle_statement(Vec::new(), (answered.0.as_deref(), answered.1), "57014");
    }

    /// Whatever is lost of it: all rows of the transaction are there, or none.
    async fn pipelined(&mut self, form: Form, sleep_ms: u8, pause_ms: u8) {
        let ids = self.new_ids(3);
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

/// The clients of a seed, who go on while the primary dies.
async fn begin(router: &Router, round: usize, seed: u64) -> Vec<tokio::task::JoinHandle<Model>> {
    let mut models = Vec::new();
    for (client, script) in scripts(seed).into_iter().enumerate() {
        let mut model = Model::new(router, i64::try_from(round * 100 + client).unwrap()).await;
        models.push(tokio::spawn(async move {
            for step in script {
                model.run(step).await;
            }
            model.finish().await;
            model
        }));
    }
    models
}

fn seeds() -> Vec<u64> {
    match std::env::var("MAINSTAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => vec![1, 2, 3],
    }
}

fn patient() -> mainstay_router::protocol::Policy {
    let mut patient = policy();
    patient.generation = mainstay_types::Generation(2);
    patient.hold_ms = 60_000;
    patient
}

async fn end(models: Vec<tokio::task::JoinHandle<Model>>, primary: &Cluster, seen: &mut BTreeMap<String, u32>) {
    for model in models {
        let model = model.await.unwrap();
        check(primary, &model).await;
        for (code, count) in model.seen {
            *seen.entry(code).or_insert(0) += count;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_clients_know_what_became_of_every_row() {
    let (mut primary, router, mut control) = single().await;
    control.policy(patient()).await;
    let mut seen = BTreeMap::new();
    for (round, seed) in seeds().into_iter().enumerate() {
        let models = begin(&router, round, seed).await;
        // Killed and started again in place, which keeps what was committed; the moments differ with the seed.
        for pause_ms in [40 + seed * 17 % 60, 80 + seed * 29 % 90] {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            primary.kill();
            primary.start().await;
        }
        end(models, &primary, &mut seen).await;
    }
    println!("{seen:?}");
    assert!(seen.contains_key("08007") && seen.contains_key("40001"), "nobody was hit: {seen:?}");
}

/// What a commit waited for is there after another took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_clients_know_it_of_a_promoted_standby() {
    let mut seen = BTreeMap::new();
    for (round, seed) in seeds().into_iter().enumerate() {
        let (mut primary, standby, router, mut control) = pair().await;
        control.policy(patient()).await;
        let admin = primary.admin("postgres").await;
        admin.batch_execute("alter system set synchronous_standby_names = '*'").await.unwrap();
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
        let is_waited_for = "select exists (select from pg_stat_replication where sync_state = 'sync')";
        while !admin.query_one(is_waited_for, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let models = begin(&router, round, seed).await;
        tokio::time::sleep(Duration::from_millis(60 + seed * 23 % 120)).await;
        primary.kill();
        control.point(1, None, &[]).await;
        standby.promote().await;
        control.point(2, Some(&standby), &[]).await;
        end(models, &standby, &mut seen).await;
    }
    println!("{seen:?}");
    // One death for each seed: whom it meets is its moment's.
    assert!(seen.contains_key("08007") || seen.contains_key("40001"), "nobody was hit: {seen:?}");
}

async fn check(primary: &Cluster, model: &Model) {
    let admin = primary.admin("app").await;
    let (from, to) = (model.number * 10_000, model.number * 10_000 + 9_999);
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
