//! `mainstay route list` and `mainstay route maintenance ROUTE on|off`: which routes there are, and nobody is let in.

use std::time::Duration;

use clap::{Args, ValueEnum};
use mainstay_api::{MaintenanceAsked, RouteStatus, RouteSwitched};
use mainstay_stack::units::{duration, show_duration};
use mainstay_types::{Timestamp, exit_code};

use crate::Global;
use crate::again;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(super) struct Options {
    /// A route as the stack file writes it, in quotes: '/api/*'
    route: String,
    /// Whether nobody is let in
    #[arg(value_enum)]
    switch: Switch,
    /// What clients are told to wait: 30s, 10m, 2h; five minutes when it is left out
    #[arg(long, value_name = "TIME")]
    retry_after: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// 503 and a page to everybody, until `off`
    On,
    /// As the stack file says
    Off,
}

/// Longest time that clients are told to wait, as in the stack file.
const LONGEST: Duration = Duration::from_hours(24);

/// Since when, as people read it.
fn age(since: Timestamp) -> String {
    screen::age(screen::now().saturating_since(since))
}

pub(super) async fn list(global: &Global) -> Result<u8, Failure> {
    let routes = crate::place::client(global)?.routes().await?;
    if global.json {
        return json(&routes);
    }
    table(&routes).iter().for_each(|line| println!("{line}"));
    Ok(exit_code::DONE)
}

fn json(value: &impl serde::Serialize) -> Result<u8, Failure> {
    println!("{}", serde_json::to_string_pretty(value).map_err(|error| Failure::bug(error.to_string()))?);
    Ok(exit_code::DONE)
}

fn table(routes: &[RouteStatus]) -> Vec<String> {
    let width = |of: fn(&RouteStatus) -> &String, least: usize| {
        routes.iter().map(|route| of(route).chars().count()).max().unwrap_or(0).max(least)
    };
    let (path, to) = (width(|route| &route.path, 5), width(|route| &route.to, 2));
    let mut lines = vec![format!("{:<path$}  {:<to$}  {}", "route", "to", "state")];
    for route in routes {
        lines.push(format!("{:<path$}  {:<to$}  {}", route.path, route.to, state(route)));
    }
    lines
}

fn state(route: &RouteStatus) -> String {
    let Some(of) = route.maintenance else { return "serves".to_owned() };
    let by = match (of.is_by_hand, of.since) {
        (true, Some(since)) => format!("by hand for {}", age(since)),
        (true, None) => "by hand".to_owned(),
        (false, _) => "by the stack file".to_owned(),
    };
    screen::yellow(&format!("maintenance {by}, retry after {}", show_duration(Duration::from_secs(of.retry_after_s))))
}

pub(super) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let retry_after_s = options.retry_after.as_deref().map(seconds).transpose()?;
    let is_on = options.switch == Switch::On;
    if !is_on && retry_after_s.is_some() {
        return Err(Failure::user("MS2092", "--retry-after is for `on`: a route that serves tells nobody to wait")
            .help(format!("`mainstay route maintenance '{}' off`", options.route)));
    }
    let asked = MaintenanceAsked { route: options.route.clone(), is_on, retry_after_s };
    let switched = crate::place::client(global)?.route_maintenance(&asked).await?;
    if global.json {
        return json(&switched);
    }
    println!("{}", told(&switched));
    if !switched.is_in_force {
        eprintln!("the edge has not said that it counts yet: it is told as soon as there is an edge");
    }
    Ok(exit_code::DONE)
}

/// A time from the command line. **Unit**: seconds.
fn seconds(text: &str) -> Result<u64, Failure> {
    let bad = || {
        Failure::user("MS2092", format!("{text:?} is no time that clients can be told to wait: 1 s to 24 h"))
            .help("`--retry-after 10m`")
    };
    let time = duration(text).map_err(|_| bad())?;
    let is_within = time >= Duration::from_secs(1) && time <= LONGEST;
    is_within.then_some(time.as_secs()).ok_or_else(bad)
}

/// What was changed, what was not, and how to go back.
fn told(RouteSwitched { route, is_changed, .. }: &RouteSwitched) -> String {
    let path = &route.path;
    match route.maintenance {
        Some(of) => {
            let wait = show_duration(Duration::from_secs(of.retry_after_s));
            let before = match of.since.filter(|_| !is_changed) {
                Some(since) => format!("is in maintenance, as before (for {})", age(since)),
                None => "is in maintenance".to_owned(),
            };
            let back = again::text(&format!("`mainstay route maintenance '{path}' off` ends it"));
            format!("{path} {before}: 503 to everybody, retry after {wait}; requests under way end well\n{back}")
        }
        None if *is_changed => format!("{path} serves again"),
        None => format!("{path} serves, as before"),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_api::Maintenance;

    use super::*;

    fn route(is_by_hand: Option<bool>) -> RouteStatus {
        let maintenance = is_by_hand.map(|is_by_hand| Maintenance {
            is_by_hand,
            since: is_by_hand.then(screen::now),
            retry_after_s: 600,
        });
        RouteStatus { path: "/api/*".to_owned(), to: "web".to_owned(), maintenance }
    }

    #[test]
    fn routes_are_a_table_that_says_who_shut_one() {
        let lines = table(&[route(None), route(Some(true)), route(Some(false))]);
        assert_eq!(lines[0], "route   to   state");
        assert_eq!(lines[1], "/api/*  web  serves");
        assert_eq!(lines[2], "/api/*  web  maintenance by hand for 0 s, retry after 10m");
        assert_eq!(lines[3], "/api/*  web  maintenance by the stack file, retry after 10m");
    }

    #[test]
    fn a_switch_says_what_it_did_and_how_to_undo_it() {
        let of = |is_by_hand: Option<bool>, is_changed: bool| {
            told(&RouteSwitched { route: route(is_by_hand), is_changed, is_in_force: true })
        };
        assert!(of(Some(true), true).starts_with("/api/* is in maintenance: 503 to everybody, retry after 10m; "));
        assert!(of(Some(true), true).contains("route maintenance '/api/*' off` ends it"));
        assert!(of(Some(true), false).starts_with("/api/* is in maintenance, as before (for 0 s): "));
        assert_eq!(of(None, true), "/api/* serves again");
        assert_eq!(of(None, false), "/api/* serves, as before");
    }

    #[test]
    fn a_time_is_one_that_clients_can_be_told() {
        assert_eq!(seconds("10m").ok(), Some(600));
        for text in ["0s", "25h", "soon", "500ms"] {
            assert_eq!(seconds(text).expect_err(text).name, "MS2092", "{text}");
        }
    }
}
