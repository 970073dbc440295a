//! Finds the moment that a person names by what happened: a release, a table that was dropped, a restore point, a
//! transaction. What is found is a position in the WAL, which replay is told; what is not is refused before anything is
//! restored, with what comes near.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_backup::proof;
use mainstay_decide::past::{
    Around, Dropped, Landmark, Moment, Nudge, Place, Search, Wanted, What, drop_meant, release_point,
};
use mainstay_postgres::backup as server;
use mainstay_postgres::compare;
use mainstay_postgres::waldump::Names;
use mainstay_types::{Lsn, Timestamp};

use super::past::{self, Open, Plan, Reachable};
use super::walk::Walk;
use super::{Backups, Error};
use crate::paths::Paths;

/// How long earlier drops of a table are looked for once its last one is found.
const LOOK_FURTHER: Duration = Duration::from_secs(20);
/// How long commits are counted that a moment leaves out.
const COUNT_WITHIN: Duration = Duration::from_secs(60);
/// How long what was written until now may take to be in the archive.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);
/// Header of a segment's first page.
const LONGEST_HEADER: u64 = 40;
/// Names in an error: more help nobody.
const MOST_NAMES: usize = 12;

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The moment.
    pub wanted: Wanted,
    /// How far it is moved.
    pub nudge: Option<Nudge>,
    /// The base backup to begin from.
    pub backup: Option<String>,
}

/// A moment that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What replay is told.
    pub moment: Moment,
    /// As it was asked for.
    pub asked: String,
    /// When what was looked for happened.
    pub at: Option<Timestamp>,
    /// What a person should know of it, one line each.
    pub notes: Vec<String>,
    /// The table that is there, and was dropped after it: database and number.
    table: Option<(Dropped, (u32, u32))>,
}

/// What replay would leave out.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    /// Commits on both sides.
    pub around: Around,
    /// All were seen that there are; else the number is the least.
    pub is_complete: bool,
    /// What is not archived yet was seen, too.
    pub sees_the_present: bool,
}

/// Finds a moment, and says what a restore of it would do.
///
/// **Errors**: there is no such moment, or it cannot be reached; see [`Error`].
pub async fn plan(backups: &Arc<Backups>, paths: &Paths, asked: &Asked) -> Result<(Found, Plan), Error> {
    let mut next = None;
    if !asked.wanted.is_placed() {
        // Who just dropped a table asks before its segment is full.
        archive_the_present(backups, asked.backup.as_deref()).await.ok();
        if let (Wanted::Moment(Moment::Transaction(_)), Ok(primary)) = (&asked.wanted, backups.primary()) {
            next = compare::next_transaction(&backups.access(primary)).await.ok().flatten();
        }
    }
    let (backups, paths, asked) = (Arc::clone(backups), paths.clone(), asked.clone());
    let finding = tokio::task::spawn_blocking(move || {
        let reachable = Reachable::of(&backups, asked.backup.as_deref())?;
        let found = Finder { backups: &backups, paths: &paths, reachable: &reachable, next }.find(&asked)?;
        let plan = past::plan_on(&reachable, &paths, &found.moment)?;
        Ok((found, plan))
    });
    finding.await.map_err(|error| Error::NoServer(error.to_string()))?
}

