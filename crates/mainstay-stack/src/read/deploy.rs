//! `[deploy]`: how a new release takes the place of the one before it.

use std::time::Duration;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text};
use crate::deploy::{Deploy, STRATEGIES};
use crate::diagnostic::quote;
use crate::read::check_url_path;
use crate::units;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Steps of a canary: each takes its time.
const MOST_STEPS: usize = 16;
/// Paths of a smoke test: each is asked of every new instance.
const MOST_PATHS: usize = 32;

pub(super) fn deploy(top: &mut Cursor<'_>, ctx: &mut Context<'_>, p95: Option<Duration>) -> Deploy {
    let mut deploy = Deploy::new(p95);
    let Some(mut cursor) = top.table(ctx, "deploy") else { return deploy };
    if let Some(text) = cursor.text(ctx, "strategy", "strategy = \"rolling\"") {
        match text.text.parse() {
            Ok(strategy) => deploy.strategy = strategy,
            Err(()) => {
                let message = format!("`deploy.strategy` is \"{}\"", quote(&text.text));
                ctx.error(Code::BadValue, &text.span, message, format!("write one of: {}", STRATEGIES.join(", ")));
            }
        }
    }
    deploy.timeout = cursor.duration(ctx, "timeout", SECOND..=HOUR).unwrap_or(deploy.timeout);
    deploy.bake = cursor.duration(ctx, "bake", Duration::ZERO..=HOUR * 24).unwrap_or(deploy.bake);
    deploy.step = cursor.duration(ctx, "step", SECOND..=HOUR * 24).unwrap_or(deploy.step);
    deploy.requests = cursor.count(ctx, "requests", 0..=1_000_000).unwrap_or(deploy.requests);
    deploy.slow = cursor.duration(ctx, "slow", SECOND / 1000..=SECOND * 60).unwrap_or(deploy.slow);
    deploy.keep = cursor.count(ctx, "keep", 1..=100).unwrap_or(deploy.keep);
    if let Some(steps) = cursor.texts(ctx, "steps", "steps = [\"1%\", \"10%\", \"50%\"]") {
        deploy.steps = shares(ctx, &steps).unwrap_or(deploy.steps);
    }
    if let Some(paths) = cursor.texts(ctx, "smoke", "smoke = [\"/api/health\"]") {
        deploy.smoke = smoke(ctx, &paths);
    }
    let later = [
        ("snapshot", "a restore point is named before migrations run"),
        ("approve", "run `mainstay deploy` when it is approved"),
        ("on", "run `mainstay deploy` in the pipeline"),
        ("rollback", "what fails is always taken back"),
    ];
    cursor.finish(ctx, &later, &[("warmup", "step"), ("watch", "bake"), ("min_requests", "requests")]);
    deploy
}

/// Rising shares below the whole.
fn shares(ctx: &mut Context<'_>, steps: &[Text]) -> Option<Vec<u16>> {
    let mut shares: Vec<u16> = Vec::new();
    let rule = "shares rise, each above 0 % and below 100 %, in hundredths of a percent";
    for text in steps {
        // Thousandths of a percent to hundredths.
        let share = units::share(&text.text).ok().map(mainstay_types::Percent::as_milli);
        let share = share.filter(|milli| milli % 10 == 0).and_then(|milli| u16::try_from(milli / 10).ok());
        let is_good = share.is_some_and(|share| (1..10_000).contains(&share) && shares.iter().all(|one| *one < share));
        match share.filter(|_| is_good) {
            Some(share) => shares.push(share),
            None => {
                let message = format!("`deploy.steps` holds \"{}\": {rule}", quote(&text.text));
                let help = "write for example steps = [\"1%\", \"10%\", \"50%\"]".to_owned();
                ctx.error(Code::BadValue, &text.span, message, help);
                return None;
            }
        }
    }
    if shares.is_empty() || shares.len() > MOST_STEPS {
        let message = format!("`deploy.steps` has {} steps; it has 1 to {MOST_STEPS}", shares.len());
        let place = ctx.place(&["deploy.steps"]);
        ctx.error(Code::BadValue, &place, message, "write for example steps = [\"1%\", \"10%\", \"50%\"]".to_owned());
        return None;
    }
    Some(shares)
}

fn smoke(ctx: &mut Context<'_>, paths: &[Text]) -> Vec<String> {
    if paths.len() > MOST_PATHS {
        let message = format!("`deploy.smoke` has {} paths; it has at most {MOST_PATHS}", paths.len());
        let place = ctx.place(&["deploy.smoke"]);
        ctx.error(Code::BadValue, &place, message, "leave some out".to_owned());
    }
    paths.iter().for_each(|path| check_url_path(ctx, "deploy.smoke", path));
    paths.iter().map(|path| path.text.clone()).collect()
}
