use mainstay_types::EnvironmentName;
use proptest::prelude::*;

use super::*;

const TEXT: &str = "stack = \"shop\"\n[service.a]\nrun = \"./a\"\n[database]\n[database.backup]\ntarget = \"/b\"\n";

fn policy(more: &str) -> Policy {
    let text = format!("{TEXT}{more}");
    let parsed = mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default());
    let parsed = parsed.unwrap_or_else(|found| panic!("{found}"));
    parsed.stack.database.and_then(|database| database.backup).expect("a backup")
}

/// 2026-01-01T03:00Z, a Thursday, and so many hours more.
fn hour(hours: i64) -> Timestamp {
    Timestamp::from_millis((1_767_236_400 + hours * HOUR) * 1000)
}

fn backup(hours: i64) -> Backup {
    let at = hour(hours);
    let lsn = |more: i64| Lsn::new(u64::try_from((hours + 1) * 100 + more).unwrap_or(0));
    Backup {
        id: format!("{hours:06}"),
        began: at.after(Duration::from_secs(5)),
        ended: at.after(Duration::from_secs(9)),
        system: 7,
        timeline: 1,
        start: lsn(0),
        needs: lsn(10),
        is_by_hand: false,
        proof: None,
    }
}

fn scene<'a>(backups: &'a [Backup], policy: &'a Policy) -> Scene<'a> {
    const NONE: &Unsaved = &Unsaved::new();
    Scene { backups, policy, unsaved: NONE, deploys: Some(&[]), reckoning: None }
}

fn decide(backups: &[Backup], policy: &Policy) -> Vec<Decision> {
    scene(backups, policy).decide()
}

fn needed(backups: &[Backup], policy: &Policy) -> Vec<Needed> {
    scene(backups, policy).needed()
}

/// Retention stopped for good, and the disk filled.
#[test]
fn who_does_not_know_the_deploys_keeps_what_they_may_need_and_forgets_all_else() {
    let policy = policy(
        "window = \"1d\"\n[database.backup.keep]\nhourly = \"6h\"\ndaily = \"0d\"\nweekly = \"0d\"\nmonthly = \"0d\"\ndeploys = \"2d\"\n",
    );
    let all: Vec<Backup> = (0..=100).map(backup).collect();
    let of = |backups: &[Backup], deploys| {
        let scene = Scene { deploys, ..scene(backups, &policy) };
        let kept = scene.decide().into_iter().filter(|one| !one.goes()).map(|one| one.id).collect::<Vec<_>>();
        (kept, scene.needed())
    };
    let known = of(&all, Some(&[])).0;
    let (kept, needed) = of(&all, None);
    // Whatever was deployed within two days, the last backup before it is there, and the WAL from there on.
    let ids: Vec<String> = (52..=100).map(|hours| backup(hours).id).collect();
    assert_eq!(kept, ids);
    assert!(known.len() < kept.len() && known.iter().all(|id| kept.contains(id)), "{known:?}");
    assert!(needed.contains(&Needed { system: 7, from: backup(52).start, to: None }), "{needed:?}");
    assert!(needed.iter().all(|one| one.to.is_some() || one.from >= backup(52).start), "all before may go");
    // One whose restore failed stands for nothing: the one before it may be needed as long.
    let mut failed = all.clone();
    failed[52].proof = Some((hour(60), Proof::Failed));
    failed[53].proof = Some((hour(60), Proof::Failed));
    assert!(of(&failed, None).0.contains(&backup(51).id));
}

#[test]
fn the_last_backup_before_a_deploy_and_the_wal_up_to_it_are_kept_and_go_in_time() {
    let policy = policy(
        "window = \"1d\"\n[database.backup.keep]\nhourly = \"6h\"\ndaily = \"0d\"\nweekly = \"0d\"\nmonthly = \"0d\"\ndeploys = \"10d\"\n",
    );
    let at = hour(30).after(Duration::from_secs(1800));
    let deploy = Deploy { release: 4, at, system: 7, timeline: 1, lsn: Lsn::new(31 * 100 + 50) };
    let all: Vec<Backup> = (28..=100).map(backup).collect();
    let of = |backups: &[Backup], deploy: Deploy| {
        let (decided, needed) = {
            let deploys = [deploy];
            let scene = Scene { deploys: Some(&deploys), ..scene(backups, &policy) };
            (scene.decide(), scene.needed())
        };
        let kept =
            decided.into_iter().find(|one| one.rules.iter().any(|rule| matches!(rule, Rule::BeforeDeploy { .. })));
        (kept.map(|one| (one.id.clone(), one.until())), needed)
    };
    let (kept, needed) = of(&all, deploy);
    assert_eq!(kept, Some((backup(30).id, Some(at.after(Duration::from_secs(10 * 86_400))))));
    assert!(needed.contains(&Needed { system: 7, from: backup(30).start, to: Some(deploy.lsn) }), "{needed:?}");
    let failed: Vec<Backup> = all
        .iter()
        .cloned()
        .map(|one| if one.id == backup(30).id { Backup { proof: Some((at, Proof::Failed)), ..one } } else { one })
        .collect();
    assert_eq!(
        of(&failed, deploy).0.map(|(id, _)| id),
        Some(backup(29).id),
        "one that fails its restore is no snapshot"
    );
    assert_eq!(of(&all, Deploy { system: 8, ..deploy }).0, None, "of another cluster");
    assert_eq!(of(&all, Deploy { lsn: Lsn::new(100), ..deploy }).0, None, "nothing was there before it");
    let later: Vec<Backup> = (28..=30).chain(300..=310).map(backup).collect();
    assert_eq!(of(&later, deploy).0, None, "ten days are over");
}

