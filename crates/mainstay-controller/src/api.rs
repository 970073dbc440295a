//! The admin API: over the Unix socket for the owner, over loopback TCP for the browser with a session cookie.

mod releases;
mod routes;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mainstay_api::{Beat, ConsoleLink, Event, Problem, Sabotage, Status};
use mainstay_types::{Secret, Timestamp};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::clock::now;
use crate::core::Published;
use crate::core::scaling::ScalingMessage;
use crate::effects::Effects;
use crate::errands::{self, Migrations};
use crate::journal::Journal;
use crate::message::Message;
use crate::{assets, logs, metrics, processes, top};

/// A link is good for this long: time to click it, not to keep it.
const LINK_LIFE: Duration = Duration::from_mins(10);
/// A console session ends after this, used or not.
const SESSION_LIFE: Duration = Duration::from_hours(12);
/// Between two beats of a stream; the console calls a picture stale after three of them.
const BEAT: Duration = Duration::from_secs(2);
/// Sessions that are remembered at once; a stack has a handful of operators.
const MAX_SESSIONS: usize = 64;

/// What handlers share.
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    pub(crate) published: Arc<Published>,
    pub(crate) effects: Arc<Effects>,
    pub(crate) sender: mpsc::Sender<Message>,
    pub(crate) doors: Mutex<Doors>,
    pub(crate) metrics_token: Secret,
    pub(crate) console_port: u16,
    pub(crate) config: serde_json::Value,
    /// Held while a release is made ready to be rolled out.
    pub(crate) deploying: tokio::sync::Mutex<()>,
}

/// Who may come in by the browser's door. Only hashes are kept.
#[derive(Default)]
pub(crate) struct Doors {
    links: BTreeMap<String, Timestamp>,
    sessions: BTreeMap<String, Timestamp>,
}

fn digest(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sessions in `state.db`: a restart of the control plane signs nobody out.
pub(crate) const SESSIONS_FACT: &str = "console-sessions";

impl Doors {
    /// With the sessions of an earlier control plane.
    pub(crate) fn of(sessions: Option<String>) -> Self {
        let sessions = sessions.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { sessions, ..Self::default() }
    }

    fn forget_old(&mut self, at: Timestamp) {
        self.links.retain(|_, until| *until > at);
        self.sessions.retain(|_, until| *until > at);
        while self.sessions.len() >= MAX_SESSIONS {
            self.sessions.pop_first();
        }
    }
}

type Ctx = State<Arc<Shared>>;

/// An error as `application/problem+json`.
struct Failure(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

fn failure(status: StatusCode, code: &str, title: impl Into<String>, help: Option<&str>) -> Failure {
    let help = help.map(str::to_owned);
    Failure(Problem { status: status.as_u16(), code: code.to_owned(), title: title.into(), help })
}

/// Routes for both doors.
fn common() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/processes", get(process_list))
        .route("/api/v1/events", get(events))
        .route("/api/v1/traffic", get(traffic))
        .route("/api/v1/top", get(top_list))
        .route("/api/v1/routes", get(routes::list))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/scale", get(scales))
        .route("/api/v1/drills", get(drill_standings))
        .route("/api/v1/drills/history", get(drill_history))
        .route("/api/v1/stream", get(stream))
        .route("/api/v1/logs", get(log_lines))
        .route("/api/v1/releases", get(releases::list))
        .route("/api/v1/config", get(config))
}

/// Routes of the Unix socket: the owner's, passwords included.
pub(crate) fn owner(shared: Arc<Shared>) -> Router {
    common()
        .route("/api/v1/services/{name}/env", get(service_env))
        .route("/api/v1/services/{name}/run", post(run_now))
        .route("/api/v1/services/{name}/scale", post(scale))
        .route("/api/v1/context/{name}", get(context))
        .route("/api/v1/routes/maintenance", post(routes::maintenance))
        .route("/api/v1/database", get(database))
        .route("/api/v1/database/errand", post(errand))
        .route("/api/v1/database/schema", post(schema_changed))
        .route("/api/v1/releases", post(releases::deploy))
        .route("/api/v1/releases/wish", post(releases::wish))
        .route("/api/v1/console-link", post(console_link))
        .route("/api/v1/sabotage", post(sabotage))
        .route("/api/v1/down", post(down))
        .with_state(shared)
}

/// Routes of the browser's door.
pub(crate) fn browser(shared: Arc<Shared>) -> Router {
    let guarded = common().layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), session_guard));
    Router::new()
        .merge(guarded)
        .route("/login", post(login))
        .route("/metrics/{page}", get(metrics_page))
        .fallback(get(asset))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), host_guard))
        .with_state(shared)
}

