//! Which drills there are, which of them a stack needs, and what each is owed.

use std::time::Duration;

use mainstay_api::{DrillRecord, DrillStanding, Extended, Standing, Verdict, newest_by_drill};
use mainstay_stack::Stack;
use mainstay_stack::model::{BackupTarget, Durability, PoolMode, Promise, Route, RouteTarget, Service};
use mainstay_types::Timestamp;

/// Age past which a drill says little of the stack as it is. The documents want failovers tried every month.
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// A fault that can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL to one instance of a service.
    InstanceCrash,
    /// SIGKILL to the edge.
    EdgeCrash,
    /// SIGKILL to the router.
    RouterCrash,
    /// SIGKILL to the primary's postmaster.
    DatabaseCrash,
    /// SIGSTOP to the primary's postmaster and all its backends.
    DatabaseFreeze,
    /// SIGKILL to a standby's postmaster.
    StandbyLoss,
    /// Another primary, as planned: a switchover.
    Switchover,
    /// A service is given as many instances as it may have.
    ScaleUp,
    /// A service is left with as few instances as it may have.
    ScaleDown,
    /// What is live is deployed once more, by each strategy.
    Deploy,
    /// SIGSTOP to the process that receives the log at a standby.
    ReplicationLag,
    /// A page of a standby, then of the primary, is damaged on its disk.
    CorruptPage,
    /// Every server connection of the application's pool is taken.
    PoolExhaustion,
    /// The disk of the databases is filled.
    DiskFull,
    /// SIGKILL to the cache.
    CacheCrash,
    /// FLUSHALL to the cache.
    CacheLoss,
    /// SIGKILL to the store.
    StoreCrash,
    /// SIGKILL to the control plane.
    ControlPlaneCrash,
    /// SIGKILL to keep.
    KeepCrash,
    /// The past is wanted back.
    BackupRestore,
    /// `DROP TABLE`.
    DropTable,
    /// A flipped bit in a pack of the repository.
    CorruptBackup,
    /// A segment that the archive lacks.
    MissingWal,
    /// Only the second copy and the recovery card are left.
    MachineLoss,
    /// Nothing: what the load alone shows.
    Null,
}

