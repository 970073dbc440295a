//! `docs/reference/openapi.json` describes what these types write: the console's fixtures, and a value of every type
//! with every variant. A field that is in one and not in the other fails here.
#![expect(clippy::disallowed_methods, reason = "the rule is for the crate, which is pure; fixtures are files")]

#[path = "support/schema.rs"]
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mainstay_api::{
    API_VERSION, Arrow, BackupsStatus, Beat, BoxStatus, CommandContext, ConsoleLink, CopyStatus, DatabaseAccess,
    DatabaseStatus, DeployAsked, DiskStatus, DrillFigures, DrillRecord, DrillStanding, ErrandAsked, ErrandKind,
    ErrandSessions, ErrandStatus, Event, Extended, Flow, LastRun, Level, LogLine, Maintenance, MaintenanceAsked,
    OPENAPI, Pool, Problem, Process, Progress, ProvenRestore, Release, ReleaseState, Releases, RolloutStatus,
    RolloutWish, RouteStatus, RouteSwitched, RunAsked, RunUnderWay, Sabotage, ScaleAsked, ScaleChange, ScaleMeasure,
    ScaleRoom, ScaleStatus, ScheduleStatus, SchemaChanged, ServiceEnv, StageReached, Standing, Status,
    StoreCopiesStatus, Top, Traffic, Trial, Usage, Verdict,
};
use mainstay_types::{
    BoxId, ChildName, ChildRole, EnvironmentName, ExitReason, Generation, InstanceId, Lsn, Member, Nonce, Pid, Secret,
    ServiceName, StackName, State, Timeline, Timestamp, Waiting,
};
use schema::Validator;
use serde::Serialize;
use serde_json::{Value, json};

fn openapi() -> Value {
    let mut document = serde_json::from_str(OPENAPI).expect("it is JSON");
    close(&mut document);
    document
}

/// Clients pass over fields they do not know; here every field must be described.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object) && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

fn faults(document: &Value, name: &str, value: &Value) -> Vec<String> {
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "openapi.json has no schema {name}");
    Validator::new(document).faults_by(schema, value)
}

#[test]
fn the_fixtures_of_the_console_are_as_described() {
    let document = openapi();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/console/fixtures");
    let mut seen = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let (schema, is_list) = match name.split('.').nth(1) {
            Some("status") => ("Status", false),
            Some("traffic") => ("Traffic", false),
            Some("events") => ("Event", true),
            Some("processes") => ("Process", true),
            _ => continue,
        };
        let value: Value = serde_json::from_str(&std::fs::read_to_string(entry.path()).expect("reads")).expect("JSON");
        let values = if is_list { value.as_array().expect("a list").clone() } else { vec![value] };
        for value in values {
            let faults = faults(&document, schema, &value);
            assert!(faults.is_empty(), "{name}: {faults:?}");
            *seen.entry(schema).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 4, "kinds of fixtures: {seen:?}");
}

fn at() -> Timestamp {
    Timestamp::from_millis(1_795_258_800_000)
}

fn pool(wait_p95_us: Option<u64>) -> Pool {
    Pool {
        door: "write".to_owned(),
        database: "shop".to_owned(),
        role: "shop".to_owned(),
        mode: "transaction".to_owned(),
        size: 20,
        clients_active: 1,
        clients_idle: 2,
        clients_waiting: 3,
        clients_tied: 4,
        tied_by: std::collections::BTreeMap::from([("LISTEN".to_owned(), 4)]),
        servers_idle: 5,
        acquired: 6,
        waited: 7,
        wait_p95_us,
        refused: 8,
        held: 9,
        behind: 10,
        behind_p95_us: wait_p95_us,
        to_primary: 1,
    }
}

fn service() -> ServiceName {
    ServiceName::new("backend").expect("a name")
}

fn boxes() -> Vec<BoxId> {
    let name = || "web".to_owned();
    vec![
        BoxId::Edge,
        BoxId::Site { name: name() },
        BoxId::Instance { id: InstanceId { service: service(), slot: 1 } },
        BoxId::Service { name: service() },
        BoxId::Router,
        BoxId::Postgres { member: Member::A },
        BoxId::Cache { name: name() },
        BoxId::Prometheus,
        BoxId::Alertmanager,
        BoxId::Backups,
        BoxId::Control,
    ]
}

