use std::collections::BTreeMap;

use mainstay_types::Timestamp;

use super::*;
use crate::checker::{Anomaly, Tally, Validity};
use crate::dossier::{Control, Controls, DOSSIER_VERSION};
use crate::report::{CheckReport, Counts, Evidence, Latency, Measured, Phases, Promised, RoundReport, Spread};
use crate::strip::{Slice, Strip};

/// Text that would run if it were not escaped.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&";

fn round(number: u32) -> RoundReport {
    let timeline = [("injected", 0), ("detected", 9), ("fenced", 120), ("promoted", 248), ("recloned", 1576)];
    RoundReport {
        number,
        began: Timestamp::from_millis(0),
        injected: Some(Timestamp::from_millis(900)),
        ended: Timestamp::from_millis(4000),
        fault: "SIGKILL to postgres-a (pid 7), gone from /proc".to_owned(),
        is_proven: true,
        rto_ms: Some(300 + u64::from(number)),
        stall_ms: Some(400 + u64::from(number)),
        whole_ms: Some(2385),
        load: BTreeMap::new(),
        timeline_ms: timeline.into_iter().map(|(step, at)| (step.to_owned(), at)).collect(),
        counts: Counts::default(),
    }
}

pub(crate) fn report(runs: u32) -> Report {
    let rounds: Vec<RoundReport> = (1..=runs).map(round).collect();
    let rto_ms: Vec<u64> = rounds.iter().filter_map(|round| round.rto_ms).collect();
    let stall_ms: Vec<u64> = rounds.iter().filter_map(|round| round.stall_ms).collect();
    let check = CheckReport {
        rounds: runs,
        writes: Tally { ok: 2598, failed: 0, ambiguous: 11 },
        reads: 5,
        ..CheckReport::new("append", 1)
    };
    Report {
        version: 1,
        drill: "database-crash".to_owned(),
        verdict: Verdict::Pass,
        runs,
        seed: 7,
        began: Timestamp::from_millis(1_780_000_000_000),
        ended: Timestamp::from_millis(1_780_000_100_000),
        sabotage: None,
        promise: Promised { rto_ms: 60_000, rpo_ms: 5000, source: "mainstay.toml".to_owned() },
        extended: None,
        measured: Measured {
            stall_ms: Spread::of(&stall_ms),
            rto_ms: Spread::of(&rto_ms),
            whole_ms: Some(Spread { p50: 2385, p95: 2385, max: 2385 }),
            keys_rpo_ms: 0,
            rows: crate::loss::Gone { acknowledged: 2598, ..crate::loss::Gone::default() },
            numbers: None,
            counts: Counts { acknowledged: 2598, ambiguous: 11, requests: 3911, ..Counts::default() },
        },
        latency: BTreeMap::from([(
            "writes".to_owned(),
            Phases { before: Latency { count: 9, p50_us: 830, ..Latency::default() }, ..Phases::default() },
        )]),
        checks: vec![check],
        alerts: Vec::new(),
        history_sha256: Some("abc123".to_owned()),
        strip: Some(Strip {
            run: 1,
            slice_ms: 50,
            before_ms: 900,
            kinds: BTreeMap::from([("writes".to_owned(), vec![Slice { ok: 5, failed: 1, unknown: 2 }; 80])]),
        }),
        environment: None,
        timeline_ms: rounds[0].timeline_ms.clone(),
        rounds,
        evidence: Evidence {
            rto_ms,
            stall_ms,
            load: "4 writers".to_owned(),
            not_tested: vec!["loss of the machine".to_owned()],
            reproduce: format!("mainstay drill database-crash --runs {runs} --seed 7"),
            ..Evidence::default()
        },
    }
}

pub(crate) fn dossier(reports: Vec<Report>) -> Dossier {
    let sheets = reports.into_iter().map(|report| Sheet { report, controls: Controls::default() });
    Dossier { dossier: DOSSIER_VERSION, made: Timestamp::from_millis(0), sheets: sheets.collect(), skipped: Vec::new() }
}

fn of(report: Report) -> String {
    page(&dossier(vec![report]))
}

#[track_caller]
fn has(page: &str, text: &str) {
    assert!(page.contains(text), "no {text:?} in\n{page}");
}

#[test]
fn the_first_lines_say_what_happened_what_was_promised_and_whether_it_was_kept() {
    let page = of(report(5));
    has(&page, "<b>PASS</b>");
    has(
        &page,
        "The primary database was killed 5 times. Clients were served again within <strong>305 ms</strong>; 60 s were promised.",
    );
    has(&page, "Of 2,598 confirmed writes <strong>none was lost</strong>.");
    assert!(page.find("PASS") < page.find("What was tried"));
}

#[test]
fn few_runs_say_that_they_say_little_and_59_say_more() {
    let few = of(report(5));
    has(&few, "With 95 % confidence at least 54 % of such faults are over within 305 ms, the worst of 5 runs.");
    has(&few, "5 runs say nothing of a 95th percentile: 59 are needed for that.");
    has(&few, "lost in 0 of 5 runs: with 95 % confidence fewer than 46 % of such faults lose one.");
    let many = of(report(59));
    has(&many, "at least 95 % of such faults are over within 359 ms, the worst of 59 runs.");
    assert!(!many.contains("are needed for that"));
    has(&many, "fewer than 5 % of such faults lose one.");
}

