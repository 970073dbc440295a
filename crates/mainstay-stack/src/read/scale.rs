//! `instances` and `[service.NAME.scale]`.

use std::time::Duration;

use mainstay_types::{Bytes, Percent};

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::raw::{Node, Value};
use crate::read::one_of;
use crate::scale::{Change, Period, Policy, Query, Rate, Rules, Scale, Select, Targets};
use crate::units::share;
use crate::words::nearest;

/// More instances than this on one machine is a slip of the keyboard.
const MOST_INSTANCES: u32 = 100;
/// A target above ten times the reservation is none.
const MOST_PERCENT: u32 = 1000;
const MOST_REQUESTS: u32 = 1_000_000;
/// As Kubernetes bounds them: an hour of recommendations, half an hour of changes.
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
const LONGEST_RATE: Duration = Duration::from_secs(1800);
const LONGEST_COOLDOWN: Duration = Duration::from_secs(24 * 3600);
const LONGEST_LATENCY: Duration = Duration::from_secs(600);
/// Bounds and periods of one service.
const MOST_ITEMS: usize = 16;

const TOLERANCE: Percent = Percent::from_milli(10_000);
const STEP: u32 = 30;
const COOLDOWN: Duration = Duration::from_secs(300);
const POLICIES: [&str; 4] = ["hpa", "step", "target-tracking", "schedule"];

const RENAMED: [(&str, &str); 10] = [
    ("minimum", "min"),
    ("maximum", "max"),
    ("min_replicas", "min"),
    ("max_replicas", "max"),
    ("behavior", "up"),
    ("scale_up", "up"),
    ("scale_down", "down"),
    ("p95", "latency_p95"),
    ("rps", "requests"),
    ("prometheus", "query"),
];

/// What the service has that a scale may need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Has {
    pub(super) port: bool,
    pub(super) memory: Option<Bytes>,
    pub(super) cpu_milli: Option<u32>,
}

/// What the file says of the number of instances.
#[derive(Debug)]
pub(super) struct Count {
    /// How many run at first.
    pub(super) instances: u32,
    /// The upper bound, also of a scale without a measure.
    pub(super) max: Option<u32>,
    pub(super) scale: Option<Scale>,
}

/// How many instances run, and how that follows the load.
pub(super) fn count(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, has: Has) -> Count {
    let (fixed_node, scale_node) = (cursor.node("instances"), cursor.node("scale"));
    let scale_min = node_of(scale_node, "min");
    let names = (cursor.at("instances"), cursor.at("scale.min"));
    let (use_fixed, use_min) = one_of(ctx, (&names.0, fixed_node), (&names.1, scale_min));
    // Both are read in any case, so that a wrong type is told.
    let fixed = cursor.count(ctx, "instances", 1..=MOST_INSTANCES).filter(|_| use_fixed);
    let Some(mut scale) = scale_node.and_then(|node| cursor.table_of(ctx, "scale", node)) else {
        return Count { instances: fixed.unwrap_or(1), max: None, scale: None };
    };
    let least = scale.count(ctx, "min", 1..=MOST_INSTANCES).filter(|_| use_min);
    let max = scale.count(ctx, "max", 1..=MOST_INSTANCES);
    let origin = ctx.origins.of(&scale.at("min"));
    if use_min {
        ctx.origins.set(cursor.at("instances"), origin);
    } else if use_fixed {
        // `scale.min` is what `instances` says.
        let origin = ctx.origins.of(&cursor.at("instances"));
        ctx.origins.set(scale.at("min"), origin);
    }
    let instances = fixed.or(least).unwrap_or(1);
    let read = rules(&mut scale, ctx, (instances, max), has);
    scale.finish(ctx, &[], &RENAMED);
    // An environment that fixes the number has left the file's scale.
    let is_left = node_of(scale_node, "max").is_some_and(|max| use_fixed && overrides(fixed_node, max));
    if is_left {
        return Count { instances, max: None, scale: None };
    }
    check(&scale, ctx, instances, max, read.as_ref());
    Count { instances, max, scale: read }
}

/// A key of a node that is a table.
fn node_of<'n>(table: Option<&'n Node>, key: &str) -> Option<&'n Node> {
    match &table?.value {
        Value::Table(table) => table.get(key),
        _ => None,
    }
}

/// Whether the first is an environment's and the second the file's.
fn overrides(first: Option<&Node>, second: &Node) -> bool {
    first.is_some_and(|first| first.is_override) && !second.is_override
}

