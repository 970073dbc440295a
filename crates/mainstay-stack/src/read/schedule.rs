//! `every`, `timeout` and `catch_up`: a service without standing instances.

use std::time::Duration;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::Cursor;
use crate::diagnostic::quote;
use crate::model::Schedule;
use crate::origin::Origin;
use crate::raw::Value;
use crate::schedule::{Every, ScheduleError};

/// How long a run may take when the file says nothing.
const TIMEOUT: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const FORMS: &str = "\"10m\", \"hour at :15\", \"day at 03:00\" or \"monday at 04:30\" (UTC)";

/// The schedule of a service, when it has one.
pub(super) fn schedule(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Schedule> {
    let is_said = cursor.node("every").is_some();
    let text = cursor.text(ctx, "every", "every = \"10m\"");
    let timeout = cursor.duration(ctx, "timeout", Duration::from_secs(1)..=LONGEST);
    let catch_up = cursor.boolean(ctx, "catch_up");
    if !is_said {
        for key in ["timeout", "catch_up"] {
            if ctx.is_said(&cursor.at(key)) {
                let message = format!("`{}` is set, and the service has no schedule", cursor.at(key));
                let help = "remove it, or add `every`: only scheduled runs have an end of their own".to_owned();
                ctx.error(Code::OnlyForSchedules, &ctx.place(&[&cursor.at(key)]), message, help);
            }
        }
        return None;
    }
    refuse_what_stands(cursor, ctx);
    let every = text.and_then(|text| match text.text.parse::<Every>() {
        Ok(every) => Some(every),
        Err(error) => {
            let message = format!("`{}` is \"{}\": {error}", cursor.at("every"), quote(&text.text));
            ctx.error(Code::BadSchedule, &text.span, message, help(&error));
            None
        }
    });
    // What could not be read is told; the rest of the table is still that of a scheduled service.
    let every = every.or_else(|| "1h".parse().ok())?;
    for key in ["port", "instances"] {
        ctx.origins.set(cursor.at(key), Origin::Derived { from: format!("`{}`", cursor.at("every")) });
    }
    Some(Schedule { every, timeout: timeout.unwrap_or(TIMEOUT), catch_up: catch_up.unwrap_or(true) })
}

fn help(error: &ScheduleError) -> String {
    match error {
        ScheduleError::Cron => format!("cron's fields are not read: write {FORMS}"),
        ScheduleError::Form | ScheduleError::Time(_) | ScheduleError::Minute(_) | ScheduleError::Interval => {
            format!("write {FORMS}")
        }
    }
}

/// Tells the keys that only mean something for instances that stand.
fn refuse_what_stands(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) {
    for key in ["port", "management_port", "instances", "scale", "health", "metrics"] {
        let Some(node) = cursor.node(key) else { continue };
        let help = match (key, &node.value) {
            ("port" | "management_port", Value::Boolean(false)) | ("instances", Value::Integer(Some(1))) => continue,
            ("port" | "management_port" | "metrics", _) => "remove it: nobody asks a run that comes and goes",
            ("health", _) => "remove it: the exit status of a run says how it went",
            _ => "remove it: one run at a time, never two",
        };
        let message = format!("`{}` is set, and the service runs on a schedule", cursor.at(key));
        ctx.error(Code::NotForSchedules, &node.key, message, help.to_owned());
    }
}