fn waiting() -> Vec<Waiting> {
    let text = || "x".to_owned();
    vec![
        Waiting::Dependency { on: text() },
        Waiting::Readiness { probe: text() },
        Waiting::BackOff { until: at(), reason: text() },
        Waiting::Silence { since: at() },
        Waiting::Observation { of: text() },
        Waiting::Step { what: text(), since: at() },
        Waiting::Drain { deadline: at() },
        Waiting::Operator { what: text() },
    ]
}

const STATES: [State; 11] = [
    State::Waiting,
    State::Starting,
    State::Ready,
    State::Degraded,
    State::Draining,
    State::BackingOff,
    State::CrashLoop,
    State::Failed,
    State::Stopped,
    State::NotConfigured,
    State::Unknown,
];

fn backups(is_there: bool) -> BackupsStatus {
    let maybe = is_there.then(at);
    BackupsStatus {
        folder: "/srv/backups".to_owned(),
        count: 3,
        last: maybe,
        next: maybe,
        overdue_since: maybe,
        proven: is_there.then(|| ProvenRestore { at: at(), backup: "abc".to_owned() }),
        unproven_since: maybe,
        proof_within_ms: 1,
        running: is_there.then(|| "prove".to_owned()),
        failures: BTreeMap::from([("take".to_owned(), 1)]),
        segments: 2,
        wal_bytes: 3,
        newest_wal: maybe,
        waiting: 4,
        waiting_since: maybe,
        gaps: vec!["x".to_owned()],
        rpo_ms: 5,
        faults: vec!["y".to_owned()],
        copy: is_there.then(|| copy(true)),
    }
}

fn store_copies(is_there: bool) -> StoreCopiesStatus {
    StoreCopiesStatus {
        count: 1,
        bytes: 2,
        last: is_there.then(at),
        next: at(),
        proven: is_there.then(at),
        proven_keys: is_there.then_some(3),
        unproven_since: at(),
        every_ms: 4,
        is_running: is_there,
        failures: 5,
        faults: vec!["x".to_owned()],
    }
}

fn copy(is_there: bool) -> CopyStatus {
    let maybe = is_there.then(at);
    CopyStatus {
        to: "s3://off-site/shop".to_owned(),
        is_target: false,
        up_to: maybe,
        behind_ms: is_there.then_some(1),
        rpo_ms: 2,
        backups: 3,
        files: 4,
        bytes: 5,
        waiting: 6,
        waiting_bytes: 7,
        extra: 8,
        error: is_there.then(|| "no".to_owned()),
        failing_since: maybe,
    }
}

fn status() -> Status {
    let one = |(id, state): (BoxId, State)| BoxStatus {
        name: id.to_string(),
        id,
        label: "x".to_owned(),
        state,
        since: at(),
        waiting: waiting(),
        reason: Some("x".to_owned()),
    };
    let arrow = |from: Option<BoxId>| Arrow { from, to: BoxId::Edge, label: "https".to_owned() };
    let lag_bytes = BTreeMap::from([(Member::B, 12)]);
    Status {
        api: API_VERSION,
        stack: StackName::new("shop").expect("a name"),
        environment: EnvironmentName::default(),
        at: at(),
        since: at(),
        generation: Generation(1),
        is_up: true,
        is_stopping: false,
        overall: State::Ready,
        boxes: boxes().into_iter().zip(STATES.into_iter().cycle()).map(one).collect(),
        arrows: vec![arrow(None), arrow(Some(BoxId::Router))],
        progress: vec![Progress {
            what: "edge".to_owned(),
            text: "x".to_owned(),
            took_ms: Some(1),
            state: State::Ready,
            lost: Some("edge ended 5 times in a row, last by exit 1".to_owned()),
        }],
        database: Some(DatabaseStatus {
            primary: Some(Member::A),
            timeline: Timeline(1),
            lsn: Lsn::try_from("0/3000060".to_owned()).ok(),
            is_synchronous: true,
            is_writable: true,
            durability: "balanced".to_owned(),
            risk: "x".to_owned(),
            standbys: Some(1),
            lag_bytes,
            failovers: 0,
            damaged_pages: BTreeMap::from([(Member::A, 1)]),
            damaged_pages_ever: BTreeMap::from([(Member::A, 2)]),
            disk: Some(DISK),
            errand: Some(errand()),
        }),
        urls: BTreeMap::from([("site".to_owned(), "https://shop.localhost:8443".to_owned())]),
        schedules: BTreeMap::from([(service(), schedule())]),
        backups: Some(backups(true)),
        store_copies: Some(store_copies(true)),
        drills: STANDINGS.map(standing).to_vec(),
        maintenance: vec![route(true)],
    }
}