impl Fault {
    /// All that break something, in the order of `drill --all`: from the door inward, the control plane, then the backups.
    ///
    /// Not [`Self::DiskFull`]: only a small disk that nobody else uses is filled.
    pub const ALL: [Self; 23] = [
        Self::InstanceCrash,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::Deploy,
        Self::EdgeCrash,
        Self::RouterCrash,
        Self::DatabaseCrash,
        Self::DatabaseFreeze,
        Self::StandbyLoss,
        Self::Switchover,
        Self::ReplicationLag,
        Self::CorruptPage,
        Self::PoolExhaustion,
        Self::CacheCrash,
        Self::CacheLoss,
        Self::StoreCrash,
        Self::ControlPlaneCrash,
        Self::KeepCrash,
        Self::BackupRestore,
        Self::DropTable,
        Self::CorruptBackup,
        Self::MissingWal,
        Self::MachineLoss,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::InstanceCrash => "instance-crash",
            Self::EdgeCrash => "edge-crash",
            Self::RouterCrash => "router-crash",
            Self::DatabaseCrash => "database-crash",
            Self::DatabaseFreeze => "database-freeze",
            Self::StandbyLoss => "standby-loss",
            Self::Switchover => "switchover",
            Self::ScaleUp => "scale-up",
            Self::ScaleDown => "scale-down",
            Self::Deploy => "deploy",
            Self::ReplicationLag => "replication-lag",
            Self::CorruptPage => "corrupt-page",
            Self::PoolExhaustion => "pool-exhaustion",
            Self::DiskFull => "disk-full",
            Self::CacheCrash => "cache-crash",
            Self::CacheLoss => "cache-loss",
            Self::StoreCrash => "store-crash",
            Self::ControlPlaneCrash => "control-plane-crash",
            Self::KeepCrash => "keep-crash",
            Self::BackupRestore => "backup-restore",
            Self::DropTable => "drop-table",
            Self::CorruptBackup => "corrupt-backup",
            Self::MissingWal => "missing-wal",
            Self::MachineLoss => "machine-loss",
            Self::Null => "null",
        }
    }

    /// All that break something, those that only their name runs too.
    pub fn named() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain([Self::DiskFull])
    }

    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::named().chain([Self::Null]).find(|fault| fault.name() == name)
    }

    /// What it does, in a line.
    pub fn what(self) -> &'static str {
        match self {
            Self::InstanceCrash => "kills one instance of a service (SIGKILL)",
            Self::EdgeCrash => "kills the edge (SIGKILL); new connections wait",
            Self::RouterCrash => "kills the database router (SIGKILL); new connections wait",
            Self::DatabaseCrash => "kills the postmaster of the primary (SIGKILL)",
            Self::DatabaseFreeze => "stops the primary and all its backends (SIGSTOP), thaws what is left of them",
            Self::StandbyLoss => "kills the postmaster of a standby (SIGKILL); writes go on without it",
            Self::ScaleUp => "gives a service as many instances as it may have; no request may fail",
            Self::ScaleDown => "leaves a service as few instances as it may have; no request may fail",
            Self::Deploy => "deploys what is live once more, by each strategy; no request may fail",
            Self::Switchover => "asks for another primary, as planned; nobody may notice",
            Self::ReplicationLag => "stops the process that receives the log at a standby (SIGSTOP)",
            Self::CorruptPage => {
                "damages a page on the disk of a standby, then of the primary; no damaged row is answered"
            }
            Self::PoolExhaustion => "takes every server connection of the application's pool; others wait their turn",
            Self::DiskFull => "fills the disk of the databases, if it is a small one; the ballast makes room",
            Self::CacheCrash => "kills the cache (SIGKILL); requests go on without it",
            Self::CacheLoss => "empties the cache (FLUSHALL); requests go on, the store keeps its keys",
            Self::StoreCrash => "kills the store (SIGKILL); its keys are there afterwards",
            Self::ControlPlaneCrash => "kills the control plane (SIGKILL)",
            Self::KeepCrash => "kills keep, the parent of all processes (SIGKILL)",
            Self::BackupRestore => "opens the past at a moment between two rows (restore from the backups)",
            Self::DropTable => "drops a table of its own and gets its rows back from the backups",
            Self::CorruptBackup => "flips a bit in a copy of the repository; the check must find it",
            Self::MissingWal => "takes a segment out of a copy of the WAL archive; nothing may be restored past it",
            Self::MachineLoss => {
                "restores from the second copy and the recovery card alone, as if the machine were gone"
            }
            Self::Null => "breaks nothing: shows what the load alone sees",
        }
    }

    /// What it is about, as boxes are named.
    pub fn subject(self) -> &'static str {
        match self {
            Self::InstanceCrash | Self::ScaleUp | Self::ScaleDown | Self::Deploy => "instance",
            Self::EdgeCrash => "edge",
            Self::RouterCrash | Self::PoolExhaustion => "router",
            Self::DatabaseCrash
            | Self::DatabaseFreeze
            | Self::StandbyLoss
            | Self::Switchover
            | Self::ReplicationLag
            | Self::CorruptPage
            | Self::DiskFull => "postgres",
            Self::CacheCrash | Self::CacheLoss => "cache",
            Self::StoreCrash => "store",
            Self::ControlPlaneCrash | Self::KeepCrash => "control",
            Self::BackupRestore | Self::DropTable | Self::CorruptBackup | Self::MissingWal | Self::MachineLoss => {
                "backups"
            }
            Self::Null => "stack",
        }
    }

    /// The key of the stack file that holds its promise; `null` has one of its own.
    pub fn promise_key(self) -> &'static str {
        match self {
            Self::InstanceCrash => "target.instance_crash",
            Self::EdgeCrash => "target.edge_crash",
            Self::RouterCrash => "target.router_crash",
            Self::DatabaseCrash => "target.database_failure",
            Self::DatabaseFreeze => "target.database_freeze",
            Self::StandbyLoss => "target.standby_loss",
            Self::Switchover => "target.switchover",
            Self::ScaleUp => "target.scale_up",
            Self::ScaleDown => "target.scale_down",
            Self::Deploy => "target.deploy",
            Self::ReplicationLag => "target.replication_lag",
            Self::CorruptPage => "target.corrupt_page",
            Self::PoolExhaustion => "target.pool_exhaustion",
            Self::DiskFull => "target.disk_full",
            Self::CacheCrash => "target.cache_crash",
            Self::CacheLoss => "target.cache_loss",
            Self::StoreCrash => "target.store_crash",
            Self::ControlPlaneCrash => "target.control_plane_crash",
            Self::KeepCrash => "target.keep_crash",
            Self::BackupRestore | Self::DropTable | Self::CorruptBackup | Self::MissingWal => "target.restore",
            Self::MachineLoss => "target.machine_loss",
            Self::Null => "none",
        }
    }

    /// Whether what a Redis acknowledged may be gone afterwards: a cache holds what can be computed again.
    pub fn may_evict(self) -> bool {
        self == Self::CacheCrash
    }

    /// Whether it is about the backups: no load, no process is hit.
    pub fn is_about_backups(self) -> bool {
        matches!(
            self,
            Self::BackupRestore | Self::DropTable | Self::CorruptBackup | Self::MissingWal | Self::MachineLoss
        )
    }

    /// Whether it hits a process of the stack.
    pub fn has_victim(self) -> bool {
        let is_still = matches!(
            self,
            Self::CacheLoss
                | Self::Switchover
                | Self::ScaleUp
                | Self::ScaleDown
                | Self::Deploy
                | Self::ReplicationLag
                | Self::CorruptPage
                | Self::PoolExhaustion
                | Self::DiskFull
                | Self::Null
        );
        !is_still && !self.is_about_backups()
    }

    /// Whether its promise bounds the longest wait of a client, at the 95th percentile, and not the time until service
    /// is back.
    pub fn bounds_stall(self) -> bool {
        matches!(
            self,
            Self::DatabaseFreeze
                | Self::StandbyLoss
                | Self::Switchover
                | Self::ScaleUp
                | Self::ScaleDown
                | Self::Deploy
                | Self::ReplicationLag
        )
    }

    /// What the stack file promises about it.
    pub fn promise(self, stack: &Stack) -> Promise {
        let target = &stack.target;
        match self {
            Self::InstanceCrash => target.instance_crash,
            Self::EdgeCrash => target.edge_crash,
            Self::RouterCrash => target.router_crash,
            Self::DatabaseCrash => target.database_failure,
            Self::DatabaseFreeze => target.database_freeze,
            Self::StandbyLoss => target.standby_loss,
            Self::Switchover => target.switchover,
            Self::ScaleUp => target.scale_up,
            Self::ScaleDown => target.scale_down,
            Self::Deploy => target.deploy,
            Self::ReplicationLag => target.replication_lag,
            Self::CorruptPage => target.corrupt_page,
            Self::PoolExhaustion => target.pool_exhaustion,
            Self::DiskFull => target.disk_full,
            Self::CacheCrash => target.cache_crash,
            Self::CacheLoss => target.cache_loss,
            Self::StoreCrash => target.store_crash,
            Self::ControlPlaneCrash => target.control_plane_crash,
            Self::KeepCrash => target.keep_crash,
            Self::BackupRestore | Self::DropTable | Self::CorruptBackup | Self::MissingWal => target.restore,
            Self::MachineLoss => target.machine_loss,
            // Nothing was broken: service that is not there at once is the machine's own doing. Wide, because what
            // counts is that nothing fails.
            Self::Null => Promise { rto: Duration::from_secs(5), rpo: Duration::ZERO, is_declared: false },
        }
    }

    /// Age of acknowledged rows that may be lost: where commits wait for no standby and another server takes over. Else
    /// none, whatever the RPO of the stack file is.
    pub fn lets_rows_go(self, stack: &Stack) -> Duration {
        let is_fast = stack.database.as_ref().is_some_and(|one| one.durability == Durability::Fast && one.standbys > 0);
        if is_fast && matches!(self, Self::DatabaseCrash | Self::DatabaseFreeze) {
            self.promise(stack).rpo
        } else {
            Duration::ZERO
        }
    }

    /// Whether this stack has what it breaks.
    ///
    /// **Errors**: what is missing, in words for people.
    pub fn applies(self, stack: &Stack) -> Result<(), String> {
        let need = |has: bool, reason: &str| if has { Ok(()) } else { Err(reason.to_owned()) };
        let standbys = stack.database.as_ref().map(|database| database.standbys);
        let backup = stack.database.as_ref().and_then(|database| database.backup.as_ref());
        let uses_cache = stack.cache.is_some() && stack.services.values().any(|service| service.uses_cache);
        match self {
            Self::InstanceCrash => need(!stack.services.is_empty(), "the stack has no service to crash"),
            Self::EdgeCrash => {
                need(!stack.edge.routes.is_empty(), "the edge has no route: nobody could ask it anything")
            }
            Self::RouterCrash => need(standbys.is_some(), "the stack has no database, so no router"),
            Self::DatabaseCrash => need(standbys.is_some(), "the stack has no database to crash"),
            Self::DatabaseFreeze => {
                need(standbys.is_some(), "the stack has no database to freeze")?;
                need(standbys > Some(0), "the database has no standby that could take over")
            }
            Self::Switchover => need(standbys > Some(0), "the database has no standby that could take over"),
            Self::ScaleUp | Self::ScaleDown => {
                let may = |service: &Service| service.has_port && service.most_instances() > service.instances;
                need(stack.services.values().any(may), "no service that is asked has a `scale.max` above its `min`")
            }
            Self::Deploy => {
                let is_asked = |route: &Route| matches!(route.to, RouteTarget::Service { .. });
                need(stack.edge.routes.iter().any(is_asked), "no service is asked through the edge")
            }
            Self::DiskFull => need(standbys.is_some(), "the stack has no database"),
            Self::PoolExhaustion => {
                need(standbys.is_some(), "the stack has no database, so no pool")?;
                let mode = stack.database.as_ref().map(|one| one.pool_mode);
                need(
                    mode == Some(PoolMode::Transaction),
                    "with pool_mode = \"session\" each client has a server connection of its own",
                )
            }
            Self::CorruptPage => {
                need(standbys > Some(0), "the database has no standby with a sound copy of a page")?;
                let is_strict = stack.database.as_ref().is_some_and(|one| one.durability == Durability::Strict);
                need(
                    !is_strict || standbys > Some(1),
                    "with durability = \"strict\" and one standby a person decides when it is cloned anew",
                )
            }
            Self::StandbyLoss | Self::ReplicationLag => {
                need(standbys > Some(0), "the database has no standby to lose")?;
                let is_strict = stack.database.as_ref().is_some_and(|one| one.durability == Durability::Strict);
                need(!is_strict, "with durability = \"strict\" writes wait until the standby is back, as they should")
            }
            Self::CacheCrash | Self::CacheLoss => need(uses_cache, "no service of the stack uses a cache"),
            Self::StoreCrash => {
                need(uses_cache, "no service of the stack uses a store")?;
                let persists = stack.cache.as_ref().is_some_and(|cache| cache.store_persists);
                need(persists, "the stack file says cache.persist = \"none\": the store promises nothing")
            }
            Self::BackupRestore | Self::DropTable => need(backup.is_some(), "the stack has no [database.backup]"),
            Self::CorruptBackup | Self::MissingWal => {
                need(backup.is_some(), "the stack has no [database.backup]")?;
                let is_folder = backup.is_some_and(|backup| matches!(backup.target, BackupTarget::Folder(_)));
                need(is_folder, "it damages a copy of the folder of backups, and these are in an object store")
            }
            Self::MachineLoss => {
                let has = backup.is_some_and(|backup| backup.away().is_some());
                need(
                    has,
                    "the stack has no [database.backup.copy], nor a store as target: with the machine everything is gone",
                )
            }
            Self::ControlPlaneCrash | Self::KeepCrash | Self::Null => Ok(()),
        }
    }
}

