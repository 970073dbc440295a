//! What each drill is about, in words for people who do not run it.

/// Words about one kind of drill.
pub(super) struct Words {
    /// What was done: "The primary database was killed". Followed by how often.
    pub(super) deed: &'static str,
    /// What should happen.
    pub(super) hypothesis: &'static str,
    /// What it can hurt.
    pub(super) blast_radius: &'static str,
}

/// Of a drill by its name; one that is not known here says so.
pub(super) fn of(drill: &str) -> Words {
    let (deed, hypothesis, blast_radius) = match drill {
        "instance-crash" => (
            "One instance of a service was killed",
            "The edge notices, sends requests to the other instances, and the killed one is started again.",
            "One instance. Requests that it was answering; with a single instance, the service until it is back.",
        ),
        "edge-crash" => (
            "The edge was killed",
            "The listening sockets outlive the edge: new connections wait for the next edge instead of being refused.",
            "The edge. Every open HTTP connection ends; no data.",
        ),
        "router-crash" => (
            "The database router was killed",
            "The listening sockets outlive the router: new connections wait for the next router; the database itself goes on.",
            "The router. Every database session ends, statements in flight end with an unknown outcome.",
        ),
        "database-crash" => (
            "The primary database was killed",
            "The standby holds every acknowledged write (with durability \"fast\", but for the last ones): it takes over once \
             the old primary is proven dead, the router holds sessions meanwhile, and a new standby is made.",
            "The primary. Statements in flight end with an unknown outcome; open transactions are lost, acknowledged \
             writes are not, or with durability \"fast\" no more than the last ones.",
        ),
        "database-freeze" => (
            "The primary database was frozen and later thawed",
            "A primary that hangs is taken for lost: it is killed before the standby takes over, so that it never serves \
             again when it thaws.",
            "The primary. Statements wait until it is declared lost, then end with an unknown outcome.",
        ),
        "standby-loss" => (
            "A standby database was killed",
            "Commits wait for the standby while it streams: its loss is seen at once, commits go on without it, somebody is \
             told, and a new one streams again.",
            "The standby. Until it streams again an acknowledged write is on one server only.",
        ),
        "cache-crash" => (
            "The cache was killed",
            "Requests are served without the cache, more slowly, until it is back and filled again.",
            "The cache and what it held; it can be computed again.",
        ),
        "cache-loss" => (
            "The cache was emptied",
            "Requests go on while the cache is filled again, and the store, which is another Redis, keeps every key.",
            "What the cache held; it can be computed again.",
        ),
        "store-crash" => (
            "The store was killed",
            "The store comes back with what it had acknowledged, from its own log on disk.",
            "The store. Requests that need it fail until it is back.",
        ),
        "control-plane-crash" => (
            "The control plane was killed",
            "The control plane carries no traffic: nobody notices, and the next one learns what runs and goes on.",
            "The control plane. No process of the application.",
        ),
        "keep-crash" => (
            "The parent of all processes was killed",
            "Children outlive it: nobody notices, and the next one adopts every process that runs.",
            "The supervisor. No process of the application.",
        ),
        "null" => (
            "Nothing was broken",
            "Without a fault clients see no gap: what other drills see is then not the load's own doing.",
            "Nothing but the load itself.",
        ),
        other => return of_tier(other),
    };
    Words { deed, hypothesis, blast_radius }
}