fn route(is_by_hand: bool) -> RouteStatus {
    let since = is_by_hand.then(at);
    let maintenance = Some(Maintenance { is_by_hand, since, retry_after_s: 300 });
    RouteStatus { path: "/api/*".to_owned(), to: "backend".to_owned(), maintenance }
}

fn routes() -> Vec<(&'static str, Value)> {
    let asked = |retry_after_s| MaintenanceAsked { route: "/api/*".to_owned(), is_on: true, retry_after_s };
    vec![
        put("RouteStatus", RouteStatus { maintenance: None, ..route(true) }),
        put("RouteStatus", route(false)),
        put("Maintenance", route(true).maintenance),
        put("MaintenanceAsked", asked(None)),
        put("MaintenanceAsked", asked(Some(60))),
        put("RouteSwitched", RouteSwitched { route: route(true), is_changed: true, is_in_force: false }),
    ]
}

const DISK: DiskStatus = DiskStatus { free_bytes: 1, total_bytes: 2, full_in_s: Some(3), ballast_bytes: 4 };

fn errand() -> ErrandStatus {
    let sessions = ErrandSessions { carried: 1, ended: 2, in_flight: 3, longest_hold_ms: 4 };
    ErrandStatus {
        errand: ErrandKind::Switchover,
        member: Member::B,
        primary: Member::A,
        asked_at: at(),
        stages: vec![StageReached { stage: "drain".to_owned(), at: at() }],
        left: Some(1),
        ended_at: Some(at()),
        is_done: false,
        reason: Some("x".to_owned()),
        sessions: Some(sessions),
        migration: Some("pid 1".to_owned()),
    }
}

fn releases() -> Vec<(&'static str, Value)> {
    let rollout = RolloutStatus {
        release: 3,
        from: 2,
        is_rollback: false,
        strategy: "canary".to_owned(),
        began_at: at(),
        phase: "shift".to_owned(),
        since: at(),
        share: Some(1000),
        waiting: "at 10 %: 12 of 30 s".to_owned(),
        reason: Some("more errors".to_owned()),
        is_paused: false,
        answered: [10, 1, 0],
        old_answered: [90, 0, 0],
    };
    let states = [ReleaseState::Rolling, ReleaseState::Live, ReleaseState::Former, ReleaseState::Failed];
    let release = |state| Release {
        number: 3,
        made_at: at(),
        by: "ada".to_owned(),
        environment: EnvironmentName::default(),
        hash: "00".repeat(32),
        files: 3,
        bytes: 400,
        source: "folder".to_owned(),
        commit: Some("42f51f1".to_owned()),
        is_dirty: true,
        migrations: vec!["V1__users.sql".to_owned()],
        folder: "app".to_owned(),
        state,
        since: at(),
        reason: Some("more errors".to_owned()),
        is_trial: true,
    };
    let asked = DeployAsked {
        incoming: Some(".incoming-1".to_owned()),
        release: Some(2),
        strategy: Some("rolling".to_owned()),
        is_schema_kept: true,
        trial: Some(Trial { is_kept: true }),
    };
    let plain = RolloutStatus { share: None, reason: None, ..rollout.clone() };
    let bare_asked = DeployAsked { incoming: None, release: None, strategy: None, trial: None, ..asked.clone() };
    let mut all = vec![
        put("Trial", Trial { is_kept: true }),
        put("DeployAsked", asked),
        put("DeployAsked", bare_asked),
        put("RolloutStatus", rollout.clone()),
        put("RolloutStatus", plain),
    ];
    for state in states {
        let kept =
            Releases { live: 2, is_from_folder: false, releases: vec![release(state)], rollout: Some(rollout.clone()) };
        let bare = Release { commit: None, reason: None, is_trial: false, ..release(state) };
        all.extend([put("ReleaseState", state), put("Release", bare), put("Releases", kept)]);
    }
    all.push(put("Releases", Releases { live: 1, is_from_folder: true, releases: vec![], rollout: None }));
    let wishes = [RolloutWish::Promote, RolloutWish::Abort, RolloutWish::Pause, RolloutWish::Resume];
    all.extend(wishes.map(|wish| put("RolloutWish", wish)));
    all
}