/// What a drill must have been run with to still say something.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Version of mainstay.
    pub release: &'a str,
    /// SHA-256 of the stack file.
    pub stack: &'a str,
}

/// What every drill is owed, in the order of `drill --all`.
pub fn standings(stack: &Stack, records: &[DrillRecord], here: Here<'_>, now: Timestamp) -> Vec<DrillStanding> {
    let counts = |record: &DrillRecord| record.sabotage.is_none() && record.verdict.is_some();
    let newest = newest_by_drill(records, counts);
    // What proved nothing changes nothing: the one before still says what it said.
    let says = |record: &DrillRecord| counts(record) && matches!(record.verdict, Some(Verdict::Pass | Verdict::Fail));
    let telling = newest_by_drill(records, says);
    let standing = |fault: Fault| {
        let last = newest.get(fault.name()).copied();
        let rests_on = telling.get(fault.name()).copied();
        let (standing, reason) = match fault.applies(stack) {
            Err(reason) => (Standing::NotApplicable, reason),
            Ok(()) => owed(rests_on, last, here, now),
        };
        let extended = rests_on.filter(|_| standing == Standing::Fine).and_then(extended);
        DrillStanding {
            drill: fault.name().to_owned(),
            what: fault.what().to_owned(),
            subject: fault.subject().to_owned(),
            promise: fault.promise_key().to_owned(),
            standing,
            reason,
            last_ended: last.and_then(|record| record.ended),
            last_verdict: last.and_then(|record| record.verdict),
            extended: extended.cloned(),
        }
    };
    Fault::ALL.into_iter().map(standing).collect()
}