/// Of those of the data tier that kill nobody.
fn of_tier(drill: &str) -> Words {
    let (deed, hypothesis, blast_radius) = match drill {
        "scale-up" => (
            "A service was given as many instances as it may have",
            "New instances become ready beside the others and take their share; no client notices.",
            "Nobody.",
        ),
        "scale-down" => (
            "A service was left with as few instances as it may have",
            "Those that go take no new requests, finish what they have and end; no client notices.",
            "Nobody.",
        ),
        "deploy" => (
            "What is live was deployed once more, by each strategy",
            "New instances become ready beside the old ones, traffic comes to them, the old ones finish what they have and \
             end; no client notices, and what was live is live again.",
            "Nobody.",
        ),
        "switchover" => (
            "Another primary was asked for, as planned",
            "New transactions wait for a moment while those that are begun end; then the standby takes over, and no client \
             sees an error.",
            "Every client of the database, for the length of the pause.",
        ),
        "replication-lag" => (
            "A standby stopped receiving the log",
            "Commits wait for the standby until its sender gives it up; then they go on without it, somebody is told, and \
             it catches up when it receives again.",
            "Writes, which wait for some seconds. Until it streams again an acknowledged write is on one server only.",
        ),
        "corrupt-page" => (
            "A page was damaged on the disk of a standby, then on that of the primary",
            "Whoever reads it gets an error and never a damaged row; it is found and told, the standby is cloned anew, and \
             the primary makes place for the standby, whose page is sound.",
            "Who reads a table of the drill's own, until reads and writes go to a member whose page is sound.",
        ),
        "pool-exhaustion" => (
            "Every server connection of the pool was taken",
            "Clients that come then wait their turn in a queue with a bound, and are served once connections are given \
             back; other pools notice nothing.",
            "Clients of the application's role, for as long as the connections are taken.",
        ),
        "disk-full" => (
            "The disk of the databases was filled",
            "A file of ballast is removed before the database would stop for want of room: writes go on, somebody is told, \
             and the ballast comes back with the room.",
            "Everything that writes to that disk. Only a small one is filled.",
        ),
        other => return of_backups(other),
    };
    Words { deed, hypothesis, blast_radius }
}

/// Of those about the backups, which have no load.
fn of_backups(drill: &str) -> Words {
    let (deed, hypothesis, blast_radius) = match drill {
        "backup-restore" => (
            "The past was wanted back",
            "A restore beside the present holds every row from before the moment that was asked for, and none from after it.",
            "Nothing but room on the disk and time of the machine: the present goes on.",
        ),
        "drop-table" => (
            "A table of the drill's own was dropped",
            "Its rows come back from the backups, as they were just before.",
            "That table.",
        ),
        "corrupt-backup" => (
            "A bit was flipped in a copy of the repository",
            "The check of the backups finds it.",
            "A copy: the backups themselves are not touched.",
        ),
        "missing-wal" => (
            "A segment was taken out of a copy of the WAL archive",
            "Nothing is restored past it, and that is said.",
            "A copy: the archive itself is not touched.",
        ),
        "machine-loss" => (
            "The machine was taken for gone: only the second copy and the recovery card were used",
            "Every row that the copy was said to have is there, within the time that is promised.",
            "Nothing but room on the disk, what is fetched from the store, and time of the machine: the present goes on.",
        ),
        _ => ("The fault of this drill was injected", super::text::NOT_MEASURED, super::text::NOT_MEASURED),
    };
    Words { deed, hypothesis, blast_radius }
}

/// A step of recovery in words.
pub(super) fn step(name: &str) -> String {
    let words = match name {
        "injected" => "fault injected",
        "detected" => "loss detected",
        "found" => "damage found",
        "decided" => "failover decided",
        "fenced" => "old primary proven dead",
        "promoted" => "standby promoted",
        "repointed" => "router repointed",
        "first_success" => "clients served again",
        "recloned" => "new standby cloned",
        "restarted" => "process started again",
        "unblocked" => "commits go on without it",
        "synchronous" => "commits synchronous again",
        "ejected" => "taken out of balancing",
        "ready" => "instance ready",
        "begun" => "rollout begun",
        "taken_back" => "rollout taken back",
        "committed" => "new release live",
        "keep_lost" => "supervisor's loss noticed",
        "control_started" => "control plane started",
        "whole" => "everything whole again",
        other => return other.replace('_', " "),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_has_words() {
        use mainstay_decide::drills::Fault;
        for fault in Fault::ALL.into_iter().chain([Fault::DiskFull, Fault::Null]) {
            assert_ne!(of(fault.name()).hypothesis, crate::html::text::NOT_MEASURED, "{}", fault.name());
        }
    }
}