/// A stack that lives so many hours, and forgets once a day what may go.
fn live(policy: &Policy, hours: i64) -> Vec<Backup> {
    let mut kept: Vec<Backup> = Vec::new();
    for at in 0..hours {
        kept.push(Backup { proof: Some((hour(at), Proof::Proven)), ..backup(at) });
        if at % 24 != 23 {
            continue;
        }
        let decided = decide(&kept, policy);
        kept.retain(|one| decided.iter().any(|decision| decision.id == one.id && !decision.goes()));
    }
    kept
}

#[test]
fn a_year_and_a_half_of_hours_leaves_the_four_families() {
    let policy = policy("");
    let kept = live(&policy, 24 * 550);
    let newest = hour(24 * 550 - 1);
    let younger = |days: i64| {
        kept.iter().filter(|one| newest.saturating_since(one.began) < Duration::from_secs(days as u64 * 86_400)).count()
    };
    // 168 hours; 23 further days; 7 or 8 further weeks; 9 or 10 further months; the anchor may be one of them.
    assert!((168..=170).contains(&younger(7)), "{}", younger(7));
    assert!((190..=194).contains(&younger(30)), "{}", younger(30));
    assert!((204..=214).contains(&kept.len()), "{}", kept.len());
    let oldest = kept.iter().map(|one| one.began).min().expect("one");
    let age = newest.saturating_since(oldest).as_secs() / 86_400;
    assert!((330..=365).contains(&age), "the oldest is {age} days old");
}

#[test]
fn each_rule_says_until_when_it_keeps() {
    let policy = policy("");
    let all = [backup(0), backup(1), backup(24), backup(30)];
    let decided = decide(&all, &policy);
    let families = |index: usize| -> Vec<Family> {
        let of = |rule: &Rule| match rule {
            Rule::Family { family, .. } => Some(*family),
            Rule::ByHand { .. }
            | Rule::BeforeDeploy { .. }
            | Rule::PerhapsBeforeDeploy { .. }
            | Rule::Window
            | Rule::Newest
            | Rule::LastProven => None,
        };
        decided[index].rules.iter().filter_map(of).collect()
    };
    assert_eq!(families(0), [Family::Hourly, Family::Daily, Family::Weekly, Family::Monthly]);
    assert_eq!((families(1), families(2)), (vec![Family::Hourly], vec![Family::Hourly, Family::Daily]));
    assert_eq!(decided[1].until(), Some(all[1].ended.after(Duration::from_secs(7 * 86_400))));
    assert_eq!(decided[0].until(), Some(all[0].ended.after(Duration::from_secs(365 * 86_400))));
    assert!(decided[0].rules.contains(&Rule::Window), "nothing is as old as the window: the oldest");
    assert!(decided[3].rules.contains(&Rule::Newest));
}

#[test]
fn the_last_proven_and_the_newest_stay_whatever_their_age() {
    let none = policy(
        "window = \"1h\"\n[database.backup.keep]\nhourly = \"1h\"\ndaily = \"0d\"\nweekly = \"0d\"\nmonthly = \"0d\"\n",
    );
    let proven = Backup { proof: Some((hour(1), Proof::Proven)), ..backup(0) };
    let failed = Backup { proof: Some((hour(200), Proof::Failed)), ..backup(200) };
    let all = [proven, backup(100), failed, backup(300)];
    let goes: Vec<bool> = decide(&all, &none).iter().map(Decision::goes).collect();
    assert_eq!(goes, [false, false, true, false], "100 is the anchor: the restore of 200 failed");
    // A year later nobody took another: nothing more goes.
    assert!(!decide(&all[..1], &none)[0].goes());
}

