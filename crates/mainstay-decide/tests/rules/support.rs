//! A cluster at rest, to be disturbed by each test.

use std::collections::BTreeMap;

use mainstay_decide::invariants;
use mainstay_decide::observed::{
    ChildSeen, DataDirectory, DatabaseSeen, FailedStep, Health, HealthSeen, MemberAnswer, MemberSeen, Observed, Record,
    RouterSeen,
};
use mainstay_decide::plan::{BoxPlan, Plan, Step, plan};
use mainstay_decide::schedule::{ScheduleRecord, ScheduleSeen};
use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_types::{
    BoxId, ChildName, EnvironmentName, ExitReason, InstanceId, Lsn, Member, Nonce, Pid, Seen, ServiceName, Timeline,
    Timestamp,
};

const STACK: &str = r#"
stack = "test"
[service.backend]
run = "./backend"
instances = 2
health = "/healthz"
before = "./prepare"
[service.worker]
run = "./worker"
port = false
health = "process"
needs = ["backend"]
uses = []
[service.report]
run = "./report"
every = "10s"
timeout = "25s"
drain = "5s"
[database]
migrations = "migrations"
[cache]
[site.web]
dir = "web"
[[edge.route]]
path = "/api/*"
to = "backend"
[[edge.route]]
path = "/*"
to = "web"
"#;

pub(crate) const A: Member = Member::A;
pub(crate) const B: Member = Member::B;

/// Milliseconds of the simulated day.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + millis)
}

pub(crate) fn fact<T>(value: T, millis: i64) -> Seen<T> {
    Seen::Fact { value, observed_at: at(millis) }
}

pub(crate) fn child(name: &str) -> ChildName {
    ChildName::new(name).expect("the bench is whole")
}

/// A step that failed so often, all at once.
pub(crate) fn failed(millis: i64, attempts: u32, error: &str) -> FailedStep {
    let (what, error) = ("does something".to_owned(), error.to_owned());
    FailedStep { since: at(millis), at: at(millis), attempts, what, error }
}

pub(crate) fn instance(slot: u32) -> InstanceId {
    InstanceId { service: ServiceName::new("backend").expect("the bench is whole"), slot }
}

pub(crate) fn report() -> ServiceName {
    ServiceName::new("report").expect("the bench is whole")
}

/// Of the bench's schedule: nothing runs, everything until now is decided.
pub(crate) fn scheduled() -> ScheduleSeen {
    let every = "10s".parse().expect("the bench is whole");
    let record = ScheduleRecord { every, decided: at(100_000), run: None, last: None };
    ScheduleSeen { record: Some(record), next_nonce: Nonce::from_bytes([200; 16]), asked_at: None }
}

pub(crate) struct Bench {
    pub(crate) stack: Stack,
    pub(crate) observed: Observed,
    pub(crate) now: Timestamp,
}

impl Bench {
    /// Nothing was ever started.
    pub(crate) fn empty() -> Self {
        let stack = mainstay_stack::parse(STACK, "mainstay.toml", &EnvironmentName::default())
            .expect("the bench is whole")
            .stack;
        let look = MemberSeen {
            data: DataDirectory::Absent,
            has_standby_signal: None,
            is_alive: fact(false, 0),
            answer: Seen::Unknown,
            control: None,
        };
        let database = DatabaseSeen {
            record: fact(None, 0),
            members: BTreeMap::from([(A, look.clone()), (B, look)]),
            is_under_pressure: false,
            size_bytes: None,
            memory: BTreeMap::new(),
            damages: mainstay_decide::damage::Damages::default(),
        };
        let observed = Observed {
            children: fact(BTreeMap::new(), 0),
            running: BTreeMap::new(),
            failed: BTreeMap::new(),
            done: BTreeMap::new(),
            database: Some(database),
            wish: None,
            redis: BTreeMap::new(),
            health: BTreeMap::new(),
            edge: Seen::Unknown,
            router: Seen::Unknown,
            prometheus: Seen::Unknown,
            alertmanager: Seen::Unknown,
            missing: BTreeMap::new(),
            is_database_prepared: false,
            is_migrated: false,
            before_done: BTreeMap::new(),
            schedules: BTreeMap::from([(report(), scheduled())]),
            backups: Seen::Unknown,
            store: None,
            store_copies: Seen::Unknown,
            is_stopping: false,
            rollout: None,
            fleet: mainstay_decide::fleet::Fleet::default(),
            is_fencing_sabotaged: false,
        };
        Self { stack, observed, now: at(100_000) }
    }

