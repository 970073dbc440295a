//! A request's way through the edge: refuse, redirect, route, site or upstream, retry, log.
//!
//! Pingora drives; this says what happens at each of its stations. A request keeps the snapshot it began with.
//! Never repeats a request that may have had an effect.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Version;
use mainstay_decide::balance::{Outcome, Verdict};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::time::Instant;

use crate::answer::{prove, refuse, send_elsewhere};
use crate::clients;
use crate::coding::Encoder;
use crate::connection::{Connection, Phase};
use crate::edge::Edge;
use crate::endpoint::Lease;
use crate::guard::Crossing;
use crate::headers::{Identity, forward};
use crate::identity::{Denied, User};
use crate::limit::{Client, Quota};
use crate::metrics::RouteTally;
use crate::passage;
use crate::release;
use crate::snapshot::{Destination, Route, Snapshot};
use crate::strict;
use crate::upstream::{Group, NoEndpoint, Wish};

/// Connections tried for one request. A refused one ejects its endpoint and costs microseconds, so this only bounds
/// a loop over a service whose instances all died at once (ten of them at most).
pub(crate) const MAX_ATTEMPTS: usize = 16;
/// Time for a connection to an endpoint on this machine; only a full backlog makes it long.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time an upstream connection is kept for reuse: below the 5 s after which common servers close theirs, so that a
/// request does not meet a connection just being closed.
const UPSTREAM_IDLE: Duration = Duration::from_secs(4);
/// Longest pause within a request body.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// Longest pause while a client takes an answer.
const WRITE_IDLE: Duration = Duration::from_secs(60);
/// Longest silence on an upgraded connection: WebSocket clients ping more often than hourly.
const UPGRADED_IDLE: Duration = Duration::from_secs(3600);
/// Separates upgrades from other requests in Pingora's pool.
const UPGRADE_POOL: u64 = 1;
pub(crate) const MAINTENANCE: strict::Refusal = (503, "there is maintenance");
const NO_USER: strict::Refusal = (401, "user or password is missing or wrong");
const BROKEN: &str = "circuit breaker is open: nearly all answers of this service were errors";

/// What the edge does at Pingora's stations.
pub(crate) struct Proxy {
    edge: Arc<Edge>,
    /// Redirects and refusals.
    unrouted: Arc<RouteTally>,
}

/// One request.
pub(crate) struct RequestState {
    started: Instant,
    head: Option<HeadState>,
    /// Requests sent or tried.
    attempts: u32,
    retries: u32,
    tried: Vec<String>,
    hold_until: Option<Instant>,
    deadline: Option<Instant>,
    lease: Option<Lease>,
    wish: Wish,
    /// Goes on alone while the breaker is open.
    is_try: bool,
    /// The breaker was asked and wants to know how it ended.
    is_counted: bool,
    /// What a client is told to wait.
    pub(crate) retry_in: Option<Duration>,
    /// Encodes the answer.
    encoder: Option<Box<Mutex<Encoder>>>,
    sent_at: Option<Instant>,
    answered_at: Option<Instant>,
    /// Event streams and upgrades: have no end, so no total time.
    is_stream: bool,
    body_bytes: u64,
    /// All of the request is there.
    is_whole: bool,
    /// The time for an answer went by while the client did not send what it had announced.
    has_stalled: bool,
    reason: Option<&'static str>,
    client_gone: bool,
    /// Only when the route has limits.
    pub(crate) quota: Option<Box<Quota>>,
    crossing: Crossing,
    /// Who has shown a password.
    pub(crate) user: Option<String>,
    /// Who has shown a token.
    bearer: Option<Box<User>>,
    /// What is asked of who is not let in.
    pub(crate) challenge: Option<String>,
    /// What the service is told of the client's certificate.
    client: Option<String>,
    /// Answered by a rule of the edge: no business of the upstream's.
    is_ruled: bool,
}

/// What is known once the head is read.
struct HeadState {
    snapshot: Arc<Snapshot>,
    identity: Identity,
    host: String,
    is_tls: bool,
    is_upgrade: bool,
    route: Option<Arc<Route>>,
}

impl RequestState {
    fn route(&self) -> Option<&Arc<Route>> {
        self.head.as_ref()?.route.as_ref()
    }