#[test]
fn wal_of_kept_backups_and_of_the_window_is_needed() {
    let policy = policy("window = \"50h\"\n");
    let all = [backup(0), backup(100), backup(140), backup(160)];
    let needed = needed(&all, &policy);
    let holds = |lsn: u64| {
        let lsn = Lsn::new(lsn);
        needed.iter().any(|one| one.from <= lsn && one.to.is_none_or(|to| lsn <= to))
    };
    assert!(holds(100) && holds(110) && !holds(111), "of the oldest what it needs itself");
    assert!(!holds(10_099) && holds(10_100) && holds(12_345) && holds(999_999), "from the anchor on all of it");
}

#[test]
fn a_backup_is_due_once_a_period_and_what_was_missed_is_made_up_for_once() {
    let policy = policy("");
    let since = |last: Option<Timestamp>, now| due(&policy, last.into_iter(), now).map(|due| (due.since, due.missed));
    assert_eq!(since(None, hour(5)), Some((hour(5), 0)));
    assert_eq!(since(Some(hour(5)), hour(5).after(Duration::from_secs(3599))), None);
    assert_eq!(since(Some(backup(4).began), hour(5)), Some((hour(5), 0)));
    assert_eq!(since(Some(backup(4).began), hour(77)), Some((hour(77), 72)), "the stack was down for three days");
    assert_eq!(since(Some(hour(77)), hour(77)), None);
    let off = "hourly = \"0d\"\ndaily = \"0d\"\nweekly = \"0d\"\nmonthly = \"0d\"\n";
    let never = self::policy(&format!("[database.backup.keep]\n{off}"));
    assert_eq!((due(&never, std::iter::empty(), hour(5)), next(&never, hour(5))), (None, None));
    let daily = self::policy("at = \"03:00\"\n[database.backup.keep]\nhourly = \"0d\"\n");
    assert_eq!(next(&daily, hour(5)), Some(hour(24)));
}

/// After the clock was ahead for one backup, every moment is in a period that has none.
#[test]
fn a_backup_of_a_future_does_not_make_one_due_after_the_other() {
    let policy = policy("");
    let taken = [backup(4).began, backup(5).began, backup(9000).began];
    assert_eq!(due(&policy, taken.into_iter(), hour(5).after(Duration::from_secs(60))), None);
    let due = due(&policy, taken.into_iter(), hour(6)).map(|due| (due.since, due.missed));
    assert_eq!(due, Some((hour(6), 0)), "and the next hour has none");
}

const UP: Duration = Duration::from_secs(1_000_000);

/// What goes when one is decided after the other, as the control plane does it.
fn forget(kept: &mut Vec<Backup>, policy: &Policy, reckoning: &mut Option<Reckoning>, up: Duration) {
    *reckoning = Reckoning::next(reckoning.as_ref(), kept, "boot", up);
    let decided = Scene { reckoning: reckoning.as_ref(), ..scene(kept, policy) }.decide();
    kept.retain(|one| decided.iter().any(|decision| decision.id == one.id && !decision.goes()));
}

#[test]
fn a_clock_that_is_ahead_for_a_while_forgets_next_to_nothing() {
    let policy = policy("");
    let mut kept = live(&policy, 24 * 40);
    let (count, mut reckoning) = (kept.len(), None);
    forget(&mut kept, &policy, &mut reckoning, UP);
    assert_eq!(kept.len(), count);
    // Ahead by a year for five hours, then right again for five.
    for n in 0..10 {
        let real = 24 * 40 + n;
        let shown = if n < 5 { real + 24 * 365 } else { real };
        let position = backup(real);
        kept.push(Backup { start: position.start, needs: position.needs, id: position.id, ..backup(shown) });
        let up = UP + Duration::from_secs(3600 * (u64::try_from(n).unwrap_or(0) + 1));
        forget(&mut kept, &policy, &mut reckoning, up);
    }
    let left = kept.iter().filter(|one| one.id < backup(24 * 40).id).count();
    assert!(count - left <= 11, "at most two hours of age for each hour: {left} of {count} are left");
    assert_eq!(kept.len() - left, 10, "each of the new ones is the first of its hour");
}

#[test]
fn the_reckoning_catches_up_after_a_rest_and_never_goes_back() {
    let next = |before: &Reckoning, ended: i64, boot: &str, up: u64| {
        Reckoning::next(Some(before), &[backup(ended)], boot, Duration::from_secs(up * 3600)).expect("one")
    };
    let first = Reckoning::next(None, &[backup(0), backup(1)], "a", Duration::ZERO).expect("one");
    assert_eq!(first.at, backup(1).ended);
    assert_eq!(next(&first, 2, "a", 1).at, backup(2).ended);
    assert_eq!(next(&first, 500, "a", 1).at, backup(3).ended, "an hour of the machine is two at most");
    assert_eq!(next(&first, 500, "b", 1).at, backup(27).ended, "it was off: a day more");
    assert_eq!(next(&first, -50, "a", 1).at, first.at);
    assert_eq!(Reckoning::next(None, &[backup(0), backup(9000)], "a", UP).expect("one").at, backup(24).ended);
}