fn errands() -> Vec<(&'static str, Value)> {
    let kinds = [ErrandKind::Switchover, ErrandKind::Failover, ErrandKind::Restart, ErrandKind::Restore];
    let asked = |errand| ErrandAsked {
        errand,
        member: Some(Member::B),
        drain_ms: Some(1),
        is_forced: true,
        incoming: Some("a/incoming".to_owned()),
    };
    let begun = ErrandStatus { left: None, ended_at: None, reason: None, sessions: None, migration: None, ..errand() };
    let still = DiskStatus { full_in_s: None, ..DISK };
    let mut all = vec![
        put("DiskStatus", DISK),
        put("DiskStatus", still),
        put("ErrandStatus", errand()),
        put("ErrandStatus", begun),
    ];
    all.extend(errand().stages.into_iter().map(|stage| put("StageReached", stage)));
    all.extend(errand().sessions.map(|sessions| put("ErrandSessions", sessions)));
    for kind in kinds {
        all.extend([put("ErrandKind", kind), put("ErrandAsked", asked(kind))]);
    }
    all.push(put("ErrandAsked", ErrandAsked { member: None, drain_ms: None, incoming: None, ..asked(kinds[0]) }));
    all
}

fn schedule() -> ScheduleStatus {
    let cause = "catch-up".to_owned();
    ScheduleStatus {
        every: "day at 03:00".to_owned(),
        next: at(),
        running: Some(RunUnderWay { due: at(), cause: cause.clone(), since: Some(at()) }),
        last: Some(LastRun {
            due: at(),
            cause,
            began: at(),
            ended: at(),
            exit: ExitReason::OutOfMemory,
            is_timed_out: false,
            is_success: false,
        }),
    }
}

fn runs_and_usage() -> Vec<(&'static str, Value)> {
    let context = CommandContext {
        service: service(),
        instance: ChildName::new("backend-1").ok(),
        pid: Some(Pid(7)),
        env: BTreeMap::from([("A".to_owned(), Secret::new("x".to_owned()))]),
        dir: "/srv/shop".to_owned(),
        project: "/srv/shop".to_owned(),
        home: Some("/var/lib/mainstay/shop/production/home/backend".to_owned()),
        user: Some((61_200, 61_200)),
    };
    let bare = CommandContext { instance: None, pid: None, home: None, user: None, ..context.clone() };
    let process = process(ChildRole::Edge, None);
    let used = Usage { process: process.clone(), cpu_ms: Some(5), connections: Some(2), per_second: Some(1.5) };
    let unseen = Usage { process, cpu_ms: None, connections: None, per_second: None };
    vec![
        put("Status", Status { schedules: BTreeMap::new(), ..status() }),
        put("ScheduleStatus", ScheduleStatus { running: None, last: None, ..schedule() }),
        put("RunUnderWay", RunUnderWay { due: at(), cause: "time".to_owned(), since: None }),
        put("LastRun", schedule().last),
        put("RunAsked", RunAsked { due: at() }),
        put("CommandContext", context),
        put("CommandContext", bare),
        put("Top", Top { at: at(), cores: 2, processes: vec![used.clone()] }),
        put("Usage", used),
        put("Usage", unseen),
    ]
}