/// Only names that resolve to loopback by definition: a foreign name that was made to point here is refused.
async fn host_guard(State(shared): Ctx, request: Request, next: Next) -> Response {
    let port = shared.console_port;
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let allowed = ["console.localhost", "localhost", "127.0.0.1"].iter().any(|name| host == format!("{name}:{port}"));
    if !allowed {
        let title = format!("host {host:?} is not this console's");
        return failure(StatusCode::MISDIRECTED_REQUEST, "MS4210", title, None).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn session_guard(State(shared): Ctx, request: Request, next: Next) -> Response {
    let cookie = cookie(request.headers(), "mainstay_session").map(|token| digest(&token));
    let is_open = cookie.is_some_and(|token| {
        let doors = shared.doors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        doors.sessions.get(&token).is_some_and(|until| *until > now())
    });
    if is_open {
        return next.run(request).await;
    }
    let help = Some("run `mainstay console` for a new link");
    failure(StatusCode::UNAUTHORIZED, "MS4010", "no console session", help).into_response()
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get(header::COOKIE)?.to_str().ok()?;
    all.split(';').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

async fn login(State(shared): Ctx, Json(login): Json<Login>) -> Result<Response, Failure> {
    let at = now();
    let session = crate::secrets::random_password()
        .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))?;
    let sessions = {
        let mut doors = shared.doors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        doors.forget_old(at);
        if doors.links.remove(&digest(&login.token)).is_none() {
            let help = Some("links are good once and for 10 minutes; run `mainstay console` for a new one");
            return Err(failure(StatusCode::UNAUTHORIZED, "MS4011", "this link is used up or too old", help));
        }
        doors.sessions.insert(digest(session.expose()), at.after(SESSION_LIFE));
        serde_json::to_string(&doors.sessions).unwrap_or_default()
    };
    // A session that could not be noted ends with this control plane.
    shared.journal.set_fact(SESSIONS_FACT, &sessions).await.ok();
    let cookie = format!(
        "mainstay_session={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}",
        session.expose(),
        SESSION_LIFE.as_secs()
    );
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

async fn console_link(State(shared): Ctx) -> Result<Json<ConsoleLink>, Failure> {
    if !*shared.published.console.borrow() {
        // A link would lead to somebody else, and bring a token along.
        let port = shared.console_port;
        let holder = tokio::task::spawn_blocking(move || crate::ports::holder(port)).await.ok().flatten();
        let holder = holder.unwrap_or_else(|| "another process".to_owned());
        let title = format!("the console has no door: port {port} is taken by {holder}");
        let help = Some(
            "stop what listens there: the console opens within a second; or another console.port in the stack file, then `mainstay down` and `mainstay up`",
        );
        return Err(failure(StatusCode::CONFLICT, "MS4092", title, help));
    }
    let token = crate::secrets::random_password()
        .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))?;
    let at = now();
    let mut doors = shared.doors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    doors.forget_old(at);
    doors.links.insert(digest(token.expose()), at.after(LINK_LIFE));
    let url = format!("http://console.localhost:{}/#token={}", shared.console_port, token.expose());
    Ok(Json(ConsoleLink { url }))
}

async fn status(State(shared): Ctx) -> Result<Json<Status>, Failure> {
    let current = shared.published.status.borrow().clone();
    current.map(Json).ok_or_else(starting)
}

fn starting() -> Failure {
    failure(StatusCode::SERVICE_UNAVAILABLE, "MS5030", "the control plane is just starting", Some("ask again"))
}

async fn process_list(State(shared): Ctx) -> Result<Json<Vec<mainstay_api::Process>>, Failure> {
    let status = shared.published.status.borrow().clone().ok_or_else(starting)?;
    let children = shared.published.children.borrow().clone();
    let keep = shared.published.keep.borrow().clone();
    let settings = Arc::clone(&shared.effects.settings);
    let list = tokio::task::spawn_blocking(move || processes::list(keep.as_ref(), &children, &status, &settings)).await;
    list.map(Json).map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))
}

#[derive(Deserialize)]
struct EventQuery {
    after: Option<u64>,
    limit: Option<u32>,
}

async fn events(State(shared): Ctx, Query(query): Query<EventQuery>) -> Result<Json<Vec<Event>>, Failure> {
    let limit = query.limit.unwrap_or(100).min(10_000);
    let events = shared.journal.read(query.after, limit).await;
    events.map(Json).map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error, None))
}