fn owed(
    telling: Option<&DrillRecord>,
    last: Option<&DrillRecord>,
    here: Here<'_>,
    now: Timestamp,
) -> (Standing, String) {
    let Some(record) = telling else {
        let reason = match last.and_then(|record| record.verdict) {
            Some(verdict) => format!("it ran and proved nothing: {verdict}"),
            None => "it never ran on this stack".to_owned(),
        };
        return (Standing::NeverRun, reason);
    };
    if record.verdict == Some(Verdict::Fail) {
        let first = record.reasons.first().map(|reason| format!(": {reason}")).unwrap_or_default();
        return (Standing::Failing, format!("it broke its promise{first}"));
    }
    let age = now.saturating_since(record.ended.unwrap_or(record.began));
    if age > STALE_AFTER {
        return (Standing::Stale, format!("it passed {} days ago", age.as_secs() / 86_400));
    }
    if record.release != here.release {
        return (Standing::Stale, format!("it passed with mainstay {}, this is {}", record.release, here.release));
    }
    if record.stack != here.stack {
        return (Standing::Stale, "the stack file has changed since it passed".to_owned());
    }
    (Standing::Fine, extended(record).map_or("it passed".to_owned(), |extended| format!("it passed {extended}")))
}

/// The wider bar that a drill was held to, if it needed one.
fn extended(record: &DrillRecord) -> Option<&Extended> {
    record.figures.as_ref().and_then(|figures| figures.extended.as_ref())
}

