//! `mainstay scale`: how many instances each service has, and `mainstay scale web=4` to have another number; and what
//! `mainstay explain SERVICE` says of it.

use clap::{Args, ValueEnum};
use mainstay_api::{ScaleAsked, ScaleStatus};
use mainstay_client::Client;
use mainstay_types::{Timestamp, exit_code};

use crate::Global;
use crate::again;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// `web=4`: four instances from now on; `web` with `--auto`. Without any: the table of all services
    #[arg(value_name = "SERVICE[=COUNT]")]
    wanted: Vec<String>,
    /// Whether the load moves the number
    #[arg(long, value_enum)]
    auto: Option<Auto>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auto {
    /// As the stack file's `scale` says
    On,
    /// It stays as it is
    Off,
}

/// What one argument asks for.
fn asked(text: &str, auto: Option<Auto>) -> Result<(String, ScaleAsked), Failure> {
    let is_auto = auto.map(|auto| auto == Auto::On);
    let Some((service, count)) = text.split_once('=') else {
        if auto.is_none() {
            let failure = Failure::user("MS2140", format!("how many instances is {text} to have?"));
            return Err(failure.help(format!("`mainstay scale {text}=4`, or `mainstay scale {text} --auto on`")));
        }
        return Ok((text.to_owned(), ScaleAsked { count: None, is_auto }));
    };
    match count.parse::<u32>() {
        Ok(count) if count > 0 => Ok((service.to_owned(), ScaleAsked { count: Some(count), is_auto })),
        _ => {
            let failure = Failure::user("MS2140", format!("{count:?} is no number of instances from 1 on"));
            Err(failure.help(format!("`mainstay scale {service}=4`")))
        }
    }
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let mut all = Vec::new();
    for text in &options.wanted {
        all.push(asked(text, options.auto)?);
    }
    if all.is_empty() && options.auto.is_some() {
        return Err(Failure::user("MS2140", "whose number is the load to move?").help("`mainstay scale web --auto on`"));
    }
    let client = crate::place::client(global)?;
    if all.is_empty() {
        let scales = client.scales().await?;
        if global.json {
            return json(&scales);
        }
        table(&scales).iter().for_each(|line| println!("{line}"));
        return Ok(exit_code::DONE);
    }
    let mut done = Vec::new();
    for (service, asked) in all {
        let before = one(&client, &service).await?.map(|scale| (scale.wanted, scale.is_auto));
        let now = client.scale(&service, &asked).await?;
        if !global.json {
            println!("{}", told(before, &now));
        }
        done.push(now);
    }
    if global.json { json(&done) } else { Ok(exit_code::DONE) }
}

fn json(value: &impl serde::Serialize) -> Result<u8, Failure> {
    println!("{}", serde_json::to_string_pretty(value).map_err(|error| Failure::bug(error.to_string()))?);
    Ok(exit_code::DONE)
}

async fn one(client: &Client, service: &str) -> Result<Option<ScaleStatus>, Failure> {
    Ok(client.scales().await?.into_iter().find(|scale| scale.service.as_str() == service))
}

/// What was changed, what was not, and how to go back.
fn told(before: Option<(u32, bool)>, now: &ScaleStatus) -> String {
    let name = &now.service;
    let mut text = match before {
        Some((from, _)) if from != now.wanted => format!("{name}: {from} → {} instances", now.wanted),
        _ => format!("{name}: {} instances, as before", now.wanted),
    };
    match (before.map(|(_, was)| was), now.is_auto) {
        (Some(true), false) => {
            text.push_str(&again::text(&format!("; auto is off, `mainstay scale {name} --auto on` gives it back")))
        }
        (_, true) => text.push_str(&format!("; the load moves it between {} and {}", now.min, now.max)),
        (_, false) => {}
    }
    text
}

fn table(scales: &[ScaleStatus]) -> Vec<String> {
    if scales.is_empty() {
        return vec!["the stack has no service that stands".to_owned()];
    }
    let width = scales.iter().map(|scale| scale.service.as_str().len()).max().unwrap_or(0).max(7);
    let mut lines = vec![format!("{:<width$}  {:>6}  {:>6}  {:<9}  {}", "service", "wanted", "ready", "auto", "why")];
    for scale in scales {
        let auto = match (&scale.policy, scale.is_auto) {
            (None, _) => "no".to_owned(),
            (Some(_), false) => "off".to_owned(),
            (Some(_), true) => format!("{}..{}", scale.min, scale.max),
        };
        let name = scale.service.as_str();
        lines.push(format!("{name:<width$}  {:>6}  {:>6}  {auto:<9}  {}", scale.wanted, scale.ready, scale.why));
    }
    lines
}