/// Bounds that contradict each other, or that nothing moves between.
fn check(scale: &Cursor<'_>, ctx: &mut Context<'_>, least: u32, max: Option<u32>, read: Option<&Scale>) {
    let Some(max) = max else { return };
    let place = ctx.place(&[&scale.at("max")]);
    if least > max {
        let message = format!("`{}` begins at {least} instances and ends at {max}", scale.path);
        ctx.error(Code::MinAboveMax, &place, message, format!("raise `max` to {least}, or lower `min`"));
    } else if least < max && read.is_some_and(|scale| !scale.is_moved()) {
        let message = format!("`{}` goes up to {max}, and nothing is measured: {least} run", scale.path);
        let help = "add `cpu`, `memory`, `requests`, `latency_p95`, `query` or `schedule`; by hand, `mainstay scale` \
                    goes up to `max`"
            .to_owned();
        ctx.warning(Code::ScaleFixed, &place, message, help);
    }
}

/// All of the table; `None`: it has no upper bound.
fn rules(scale: &mut Cursor<'_>, ctx: &mut Context<'_>, bounds: (u32, Option<u32>), has: Has) -> Option<Scale> {
    let targets = targets(scale, ctx, has);
    let policy = policy(scale, ctx);
    let tolerance = tolerance(scale, ctx);
    let (up, up_tolerance) = direction(scale, ctx, "up", Rules::up());
    let (down, down_tolerance) = direction(scale, ctx, "down", Rules::down());
    if policy != Policy::Hpa {
        for key in ["tolerance", "up", "down"] {
            let path = scale.at(key);
            if ctx.is_said(&path) {
                let message =
                    format!("`{path}` is a rule of the policy \"hpa\", and this one is \"{}\"", policy.word());
                ctx.error(Code::BadValue, &ctx.place(&[&path]), message, "remove it, or the policy".to_owned());
            }
        }
    }
    let schedule = schedule(scale, ctx);
    let is_moved = !targets.is_empty() || !schedule.is_empty();
    if policy == Policy::Schedule && schedule.is_empty() && !ctx.is_said(&scale.at("schedule")) {
        scale.missing(
            ctx,
            "schedule",
            "its policy is that nothing else counts",
            "`schedule = [{ when = \"sat,sun\", min = 1, max = 1 }]`",
        );
    }
    if matches!(policy, Policy::Step { .. } | Policy::TargetTracking { .. }) && targets.is_empty() {
        scale.missing(
            ctx,
            "cpu",
            "its policy needs a measure",
            "`cpu = 70`, `memory = 80` or `latency_p95 = \"500ms\"`",
        );
    }
    let Some(max) = bounds.1 else {
        if is_moved && !ctx.is_said(&scale.at("max")) {
            scale.missing(ctx, "max", "instances are added up to it", "`max = 4`");
        }
        return None;
    };
    Some(Scale {
        min: bounds.0,
        max,
        policy,
        targets,
        up_tolerance: up_tolerance.or(tolerance).unwrap_or(TOLERANCE),
        down_tolerance: down_tolerance.or(tolerance).unwrap_or(TOLERANCE),
        up,
        down,
        schedule,
    })
}

fn targets(scale: &mut Cursor<'_>, ctx: &mut Context<'_>, has: Has) -> Targets {
    let targets = Targets {
        cpu_percent: scale.count(ctx, "cpu", 1..=MOST_PERCENT),
        memory_percent: scale.count(ctx, "memory", 1..=MOST_PERCENT),
        requests: scale.count(ctx, "requests", 1..=MOST_REQUESTS),
        latency_p95: scale.duration(ctx, "latency_p95", Duration::from_millis(1)..=LONGEST_LATENCY),
        query: query(scale, ctx),
    };
    let needs = [
        ("cpu", targets.cpu_percent.is_some() && has.cpu_milli.is_none(), "resources.cpu", "cpu = \"500m\""),
        ("memory", targets.memory_percent.is_some() && has.memory.is_none(), "resources.memory", "memory = \"256MiB\""),
    ];
    for (key, is_missing, of, example) in needs {
        let path = scale.at(key);
        if is_missing {
            let message = format!("`{path}` is a share of `{of}`, which the service does not say");
            let help = format!("add `resources = {{ {example} }}` to the service");
            ctx.error(Code::ScaleUnreserved, &ctx.place(&[&path]), message, help);
        }
    }
    for (key, is_said) in [("requests", targets.requests.is_some()), ("latency_p95", targets.latency_p95.is_some())] {
        let path = scale.at(key);
        if is_said && !has.port {
            let message = format!("`{path}` is measured at the edge, and the service has no port");
            let help = "use `cpu`, `memory` or `query`, or give the service a port".to_owned();
            ctx.error(Code::NoSuchPort, &ctx.place(&[&path]), message, help);
        }
    }
    targets
}