#[cfg(test)]
mod tests {
    use mainstay_api::{DrillFigures, HISTORY_VERSION};
    use mainstay_types::EnvironmentName;

    use super::*;

    const HERE: Here<'_> = Here { release: "0.1.0", stack: "abc" };
    const DAY: i64 = 86_400_000;

    fn stack(text: &str) -> Stack {
        mainstay_stack::parse(text, "mainstay.toml", &EnvironmentName::default()).expect("valid").stack
    }

    fn whole() -> Stack {
        stack(
            "stack = \"shop\"\n[service.backend]\nrun = \"./server\"\nscale = { min = 2, max = 4, requests = 100 }\n[database]\npool_mode = \"transaction\"\n[cache]\n",
        )
    }

    fn record(drill: &str, ended_ms: i64, verdict: Verdict) -> DrillRecord {
        DrillRecord {
            version: HISTORY_VERSION,
            id: format!("{drill}-{ended_ms}"),
            drill: drill.to_owned(),
            began: Timestamp::from_millis(ended_ms - 1000),
            ended: Some(Timestamp::from_millis(ended_ms)),
            verdict: Some(verdict),
            runs: 1,
            seed: 1,
            sabotage: None,
            release: HERE.release.to_owned(),
            stack: HERE.stack.to_owned(),
            figures: None,
            reasons: vec!["RTO 9 s".to_owned()],
        }
    }

