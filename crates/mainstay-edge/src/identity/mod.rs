//! Who comes with a token: issuers with their keys, verification, and what the service is told.
//!
//! What counts is decided by `mainstay_decide::identity`; here are the bytes, the keys and the fetching of keys. Issuers
//! outlive the policies that have them: keys are not fetched again because something else has changed. Nothing here
//! keeps or shows a token.

pub(crate) mod explain;
mod fetch;
mod keys;
mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use mainstay_decide::identity::{Claims, Fault, Refresh, check_claims, check_header, permits};
use mainstay_stack::identity::{Keys, Roles};
use mainstay_supervisor::durable;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::keys::{Key, Signed};
use self::token::Token;
use crate::protocol::{self, Policy};
use crate::strict::Refusal;

/// After which time a file is read again: it is on this machine.
const FILE_AGE: Duration = Duration::from_secs(5);
/// Most that a request waits for keys that are being fetched.
const WAIT: Duration = Duration::from_secs(2);
/// Pause of the fetcher when nothing is due.
const IDLE: Duration = Duration::from_secs(60);
/// Changes that nobody has taken.
const EVENTS: usize = 64;
const NO_ROLE: Refusal = (403, "user has none of the roles that this needs");
const NO_KEYS: Refusal = (503, "keys of the issuer are not there");

/// A user that a token has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) subject: String,
    /// As the service is told it.
    pub(crate) issuer: String,
    pub(crate) roles: Vec<String>,
}

/// Why somebody is not let in, and what the answer says of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) refusal: Refusal,
    /// `WWW-Authenticate`.
    pub(crate) challenge: Option<String>,
}

/// What a route asks of who comes.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) issuer: Arc<Issuer>,
    roles: Roles,
}

/// What is told of keys when it changes.
#[derive(Clone, Debug)]
pub(crate) struct KeysChanged {
    pub(crate) issuer: String,
    /// Usable ones that are there.
    pub(crate) keys: usize,
    /// Why no others came.
    pub(crate) failure: Option<String>,
}

/// One issuer.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) name: String,
    of: protocol::Issuer,
    keys: ArcSwapOption<Vec<Key>>,
    refresh: Mutex<Refresh>,
    is_fetching: AtomicBool,
    /// Fetches so far.
    done: watch::Sender<u64>,
    pub(crate) verified: AtomicU64,
    refused: [AtomicU64; Fault::ALL.len()],
    pub(crate) no_role: AtomicU64,
    pub(crate) failed: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// Keys as they were fetched, for an edge that begins while the issuer is away.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Where they came from, and by whose word: other roots are another word.
    of: Keys,
    text: String,
}