fn query(scale: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Query> {
    let mut table = scale.table(ctx, "query")?;
    let expression = table.text(ctx, "expression", "expression = \"sum(jobs_waiting)\"");
    let target = table.count(ctx, "target", 1..=u32::MAX);
    let is_per_instance = choice(&mut table, ctx, "per", ["instance", "service"]).is_none_or(|per| per == "instance");
    for (key, example) in [("expression", "`expression = \"sum(jobs_waiting)\"`"), ("target", "`target = 100`")] {
        if !ctx.is_said(&table.at(key)) {
            table.missing(ctx, key, "a query asks Prometheus, and compares the answer with a target", example);
        }
    }
    table.finish(ctx, &[], &[("query", "expression"), ("promql", "expression"), ("value", "target")]);
    Some(Query { expression: expression?.text, target: target?, is_per_instance })
}

/// One of several words.
fn choice(
    cursor: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    key: &'static str,
    words: impl AsRef<[&'static str]>,
) -> Option<&'static str> {
    let words = words.as_ref();
    let text = cursor.text(ctx, key, &format!("{key} = \"{}\"", words.first()?))?;
    let found = words.iter().find(|word| **word == text.text).copied();
    if found.is_none() {
        let all: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let help = match nearest(&text.text, words.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}", all.join(", ")),
        };
        let message = format!("`{}` is \"{}\", which is none of its words", cursor.at(key), quote(&text.text));
        ctx.error(Code::BadValue, &text.span, message, help);
    }
    found
}