    fn group(&self) -> Option<&Arc<Group>> {
        match &self.route()?.to {
            Destination::Upstream(group) => Some(group),
            Destination::Site(_) | Destination::Redirect(_) => None,
        }
    }

    /// Adds to an answer what the route says.
    pub(crate) fn dress(&self, head: &mut ResponseHeader) -> Result<()> {
        if let Some(route) = self.route() {
            route.guard.dress(head, &self.crossing)?;
        }
        if let Some(quota) = &self.quota {
            // Lists: what the service says of limits of its own stays beside ours.
            head.append_header("RateLimit-Policy", quota.policy.as_str())?;
            if !quota.left.is_empty() {
                head.append_header("RateLimit", quota.left.as_str())?;
            }
        }
        Ok(())
    }

    /// What it gets is for its user alone.
    pub(crate) fn is_known(&self) -> bool {
        self.known_user().is_some() || self.client.is_some()
    }

    /// With the issuer, if there is one.
    fn known_user(&self) -> Option<(&str, &str)> {
        let bearer = self.bearer.as_ref().map(|user| (user.issuer.as_str(), user.subject.as_str()));
        bearer.or_else(|| Some(("", self.user.as_deref()?)))
    }

    /// The name of who is known.
    fn user_name(&self) -> Option<&str> {
        self.known_user().map(|(_, user)| user)
    }

    pub(crate) fn identity(&self) -> &str {
        self.head.as_ref().map_or("", |head| &head.identity.request_id)
    }
}

impl Proxy {
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        let unrouted = edge.metrics.route("", "");
        Self { edge, unrouted }
    }

    /// Takes in the head; the refusal if it is one.
    fn admit(&self, session: &mut Session, ctx: &mut RequestState) -> std::result::Result<(), strict::Refusal> {
        let Some(snapshot) = self.edge.snapshot() else {
            return Err((503, "edge has no policy yet"));
        };
        let head = session.req_header();
        let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        let host = strict::host(head);
        let is_upgrade = session.is_upgrade_req() && is_web_socket(session.req_header());
        ctx.head = Some(HeadState {
            snapshot,
            identity: Identity::of(head),
            host: host.clone().unwrap_or_default(),
            is_tls,
            is_upgrade,
            route: None,
        });
        if head.version != Version::HTTP_2 {
            strict::check_raw_head(&session.to_h1_raw())?;
        }
        strict::check_head(session.req_header())?;
        let Some(state) = &mut ctx.head else { return Err((500, "request has no state")) };
        if !host.is_some_and(|host| state.snapshot.has_host(&host)) {
            return Err((421, "host is not served here"));
        }
        if !state.is_tls {
            return Ok(());
        }
        let head = session.req_header();
        state.route = state.snapshot.sole_route(head.uri.path())?.map(Arc::clone);
        let client = client_ip(session);
        let is_welcome = state.route.as_ref().is_none_or(|route| route.guard.door.admits(client));
        if !is_welcome || !state.snapshot.door.admits(client) {
            return Err((403, "address may not use this route"));
        }
        let limits = state.route.as_ref().map_or(&state.snapshot.limits, |route| &route.limits);
        if !limits.is_empty() {
            let stranger = Client { headers: &head.headers, address: client, user: None };
            let quota = self.edge.limits.ask(limits, stranger, ctx.started);
            let refused = quota.refused.as_ref().map(|refused| (429, refused.reason));
            ctx.quota = Some(Box::new(quota));
            if let Some(refusal) = refused {
                return Err(refusal);
            }
        }
        let Some(route) = &state.route else { return Err((404, "no route for this path")) };
        strict::check_length(head, route.body_limit)?;
        ctx.crossing = route.guard.crossing(&head.method, &head.headers)?;
        if matches!(ctx.crossing, Crossing::Preflight(_)) {
            // Browsers send no password with the question beforehand.
            return Ok(());
        }
        if route.maintenance.is_some() {
            ctx.retry_in = route.maintenance;
            return Err(MAINTENANCE);
        }
        if let Some(wanted) = route.client_certificate {
            ctx.client = clients::admit(wanted, state.snapshot.clients.as_deref(), clients::shown(session))?;
        }
        if let Some(users) = &route.users {
            ctx.user = Some(users.verify(&head.headers).ok_or(NO_USER)?);
        }
        Ok(())
    }

    /// Finds out who comes, and asks the limits that count by user.
    async fn identify(&self, session: &Session, ctx: &mut RequestState) -> std::result::Result<(), strict::Refusal> {
        let Some(route) = ctx.route().cloned() else { return Ok(()) };
        if matches!(ctx.crossing, Crossing::Preflight(_)) {
            // Browsers send no token with the question beforehand.
            return Ok(());
        }
        let head = session.req_header();
        if let Some(entry) = &route.entry {
            match entry.user(&self.edge.issuers, &head.headers, head.method.as_str()).await {
                Ok(user) => ctx.bearer = Some(Box::new(user)),
                Err(Denied { refusal, challenge }) => {
                    ctx.challenge = challenge;
                    return Err(refusal);
                }
            }
        }
        if !route.limits.has_users() {
            return Ok(());
        }
        let Some(mut quota) = ctx.quota.take() else { return Ok(()) };
        let known = Client { headers: &head.headers, address: client_ip(session), user: ctx.known_user() };
        self.edge.limits.ask_users(&mut quota, &route.limits, known, ctx.started);
        let refused = quota.refused.as_ref().map(|refused| (429, refused.reason));
        ctx.quota = Some(quota);
        refused.map_or(Ok(()), Err)
    }

    /// Answers a browser's question beforehand (CORS).
    async fn preflight(&self, session: &mut Session, ctx: &RequestState) -> Result<()> {
        let mut head = ResponseHeader::build(204, Some(8))?;
        head.insert_header("X-Request-Id", ctx.identity())?;
        ctx.dress(&mut head)?;
        session.write_response_header(Box::new(head), true).await
    }

    async fn redirect(&self, session: &mut Session, ctx: &RequestState) -> Result<()> {
        let Some(state) = &ctx.head else { return Ok(()) };
        let uri = &session.req_header().uri;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let port = match state.snapshot.https_port {
            443 => String::new(),
            port => format!(":{port}"),
        };
        let location = format!("https://{}{port}{path}", state.host);
        send_elsewhere(session, 308, location, ctx).await
    }
}