async fn traffic(State(shared): Ctx) -> Json<mainstay_api::Traffic> {
    let empty = || mainstay_api::Traffic { at: now(), window_ms: 0, flows: Vec::new() };
    Json(shared.published.traffic.borrow().clone().unwrap_or_else(empty))
}

async fn drill_standings(State(shared): Ctx) -> Result<Json<Vec<mainstay_api::DrillStanding>>, Failure> {
    let status = shared.published.status.borrow().clone().ok_or_else(starting)?;
    Ok(Json(status.drills))
}

#[derive(Deserialize)]
struct DrillQuery {
    drill: Option<String>,
    limit: Option<usize>,
}

async fn drill_history(
    State(shared): Ctx,
    Query(query): Query<DrillQuery>,
) -> Result<Json<Vec<mainstay_api::DrillRecord>>, Failure> {
    let path = shared.effects.paths().drill_history();
    let broken = |error: String| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error, None);
    let read = tokio::task::spawn_blocking(move || crate::drills::read(&path)).await;
    let history = read.map_err(|error| broken(error.to_string()))?.map_err(|error| broken(error.to_string()))?;
    let wanted = |record: &mainstay_api::DrillRecord| query.drill.as_ref().is_none_or(|name| *name == record.drill);
    let newest_first = history.records.into_iter().rev().filter(wanted);
    Ok(Json(newest_first.take(query.limit.unwrap_or(100).min(1000)).collect()))
}

/// One multiplexed stream: browsers allow few connections per host.
async fn stream(State(shared): Ctx) -> Sse<impl futures_core::Stream<Item = Result<SseEvent, Infallible>>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut status = shared.published.status.subscribe();
        let mut traffic = shared.published.traffic.subscribe();
        let mut events = shared.journal.subscribe();
        status.mark_changed();
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (name, data) = tokio::select! {
                changed = status.changed() => {
                    if changed.is_err() { return }
                    let Some(value) = status.borrow_and_update().clone() else { continue };
                    ("status", serde_json::to_string(&value))
                }
                changed = traffic.changed() => {
                    if changed.is_err() { return }
                    let Some(value) = traffic.borrow_and_update().clone() else { continue };
                    ("traffic", serde_json::to_string(&value))
                }
                _ = beats.tick() => {
                    // Every turn of the loop dates the picture, also when nothing in it changed.
                    let Some(looked_at) = status.borrow().as_ref().map(|status| status.at) else { continue };
                    ("beat", serde_json::to_string(&Beat { at: now(), looked_at }))
                }
                event = events.recv() => match event {
                    Ok(event) => ("event", serde_json::to_string(&event)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => ("missed", Ok(missed.to_string())),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            };
            let Ok(data) = data else { continue };
            if sender.send(Ok(SseEvent::default().event(name).data(data))).await.is_err() {
                return;
            }
        }
    });
    Sse::new(Received(receiver)).keep_alive(KeepAlive::default())
}

/// A channel's receiver as a stream.
struct Received<T>(mpsc::Receiver<T>);

impl<T> futures_core::Stream for Received<T> {
    type Item = T;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}

#[derive(Deserialize)]
struct LogQuery {
    child: Option<String>,
    lines: Option<u32>,
    follow: Option<bool>,
}