/// `mainstay explain SERVICE`. `None`: the stack that runs has no such service.
pub(crate) async fn explain(global: &Global, name: &str) -> Result<Option<u8>, Failure> {
    let client = crate::place::client(global)?;
    let Some(scale) = one(&client, name).await? else { return Ok(None) };
    if global.json {
        return json(&scale).map(Some);
    }
    explained(&scale).iter().for_each(|line| println!("{line}"));
    Ok(Some(exit_code::DONE))
}

/// The way from the measures to the number, line by line.
fn explained(scale: &ScaleStatus) -> Vec<String> {
    let name = &scale.service;
    let mut lines = vec![format!("{name}  {} wanted, {} ready", scale.wanted, scale.ready)];
    let mut say = |what: &str, text: String| lines.push(format!("  {what:<11} {text}"));
    match &scale.policy {
        None => say("policy", format!("none: add [service.{name}.scale] for a number that follows the load")),
        Some(policy) => {
            let auto = if scale.is_auto { "on" } else { "off" };
            let period = scale.period.as_ref().map_or(String::new(), |when| format!(", by the schedule {when}"));
            say("policy", format!("{policy}, auto {auto}, {} to {}{period}", scale.min, scale.max));
        }
    }
    for measure in &scale.measures {
        let usage =
            measure.usage.as_ref().map_or("unknown".to_owned(), |usage| format!("{usage} of {}", measure.target));
        say(&measure.name, format!("{usage}; {}", measure.arithmetic));
    }
    if let Some(desired) = scale.desired {
        let largest = if scale.measures.len() > 1 { ", the largest of the measures" } else { "" };
        say("wanted", format!("{desired}{largest}"));
        if let Some(stabilised) = scale.stabilised.filter(|stabilised| *stabilised != desired) {
            say("window", format!("{stabilised}, by recent recommendations"));
        }
    }
    if let Some(room) = &scale.room {
        say("machine", format!("room for {}: {}", room.most, room.why));
    }
    if let Some(reason) = &scale.reason {
        say("decided by", reason.clone());
    }
    say("why", scale.why.clone());
    for change in scale.changes.iter().take(5) {
        say("changed", format!("{}  {} → {}: {}", short(change.at), change.from, change.to, change.why));
    }
    lines.extend(examples(scale));
    lines
}

fn short(at: Timestamp) -> String {
    at.to_string().get(..19).unwrap_or_default().replace('T', " ")
}

/// Examples that architecture documents give of such a scale, with what this rule makes of them: they are often wrong
/// by their own formula.
fn examples(scale: &ScaleStatus) -> Vec<String> {
    let has_cpu = scale.measures.iter().any(|measure| measure.name == "cpu");
    if !has_cpu || scale.policy.as_deref() != Some("hpa") {
        return Vec::new();
    }
    let mut lines = vec!["  examples    of documents with a target of 70 % CPU, by the same formula:".to_owned()];
    for (usage, current, said, note) in EXAMPLES {
        let gives = proposal(usage);
        let same = if gives == said { "as they say".to_owned() } else { format!("they say {said}{note}") };
        let shown: Vec<String> = usage.iter().map(ToString::to_string).collect();
        lines.push(format!("              {current} at {} %: {gives}; {same}", shown.join(", ")));
    }
    lines
}

/// CPU of each instance, how many there are, what the document says, and why that is another number.
const EXAMPLES: [(&[u64], u32, u32, &str); 4] = [
    (&[85, 85], 2, 4, ", which their rate of 2 each 30 s allows and their target does not ask for"),
    (&[45, 78, 92], 3, 5, ", and 71 % is within the tolerance of 10 %"),
    (&[65, 65, 65, 65, 65, 65], 6, 6, ""),
    (&[30, 30, 30, 30, 30, 30], 6, 5, ", one a minute after five minutes"),
];

