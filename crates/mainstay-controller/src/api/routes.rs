//! Routes of the edge by the API: which there are, and their maintenance by hand.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mainstay_api::{MaintenanceAsked, RouteStatus, RouteSwitched};
use mainstay_decide::maintenance::{Refused, Wish, switch};

use super::{Ctx, Failure, Shared, failure};
use crate::clock::now;
use crate::maintenance::{FACT, routes};
use crate::store::NewEvent;

/// Longest time that clients are told to wait, as in the stack file.
const LONGEST: Duration = Duration::from_hours(24);

pub(super) async fn list(State(shared): Ctx) -> Json<Vec<RouteStatus>> {
    let settings = &shared.effects.settings;
    Json(routes(&settings.stack, &settings.switched.borrow()))
}

pub(super) async fn maintenance(
    State(shared): Ctx,
    Json(asked): Json<MaintenanceAsked>,
) -> Result<Json<RouteSwitched>, Failure> {
    // In a task of its own: a client that goes away in the middle would leave what is written and does not count.
    let done = tokio::spawn(switched(shared, asked)).await;
    done.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))?
}

async fn switched(shared: Arc<Shared>, asked: MaintenanceAsked) -> Result<Json<RouteSwitched>, Failure> {
    // One after the other: what is written last is what counts.
    let _alone = shared.effects.to_edge.switching.lock().await;
    let (settings, route, at) = (&shared.effects.settings, asked.route.as_str(), now());
    let before = settings.switched.borrow().clone();
    let wait = asked.retry_after_s.map(|seconds| Duration::from_secs(seconds).min(LONGEST));
    let wish = if asked.is_on { Wish::On(wait) } else { Wish::Off };
    let next = switch(&settings.stack, &before, (route, wish), at).map_err(|why| refused(&shared, route, why))?;
    let is_changed = next != before;
    let mut is_in_force = true;
    if is_changed {
        let text = serde_json::to_string(&next).unwrap_or_default();
        let kept = shared.journal.set_fact(FACT, &text).await;
        kept.map_err(|error| {
            let title = format!("the route stays as it was, for that could not be written down: {error}");
            failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", title, None)
        })?;
        settings.switched.send_replace(next);
        is_in_force = shared.effects.to_edge.switch(|path| settings.maintenance_s(path)).await;
        shared.journal.emit(event(route, &asked, at));
    }
    let route = routes(&settings.stack, &settings.switched.borrow()).into_iter().find(|of| of.path == route);
    let route = route.ok_or_else(|| refused(&shared, &asked.route, Refused::NoRoute))?;
    Ok(Json(RouteSwitched { route, is_changed, is_in_force }))
}

fn event(route: &str, asked: &MaintenanceAsked, at: mainstay_types::Timestamp) -> NewEvent {
    let (kind, text) = if asked.is_on {
        ("MaintenanceBegan", format!("a person put the route {route} into maintenance"))
    } else {
        ("MaintenanceEnded", format!("a person ended the maintenance of the route {route}"))
    };
    NewEvent::info(at, kind, text).about("edge").with("route", route)
}

fn refused(shared: &Shared, route: &str, why: Refused) -> Failure {
    match why {
        Refused::NoRoute => {
            let paths: Vec<&str> =
                shared.effects.settings.stack.edge.routes.iter().map(|route| route.path.as_str()).collect();
            let help = format!("its routes, each in quotes because of the *: {}", paths.join(", "));
            failure(StatusCode::NOT_FOUND, "MS4048", format!("the edge has no route {route:?}"), Some(&help))
        }
        Refused::ByFile => {
            let title = format!("the stack file has the route {route} in maintenance");
            let help = "`maintenance` of the route, or of [edge], in the stack file, then `mainstay up`";
            failure(StatusCode::CONFLICT, "MS4095", title, Some(help))
        }
    }
}