async fn log_lines(State(shared): Ctx, Query(query): Query<LogQuery>) -> Result<Response, Failure> {
    let known = shared.effects.log_files();
    let files: Vec<_> = known
        .into_iter()
        .filter(|(name, _)| query.child.as_ref().is_none_or(|wanted| logs::is_meant(name, wanted)))
        .collect();
    if let (true, Some(wanted)) = (files.is_empty(), &query.child) {
        let title = format!("no child or service named {wanted:?} has a log");
        return Err(failure(StatusCode::NOT_FOUND, "MS4041", title, Some("`mainstay ps` lists the names")));
    }
    let (sender, receiver) = mpsc::channel(64);
    let lines = query.lines.unwrap_or(100).min(10_000);
    tokio::spawn(logs::send(files, lines, query.follow.unwrap_or(false), sender));
    let body = Body::from_stream(Received(receiver));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn config(State(shared): Ctx) -> Json<serde_json::Value> {
    Json(shared.config.clone())
}

async fn service_env(State(shared): Ctx, Path(name): Path<String>) -> Result<Json<mainstay_api::ServiceEnv>, Failure> {
    shared.effects.service_env(&name).map(Json).ok_or_else(|| no_service(&shared, &name))
}

fn no_service(shared: &Shared, name: &str) -> Failure {
    let names: Vec<&str> = shared.effects.settings.stack.services.keys().map(|name| name.as_str()).collect();
    let help = if names.is_empty() { "it has none".to_owned() } else { format!("its services: {}", names.join(", ")) };
    failure(StatusCode::NOT_FOUND, "MS4042", format!("the stack has no service {name:?}"), Some(&help))
}

#[derive(Deserialize)]
struct ContextQuery {
    running: Option<bool>,
}

async fn context(
    State(shared): Ctx,
    Path(name): Path<String>,
    Query(query): Query<ContextQuery>,
) -> Result<Json<mainstay_api::CommandContext>, Failure> {
    let children = shared.published.children.borrow().clone();
    let found = match query.running {
        Some(true) => shared.effects.running_context(&name, &children),
        Some(false) | None => shared.effects.service_context(&name),
    };
    match found {
        Ok(Some(context)) => Ok(Json(context)),
        Ok(None) if query.running == Some(true) => {
            let title = format!("no running instance is named {name:?}, and no service of that name runs");
            Err(failure(StatusCode::NOT_FOUND, "MS4045", title, Some("`mainstay ps` lists what runs")))
        }
        Ok(None) => Err(no_service(&shared, &name)),
        Err(reason) => Err(failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", reason, None)),
    }
}

async fn run_now(
    State(shared): Ctx,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<mainstay_api::RunAsked>), Failure> {
    let unknown = || {
        let title = format!("the stack has no service {name:?} that runs on a schedule");
        failure(StatusCode::NOT_FOUND, "MS4046", title, Some("only a service with `every` is run so"))
    };
    let service = mainstay_types::ServiceName::new(name.as_str()).map_err(|_| unknown())?;
    let known = &shared.effects.settings.stack.services;
    if known.get(&service).is_none_or(|service| service.schedule.is_none()) {
        return Err(unknown());
    }
    let (answer, answered) = oneshot::channel();
    shared.sender.send(Message::RunNow { service, answer }).await.map_err(|_| starting())?;
    match answered.await.map_err(|_| starting())? {
        Ok(due) => Ok((StatusCode::ACCEPTED, Json(mainstay_api::RunAsked { due }))),
        Err(reason) => Err(failure(StatusCode::CONFLICT, "MS4090", reason, Some("`mainstay status` shows the run"))),
    }
}

async fn scales(State(shared): Ctx) -> Result<Json<Vec<mainstay_api::ScaleStatus>>, Failure> {
    shared.published.status.borrow().as_ref().ok_or_else(starting)?;
    Ok(Json(shared.published.scales.borrow().clone()))
}

async fn scale(
    State(shared): Ctx,
    Path(name): Path<String>,
    Json(asked): Json<mainstay_api::ScaleAsked>,
) -> Result<Json<mainstay_api::ScaleStatus>, Failure> {
    let help = "`mainstay scale` lists the services and their bounds";
    let unknown = || {
        let title = format!("the stack has no service {name:?} that stands");
        failure(StatusCode::NOT_FOUND, "MS4047", title, Some(help))
    };
    let service = mainstay_types::ServiceName::new(name.as_str()).map_err(|_| unknown())?;
    let (answer, answered) = oneshot::channel();
    let message = Message::Scaling(ScalingMessage::Asked { service, asked, answer });
    shared.sender.send(message).await.map_err(|_| starting())?;
    match answered.await.map_err(|_| starting())? {
        Ok(status) => Ok(Json(status)),
        Err(("MS4047", _)) => Err(unknown()),
        Err((code, reason)) => Err(failure(StatusCode::CONFLICT, code, reason, Some(help))),
    }
}

async fn top_list(State(shared): Ctx) -> Result<Json<mainstay_api::Top>, Failure> {
    let status = shared.published.status.borrow().clone().ok_or_else(starting)?;
    let children = shared.published.children.borrow().clone();
    let keep = shared.published.keep.borrow().clone();
    let traffic = shared.published.traffic.borrow().clone();
    let settings = Arc::clone(&shared.effects.settings);
    let measure = move || top::measure(keep.as_ref(), &children, (&status, &settings), traffic.as_ref());
    let measured = tokio::task::spawn_blocking(measure).await;
    measured.map(Json).map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, "MS5000", error.to_string(), None))
}