#[test]
fn one_run_has_no_histogram_and_says_what_makes_one() {
    has(&of(report(1)), "One run has no spread: a histogram is drawn from two runs on (<code>--runs</code>).");
    let two = of(report(2));
    has(&two, "<figcaption>Time until clients were served again: median");
    assert!(!two.contains("One run has no spread"));
}

#[test]
fn a_loss_is_said_at_the_top_and_bounds_nothing() {
    let mut lossy = report(2);
    lossy.verdict = Verdict::Fail;
    lossy.measured.counts.lost = 3;
    lossy.rounds[0].counts.lost = 3;
    lossy.evidence.reasons = vec!["run 1: append found 3 lost: read 9 misses 0-1".to_owned()];
    lossy.checks[0].validity = Validity::Invalid;
    lossy.checks[0].anomalies = BTreeMap::from([(Anomaly::Lost, 3)]);
    let page = of(lossy);
    has(&page, "<strong>3</strong> of 2,598 confirmed writes were <strong>lost</strong>.");
    has(&page, "Writes were lost in 1 of 2 runs.");
    has(&page, "3 lost");
    assert!(!page.contains("of such faults lose one"));
    assert!(page.find("append found 3 lost") < page.find("What was tried"));
}

#[test]
fn service_that_never_came_back_is_not_hidden_by_a_figure() {
    let mut broken = report(2);
    broken.rounds[1].rto_ms = None;
    broken.evidence.rto_ms.pop();
    let page = of(broken);
    has(&page, "<strong>service did not come back</strong>");
    assert!(!page.contains("of such faults are over within"), "a bound needs a time of every run");
}

#[test]
fn what_was_not_measured_says_so() {
    let mut empty = report(1);
    (empty.latency, empty.checks, empty.history_sha256, empty.strip) = (BTreeMap::new(), Vec::new(), None, None);
    empty.measured.counts = Counts::default();
    empty.rounds.clear();
    empty.evidence.rto_ms.clear();
    let page = of(empty);
    has(&page, "<dt>Kernel</dt><dd>not measured</dd>");
    has(&page, "not measured: no row was written that could be checked.");
    has(&page, "not measured: no fault was proven.");
    has(&page, "<dt>Missing here</dt><dd>not measured</dd>");
    has(&page, "Time until service was back: not measured.");
}

#[test]
fn without_a_proven_fault_no_time_is_shown() {
    let mut void = report(1);
    (void.verdict, void.rounds[0].is_proven, void.strip) = (Verdict::Void, false, None);
    (void.measured.rto_ms, void.measured.stall_ms, void.measured.whole_ms) = (None, None, None);
    void.evidence.rto_ms.clear();
    let twin = serde_json::to_value(&void).expect("serializes");
    assert!(twin["measured"]["whole_ms"].is_null() && twin["measured"]["rto_ms"].is_null());
    let page = of(void);
    has(&page, "Whether service came back was not measured");
    has(&page, "<dt>Everything whole again, worst run</dt><dd>not measured</dd>");
    has(&page, "<dt>Longest wait of one client</dt><dd>not measured</dd>");
}

#[test]
fn the_drill_that_breaks_nothing_says_nothing_of_coming_back() {
    let page = of(Report { drill: "null".to_owned(), ..report(2) });
    for absent in ["served again", "whole again", "Service back after", "are over within"] {
        assert!(!page.contains(absent), "{absent}");
    }
    has(&page, "Longest wait of one client");
}

#[test]
fn a_worker_that_was_hit_says_nothing_of_the_edge() {
    let mut worker = Report { drill: "instance-crash".to_owned(), ..report(1) };
    worker.evidence.load = "4 clients GET / through the edge".to_owned();
    has(&of(worker.clone()), "The edge notices");
    worker.evidence.load = "4 writers through the router".to_owned();
    assert!(!of(worker).contains("The edge notices"));
}

#[test]
fn controls_have_dates_or_were_never_run() {
    has(&of(report(1)), "it must fail: <b class=\"warn\">never run</b>");
    let mut with = dossier(vec![report(1)]);
    with.sheets[0].controls.positive = Some(Control {
        at: Timestamp::from_millis(0),
        verdict: Verdict::Fail,
        mistake: Some("acknowledge-before-commit".to_owned()),
    });
    has(&page(&with), "<b class=\"good\">FAIL</b> (acknowledge-before-commit) on 1970-01-01 00:00 UTC");
    with.sheets[0].controls.positive.as_mut().expect("there").verdict = Verdict::Pass;
    has(&page(&with), "<b class=\"bad\">PASS</b>");
}

