//! Migrations as lines of at most 80 columns.

use std::path::Path;

use mainstay_postgres::migrate::{Applied, Plan, Planned, State};

use crate::{board, screen};

/// Lines fit this.
const COLUMNS: usize = 80;
/// Widest name of a file that is shown whole in a table.
const NAME: usize = 34;

/// The state of each, and what is pending.
pub(super) fn plan(folder: &Path, plan: &Plan) -> Vec<String> {
    let folder = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let head = format!("{folder}: names of {}, history in {}", plan.convention, plan.convention.history());
    let mut lines = vec![screen::bold(&board::cut(&head, COLUMNS))];
    let longest = plan.migrations.iter().map(|one| one.script.chars().count()).max().unwrap_or(0);
    lines.extend(plan.migrations.iter().map(|one| line(one, longest.min(NAME))));
    let pending = plan.migrations.iter().filter(|one| one.state == State::Pending).count();
    let of = plan.migrations.len();
    lines.push(if of == 0 { "there is no migration".to_owned() } else { format!("{pending} of {of} pending") });
    lines
}

fn line(one: &Planned, width: usize) -> String {
    let state = match &one.state {
        State::Applied => "applied",
        State::Pending => "pending",
        State::Changed { .. } => "CHANGED",
        State::Missing => "MISSING",
        State::OutOfOrder { .. } => "OUT OF ORDER",
        State::HalfDone => "HALF DONE",
        State::BelowBaseline => "baseline",
        State::Later => "later",
    };
    let at = one.applied_at.map(|at| at.to_string().chars().take(16).collect::<String>().replace('T', " "));
    let took = one.took_ms.map(screen::took);
    let mut notes = Vec::new();
    if !one.is_transactional {
        notes.push("no tx");
    }
    if one.has_undo {
        notes.push("undo");
    }
    let text = format!(
        "  {:<width$}  {state:<12}  {:<16}  {:>8}  {}",
        board::cut(&one.script, width),
        at.unwrap_or_default(),
        took.unwrap_or_default(),
        notes.join(" ")
    );
    board::cut(text.trim_end(), COLUMNS)
}

/// One that was run.
pub(super) fn ran(applied: &Applied) -> String {
    let how = if applied.is_transactional { "" } else { "  without a transaction" };
    board::cut(&format!("  {:<NAME$}  {:>8}{how}", applied.script, screen::took(applied.took_ms)), COLUMNS)
}

#[cfg(test)]
mod tests {
    use mainstay_postgres::migrate::Convention;
    use mainstay_types::Timestamp;

    use super::*;

    fn planned(script: &str, state: State) -> Planned {
        let is_applied = state != State::Pending;
        Planned {
            version: Some("1".to_owned()),
            description: "x".to_owned(),
            script: script.to_owned(),
            state,
            applied_at: is_applied.then(|| Timestamp::from_millis(1_795_680_000_000)),
            took_ms: is_applied.then_some(123_456),
            has_undo: true,
            is_transactional: false,
            checksum: String::new(),
            unsupported: None,
        }
    }

    #[test]
    fn a_plan_fits_eighty_columns_whatever_files_are_called() {
        let late = State::OutOfOrder { applied: "9".to_owned() };
        let migrations = vec![
            planned("20261126120000_a_name_that_says_all_that_there_is_to_say_about_it.up.sql", late),
            planned("V1__a.sql", State::Pending),
        ];
        let plan = Plan { convention: Convention::Sqlx, migrations };
        let lines = super::plan(Path::new("/srv/shop/a_folder/with_a_long_name_of_its_own_and_more"), &plan);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[1].contains("OUT OF ORDER  2026-11-26 "), "{lines:#?}");
        assert_eq!(lines.last().map(String::as_str), Some("1 of 2 pending"));
    }
}
