//! What `scale`, `explain` and `status` say of a service's number of instances.

use mainstay_api::{ScaleMeasure, ScaleRoom, ScaleStatus};
use mainstay_decide::autoscale::Measure;
use mainstay_decide::autoscale::replicas::{Reading, Way};
use mainstay_stack::scale::Scale;
use mainstay_types::{ServiceName, Timestamp};

use super::measures::ready;
use super::{Core, Record};

impl Core {
    /// How a service stands. It must be one that stands.
    pub(super) fn scale_status(&self, name: &ServiceName, at: Timestamp) -> ScaleStatus {
        let service = &self.stack.services[name];
        let record = self.scaling.records.get(name);
        let latest = self.scaling.latest.get(name);
        let scale = service.scale.as_ref();
        let wanted = self.observed.fleet.wanted(name, service);
        let (min, max, period) = match scale {
            Some(scale) => scale.bounds(at),
            None => (1, service.most_instances(), None),
        };
        let is_auto = record.is_some_and(|record| record.is_auto);
        ScaleStatus {
            service: name.clone(),
            wanted,
            ready: ready(self, name, service),
            min,
            max,
            is_auto,
            policy: scale.map(|scale| scale.policy.word().to_owned()),
            period: period.map(|period| period.when.to_string()),
            decided_at: latest.map(|latest| latest.at),
            measures: latest
                .map_or_else(Vec::new, |latest| latest.measures.iter().map(|measure| shown(measure, scale)).collect()),
            desired: latest.and_then(|latest| latest.decision.desired),
            stabilised: latest.and_then(|latest| latest.decision.stabilised),
            reason: latest.map(|latest| latest.decision.limit.reason().to_owned()),
            why: why(scale, record, latest.map(|latest| latest.decision.why.as_str())),
            room: self.scaling.rooms.get(name).map(|room| ScaleRoom { most: room.most, why: room.why.clone() }),
            changes: record.map_or_else(Vec::new, |record| record.changes.iter().cloned().collect()),
        }
    }
}

fn why(scale: Option<&Scale>, record: Option<&Record>, decided: Option<&str>) -> String {
    match (scale, record.is_some_and(|record| record.is_auto), decided) {
        (None, _, _) => "the stack file gives a number and no `scale`".to_owned(),
        (Some(scale), false, _) if !scale.is_moved() => {
            "the stack file's `scale` has no measure and no schedule".to_owned()
        }
        (Some(_), false, _) => "auto is off: a person gave the number".to_owned(),
        (Some(_), true, None) => "nothing was decided yet: the first decision comes 15 s after the start".to_owned(),
        (Some(_), true, Some(why)) => why.to_owned(),
    }
}

fn shown(measure: &Measure, scale: Option<&Scale>) -> ScaleMeasure {
    let is_each = scale.and_then(|scale| scale.targets.query.as_ref()).is_some_and(|query| query.is_per_instance);
    let name = measure.name;
    let each = name == "requests" || (name == "query" && is_each);
    let unit = |value: u64| in_unit(name, value);
    let target = if each { format!("{} each", unit(measure.target)) } else { unit(measure.target) };
    let (usage, proposal, arithmetic) = match &measure.reading {
        Err(why) => (None, None, why.clone()),
        Ok(reading) => {
            let usage = if each { format!("{} each", unit(reading.usage)) } else { unit(reading.usage) };
            (Some(usage), Some(reading.proposal), arithmetic(reading, each))
        }
    };
    ScaleMeasure { name: name.to_owned(), target, usage, proposal, arithmetic }
}

/// A value as the stack file writes its target.
fn in_unit(name: &str, value: u64) -> String {
    let decimal = |milli: u64| {
        let text = format!("{}.{:03}", milli / 1000, milli % 1000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match name {
        "cpu" | "memory" => format!("{value} %"),
        "requests" => format!("{}/s", decimal(value)),
        "latency_p95" => format!("{value} ms"),
        _ => decimal(value),
    }
}

/// The computation of a proposal in one line.
fn arithmetic(reading: &Reading, is_each: bool) -> String {
    let [ready, unready, missing, leaving] = reading.groups;
    let left_out = [(unready, "starting"), (missing, "not measured"), (leaving, "leaving")];
    let left_out: Vec<String> =
        left_out.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let of = match (is_each, left_out.is_empty()) {
        (true, _) => format!("{ready} wanted"),
        (false, true) => format!("{ready} ready"),
        (false, false) => format!("{ready} ready, {}", left_out.join(", ")),
    };
    let ratio = reading.adjusted.unwrap_or(reading.ratio);
    let adjusted = match reading.adjusted {
        Some(adjusted) if reading.ratio > 1.0 => format!(", {adjusted:.2} if the others use nothing"),
        Some(adjusted) => format!(", {adjusted:.2} if the others use all of theirs"),
        None => String::new(),
    };
    let result = match reading.way {
        Way::WithinTolerance => format!("within the tolerance, {} stay", reading.proposal),
        Way::WouldTurn => format!("that would turn the direction round, {} stay", reading.proposal),
        Way::Proportional => {
            let exact = ratio * f64::from(reading.counted);
            format!("× {} = {exact:.2}, rounded up {}", reading.counted, reading.proposal)
        }
    };
    format!("ratio {:.2}{adjusted} ({of}): {result}", reading.ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ratio: f64, adjusted: Option<f64>, counted: u32, way: Way) -> Reading {
        Reading { proposal: 3, usage: 85, ratio, adjusted, counted, groups: [counted, 0, 0, 0], way }
    }

    #[test]
    fn the_computation_can_be_followed() {
        let plain = arithmetic(&reading(85.0 / 70.0, None, 2, Way::Proportional), false);
        assert_eq!(plain, "ratio 1.21 (2 ready): × 2 = 2.43, rounded up 3");
        let near = arithmetic(&reading(71.0 / 70.0, None, 3, Way::WithinTolerance), false);
        assert_eq!(near, "ratio 1.01 (3 ready): within the tolerance, 3 stay");
        let started = Reading { groups: [2, 1, 0, 0], ..reading(1.5, Some(1.0), 3, Way::WithinTolerance) };
        let text = arithmetic(&started, false);
        assert_eq!(
            text,
            "ratio 1.50, 1.00 if the others use nothing (2 ready, 1 starting): within the tolerance, 3 stay"
        );
    }

    #[test]
    fn values_stand_in_the_units_of_the_stack_file() {
        let texts = ["cpu", "requests", "latency_p95", "query"].map(|name| in_unit(name, 1500));
        assert_eq!(texts, ["1500 %", "1.5/s", "1500 ms", "1.5"]);
        assert_eq!(in_unit("requests", 100_000), "100/s");
    }
}