#[test]
fn nothing_that_a_run_saw_becomes_markup() {
    let mut hostile = report(2);
    hostile.drill = HOSTILE.to_owned();
    hostile.sabotage = Some(HOSTILE.to_owned());
    hostile.promise.source = HOSTILE.to_owned();
    hostile.history_sha256 = Some(HOSTILE.to_owned());
    hostile.rounds[0].fault = HOSTILE.to_owned();
    hostile.rounds[0].timeline_ms.insert(HOSTILE.to_owned(), 5);
    hostile.timeline_ms.insert(HOSTILE.to_owned(), 5);
    hostile.latency = BTreeMap::from([(HOSTILE.to_owned(), Phases::default())]);
    hostile.checks[0].checker = HOSTILE.to_owned();
    hostile.checks[0].quoted = vec![HOSTILE.to_owned()];
    hostile.strip.as_mut().expect("there").kinds.insert(HOSTILE.to_owned(), vec![Slice::default(); 9]);
    let evidence = &mut hostile.evidence;
    evidence.errors.insert(HOSTILE.to_owned(), 1);
    evidence.reasons = vec![HOSTILE.to_owned()];
    evidence.load = HOSTILE.to_owned();
    evidence.not_tested = vec![HOSTILE.to_owned()];
    evidence.reproduce = HOSTILE.to_owned();
    let mut environment = crate::Environment { stack: Some(HOSTILE.to_owned()), ..crate::Environment::default() };
    environment.programs.insert(HOSTILE.to_owned(), HOSTILE.to_owned());
    environment.pressure.insert(HOSTILE.to_owned(), 1);
    environment.missing = vec![HOSTILE.to_owned()];
    hostile.environment = Some(environment);
    let mut all = dossier(vec![hostile.clone(), hostile]);
    all.skipped.push(crate::Skipped { drill: HOSTILE.to_owned(), reason: HOSTILE.to_owned(), is_aborted: false });
    let page = page(&all);
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("\"'>"), "{page}");
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let page = page(&dossier(vec![report(3), report(4)]));
    for needle in ["<script", "http://", "https://", "src=", "url(", "@import", "<link", " style=", "<iframe", " on"] {
        let found: Vec<&str> = page.split(needle).skip(1).map(|rest| &rest[..rest.len().min(40)]).collect();
        let is_word = |rest: &&&str| {
            needle != " on"
                || rest
                    .split_once('=')
                    .is_some_and(|(name, _)| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase()))
        };
        assert_eq!(found.iter().filter(is_word).count(), 0, "{needle:?} in the page: {found:?}");
    }
    has(&page, "default-src 'none'");
}

#[test]
fn the_twin_is_read_again_as_it_was_written() {
    let all = dossier(vec![report(2)]);
    let text = serde_json::to_string(&all).expect("writes");
    assert_eq!(serde_json::from_str::<Dossier>(&text).expect("reads"), all);
}

#[test]
fn several_drills_begin_with_a_table() {
    let mut other = report(1);
    (other.drill, other.verdict) = ("keep-crash".to_owned(), Verdict::Void);
    let mut all = dossier(vec![report(3), other]);
    let reason = "the stack has no cache".to_owned();
    all.skipped.push(crate::Skipped { drill: "cache-crash".to_owned(), reason, is_aborted: false });
    let page = page(&all);
    has(&page, "1 of 2 drills did not pass.");
    has(&page, "<a href=\"#keep-crash\">Keep crash</a>");
    has(&page, "<td>Cache crash</td><td class=\"warn\">not run</td>");
}

#[test]
fn a_reader_learns_who_was_told_and_when_and_what_it_costs_of_an_error_budget() {
    let quiet = of(report(1));
    has(&quiet, "No event warned of it.");
    has(&quiet, "301 ms as in the worst run are 0.011 % of the 43 min");
    has(&quiet, "not known: `bin/build` says it");
    let mut told = report(2);
    told.alerts = vec![crate::Alert {
        kind: "CommitsAsynchronous".to_owned(),
        level: mainstay_api::Level::Warn,
        text: HOSTILE.to_owned(),
        after_p50_ms: 41,
        after_max_ms: 52,
        rounds: 2,
        lasts: true,
        cleared: 2,
        cleared_max_ms: Some(2900),
    }];
    let page = of(told.clone());
    has(&page, "2 of 2</td><td class=\"n\">41 ms</td><td class=\"n\">52 ms</td><td class=\"\">2.90 s</td>");
    assert!(!page.contains(HOSTILE));
    told.alerts[0].cleared = 1;
    has(&of(told.clone()), "<td class=\"warn\">in 1 of 2 runs</td>");
    let environment =
        crate::Environment { commit: Some("ee889fd".to_owned()), is_dirty: Some(true), ..Default::default() };
    told.environment = Some(environment);
    has(&of(told), "ee889fd, with changes that are not in it");
}

/// It was an empty text, and "at least 0 operations succeeded".
#[test]
fn a_load_that_was_not_there_is_none() {
    let mut idle = report(1);
    idle.evidence.load = String::new();
    (idle.evidence.least_load_before, idle.evidence.least_load_after) = (Some(0), Some(0));
    let page = of(idle);
    assert!(page.contains("<li>Load: none</li>"), "{page}");
}