async fn database(State(shared): Ctx) -> Result<Json<mainstay_api::DatabaseAccess>, Failure> {
    let none = || failure(StatusCode::NOT_FOUND, "MS4043", "the stack has no database", None);
    shared.effects.database_access().map(Json).ok_or_else(none)
}

async fn errand(
    State(shared): Ctx,
    Json(asked): Json<mainstay_api::ErrandAsked>,
) -> Result<(StatusCode, Json<mainstay_api::ErrandStatus>), Failure> {
    if shared.effects.database_access().is_none() {
        return Err(failure(StatusCode::NOT_FOUND, "MS4043", "the stack has no database", None));
    }
    let refused = |reason: String| {
        let help = Some("wait for it; `mainstay db switchover --force` cuts it off");
        failure(StatusCode::CONFLICT, "MS4091", reason, help)
    };
    let Migrations { kept_away, cut: cuts } = Migrations::see_to(&shared.effects, &asked).await.map_err(refused)?;
    let (answer, answered) = oneshot::channel();
    shared.sender.send(Message::Errand { asked, cuts, answer }).await.map_err(|_| starting())?;
    match answered.await.map_err(|_| starting())? {
        Ok(status) => {
            if let Some(kept) = kept_away {
                tokio::spawn(errands::hold(kept, shared.published.status.subscribe(), status.asked_at));
            }
            Ok((StatusCode::ACCEPTED, Json(status)))
        }
        Err(reason) => {
            let help = Some("`mainstay status` shows the cluster");
            Err(failure(StatusCode::CONFLICT, "MS4091", reason, help))
        }
    }
}

async fn pools(State(shared): Ctx) -> Result<Json<Vec<mainstay_api::Pool>>, Failure> {
    if shared.effects.database_access().is_none() {
        return Err(failure(StatusCode::NOT_FOUND, "MS4043", "the stack has no database", None));
    }
    let pools = shared.effects.router_pools().await;
    pools.map(Json).map_err(|reason| failure(StatusCode::SERVICE_UNAVAILABLE, "MS5031", reason, None))
}

async fn schema_changed(State(shared): Ctx, Json(changed): Json<mainstay_api::SchemaChanged>) -> StatusCode {
    send(&shared, Message::SchemaChanged(changed)).await
}

async fn sabotage(State(shared): Ctx, Json(sabotage): Json<Sabotage>) -> StatusCode {
    send(&shared, Message::Sabotage(sabotage)).await
}

async fn down(State(shared): Ctx) -> StatusCode {
    match send(&shared, Message::Down).await {
        StatusCode::NO_CONTENT => StatusCode::ACCEPTED,
        other => other,
    }
}

async fn send(shared: &Shared, message: Message) -> StatusCode {
    match shared.sender.send(message).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn metrics_page(State(shared): Ctx, Path(page): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Hashes are compared, so that time tells nothing of the token.
    if digest(given) != digest(&format!("Bearer {}", shared.metrics_token.expose())) {
        return Err(failure(StatusCode::UNAUTHORIZED, "MS4012", "metrics want the bearer token", None));
    }
    let text = metrics::page(&shared, &page).await;
    let text = text.map_err(|reason| failure(StatusCode::SERVICE_UNAVAILABLE, "MS5031", reason, None))?;
    let Some(text) = text else {
        return Err(failure(StatusCode::NOT_FOUND, "MS4044", format!("no metrics page {page:?}"), None));
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

async fn asset(request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let Some(asset) = assets::find(path) else {
        return failure(StatusCode::NOT_FOUND, "MS4040", format!("no page /{path}"), None).into_response();
    };
    let cache = if path == "index.html" { "no-cache" } else { "public, max-age=31536000, immutable" };
    let head =
        [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, cache), (header::VARY, "accept-encoding")];
    match asset.gzip.filter(|_| takes_gzip(request.headers())) {
        Some(packed) => (head, [(header::CONTENT_ENCODING, "gzip")], packed).into_response(),
        None => (head, asset.bytes).into_response(),
    }
}

/// Whether an `accept-encoding` names gzip and does not refuse it by `q=0`.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let is_gzip = parts.next() == Some("gzip");
        is_gzip && !parts.any(|part| part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        let takes = |text: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(text))]))
        };
        assert!(takes("gzip, deflate, br"));
        assert!(takes("br;q=1.0, gzip;q=0.5"));
        assert!(!takes("gzip;q=0, br"));
        assert!(!takes("identity"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