/// Sees to it that what was written until now is in the archive.
async fn archive_the_present(backups: &Arc<Backups>, from: Option<&str>) -> Result<(), Error> {
    let access = backups.access(backups.primary()?);
    let written = server::insert_position(&access).await?;
    backups.finish_segment().await?;
    let begun = Instant::now();
    while begun.elapsed() < ARCHIVED_WITHIN {
        let (of, from) = (Arc::clone(backups), from.map(str::to_owned));
        let listing = tokio::task::spawn_blocking(move || Reachable::of(&of, from.as_deref()));
        let reachable = listing.await.map_err(|error| Error::NoServer(error.to_string()))??;
        // On an idle server that is just behind the header of a segment that nothing is in yet.
        if reachable.lineage.end(&reachable.archive).1.as_u64() + LONGEST_HEADER >= written.as_u64() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Commits on both sides of a moment, of all that is known: also of what is not archived yet, when the primary's files
/// are here.
///
/// **Errors**: see [`Error`].
pub async fn left(backups: &Arc<Backups>, paths: &Paths, plan: &Plan, from: Option<&str>) -> Result<Left, Error> {
    let (backups, paths, plan) = (Arc::clone(backups), paths.clone(), plan.clone());
    let from = from.map(str::to_owned);
    let reading = tokio::task::spawn_blocking(move || {
        let reachable = Reachable::of(&backups, from.as_deref())?;
        let walk = Walk::new(&backups, &paths, &reachable)?.with_the_present();
        let (mut around, begun) = (Around::default(), Instant::now());
        let mut is_complete = true;
        // What is not archived yet is not in it.
        let moment = if plan.moment == Moment::Latest { Moment::Before(plan.end) } else { plan.moment.clone() };
        walk.read((plan.backup.label.stop, None), None, &mut |record| {
            around.see(record, &moment);
            is_complete = begun.elapsed() < COUNT_WITHIN;
            if is_complete { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(Left { around, is_complete, sees_the_present: walk.sees_the_present() })
    });
    reading.await.map_err(|error| Error::NoServer(error.to_string()))?
}

/// That what was looked for is in the past that was opened: a table under its name.
///
/// **Errors**: it is not.
pub async fn check(found: &Found, open: &Open) -> Result<(), Error> {
    let Some((dropped, number)) = &found.table else { return Ok(()) };
    match compare::table_of(&open.access, *number).await? {
        Some((_, name)) if dropped.is(&name) => Ok(()),
        Some((_, name)) => Err(Error::NotFound(format!(
            "the table that was dropped is called {name} just before that, not {dropped}: ask for it by that name"
        ))),
        None => Err(Error::NotFound(format!("{dropped} is not there just before the transaction that was found"))),
    }
}

struct Finder<'a> {
    backups: &'a Backups,
    paths: &'a Paths,
    reachable: &'a Reachable,
    next: Option<u64>,
}

/// What was found, before it is moved.
struct Spot {
    moment: Moment,
    at: Option<Timestamp>,
    notes: Vec<String>,
    table: Option<(Dropped, (u32, u32))>,
}

impl Spot {
    fn at(place: &Place, moment: Moment) -> Self {
        Self { moment, at: place.at, notes: Vec::new(), table: None }
    }
}

fn listed(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().collect();
    match names.len() {
        0 => "none".to_owned(),
        n if n > MOST_NAMES => {
            format!("{} and {} before them", names.get(n - MOST_NAMES..).unwrap_or_default().join(", "), n - MOST_NAMES)
        }
        _ => names.join(", "),
    }
}

fn told(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "at a time that is not known".to_owned(), |at| at.to_string())
}

impl Finder<'_> {
    fn find(&self, asked: &Asked) -> Result<Found, Error> {
        let spot = match &asked.wanted {
            Wanted::Moment(Moment::Transaction(xid)) => self.transaction(*xid)?,
            Wanted::Moment(Moment::Name(name)) => self.point(name)?,
            Wanted::Release(number) => self.release(*number)?,
            Wanted::Dropped(dropped) => self.dropped(dropped)?,
            Wanted::Moment(moment) => Spot { moment: moment.clone(), at: None, notes: Vec::new(), table: None },
        };
        let named = asked.wanted.to_string();
        let Spot { moment, at, notes, table } = spot;
        let (moment, table) = match asked.nudge {
            // Moved, the table may not be there.
            Some(nudge) => (Moment::Time(nudge.of(self.time_of(&moment, at)?)), None),
            None => (moment, table),
        };
        let moment = match moment {
            Moment::Time(at) => self.settled(at)?,
            other => other,
        };
        Ok(Found { moment, asked: named, at, notes, table })
    }

    fn range(&self) -> String {
        self.reachable.reach().map_or_else(|| "nothing".to_owned(), |reach| reach.to_string())
    }

    fn walk(&self) -> Result<Walk<'_>, Error> {
        Walk::new(self.backups, self.paths, self.reachable)
    }

    /// From each base backup to the next, the newest first: what is asked for is near the end.
    fn parts(&self) -> Vec<(Lsn, Option<Lsn>)> {
        let stops: Vec<Lsn> = self.reachable.all.iter().map(|backup| backup.label.stop).collect();
        let ends = stops.iter().skip(1).copied().map(Some).chain([None]);
        let mut parts: Vec<(Lsn, Option<Lsn>)> = stops.iter().copied().zip(ends).collect();
        parts.reverse();
        parts
    }

    /// Looks at part after part until one holds what is looked for; what the others held is given back.
    fn look(
        &self,
        xid: Option<u32>,
        is_it: impl Fn(&Search) -> Option<Spot>,
    ) -> Result<Result<Spot, Vec<Search>>, Error> {
        let walk = self.walk()?;
        let mut others = Vec::new();
        for part in self.parts() {
            let mut search = Search::new(xid);
            walk.read(part, None, &mut |record| {
                search.see(record);
                ControlFlow::Continue(())
            })?;
            if let Some(spot) = is_it(&search) {
                return Ok(Ok(spot));
            }
            others.push(search);
        }
        others.reverse();
        Ok(Err(others))
    }

    fn point(&self, name: &str) -> Result<Spot, Error> {
        let is_it = |search: &Search| self.last_point(search, name);
        match self.look(None, is_it)? {
            Ok(spot) => Ok(spot),
            Err(others) => {
                let names = others.iter().flat_map(Search::point_names).map(str::to_owned);
                Err(Error::NotFound(format!(
                    "no restore point {name:?} is in the WAL from {}; there are: {}",
                    self.range(),
                    listed(names)
                )))
            }
        }
    }

    fn last_point(&self, search: &Search, name: &str) -> Option<Spot> {
        let place = search.points(name).next_back()?;
        Some(Spot::at(place, Moment::Lsn(place.lsn)))
    }

    fn release(&self, number: u64) -> Result<Spot, Error> {
        let name = release_point(number);
        match self.look(None, |search| self.last_point(search, &name))? {
            Ok(mut spot) => {
                spot.notes.push(format!("release {number} was deployed {}: before its migrations", told(spot.at)));
                Ok(spot)
            }
            Err(others) => {
                let prefix = "release_v";
                let names = others.iter().flat_map(Search::point_names).filter_map(|name| name.strip_prefix(prefix));
                let numbers: BTreeSet<u64> = names.filter_map(|number| number.parse().ok()).collect();
                Err(Error::NotFound(format!(
                    "release {number} has no restore point in the WAL from {}; releases that have one: {}",
                    self.range(),
                    listed(numbers.into_iter().map(|number| number.to_string()))
                )))
            }
        }
    }

    fn transaction(&self, xid: u64) -> Result<Spot, Error> {
        if let Some(next) = self.next.filter(|next| xid >= *next) {
            return Err(Error::NotFound(format!("transaction {xid} has not begun: the next one is {next}")));
        }
        // The WAL has the lower half.
        let lower = u32::try_from(xid & u64::from(u32::MAX)).unwrap_or_default();
        let is_it = |search: &Search| {
            let (place, is_commit) = search.end()?;
            let mut spot = Spot::at(place, Moment::Lsn(place.lsn));
            if !is_commit {
                spot.notes.push("rolled back".to_owned());
            }
            Some(spot)
        };
        match self.look(Some(lower), is_it)? {
            Ok(spot) if spot.notes.is_empty() => Ok(spot),
            Ok(spot) => Err(Error::NotFound(format!(
                "transaction {xid} was rolled back {}: nothing of it is in any past",
                told(spot.at)
            ))),
            Err(_) => Err(Error::NotFound(format!(
                "transaction {xid} did not end in the WAL from {}: it was before, is under way, or is not archived yet",
                self.range()
            ))),
        }
    }

    /// Names of tables by their numbers, as each base backup found them: the oldest first.
    fn known(&self) -> BTreeMap<u32, Vec<(Lsn, String)>> {
        let folder = self.backups.place.proofs();
        let mut known: BTreeMap<u32, Vec<(Lsn, String)>> = BTreeMap::new();
        for lsn in self.reachable.all.iter().filter_map(|backup| backup.label.point) {
            // One that cannot be read leaves its tables to the WAL.
            let point = proof::read_point(&folder, &self.backups.wal_key, self.reachable.system, lsn).ok().flatten();
            for relation in point.into_iter().flat_map(|point| point.relations) {
                known.entry(relation.number).or_default().push((lsn, relation.table));
            }
        }
        known
    }

    fn dropped(&self, dropped: &Dropped) -> Result<Spot, Error> {
        let known = self.known();
        let walk = self.walk()?;
        let mut names = Names::new(&dropped.table);
        let (mut drops, mut others): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
        let (mut found, mut looked_back_to, mut has_forgotten) = (None::<Instant>, Lsn::default(), false);
        for part in self.parts() {
            if found.is_some_and(|found| found.elapsed() > LOOK_FURTHER) {
                break;
            }
            let mut search = Search::new(None);
            walk.read(part, names.as_mut(), &mut |record| {
                search.see(record);
                ControlFlow::Continue(())
            })?;
            looked_back_to = part.0;
            has_forgotten |= search.has_forgotten;
            let made = names.as_ref().map(|names| &names.found);
            let (these, not): (Vec<Place>, Vec<Place>) = search
                .places
                .into_iter()
                .filter(|place| matches!(place.what, Landmark::Drop { .. }))
                .partition(|place| is_of(place, dropped, &known, made));
            drops.splice(..0, these);
            others.splice(..0, not);
            let seen: Vec<&Place> = drops.iter().collect();
            if drop_meant(&seen, dropped.until).is_some() {
                found.get_or_insert_with(Instant::now);
            }
        }
        let seen: Vec<&Place> = drops.iter().collect();
        let Some(meant) = drop_meant(&seen, dropped.until) else {
            let was_made = names.is_some_and(|names| !names.found.is_empty());
            let more = if has_forgotten { "; so much was dropped that not all of it was looked at" } else { "" };
            let what = self.no_drop((dropped, was_made), (&seen, &others), &known);
            return Err(Error::NotFound(what + more));
        };
        let Landmark::Drop { xid, database, relation } = meant.what else {
            return Err(Error::NotFound(format!("{dropped} was not dropped")));
        };
        let mut spot = Spot::at(meant, Moment::Before(meant.lsn));
        spot.table = Some((dropped.clone(), (database, relation)));
        spot.notes.push(format!("{dropped} was dropped {} by transaction {xid} at {}", told(meant.at), meant.lsn));
        if let [_, _, ..] = seen.as_slice() {
            let times = listed(seen.iter().map(|place| told(place.at)));
            spot.notes.push(format!(
                "it was dropped {} times: {times}; another one: --to \"before {dropped} was dropped at TIME\"",
                seen.len()
            ));
        }
        if self.reachable.all.first().is_some_and(|oldest| looked_back_to > oldest.label.stop) {
            spot.notes.push(format!("drops before {looked_back_to} were not looked for"));
        }
        Ok(spot)
    }

    /// What to say when there is none.
    fn no_drop(
        &self,
        (dropped, was_made): (&Dropped, bool),
        (drops, others): (&[&Place], &[Place]),
        known: &BTreeMap<u32, Vec<(Lsn, String)>>,
    ) -> String {
        let range = self.range();
        if let (Some(until), [_, ..]) = (dropped.until, drops) {
            let times = listed(drops.iter().map(|place| told(place.at)));
            return format!("{dropped} was not dropped until {until}; it was dropped: {times}");
        }
        let is_known = was_made || known.values().flatten().any(|(_, name)| dropped.is(name));
        let near = dropped_then(others, known);
        let what = if is_known {
            format!("a table {dropped} is known, and no drop of it is in the WAL from {range}")
        } else {
            format!("no table {dropped} is known of the time from {range}")
        };
        format!("{what}; tables that were dropped then: {near}")
    }

    /// When it was at a moment.
    fn time_of(&self, moment: &Moment, at: Option<Timestamp>) -> Result<Timestamp, Error> {
        match (moment, at) {
            (_, Some(at)) => Ok(at),
            (Moment::Time(at), None) => Ok(*at),
            _ => {
                let label = &self.reachable.choose(moment)?.label;
                let around = self.around((label.stop, None), moment)?;
                Ok(around.last_before.map_or(label.ended, |commit| commit.at))
            }
        }
    }

    fn around(&self, part: (Lsn, Option<Lsn>), moment: &Moment) -> Result<Around, Error> {
        let mut around = Around::default();
        self.walk()?.read(part, None, &mut |record| {
            around.see(record, moment);
            ControlFlow::Continue(())
        })?;
        Ok(around)
    }

    /// Replay stops at the first commit after a time. Where none is, the last one is what it must stop behind: asked for
    /// the time it would take the end of the archive for a failure.
    fn settled(&self, at: Timestamp) -> Result<Moment, Error> {
        let moment = Moment::Time(at);
        let label = &self.reachable.choose(&moment)?.label;
        let Reachable { lineage, archive, .. } = self.reachable;
        // What was archived after it holds what follows, as long as no clock was set.
        let late = lineage.segments(archive).into_iter().find(|(start, segment)| {
            start.saturating_add(super::check::SEGMENT) > label.stop.as_u64()
                && archive.segments.get(segment).is_some_and(|(_, archived)| *archived > at)
        });
        if let Some((start, _)) = late {
            let mut is_followed = false;
            self.walk()?.read((Lsn::new(start).max(label.stop), None), None, &mut |record| {
                let is_end = matches!(record.what, What::Commit { .. } | What::Abort { .. });
                is_followed = is_end && record.at.is_some_and(|one| one > at);
                if is_followed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if is_followed {
                return Ok(moment);
            }
        }
        let around = self.around((label.stop, None), &moment)?;
        Ok(match around {
            Around { first_after: Some(_), .. } => moment,
            Around { last_before: Some(last), .. } => Moment::Lsn(last.lsn),
            // Nothing was committed since the base backup: all of the archive is that moment.
            Around { last_before: None, .. } => Moment::Latest,
        })
    }
}

/// What was dropped instead: tables by the names that a base backup has for them. What else went is told by its time; one
/// transaction drops a table and what belongs to it.
fn dropped_then(others: &[Place], known: &BTreeMap<u32, Vec<(Lsn, String)>>) -> String {
    let (mut named, mut with_a_name, mut nameless) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    for place in others {
        let Landmark::Drop { xid, relation, .. } = place.what else { continue };
        match known.get(&relation).and_then(|names| names.last()) {
            Some((_, name)) => {
                named.push(format!("{name} ({})", told(place.at)));
                with_a_name.insert(xid);
            }
            None => {
                nameless.insert(place.lsn, (xid, place.at));
            }
        }
    }
    let nameless = nameless.into_values().filter(|(xid, _)| !with_a_name.contains(xid));
    let times: Vec<String> = nameless.map(|(_, at)| told(at)).collect();
    let near = listed(named);
    match times.as_slice() {
        [] => near,
        [.., last] => format!(
            "{near}; what no base backup has a name for, as indexes and tables made since, went in {} transactions, the \
             last {last}",
            times.len()
        ),
    }
}

/// Whether a relation had the name when it was dropped, as far as is known: the newest base backup before it says so, or,
/// for one that was made since, the WAL.
fn is_of(
    place: &Place,
    dropped: &Dropped,
    known: &BTreeMap<u32, Vec<(Lsn, String)>>,
    made: Option<&BTreeSet<u32>>,
) -> bool {
    let Landmark::Drop { relation, .. } = place.what else { return false };
    let last = known.get(&relation).and_then(|names| names.iter().rfind(|(lsn, _)| *lsn <= place.lsn));
    match last {
        Some((_, name)) => dropped.is(name),
        None => made.is_some_and(|made| made.contains(&relation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_instead_is_named_or_counted_by_its_transactions() {
        let drop = |lsn: u64, xid: u32, relation: u32| {
            let at = Some(Timestamp::from_millis(i64::from(xid) * 1000));
            Place { lsn: Lsn::new(lsn), at, what: Landmark::Drop { xid, database: 5, relation } }
        };
        let known = BTreeMap::from([(100, vec![(Lsn::new(1), "public.orders".to_owned())])]);
        assert_eq!(dropped_then(&[], &known), "none");
        let orders = "public.orders (1970-01-01T00:00:01.000Z)";
        let with_its_index = [drop(10, 1, 100), drop(10, 1, 101)];
        assert_eq!(dropped_then(&with_its_index, &known), orders);
        let more = [drop(10, 1, 100), drop(10, 1, 101), drop(20, 2, 200), drop(20, 2, 201), drop(30, 3, 300)];
        let words = "went in 2 transactions, the last 1970-01-01T00:00:03.000Z";
        assert!(dropped_then(&more, &known).starts_with(orders) && dropped_then(&more, &known).ends_with(words));
        assert!(dropped_then(&more[4..], &known).starts_with("none; what no base backup has a name for"));
    }
}