impl Issuer {
    fn new(name: &str, of: &protocol::Issuer) -> Self {
        let max_age = if let Keys::Url { max_age, .. } = &of.rule.keys { *max_age } else { FILE_AGE };
        let keys = of.secret.as_ref().and_then(Key::of_secret).map(|key| Arc::new(vec![key]));
        Self {
            name: name.to_owned(),
            of: of.clone(),
            keys: ArcSwapOption::new(keys),
            refresh: Mutex::new(Refresh::new(max_age)),
            is_fetching: AtomicBool::new(false),
            done: watch::Sender::new(0),
            verified: AtomicU64::new(0),
            refused: Default::default(),
            no_role: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    fn is_fetched(&self) -> bool {
        !matches!(self.of.rule.keys, Keys::Secret { .. })
    }

    fn refresh(&self) -> std::sync::MutexGuard<'_, Refresh> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys that are there.
    pub(crate) fn key_count(&self) -> usize {
        self.keys.load().as_ref().map_or(0, |keys| keys.len())
    }

    /// Whether the last fetch failed, and how old the keys are. `None`: they are not fetched.
    pub(crate) fn freshness(&self, now: Timestamp) -> Option<(bool, Option<Duration>)> {
        let refresh = self.refresh();
        self.is_fetched().then(|| (refresh.failures > 0, refresh.age(now)))
    }

    /// Requests refused, by fault.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.into_iter().zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// What the token of a request says, if it is good now. `None` when there are no keys to tell by.
    fn verify(&self, headers: &HeaderMap, now: Timestamp) -> Option<Result<Claims, Fault>> {
        let rule = &self.of.rule;
        let looked = || {
            let token = Token::read(token::bearer(headers)?)?;
            check_header(&token.header, rule)?;
            Ok(token)
        };
        let token = match looked() {
            Ok(token) => token,
            Err(fault) => return Some(Err(fault)),
        };
        let keys = self.keys.load();
        let keys = keys.as_ref()?;
        let named = token.header.key.as_deref();
        Some(match keys::check(keys, named, token.signed, &token.signature) {
            Signed::Unknown => Err(Fault::Key),
            Signed::Bad => Err(Fault::Signature),
            Signed::Good => {
                token.claims(&rule.roles).and_then(|claims| check_claims(&claims, rule, now).map(|()| claims))
            }
        })
    }

    fn challenge(&self, error: Option<(&str, &str)>) -> String {
        let realm = &self.name;
        match error {
            None => format!("Bearer realm=\"{realm}\""),
            Some((error, text)) => format!("Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{text}\""),
        }
    }

    fn deny(&self, fault: Fault) -> Denied {
        let place = Fault::ALL.iter().position(|known| *known == fault);
        if let Some(count) = place.and_then(|place| self.refused.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let challenge = self.challenge(fault.error().map(|error| (error, fault.text())));
        Denied { refusal: (fault.status(), fault.text()), challenge: Some(challenge) }
    }

    /// Takes what a fetch has brought. **Errors**: there is no key in it.
    fn take(&self, bytes: &[u8]) -> Result<(), String> {
        let keys = keys::read(bytes, self.of.rule.algorithm)?;
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }
}

impl Entry {
    /// Who comes, if a good token says so and the user may ask with this method. Waits a little for keys that are being
    /// fetched.
    pub(crate) async fn user(&self, issuers: &Issuers, headers: &HeaderMap, method: &str) -> Result<User, Denied> {
        let issuer = &self.issuer;
        let mut done = issuer.done.subscribe();
        let mut verified = issuer.verify(headers, crate::now());
        if matches!(verified, None | Some(Err(Fault::Key))) && issuers.want(issuer) {
            // Whoever is late waits no longer.
            tokio::time::timeout(WAIT, done.changed()).await.ok();
            verified = issuer.verify(headers, crate::now());
        }
        let claims = match verified {
            None => return Err(Denied { refusal: NO_KEYS, challenge: None }),
            Some(Err(fault)) => return Err(issuer.deny(fault)),
            Some(Ok(claims)) => claims,
        };
        if !permits(&self.roles, method, &claims.roles) {
            issuer.no_role.fetch_add(1, Ordering::Relaxed);
            let challenge = issuer.challenge(Some(("insufficient_scope", NO_ROLE.1)));
            return Err(Denied { refusal: NO_ROLE, challenge: Some(challenge) });
        }
        issuer.verified.fetch_add(1, Ordering::Relaxed);
        let named = issuer.of.rule.issuer.as_ref().unwrap_or(&issuer.name).clone();
        Ok(User { subject: claims.subject.unwrap_or_default(), issuer: named, roles: claims.roles })
    }
}

/// All issuers of the policy in force.
#[derive(Debug)]
pub(crate) struct Issuers {
    epoch: Instant,
    state: PathBuf,
    known: Mutex<BTreeMap<String, Arc<Issuer>>>,
    /// Something is due earlier than it was.
    changed: Notify,
    pub(crate) events: broadcast::Sender<KeysChanged>,
}

impl Issuers {
    /// Keys are kept in this folder.
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            epoch: Instant::now(),
            state: state.to_owned(),
            known: Mutex::new(BTreeMap::new()),
            changed: Notify::new(),
            events: broadcast::Sender::new(EVENTS),
        }
    }

    /// Time since this began: a clock that is set must not make keys old or young.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::default().after(self.epoch.elapsed())
    }