fn proposal(usage: &[u64]) -> u32 {
    use mainstay_decide::autoscale::replicas::{Kind, Phase, Pod, Sample, Timing, Tolerance, utilisation};
    let at = Timestamp::from_micros(0);
    let pod = |percent: &u64| Pod {
        phase: Phase::Running,
        started_at: None,
        readiness: None,
        sample: Some(Sample { value: *percent, at, window: std::time::Duration::ZERO }),
        request: Some(100),
    };
    let pods: Vec<Pod> = usage.iter().map(pod).collect();
    let current = u32::try_from(pods.len()).unwrap_or(u32::MAX);
    let rules = (Kind::Other, at, Timing::default());
    let read = utilisation(current, &pods, 70, Tolerance { down: 0.1, up: 0.1 }, rules);
    read.map_or(current, |reading| reading.proposal)
}

#[cfg(test)]
mod tests {
    use mainstay_api::{ScaleChange, ScaleMeasure};
    use mainstay_types::ServiceName;

    use super::*;

    fn scale() -> ScaleStatus {
        ScaleStatus {
            service: ServiceName::new("web").expect("a name"),
            wanted: 3,
            ready: 2,
            min: 2,
            max: 10,
            is_auto: true,
            policy: Some("hpa".to_owned()),
            period: None,
            decided_at: None,
            measures: vec![ScaleMeasure {
                name: "cpu".to_owned(),
                target: "70 %".to_owned(),
                usage: Some("85 %".to_owned()),
                proposal: Some(3),
                arithmetic: "ratio 1.21 (2 ready): × 2 = 2.43, rounded up 3".to_owned(),
            }],
            desired: Some(3),
            stabilised: Some(3),
            reason: Some("DesiredWithinRange".to_owned()),
            why: "cpu above target: 3 wanted".to_owned(),
            room: None,
            changes: vec![ScaleChange {
                at: Timestamp::from_micros(1_795_737_600_000_000),
                from: 2,
                to: 3,
                why: "cpu above target: 3 wanted".to_owned(),
            }],
        }
    }

    #[test]
    fn the_arithmetic_stands_in_the_explanation_with_what_documents_say() {
        let text = explained(&scale()).join("\n");
        assert!(
            text.contains("  cpu         85 % of 70 %; ratio 1.21 (2 ready): × 2 = 2.43, rounded up 3\n"),
            "{text}"
        );
        assert!(text.contains("  decided by  DesiredWithinRange\n"), "{text}");
        assert!(text.contains("  changed     2026-11-27 00:00:00  2 → 3: cpu above target: 3 wanted\n"), "{text}");
        assert!(text.contains("2 at 85, 85 %: 3; they say 4, which"), "{text}");
        assert!(text.contains("3 at 45, 78, 92 %: 3; they say 5"), "{text}");
        assert!(text.contains("6 at 65, 65, 65, 65, 65, 65 %: 6; as they say"), "{text}");
    }

    #[test]
    fn a_number_by_hand_says_how_to_get_the_load_back() {
        let by_hand = ScaleStatus { wanted: 4, is_auto: false, ..scale() };
        let text = told(Some((3, true)), &by_hand);
        assert_eq!(text, "web: 3 → 4 instances; auto is off, `mainstay scale web --auto on` gives it back");
        assert_eq!(told(Some((3, true)), &scale()), "web: 3 instances, as before; the load moves it between 2 and 10");
    }

    #[test]
    fn what_is_no_number_is_told() {
        assert!(
            matches!(asked("web=4", None), Ok((name, ScaleAsked { count: Some(4), is_auto: None })) if name == "web")
        );
        assert!(matches!(asked("web", Some(Auto::Off)), Ok((_, ScaleAsked { count: None, is_auto: Some(false) }))));
        for wrong in ["web", "web=", "web=0", "web=four", "web=-1"] {
            assert_eq!(asked(wrong, None).expect_err(wrong).name, "MS2140", "{wrong}");
        }
    }

    #[test]
    fn the_table_says_which_number_the_load_moves() {
        let off = ScaleStatus { is_auto: false, why: "auto is off".to_owned(), ..scale() };
        let lines = table(&[scale(), off]);
        assert_eq!(lines[1], "web           3       2  2..10      cpu above target: 3 wanted");
        assert_eq!(lines[2], "web           3       2  off        auto is off");
        assert_eq!(table(&[]), ["the stack has no service that stands"]);
    }
}