fn policy(scale: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Policy {
    let word = choice(scale, ctx, "policy", POLICIES).unwrap_or("hpa");
    let step = scale.count(ctx, "step", 1..=MOST_PERCENT);
    let low = scale.count(ctx, "low", 1..=100);
    let cooldown = scale.duration(ctx, "cooldown", Duration::ZERO..=LONGEST_COOLDOWN);
    let policy = match word {
        "step" => Policy::Step {
            step: step.unwrap_or(STEP),
            low: low.unwrap_or(STEP),
            cooldown: cooldown.unwrap_or(COOLDOWN),
        },
        "target-tracking" => Policy::TargetTracking { cooldown: cooldown.unwrap_or(COOLDOWN) },
        "schedule" => Policy::Schedule,
        _ => Policy::Hpa,
    };
    let strange = [
        ("step", !matches!(policy, Policy::Step { .. }), "\"step\""),
        ("low", !matches!(policy, Policy::Step { .. }), "\"step\""),
        ("cooldown", matches!(policy, Policy::Hpa | Policy::Schedule), "\"step\" and \"target-tracking\""),
    ];
    for (key, is_strange, of) in strange {
        let path = scale.at(key);
        if is_strange && ctx.is_said(&path) {
            let message = format!("`{path}` is a rule of the policy {of}, and this one is \"{}\"", policy.word());
            ctx.error(Code::BadValue, &ctx.place(&[&path]), message, "remove it, or name that policy".to_owned());
        }
    }
    policy
}

/// `"10%"`, or `0.1` as Kubernetes writes it.
fn tolerance(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Percent> {
    let node = cursor.value(ctx, "tolerance")?;
    let path = cursor.at("tolerance");
    let example = "tolerance = \"10%\"";
    let read = match &node.value {
        Value::Text(text) => share(text).map_err(|error| error.to_string()),
        Value::Float(text) => fraction(text).ok_or_else(|| "it is no share from 0.0 to 1.0".to_owned()),
        _ => {
            wrong_type(ctx, &path, node, "a share", example);
            return None;
        }
    };
    let said = match &node.value {
        Value::Text(text) | Value::Float(text) => quote(text),
        _ => String::new(),
    };
    read.map_err(|why| {
        let message = format!("`{path}` is {said}: {why}");
        ctx.error(Code::BadUnit, &node.span, message, format!("write for example {example}"));
    })
    .ok()
}

/// A number from 0 to 1 with at most five decimals, digit by digit: nothing is rounded.
fn fraction(text: &str) -> Option<Percent> {
    let (whole, decimals) = text.split_once('.')?;
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(decimals) || decimals.len() > 5 {
        return None;
    }
    let milli =
        format!("{decimals:0<5}").parse::<u32>().ok()?.checked_add(whole.parse::<u32>().ok()?.checked_mul(100_000)?)?;
    (milli <= 100_000).then(|| Percent::from_milli(milli))
}

/// `up` or `down`: what is not said stays as Kubernetes has it.
fn direction(
    scale: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    key: &'static str,
    defaults: Rules,
) -> (Rules, Option<Percent>) {
    let Some(mut table) = scale.table(ctx, key) else { return (defaults, None) };
    let window = table.duration(ctx, "window", Duration::ZERO..=LONGEST_WINDOW);
    let words = Select::ALL.map(Select::word);
    let select = choice(&mut table, ctx, "select", words);
    let select = select.and_then(|word| Select::ALL.into_iter().find(|select| select.word() == word));
    let rates = items(&mut table, ctx, "policies", rate);
    let tolerance = tolerance(&mut table, ctx);
    table.finish(ctx, &[], &[("stabilization", "window"), ("select_policy", "select"), ("rates", "policies")]);
    let rules = Rules {
        window: window.unwrap_or(defaults.window),
        rates: rates.filter(|rates| !rates.is_empty()).unwrap_or(defaults.rates),
        select: select.unwrap_or(defaults.select),
    };
    (rules, tolerance)
}

/// The tables of an array, each read by `read`.
fn items<T>(
    cursor: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    key: &'static str,
    read: fn(&mut Cursor<'_>, &mut Context<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let node = cursor.value(ctx, key)?;
    let path = cursor.at(key);
    let Value::Array(items) = &node.value else {
        wrong_type(ctx, &path, node, "an array of tables", &format!("{key} = [{{ … }}]"));
        return None;
    };
    if items.len() > MOST_ITEMS || items.is_empty() {
        let message = format!("`{path}` has {} entries, which is outside 1 to {MOST_ITEMS}", items.len());
        ctx.error(Code::OutOfRange, &node.key, message, "remove some, or the key".to_owned());
        return None;
    }
    let mut all = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let Value::Table(table) = &item.value else {
            wrong_type(ctx, &at, item, "a table", "{ every = \"30s\" }");
            continue;
        };
        ctx.note_place(&at, item);
        all.extend(read(&mut Cursor::new(table, item.key.clone(), at), ctx));
    }
    Some(all)
}

/// `{ instances = 2, every = "30s" }` or `{ percent = 100, every = "30s" }`.
fn rate(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Rate> {
    let (count_node, share_node) = (table.node("instances"), table.node("percent"));
    let names = (table.at("instances"), table.at("percent"));
    let (use_count, _) = one_of(ctx, (&names.0, count_node), (&names.1, share_node));
    let count = table.count(ctx, "instances", 1..=MOST_INSTANCES);
    let share = table.count(ctx, "percent", 1..=MOST_PERCENT * 10);
    let every = table.duration(ctx, "every", Duration::from_secs(1)..=LONGEST_RATE);
    if count_node.is_none() && share_node.is_none() {
        table.missing(ctx, "instances", "it bounds how many come or go", "`instances = 2`, or `percent = 100`");
    }
    if !ctx.is_said(&table.at("every")) {
        table.missing(ctx, "every", "it says in how long", "`every = \"30s\"`");
    }
    table.finish(ctx, &[], &[("pods", "instances"), ("value", "instances"), ("period", "every")]);
    let change = if use_count { Change::Instances(count?) } else { Change::Percent(share?) };
    Some(Rate { change, every: every? })
}

fn schedule(scale: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Vec<Period> {
    items(scale, ctx, "schedule", period).unwrap_or_default()
}

/// `{ when = "sat,sun", min = 1, max = 1 }`.
fn period(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Period> {
    const EXAMPLE: &str = "when = \"sat,sun\", \"22:00-06:00\" or \"mon-fri 08:00-18:00\"";
    let text = table.text(ctx, "when", EXAMPLE);
    let min = table.count(ctx, "min", 1..=MOST_INSTANCES);
    let max = table.count(ctx, "max", 1..=MOST_INSTANCES);
    for (key, example) in [("when", EXAMPLE), ("min", "`min = 1`"), ("max", "`max = 1`")] {
        if !ctx.is_said(&table.at(key)) {
            table.missing(ctx, key, "a period says when it is, and its bounds", example);
        }
    }
    table.finish(ctx, &[], &[("at", "when"), ("days", "when")]);
    let text = text?;
    let when = match text.text.parse() {
        Ok(when) => when,
        Err(error) => {
            let message = format!("`{}` is \"{}\": {error}", table.at("when"), quote(&text.text));
            ctx.error(Code::BadSchedule, &text.span, message, format!("write {EXAMPLE} (UTC)"));
            return None;
        }
    };
    let (min, max) = (min?, max?);
    if min > max {
        let place = ctx.place(&[&table.at("max")]);
        let message = format!("`{}` begins at {min} instances and ends at {max}", table.path);
        ctx.error(Code::MinAboveMax, &place, message, format!("raise `max` to {min}, or lower `min`"));
        return None;
    }
    Some(Period { when, min, max })
}