    /// Makes the issuers of a policy; one that stays keeps its keys. Blocks on the disk.
    pub(crate) fn configure(&self, policy: &Policy) -> BTreeMap<String, Arc<Issuer>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::new();
        for (name, of) in &policy.issuers {
            let same = known.get(name).filter(|issuer| issuer.of == *of).map(Arc::clone);
            let issuer = same.unwrap_or_else(|| {
                let issuer = Issuer::new(name, of);
                self.begin(&issuer);
                Arc::new(issuer)
            });
            next.insert(name.clone(), issuer);
        }
        known.clone_from(&next);
        self.changed.notify_one();
        next
    }

    pub(crate) fn all(&self) -> Vec<Arc<Issuer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What a route of a policy asks, of issuers that [`Self::configure`] has made.
    pub(crate) fn entry(
        of: Option<&mainstay_stack::identity::Entry>,
        known: &BTreeMap<String, Arc<Issuer>>,
    ) -> Option<Option<Entry>> {
        let Some(of) = of else { return Some(None) };
        let issuer = Arc::clone(known.get(&of.issuer)?);
        Some(Some(Entry { issuer, roles: of.roles.clone() }))
    }

    /// The first keys: of a file at once, of a URL those that were there before.
    fn begin(&self, issuer: &Issuer) {
        match &issuer.of.rule.keys {
            Keys::Secret { .. } => {}
            Keys::File { path } => {
                let read = fetch::file(path).map_err(|error| mainstay_types::full_text(&error));
                self.ended(issuer, read.and_then(|bytes| issuer.take(&bytes)));
            }
            Keys::Url { .. } => {
                let read = std::fs::read(self.file(issuer)).ok();
                let kept: Option<Kept> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                if let Some(kept) = kept.filter(|kept| kept.of == issuer.of.rule.keys) {
                    // What is no key any more is fetched soon.
                    issuer.take(kept.text.as_bytes()).ok();
                }
            }
        }
    }

    fn file(&self, issuer: &Issuer) -> PathBuf {
        self.state.join(format!("keys-{}.json", issuer.name))
    }

    /// Asks for keys out of turn. Whether that is worth waiting for.
    fn want(&self, issuer: &Issuer) -> bool {
        if !issuer.is_fetched() {
            return false;
        }
        let is_worth_it = issuer.refresh().want(self.now()) || issuer.is_fetching.load(Ordering::Acquire);
        self.changed.notify_one();
        is_worth_it
    }

    /// Notes how a fetch ended, and tells it when that is new.
    fn ended(&self, issuer: &Issuer, outcome: Result<(), String>) {
        let failure = outcome.err();
        issuer.refresh().tried(self.now(), failure.is_none());
        if failure.is_some() {
            issuer.failed.fetch_add(1, Ordering::Relaxed);
        }
        let before = {
            let mut last = issuer.failure.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *last, failure.clone())
        };
        if before != failure {
            let event = KeysChanged { issuer: issuer.name.clone(), keys: issuer.key_count(), failure };
            // Without a control plane nobody hears it; the metrics say it as well.
            self.events.send(event).ok();
        }
        issuer.is_fetching.store(false, Ordering::Release);
        issuer.done.send_modify(|count| *count += 1);
    }

    async fn fetch(&self, issuer: &Arc<Issuer>) {
        let brought = match &issuer.of.rule.keys {
            Keys::Secret { .. } => return,
            Keys::File { path } => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || fetch::file(&path)).await;
                read.map_err(|error| error.to_string())
                    .and_then(|read| read.map_err(|error| mainstay_types::full_text(&error)))
            }
            Keys::Url { url, roots, is_private, .. } => {
                let place = fetch::Place { url: url.clone(), roots: roots.clone(), is_private: *is_private };
                fetch::url(&place).await.map_err(|error| mainstay_types::full_text(&error))
            }
        };
        let outcome = brought.and_then(|bytes| issuer.take(&bytes).map(|()| bytes));
        if let (Ok(bytes), of @ Keys::Url { .. }) = (&outcome, &issuer.of.rule.keys) {
            let kept = Kept { of: of.clone(), text: String::from_utf8_lossy(bytes).into_owned() };
            let path = self.file(issuer);
            let keep = move || serde_json::to_vec(&kept).map(|bytes| durable::replace(&path, &bytes, 0o600));
            // Only for an edge that begins while the issuer is away.
            tokio::task::spawn_blocking(keep).await.ok();
        }
        self.ended(issuer, outcome.map(drop));
    }
}

/// Fetches keys when they are due, for as long as the edge lives.
pub(crate) async fn run(edge: Arc<crate::edge::Edge>) {
    let mut under_way = JoinSet::new();
    loop {
        let issuers = &edge.issuers;
        let now = issuers.now();
        let mut pause = IDLE;
        for issuer in issuers.all().into_iter().filter(|issuer| issuer.is_fetched()) {
            let due = issuer.refresh().due(now);
            if due > now {
                pause = pause.min(due.saturating_since(now));
            } else if !issuer.is_fetching.swap(true, Ordering::AcqRel) {
                let edge = Arc::clone(&edge);
                under_way.spawn(async move { edge.issuers.fetch(&issuer).await });
            }
        }
        tokio::select! {
            () = issuers.changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
            Some(_) = under_way.join_next() => {}
        }
    }
}

/// See [`crate::fuzz::token`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = Token::read(text)
    {
        assert_eq!(text.split('.').count(), 3, "{text:?}");
        token.claims(&["roles".to_owned()]).ok();
    }
    let strict = token::object(bytes);
    if let Ok(fields) = &strict {
        let other: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        assert_eq!(other.as_object(), Some(fields), "read otherwise by others");
    }
    // As the payload of a token: without its key nobody is known by it.
    let payload = URL_SAFE_NO_PAD.encode(bytes);
    let text = format!("eyJhbGciOiJIUzI1NiJ9.{payload}.");
    let Ok(token) = Token::read(&text) else { return };
    let key = Key::of_secret(&mainstay_types::Secret::new("x".repeat(32)));
    assert_eq!(keys::check(key.as_slice(), None, token.signed, &token.signature), Signed::Bad);
    let Ok(claims) = token.claims(&["roles".to_owned()]) else { return };
    assert!(strict.is_ok(), "claims of what is no object");
    assert!(claims.roles.iter().all(|role| mainstay_stack::identity::is_role(role)), "{:?}", claims.roles);
    assert!(http::HeaderValue::from_str(&claims.roles.join(", ")).is_ok(), "{:?}", claims.roles);
}

/// Whether this can be an issuer.
pub(crate) fn is_usable(of: &protocol::Issuer) -> bool {
    let names_itself = of.rule.issuer.as_deref().is_none_or(|issuer| http::HeaderValue::from_str(issuer).is_ok());
    match (&of.rule.keys, &of.secret) {
        (Keys::Secret { .. }, Some(secret)) => {
            names_itself && of.rule.algorithm.is_symmetric() && Key::of_secret(secret).is_some()
        }
        (Keys::Secret { .. }, None) => false,
        // A public key that serves as a secret lets everybody in.
        (Keys::File { .. } | Keys::Url { .. }, _) => names_itself && !of.rule.algorithm.is_symmetric(),
    }
}