fn scales() -> Vec<(&'static str, Value)> {
    let text = || "x".to_owned();
    let known =
        ScaleMeasure { name: text(), target: text(), usage: Some(text()), proposal: Some(3), arithmetic: text() };
    let unknown = ScaleMeasure { usage: None, proposal: None, ..known.clone() };
    let room = ScaleRoom { most: 4, why: text() };
    let change = ScaleChange { at: at(), from: 2, to: 3, why: text() };
    let whole = ScaleStatus {
        service: service(),
        wanted: 3,
        ready: 2,
        min: 2,
        max: 10,
        is_auto: true,
        policy: Some(text()),
        period: Some(text()),
        decided_at: Some(at()),
        measures: vec![known.clone(), unknown.clone()],
        desired: Some(3),
        stabilised: Some(3),
        reason: Some(text()),
        why: text(),
        room: Some(room.clone()),
        changes: vec![change.clone()],
    };
    let bare = ScaleStatus {
        policy: None,
        period: None,
        decided_at: None,
        measures: vec![],
        desired: None,
        stabilised: None,
        reason: None,
        room: None,
        changes: vec![],
        ..whole.clone()
    };
    vec![
        put("ScaleAsked", ScaleAsked { count: Some(3), is_auto: None }),
        put("ScaleAsked", ScaleAsked { count: None, is_auto: Some(false) }),
        put("ScaleMeasure", known),
        put("ScaleMeasure", unknown),
        put("ScaleRoom", room),
        put("ScaleChange", change),
        put("ScaleStatus", whole),
        put("ScaleStatus", bare),
    ]
}

const STANDINGS: [Standing; 5] =
    [Standing::Fine, Standing::NotApplicable, Standing::Stale, Standing::NeverRun, Standing::Failing];

fn standing(standing: Standing) -> DrillStanding {
    let text = || "x".to_owned();
    DrillStanding {
        drill: text(),
        what: text(),
        subject: text(),
        promise: text(),
        standing,
        reason: text(),
        last_ended: Some(at()),
        last_verdict: Some(Verdict::Pass),
        extended: Some(extended()),
    }
}

fn extended() -> Extended {
    Extended { rounds: 1, of: 5, promised_ms: 3000, bar_ms: 15_000, reason: "x".to_owned() }
}

fn drills() -> Vec<(&'static str, Value)> {
    let record = |verdict: Verdict| DrillRecord {
        version: 1,
        id: "x".to_owned(),
        drill: "edge-crash".to_owned(),
        began: at(),
        ended: Some(at()),
        verdict: Some(verdict),
        runs: 1,
        seed: 1,
        sabotage: None,
        release: "0.1.0".to_owned(),
        stack: "x".to_owned(),
        figures: Some(DrillFigures::default()),
        reasons: vec!["x".to_owned()],
    };
    let begun = DrillRecord { ended: None, verdict: None, figures: None, ..record(Verdict::Pass) };
    let unproven =
        DrillStanding { last_ended: None, last_verdict: None, extended: None, ..standing(Standing::NeverRun) };
    let mut all = vec![put("DrillRecord", begun), put("DrillStanding", unproven)];
    for verdict in [Verdict::Pass, Verdict::Aborted, Verdict::Void, Verdict::Fail] {
        all.extend([put("Verdict", verdict), put("DrillRecord", record(verdict))]);
    }
    for one in STANDINGS {
        all.extend([put("Standing", one), put("DrillStanding", standing(one))]);
    }
    all.push(put("DrillFigures", DrillFigures::default()));
    let held = DrillFigures { evicted: Some(1), extended: Some(extended()), ..DrillFigures::default() };
    all.extend([put("DrillFigures", held), put("Extended", extended())]);
    all
}

fn process(role: ChildRole, last_exit: Option<ExitReason>) -> Process {
    Process {
        name: ChildName::new("edge").expect("a name"),
        role,
        detail: String::new(),
        pid: Some(Pid(7)),
        nonce: Some(Nonce::from_bytes([7; 16])),
        state: State::Ready,
        since: at(),
        last_exit,
        memory_bytes: Some(1),
        address: Some("127.0.0.1:1".to_owned()),
    }
}