/// Methods that may be sent twice. **Source**: RFC 9110 section 9.2.2.
/// Any other upgrade is not passed on: its body is a request's like another.
fn is_web_socket(head: &RequestHeader) -> bool {
    let upgrade = head.headers.get(http::header::UPGRADE);
    head.method == http::Method::GET && upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn is_idempotent(method: &http::Method) -> bool {
    use http::Method;
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method)
}

/// Takes a retry out of the route's budget, if there is one.
fn may_retry(group: &Group, ctx: &RequestState) -> bool {
    let is_allowed = ctx.route().is_some_and(|route| route.tally.budget().withdraw());
    let counter = if is_allowed { &group.retries } else { &group.retries_refused };
    counter.fetch_add(1, Ordering::Relaxed);
    is_allowed
}

/// What the end of a request says of the service, for the breaker.
fn outcome(ctx: &RequestState, is_error: bool) -> Outcome {
    if ctx.has_stalled {
        return Outcome::Unknown;
    }
    if ctx.answered_at.is_some() {
        return if is_error { Outcome::Bad } else { Outcome::Good };
    }
    let was_sent = ctx.sent_at.is_some() && ctx.lease.is_some();
    // Without an answer an error is the service's only where the client gets one of the 500s: what the client did wrong
    // (a body that is none, too long or too slow) must not take the service away from others.
    if ctx.client_gone || !was_sent || !is_error { Outcome::Unknown } else { Outcome::Bad }
}

/// Which endpoint a request wants.
fn wish(session: &Session, route: &Route, has_share: bool, ctx: &RequestState) -> Wish {
    let (headers, address) = (&session.req_header().headers, client_ip(session));
    let mut wish = passage::wish(&route.balancing, Client { headers, address, user: ctx.known_user() });
    if has_share {
        wish.client = Some(release::client(&route.balancing, headers, ctx.user_name(), address));
        wish.release = release::asked(headers, address);
    }
    wish
}