#[test]
fn what_is_taken_after_a_clock_was_set_back_is_kept_like_the_first_of_its_hour() {
    let policy = policy("");
    let mut all: Vec<Backup> = (0..30).map(backup).collect();
    // The same hours again: the clock went back by a day.
    all.extend((0..20).map(|n| {
        let position = backup(30 + n);
        Backup { start: position.start, needs: position.needs, id: position.id, ..backup(6 + n) }
    }));
    assert!(decide(&all, &policy).iter().all(|decision| !decision.goes()));
}

#[test]
fn positions_that_fell_by_a_restore_in_place_are_not_taken_for_old_wal() {
    let policy = policy("window = \"50h\"\n");
    // From the oldest, at position 100, an early moment was put in the place of the present: timeline 2 begins at 150.
    let later = |hours: i64, start: u64| Backup {
        timeline: 2,
        start: Lsn::new(start),
        needs: Lsn::new(start + 10),
        ..backup(hours)
    };
    let holds = |needed: &[Needed], lsn: u64| {
        let lsn = Lsn::new(lsn);
        needed.iter().any(|one| one.from <= lsn && one.to.is_none_or(|to| lsn <= to))
    };
    let before = [backup(0), backup(100), backup(140), backup(160)];
    let unsaved = Unsaved::from([(7, Lsn::new(150))]);
    let begun = Scene { unsaved: &unsaved, ..scene(&before, &policy) };
    assert!(holds(&begun.needed(), 150), "no backup is of the new timeline yet");
    assert!(begun.decide()[0].rules.contains(&Rule::Window), "and from the oldest alone it is reached");
    let mut all = before.to_vec();
    all.extend([later(161, 160), later(170, 300)]);
    let now = needed(&all, &policy);
    assert!(holds(&now, 200) && holds(&now, 290), "the window's moments since the exchange");
    // The newer timeline is the newer backup, whatever its position.
    assert!(decide(&all, &policy)[5].rules.contains(&Rule::Newest));
    // When the window has passed since the exchange, a backup of the new timeline does.
    all.push(later(230, 900));
    let decided = decide(&all, &policy);
    assert!(decided[5].rules.contains(&Rule::Window) && !decided[0].rules.contains(&Rule::Window), "{decided:?}");
}

proptest! {
    #[test]
    fn dates_are_their_own_reverse(day in -100_000_i64..200_000) {
        let (year, month, of_month) = civil(day);
        prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month));
        prop_assert_eq!(days(year, month, of_month), day);
    }

    #[test]
    fn every_period_holds_its_moment(seconds in 0_i64..4_000_000_000, family in 0_usize..5, begins in 0_u64..86_400) {
        let at = Timestamp::from_millis(seconds * 1000);
        let begins = Duration::from_secs(begins);
        let (from, to) = Family::ALL[family].period(at, begins);
        prop_assert!(from <= at && at < to);
        prop_assert_eq!(Family::ALL[family].period(from, begins), (from, to));
    }

    /// Whatever there is and however often it is decided anew.
    #[test]
    fn the_last_proven_and_all_wal_of_the_kept_stay(
        hours in prop::collection::btree_set(0_i64..9000, 1..40), proofs in prop::collection::vec(0_u8..3, 40),
        window in 1_u64..500, hourly in 0_u64..200, daily in 0_u64..2000,
    ) {
        let keep = Keep {
            hourly: Duration::from_secs(hourly * 3600), daily: Duration::from_secs(daily * 3600),
            weekly: Duration::ZERO, monthly: Duration::ZERO, yearly: Duration::ZERO, by_hand: Duration::ZERO,
            deploys: Duration::ZERO,
        };
        let policy = Policy { keep, window: Duration::from_secs(window * 3600), ..policy("") };
        let all: Vec<Backup> = hours.iter().zip(&proofs).map(|(at, proof)| Backup {
            proof: match proof { 0 => None, 1 => Some((hour(*at), Proof::Proven)), _ => Some((hour(*at), Proof::Failed)) },
            ..backup(*at)
        }).collect();
        let decided = decide(&all, &policy);
        let kept: Vec<Backup> =
            all.iter().zip(&decided).filter(|(_, decision)| !decision.goes()).map(|(one, _)| one.clone()).collect();
        let last = |backups: &[Backup]| backups.iter().rfind(|one| matches!(one.proof, Some((_, Proof::Proven)))).cloned();
        prop_assert_eq!(last(&kept), last(&all));
        prop_assert_eq!(kept.last(), all.last());
        prop_assert!(decide(&kept, &policy).iter().all(|decision| !decision.goes()), "deciding again changes nothing");
        let needed = needed(&kept, &policy);
        for one in &kept {
            prop_assert!(needed.iter().any(|range| range.from <= one.start && range.to.is_none_or(|to| one.needs <= to)));
        }
    }
}