    /// Everything runs: a is primary, b its synchronous standby. Last looked at 10 ms ago.
    pub(crate) fn ready() -> Self {
        let mut bench = Self::empty();
        for name in ["edge", "router", "cache", "store", "prometheus", "alertmanager", "postgres-a", "postgres-b"] {
            bench.run_child(name);
        }
        for name in ["backend-1", "backend-2", "worker-1"] {
            bench.run_child(name);
            let (service, slot) = name.rsplit_once('-').expect("the bench is whole");
            let id = InstanceId {
                service: ServiceName::new(service).expect("the bench is whole"),
                slot: slot.parse().expect("the bench is whole"),
            };
            bench.health(&id, Health::Ready);
        }
        let observed = &mut bench.observed;
        observed.edge = fact((), 99_990);
        observed.prometheus = fact((), 99_990);
        observed.alertmanager = fact((), 99_990);
        observed.redis = ["cache", "store"].map(|name| (name.to_owned(), fact((), 99_990))).into();
        observed.router = fact(RouterSeen { epoch: 1, write: Some(A), read: vec![B], leaving: None }, 99_990);
        observed.is_database_prepared = true;
        observed.is_migrated = true;
        observed.before_done.insert(ServiceName::new("backend").expect("the bench is whole"), at(0));
        bench.record(Record {
            epoch: 1,
            primary: A,
            timeline: Timeline(1),
            lsn: Lsn::default(),
            candidates: vec![B],
            promoting: None,
        });
        let primary = MemberAnswer {
            is_in_recovery: false,
            timeline: Timeline(1),
            lsn: Lsn::new(500),
            is_streaming: false,
            follows: None,
            synchronous: vec![B],
            standbys: BTreeMap::from([(B, Lsn::new(500))]),
        };
        let standby = MemberAnswer {
            is_in_recovery: true,
            is_streaming: true,
            follows: Some(A),
            synchronous: vec![],
            standbys: BTreeMap::new(),
            ..primary.clone()
        };
        bench.member(A, DataDirectory::Complete, Some(false), true, fact(primary, 99_990));
        bench.member(B, DataDirectory::Complete, Some(true), true, fact(standby, 99_990));
        bench
    }

    pub(crate) fn durability(mut self, durability: Durability) -> Self {
        self.stack.database.as_mut().expect("the bench is whole").durability = durability;
        self
    }

    pub(crate) fn children(&mut self) -> &mut BTreeMap<ChildName, ChildSeen> {
        match &mut self.observed.children {
            Seen::Fact { value, .. } => value,
            Seen::Unknown | Seen::Silent { .. } => panic!("the test took keep away"),
        }
    }

    pub(crate) fn run_child(&mut self, name: &str) {
        // Not the number of those there: one may have gone.
        let number = self.children().values().map(|seen| seen.pid.0).max().unwrap_or_default() + 1;
        let number = u8::try_from(number).expect("the bench is whole");
        let nonce = Nonce::from_bytes([number; 16]);
        let seen = ChildSeen { nonce, pid: Pid(i32::from(number)), since: at(1_000), ended: None, quick_ends: 0 };
        self.children().insert(child(name), seen);
    }

    pub(crate) fn end_child(&mut self, name: &str, millis: i64) {
        let ended = self.children().get_mut(&child(name)).expect("the bench is whole");
        ended.ended = Some((ExitReason::Signal { signal: 9 }, at(millis)));
    }

    pub(crate) fn health(&mut self, id: &InstanceId, health: Health) {
        let nonce = self.children()[&ChildName::instance(id)].nonce.clone();
        let seen =
            HealthSeen { nonce, health, since: at(2_000), last: "GET /healthz: 200".to_owned(), wrong_since: None };
        self.observed.health.insert(id.clone(), seen);
    }

    pub(crate) fn database(&mut self) -> &mut DatabaseSeen {
        self.observed.database.as_mut().expect("the bench is whole")
    }

    pub(crate) fn record(&mut self, record: Record) {
        self.database().record = fact(Some(record), 99_000);
    }

    pub(crate) fn recorded(&mut self) -> &mut Record {
        match &mut self.database().record {
            Seen::Fact { value: Some(record), .. } => record,
            _ => panic!("no record"),
        }
    }

    pub(crate) fn member(
        &mut self,
        member: Member,
        data: DataDirectory,
        has_standby_signal: Option<bool>,
        is_alive: bool,
        answer: Seen<MemberAnswer>,
    ) {
        let seen = MemberSeen { data, has_standby_signal, is_alive: fact(is_alive, 99_990), answer, control: None };
        let looked_at = at(99_990);
        self.database().look(member, seen, looked_at);
    }

    pub(crate) fn answer(&mut self, member: Member) -> &mut MemberAnswer {
        match &mut self.database().members.get_mut(&member).expect("the bench is whole").answer {
            Seen::Fact { value, .. } => value,
            Seen::Unknown | Seen::Silent { .. } => panic!("postgres-{member} does not answer"),
        }
    }

    pub(crate) fn kill_primary(&mut self, is_alive: Seen<bool>) {
        self.end_child("postgres-a", 99_995);
        self.database().members.get_mut(&A).expect("the bench is whole").is_alive = is_alive;
    }

    /// The plan, held to the invariants.
    pub(crate) fn plan(&self) -> Plan {
        let plan = plan(&self.stack, &self.observed, self.now);
        let violations = invariants::check(&self.stack, &self.observed, &plan);
        assert!(violations.is_empty(), "{}", violations[0]);
        plan
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.plan().steps
    }

    pub(crate) fn shown(&self, id: BoxId) -> BoxPlan {
        self.plan().boxes.into_iter().find(|shown| shown.id == id).expect("the bench is whole")
    }
}