fn client_ip(session: &Session) -> Option<IpAddr> {
    session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip)
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = RequestState;

    fn new_ctx(&self) -> RequestState {
        RequestState {
            started: Instant::now(),
            head: None,
            attempts: 0,
            retries: 0,
            tried: Vec::new(),
            hold_until: None,
            deadline: None,
            lease: None,
            wish: Wish::default(),
            is_try: false,
            is_counted: false,
            retry_in: None,
            encoder: None,
            sent_at: None,
            answered_at: None,
            is_stream: false,
            body_bytes: 0,
            is_whole: false,
            has_stalled: false,
            reason: None,
            client_gone: false,
            quota: None,
            crossing: Crossing::None,
            user: None,
            bearer: None,
            challenge: None,
            client: None,
            is_ruled: false,
        }
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // Compression is ours: answers that mix secrets and input must not be compressed (BREACH), see `compress`.
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestState) -> Result<bool> {
        let framing = head_is_done(session);
        session.set_read_timeout(Some(BODY_IDLE));
        session.set_write_timeout(Some(WRITE_IDLE));
        session.set_total_drain_timeout(Some(BODY_IDLE));
        let mut admitted = self.admit(session, ctx).and(framing);
        if admitted.is_ok() {
            admitted = self.identify(session, ctx).await;
        }
        if let Some(route) = ctx.route() {
            route.tally.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        if let Err((status, reason)) = admitted {
            ctx.reason = Some(reason);
            ctx.is_ruled = true;
            refuse(session, status, reason, ctx).await?;
            return Ok(true);
        }
        let Some(state) = &ctx.head else { return Ok(false) };
        if !state.is_tls {
            if let Some(text) = state.snapshot.answers.http(session.req_header().uri.path()) {
                let text = Bytes::from(text.to_owned());
                ctx.is_ruled = true;
                prove(session, text, ctx).await?;
                return Ok(true);
            }
            self.redirect(session, ctx).await?;
            return Ok(true);
        }
        if matches!(ctx.crossing, Crossing::Preflight(_)) {
            ctx.is_ruled = true;
            self.preflight(session, ctx).await?;
            return Ok(true);
        }
        if state.is_upgrade {
            session.set_read_timeout(Some(UPGRADED_IDLE));
        }
        let Some(route) = state.route.clone() else { return Ok(false) };
        match &route.to {
            Destination::Upstream(group) => {
                let verdict = group.ask_breaker();
                if let Verdict::Refuse { retry_in } = verdict {
                    (ctx.reason, ctx.is_ruled, ctx.retry_in) = (Some(BROKEN), true, Some(retry_in));
                    refuse(session, 503, BROKEN, ctx).await?;
                    return Ok(true);
                }
                (ctx.is_counted, ctx.is_try) = (true, verdict == Verdict::Try);
                route.tally.budget().deposit(route.balancing.retry_percent);
                ctx.wish = wish(session, &route, group.has_share(), ctx);
                Ok(false)
            }
            Destination::Site(site) => {
                let path = session.req_header().uri.path().to_owned();
                site.serve(session, route.below(&path), route.compress, ctx).await?;
                Ok(true)
            }
            Destination::Redirect(redirect) => {
                let uri = &session.req_header().uri;
                let location = redirect.location(route.below(uri.path()), uri.query());
                send_elsewhere(session, redirect.status, location, ctx).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut RequestState) -> Result<Box<HttpPeer>> {
        let Some(group) = ctx.group().cloned() else {
            return Error::e_explain(ErrorType::InternalError, "route without upstream");
        };
        ctx.lease = None;
        let lease = match group.acquire(&ctx.tried, &ctx.wish, &mut ctx.hold_until).await {
            Ok(lease) => lease,
            Err(why) => {
                ctx.reason = Some(match why {
                    NoEndpoint::Full => "no endpoint is in and too many requests wait",
                    NoEndpoint::TimedOut => "no endpoint came in within the hold time",
                });
                return Error::e_explain(ErrorType::HTTPStatus(503), "no endpoint");
            }
        };
        ctx.attempts += 1;
        ctx.tried.push(lease.0.id.clone());
        let timeout = ctx.route().map_or(BODY_IDLE, |route| route.timeout);
        let deadline = *ctx.deadline.get_or_insert_with(|| Instant::now() + timeout);
        let is_upgrade = ctx.head.as_ref().is_some_and(|head| head.is_upgrade);
        let mut peer = HttpPeer::new(lease.0.address, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
        // Zero would mean forever.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        peer.options.read_timeout = Some(if is_upgrade { UPGRADED_IDLE } else { left });
        peer.options.write_timeout = Some(BODY_IDLE);
        peer.options.idle_timeout = Some(UPSTREAM_IDLE);
        if is_upgrade {
            peer.options.custom_l4 = Some(Arc::new(crate::patient::Patiently));
            // Never a pooled connection of the other kind.
            peer.group_key = UPGRADE_POOL;
        }
        ctx.lease = Some(lease);
        ctx.sent_at = Some(Instant::now());
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestState,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let (Some(group), Some(lease)) = (ctx.group().cloned(), ctx.lease.take()) else { return error };
        lease.0.record(0, ctx.started.elapsed(), true);
        match error.etype() {
            ErrorType::ConnectRefused | ErrorType::ConnectNoRoute => group.eject(&lease.0, "connection refused"),
            ErrorType::ConnectTimedout => group.eject(&lease.0, "connection timed out"),
            // May be our own lack of descriptors or ports: not a reason to eject at once.
            _ => group.unanswered(&lease.0, "connections fail"),
        }
        // Nothing has reached the upstream, so any method may try the next one.
        error.set_retry((ctx.attempts as usize) < MAX_ATTEMPTS);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestState,
    ) -> Result<()> {
        let Some(state) = &ctx.head else { return Ok(()) };
        // A whole URL as target is for proxies: servers behind differ in what they make of it. Pingora has compared
        // its host with that of the header.
        if !request.raw_path().starts_with(b"/") {
            request.set_uri(request.uri.clone());
        }
        if let Some(route) = &state.route {
            passage::edit(request, route, ctx.user.is_some())?;
        }
        let authority = session.req_header().headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let authority = authority.or_else(|| session.req_header().uri.authority().map(|authority| authority.as_str()));
        let authority = authority.unwrap_or(&state.host).to_owned();
        forward(request, &state.identity, client_ip(session), &authority)?;
        if let Some(user) = ctx.user_name() {
            request.insert_header("X-Forwarded-User", user)?;
        }
        if let Some(client) = &ctx.client {
            request.insert_header(clients::HEADER, client.as_str())?;
        }
        if let Some(user) = &ctx.bearer {
            request.insert_header("X-Forwarded-Issuer", user.issuer.as_str())?;
            request.insert_header("X-Forwarded-Roles", user.roles.join(", "))?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut RequestState,
    ) -> Result<()> {
        if is_end && !ctx.is_whole {
            ctx.is_whole = true;
            // The service has its whole time for the answer, however long the client took.
            ctx.deadline = ctx.route().map(|route| Instant::now() + route.timeout);
        }
        let is_upgrade = ctx.head.as_ref().is_some_and(|head| head.is_upgrade);
        ctx.body_bytes += body.as_ref().map_or(0, |body| body.len() as u64);
        let most = ctx.route().map_or(u64::MAX, |route| route.body_limit);
        if !is_upgrade && ctx.body_bytes > most {
            let (status, reason) = strict::BODY_TOO_LONG;
            ctx.reason = Some(reason);
            return Error::e_explain(ErrorType::HTTPStatus(status), reason);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestState,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        ctx.answered_at = Some(Instant::now());
        let is_event_stream = response
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        ctx.is_stream = is_event_stream || response.status == http::StatusCode::SWITCHING_PROTOCOLS;
        let has_cookie = response.headers.contains_key(http::header::SET_COOKIE);
        ctx.dress(response)?;
        // After what the route sets and removes: what is encoded says so in any case.
        if let Some(floor) = ctx.route().and_then(|route| route.compress).filter(|_| !has_cookie) {
            ctx.encoder =
                passage::compress(session.req_header(), response, floor)?.map(|encoder| Box::new(Mutex::new(encoder)));
        }
        if let Some(lease) = &ctx.lease {
            lease.0.answered();
            let sticky = ctx.route().and_then(|route| route.balancing.sticky.as_ref());
            if let Some(name) = sticky.filter(|_| ctx.wish.sticky.as_ref() != Some(&lease.0.tag)) {
                let cookie = format!("{name}={}; Path=/; HttpOnly; Secure; SameSite=Lax", lease.0.tag);
                response.append_header(http::header::SET_COOKIE, cookie)?;
            }
            if let Some(release) = lease.0.release.as_ref().filter(|_| ctx.wish.release.is_some()) {
                response.insert_header(release::HEADER, release.label.as_str())?;
            }
        }
        response.insert_header("X-Request-Id", ctx.identity())?;
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut RequestState,
    ) -> Result<Option<Duration>> {
        let is_overdue = ctx.deadline.is_some_and(|deadline| Instant::now() > deadline);
        if is_overdue && !is_end && !ctx.is_stream {
            ctx.reason = Some("answer was not complete within the route's timeout");
            return Err(Error::new_up(ErrorType::ReadTimedout));
        }
        Ok(None)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        ctx: &mut RequestState,
    ) -> Result<Option<Duration>> {
        if let Some(encoder) = &mut ctx.encoder {
            let encoder = encoder.get_mut().unwrap_or_else(PoisonError::into_inner);
            let encoded = encoder.encode(body.as_deref().unwrap_or_default(), is_end);
            let encoded =
                encoded.map_err(|error| Error::because(ErrorType::InternalError, "encoding an answer", error))?;
            *body = Some(encoded);
        }
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut RequestState,
        _is_reused: bool,
    ) -> Box<Error> {
        error.set_retry(false);
        let is_upstream = *error.esource() == ErrorSource::Upstream;
        if is_upstream && *error.etype() == ErrorType::ReadTimedout && !ctx.is_whole {
            ctx.has_stalled = true;
            return error;
        }
        let is_unanswered = ctx.answered_at.is_none() && session.response_written().is_none();
        if !is_upstream || !is_unanswered {
            return error;
        }
        let (Some(group), Some(lease)) = (ctx.group().cloned(), ctx.lease.as_ref()) else { return error };
        let is_timeout = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        group.unanswered(&lease.0, if is_timeout { "answers time out" } else { "connections end without an answer" });
        let is_in_time = ctx.deadline.is_none_or(|deadline| Instant::now() < deadline);
        let may_repeat = is_idempotent(&session.req_header().method)
            && !session.as_ref().retry_buffer_truncated()
            && ctx.head.as_ref().is_some_and(|head| !head.is_upgrade);
        let most = ctx.route().map_or(0, |route| route.balancing.retries);
        if may_repeat && is_in_time && !is_timeout && ctx.retries < most && may_retry(&group, ctx) {
            ctx.retries += 1;
            lease.0.record(0, ctx.started.elapsed(), true);
            // The whole body is sent and counted again.
            ctx.body_bytes = 0;
            error.set_retry(true);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestState) -> FailToProxy {
        let (status, reason) = match (error.etype(), error.esource()) {
            (ErrorType::HTTPStatus(status), _) => (*status, "refused"),
            (ErrorType::ReadTimedout, ErrorSource::Upstream) if ctx.has_stalled => strict::BODY_TOO_LATE,
            (ErrorType::ReadTimedout | ErrorType::WriteTimedout, ErrorSource::Upstream) => {
                (504, "upstream did not answer within the route's timeout")
            }
            (_, ErrorSource::Upstream) if ctx.sent_at.is_some() && ctx.lease.is_none() => {
                (502, "no connection to an endpoint")
            }
            (_, ErrorSource::Upstream) => (502, "upstream closed the connection without an answer"),
            _ if phase(session).is_some_and(|phase| phase.is_broken()) => strict::BAD_CHUNKS,
            (ErrorType::ReadTimedout, ErrorSource::Downstream) => strict::BODY_TOO_LATE,
            (
                ErrorType::WriteError
                | ErrorType::ReadError
                | ErrorType::ConnectionClosed
                | ErrorType::H2Error
                | ErrorType::WriteTimedout
                | ErrorType::ConnectError,
                ErrorSource::Downstream,
            ) => (0, "client went away"),
            (_, ErrorSource::Downstream) => (400, "request is malformed"),
            (_, ErrorSource::Internal | ErrorSource::Unset) => (500, "edge failed"),
        };
        ctx.client_gone = status == 0;
        let reason = *ctx.reason.get_or_insert(reason);
        if status > 0 && session.response_written().is_none() {
            // The client may be gone; the log line says what would have been said.
            refuse(session, status, reason, ctx).await.ok();
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut RequestState) {
        self.record(session, error, ctx);
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestState, _error: &Error) -> bool {
        // The access log and the counters say it.
        true
    }
}

/// The phase of a connection of ours.
fn phase(session: &Session) -> Option<Arc<Phase>> {
    Some(session.as_ref().stream()?.as_any().downcast_ref::<Connection>()?.phase())
}

/// Tells the connection that the head is complete, so that its deadline does not run on and the body is held to its
/// framing.
///
/// **Errors**: the refusal of a body whose beginning, which came with the head, is malformed.
fn head_is_done(session: &Session) -> std::result::Result<(), strict::Refusal> {
    let Some(phase) = phase(session) else { return Ok(()) };
    let head = session.req_header();
    if head.version != Version::HTTP_2 && head.headers.contains_key(http::header::TRANSFER_ENCODING) {
        return phase.expect_chunks().map_err(|_| strict::BAD_CHUNKS);
    }
    phase.head_done();
    Ok(())
}

impl Proxy {
    /// Counts the request and writes its line.
    fn record(&self, session: &Session, error: Option<&Error>, ctx: &mut RequestState) {
        let now = Instant::now();
        let written = session.response_written().map(|head| head.status.as_u16());
        // 499 is nginx's number for a client that left before the answer.
        let status = written.unwrap_or(if ctx.client_gone { 499 } else { 0 });
        let is_truncated = written.is_some() && error.is_some_and(|error| *error.esource() == ErrorSource::Upstream);
        let is_truncated = is_truncated && ctx.answered_at.is_some() && !ctx.has_stalled;
        if is_truncated {
            ctx.reason.get_or_insert("answer was cut off by the upstream");
        }
        let is_error = status == 0 || status >= 500 || is_truncated;
        // A stream lasts as long as its user wants: what counts is when it began.
        let end = ctx.answered_at.filter(|_| ctx.is_stream).unwrap_or(now);
        let took = end.duration_since(ctx.started);
        match ctx.group().filter(|_| !ctx.is_ruled) {
            Some(group) => group.tally.record(took, is_error),
            None => self.edge.metrics.local.record(took, is_error),
        }
        if let Some(group) = ctx.group().filter(|_| ctx.is_counted) {
            group.tell_breaker(ctx.is_try, outcome(ctx, is_error));
        }
        let counted = if is_truncated { 500 } else { status };
        if let Some(lease) = &ctx.lease {
            lease.0.record(counted, took, is_error);
        }
        match ctx.route() {
            Some(route) => {
                route.tally.in_flight.fetch_sub(1, Ordering::Relaxed);
                route.tally.record(counted, took);
            }
            None => self.unrouted.record(counted, took),
        }
        self.log(session, status, now, ctx);
    }

    fn log(&self, session: &Session, status: u16, now: Instant, ctx: &RequestState) {
        let head = session.req_header();
        let state = ctx.head.as_ref();
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let tls = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        self.edge.access.write(&crate::access::Line {
            at: crate::now().to_string(),
            request_id: ctx.identity(),
            trace_id: state.map_or("", |state| state.identity.trace_id()),
            remote: session.client_addr().and_then(|address| address.as_inet()).copied(),
            user: ctx.user_name(),
            method: head.method.as_str(),
            host: state.map_or("", |state| &state.host),
            path: &crate::access::redact(path),
            route: ctx.route().map_or("", |route| &route.path),
            status,
            upstream: ctx.group().map_or("", |group| &group.name),
            endpoint: ctx.lease.as_ref().map_or("", |lease| &lease.0.id),
            release: ctx.lease.as_ref().and_then(|lease| Some(lease.0.release.as_ref()?.label.as_str())),
            attempts: ctx.attempts,
            bytes: session.body_bytes_sent() as u64,
            duration_ms: milliseconds(now.duration_since(ctx.started)),
            upstream_ms: ctx.sent_at.map(|sent| milliseconds(ctx.answered_at.unwrap_or(now).duration_since(sent))),
            tls: tls.map_or("", |tls| &tls.version),
            protocol: if head.version == Version::HTTP_2 { "h2" } else { "http/1.1" },
            policy: state.map_or(0, |state| state.snapshot.generation.0),
            reason: ctx.reason,
            limit: ctx
                .quota
                .as_ref()
                .and_then(|quota| quota.refused.as_ref())
                .map(|refused| refused.limiter.text.as_str()),
        });
    }
}