    fn of(records: &[DrillRecord], drill: &str, now_ms: i64) -> DrillStanding {
        let all = standings(&whole(), records, HERE, Timestamp::from_millis(now_ms));
        all.into_iter().find(|one| one.drill == drill).expect("is listed")
    }

    #[test]
    fn a_drill_without_history_never_ran() {
        let all = standings(&whole(), &[], HERE, Timestamp::from_millis(0));
        for standing in all.into_iter().filter(|one| one.subject != "backups") {
            assert_eq!(standing.standing, Standing::NeverRun, "{}", standing.drill);
        }
    }

    #[test]
    fn a_pass_is_fine_for_thirty_days() {
        let records = [record("edge-crash", DAY, Verdict::Pass)];
        assert_eq!(of(&records, "edge-crash", 2 * DAY).standing, Standing::Fine);
        assert_eq!(of(&records, "edge-crash", 31 * DAY).standing, Standing::Fine);
        assert_eq!(of(&records, "edge-crash", 31 * DAY + 1).standing, Standing::Stale);
        assert_eq!(of(&records, "router-crash", 2 * DAY).standing, Standing::NeverRun, "another's pass is not its own");
    }

    #[test]
    fn a_pass_of_another_release_or_stack_file_is_stale() {
        let older = DrillRecord { release: "0.0.9".to_owned(), ..record("edge-crash", DAY, Verdict::Pass) };
        assert_eq!(of(&[older], "edge-crash", DAY).standing, Standing::Stale);
        let other = DrillRecord { stack: "def".to_owned(), ..record("edge-crash", DAY, Verdict::Pass) };
        assert_eq!(of(&[other], "edge-crash", DAY).standing, Standing::Stale);
    }

    #[test]
    fn the_last_telling_verdict_decides_and_a_void_one_changes_nothing() {
        let failed = [record("edge-crash", 1000, Verdict::Pass), record("edge-crash", 2000, Verdict::Fail)];
        assert_eq!(of(&failed, "edge-crash", 3000).standing, Standing::Failing);
        assert!(of(&failed, "edge-crash", 3000).reason.contains("RTO 9 s"));
        let mended = [record("edge-crash", 1000, Verdict::Fail), record("edge-crash", 2000, Verdict::Pass)];
        assert_eq!(of(&mended, "edge-crash", 3000).standing, Standing::Fine);
        let void = [record("edge-crash", 1000, Verdict::Pass), record("edge-crash", 2000, Verdict::Void)];
        let standing = of(&void, "edge-crash", 3000);
        assert_eq!((standing.standing, standing.last_verdict), (Standing::Fine, Some(Verdict::Void)));
        let only_void = [record("edge-crash", 2000, Verdict::Void)];
        assert_eq!(of(&only_void, "edge-crash", 3000).standing, Standing::NeverRun);
    }

    #[test]
    fn a_pass_that_needed_a_wider_bar_says_so() {
        let extended =
            Extended { rounds: 1, of: 5, promised_ms: 3000, bar_ms: 15_000, reason: "the machine was busy".to_owned() };
        let figures = Some(DrillFigures { extended: Some(extended.clone()), ..DrillFigures::default() });
        let pressed = DrillRecord { figures, ..record("database-freeze", DAY, Verdict::Pass) };
        let found = of(std::slice::from_ref(&pressed), "database-freeze", DAY);
        assert_eq!((found.standing, found.extended), (Standing::Fine, Some(extended)));
        assert!(found.reason.contains("15000 ms in place of 3000 ms in 1 of 5 runs"), "{}", found.reason);
        let calm = [pressed, record("database-freeze", 2 * DAY, Verdict::Pass)];
        assert_eq!(of(&calm, "database-freeze", 2 * DAY).extended, None, "the last one needed none");
    }