fn put<T: Serialize>(name: &'static str, value: T) -> (&'static str, Value) {
    (name, serde_json::to_value(value).expect("serializes"))
}

/// Every mistake that can be planted.
fn sabotages() -> [Sabotage; 10] {
    [
        Sabotage::Off,
        Sabotage::PromoteWithoutFencing,
        Sabotage::ThawWithoutFencing,
        Sabotage::CloseEdgeListeners,
        Sabotage::CloseRouterListeners,
        Sabotage::StartLate,
        Sabotage::UnblockLate,
        Sabotage::KeepBallast,
        Sabotage::LeaveOut,
        Sabotage::KillUndrained,
    ]
}

/// A value of every type, with every variant: a new one must be added here, which the compiler says for structs and
/// `every_schema_is_compared` for the rest.
fn samples() -> Vec<(&'static str, Value)> {
    let secret = || Secret::new("postgres://…".to_owned());
    let flow =
        |from: Option<BoxId>| Flow { from, to: BoxId::Edge, per_second: 1.5, p95_ms: Some(2.0), error_share: 0.5 };
    let mut all = vec![
        put("Status", status()),
        put("Status", Status { database: None, drills: Vec::new(), backups: None, store_copies: None, ..status() }),
        put("BackupsStatus", backups(true)),
        put("BackupsStatus", backups(false)),
        put("CopyStatus", copy(true)),
        put("StoreCopiesStatus", store_copies(true)),
        put("StoreCopiesStatus", store_copies(false)),
        put("CopyStatus", copy(false)),
        put("ProvenRestore", backups(true).proven),
        put("Traffic", Traffic { at: at(), window_ms: 5000, flows: vec![flow(None), flow(Some(BoxId::Edge))] }),
        put("Pool", pool(None)),
        put("Pool", pool(Some(1_500))),
        put("Beat", Beat { at: at(), looked_at: at() }),
        put("LogLine", LogLine { child: ChildName::new("edge").expect("a name"), text: "x".to_owned() }),
        put(
            "ServiceEnv",
            ServiceEnv {
                service: service(),
                env: BTreeMap::from([("A".to_owned(), secret())]),
                ports: BTreeMap::from([("backend-1".to_owned(), 1)]),
            },
        ),
        put(
            "DatabaseAccess",
            DatabaseAccess {
                app_url: secret(),
                app_read_url: secret(),
                ledger_url: secret(),
                direct: BTreeMap::from([(Member::A, secret())]),
            },
        ),
        put(
            "SchemaChanged",
            SchemaChanged {
                scripts: vec!["V1__a.sql".to_owned()],
                is_undo: false,
                restore_point: "before-V1".to_owned(),
                schema: "V1".to_owned(),
            },
        ),
        put("ConsoleLink", ConsoleLink { url: "http://console.localhost".to_owned() }),
        put("Problem", Problem { status: 404, code: "MS4042".to_owned(), title: "x".to_owned(), help: None }),
        ("Login", json!({"token": "x"})),
        ("ComputedValue", json!({"path": "stack", "value": "shop", "origin": {}, "note": "x"})),
    ];
    all.extend(sabotages().map(|one| put("Sabotage", one)));
    all.extend(drills());
    all.extend(errands().into_iter().chain(releases()));
    all.extend(STATES.map(|one| put("State", one)));
    all.extend(boxes().into_iter().map(|one| put("BoxId", one)));
    all.extend(waiting().into_iter().map(|one| put("Waiting", one)));
    all.extend(processes_and_events());
    all.extend(runs_and_usage().into_iter().chain(scales()).chain(routes()));
    all
}

fn processes_and_events() -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    let roles = [
        ChildRole::Keep,
        ChildRole::Control,
        ChildRole::Edge,
        ChildRole::Router,
        ChildRole::Postgres,
        ChildRole::Redis,
        ChildRole::Instance,
        ChildRole::Prometheus,
        ChildRole::Alertmanager,
        ChildRole::Task,
    ];
    all.extend(roles.map(|role| put("Process", process(role, None))));
    let exits = [
        ExitReason::Code { code: 1 },
        ExitReason::Signal { signal: 9 },
        ExitReason::OutOfMemory,
        ExitReason::NotStarted { reason: "x".to_owned() },
        ExitReason::Unknown,
    ];
    all.extend(exits.map(|exit| put("Process", process(ChildRole::Edge, Some(exit)))));
    let event = |level: Level| Event {
        seq: 1,
        at: at(),
        kind: "BoxReady".to_owned(),
        level,
        subject: None,
        text: "x".to_owned(),
        fields: BTreeMap::from([("took_ms".to_owned(), json!(1))]),
    };
    all.extend([Level::Info, Level::Warn, Level::Error].map(|level| put("Event", event(level))));
    all
}

#[test]
fn every_type_writes_what_is_described() {
    let document = openapi();
    for (name, value) in samples() {
        let faults = faults(&document, name, &value);
        assert!(faults.is_empty(), "{name}: {faults:?} (docs/reference/openapi.json)");
    }
}

#[test]
fn every_schema_is_compared_with_a_value_and_every_choice_with_a_variant() {
    let document = openapi();
    let names: BTreeSet<&str> =
        document["components"]["schemas"].as_object().expect("schemas").keys().map(String::as_str).collect();
    let mut compared: BTreeSet<&str> = samples().iter().map(|(name, _)| *name).collect();
    // Parts of those that are compared.
    compared.extend([
        "Timestamp",
        "Name",
        "Member",
        "Lsn",
        "BoxStatus",
        "Arrow",
        "Progress",
        "DatabaseStatus",
        "Flow",
        "Level",
        "ChildRole",
        "ExitReason",
    ]);
    assert_eq!(names, compared, "schemas of openapi.json on the left, values that are compared on the right");
    let variants = |name: &str| samples().iter().filter(|(of, _)| *of == name).count();
    let choices = [
        ("BoxId", "oneOf"),
        ("Waiting", "oneOf"),
        ("State", "enum"),
        ("Sabotage", "enum"),
        ("Verdict", "enum"),
        ("Standing", "enum"),
    ];
    for (name, list) in choices {
        let described = document["components"]["schemas"][name][list].as_array().map_or(0, Vec::len);
        assert_eq!(described, variants(name), "{name}");
    }
}

#[test]
fn a_field_too_many_a_field_too_few_and_another_type_are_faults() {
    let document = openapi();
    let whole = serde_json::to_value(status()).expect("serializes");
    for (name, value) in
        [("extra", json!(1)), ("overall", json!("splendid")), ("at", json!("now")), ("boxes", json!({}))]
    {
        let mut wrong = whole.clone();
        wrong[name] = value;
        assert!(!faults(&document, "Status", &wrong).is_empty(), "{name} was accepted");
    }
    let mut short = whole;
    short.as_object_mut().expect("a table").remove("generation");
    assert!(!faults(&document, "Status", &short).is_empty());
}

#[test]
fn every_reference_leads_to_a_schema_and_every_operation_has_a_name_of_its_own() {
    let document = openapi();
    let validator = Validator::new(&document);
    let mut references = 0;
    walk(&document, &mut |key, value| {
        if let ("$ref", Some(reference)) = (key, value.as_str()) {
            validator.resolve(reference);
            references += 1;
        }
    });
    assert!(references > 40, "only {references} references");
    let mut names = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let name = operation["operationId"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name), "{method} {path}: {name:?}");
            let is_good = |status: &String| status.starts_with('2');
            assert!(operation["responses"].as_object().expect("answers").keys().any(is_good), "{method} {path}");
            let described = operation["parameters"].as_array().into_iter().flatten();
            let described = described.filter(|one| one["in"] == "path").filter_map(|one| one["name"].as_str());
            let wanted = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            assert_eq!(described.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{method} {path}");
        }
    }
}

fn walk(value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                visit(key, value);
                walk(value, visit);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}