    #[test]
    fn a_positive_control_and_a_drill_that_was_killed_say_nothing() {
        let control =
            DrillRecord { sabotage: Some("close-listeners".to_owned()), ..record("edge-crash", 2000, Verdict::Fail) };
        let killed = DrillRecord { ended: None, verdict: None, ..record("edge-crash", 3000, Verdict::Pass) };
        assert_eq!(of(&[control, killed], "edge-crash", 4000).standing, Standing::NeverRun);
    }

    #[test]
    fn a_stack_owes_only_drills_of_what_it_has() {
        let small = stack("stack = \"shop\"\n[service.backend]\nrun = \"./server\"\n");
        let all = standings(&small, &[], HERE, Timestamp::from_millis(0));
        let owed: Vec<&str> =
            all.iter().filter(|one| one.standing == Standing::NeverRun).map(|one| one.drill.as_str()).collect();
        assert_eq!(owed, ["instance-crash", "deploy", "edge-crash", "control-plane-crash", "keep-crash"]);
        let alone = stack("stack = \"shop\"\n[service.backend]\nrun = \"./server\"\n[database]\nstandbys = 0\n");
        assert!(Fault::DatabaseCrash.applies(&alone).is_ok() && Fault::DatabaseFreeze.applies(&alone).is_err());
        let strict = "stack = \"shop\"\n[service.backend]\nrun = \"./server\"\n[database]\ndurability = \"strict\"\n";
        assert!(Fault::StandbyLoss.applies(&whole()).is_ok() && Fault::StandbyLoss.applies(&alone).is_err());
        assert!(Fault::StandbyLoss.applies(&stack(strict)).is_err_and(|reason| reason.contains("strict")));
        let forgetful = stack("stack = \"shop\"\n[service.backend]\nrun = \"./server\"\n[cache]\npersist = \"none\"\n");
        assert!(Fault::CacheCrash.applies(&forgetful).is_ok() && Fault::StoreCrash.applies(&forgetful).is_err());
        let backup = "stack = \"shop\"\n[database.backup]\ntarget = \"/srv/backups\"\n";
        let copy = "[database.backup.copy]\nto = \"s3://my-backups/shop\"\naccess_key = \"A\"\nsecret_key = \"S\"\n";
        assert!(Fault::BackupRestore.applies(&stack(backup)).is_ok());
        assert!(Fault::MachineLoss.applies(&stack(backup)).is_err_and(|reason| reason.contains("backup.copy")));
        assert!(Fault::MachineLoss.applies(&stack(&format!("{backup}{copy}"))).is_ok());
    }

    #[test]
    fn only_a_stack_whose_number_may_change_owes_the_drills_of_scale() {
        let fixed = stack("stack = \"shop\"\n[service.backend]\nrun = \"./server\"\ninstances = 2\n");
        assert!(Fault::ScaleUp.applies(&whole()).is_ok() && Fault::ScaleDown.applies(&whole()).is_ok());
        assert!(Fault::ScaleDown.applies(&fixed).is_err_and(|reason| reason.contains("scale.max")));
    }

    #[test]
    fn every_drill_is_found_by_its_name_and_has_a_promise_of_its_own() {
        // Those of the backups are all about the one promise of getting data back.
        let others: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| !fault.is_about_backups()).collect();
        let keys: std::collections::BTreeSet<&str> = others.iter().map(|fault| fault.promise_key()).collect();
        assert_eq!(keys.len(), others.len());
        for fault in Fault::ALL {
            assert_eq!(Fault::by_name(fault.name()), Some(fault));
        }
        assert_eq!(Fault::by_name("null"), Some(Fault::Null));
    }
}
