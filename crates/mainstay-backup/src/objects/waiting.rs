//! A store for who has no runtime: each request is made by one of its own, and waited for.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::{Object, Store, StoreError};

/// Pauses between attempts while a store does not answer: two minutes in all. A base backup takes hours on a thin line,
/// and should not begin anew for a moment without it.
const AGAIN: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(20),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Longest object that is taken whole: packs of a repository of some 200 TB, which grow with it.
const LONGEST: u64 = 512 << 20;

/// A store that is waited for. May be asked by many threads at once, also by those of a runtime, which it holds up.
pub struct Waiting {
    store: Arc<Store>,
    /// Who adds to it, and when it was found to be its own; `None`: who only reads.
    holder: Option<(String, Mutex<Option<Instant>>)>,
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Who is in a runtime may not wait for another one's end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Waiting {
    /// **Errors**: no thread can be made.
    pub fn new(store: Store) -> std::io::Result<Self> {
        // One thread: what is long is the way, and the rest is signing.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { store: Arc::new(store), holder: None, runtime: Some(runtime) })
    }

    /// For who adds, see [`super::Claim`].
    #[must_use]
    pub fn held_by(mut self, id: String) -> Self {
        self.holder = Some((id, Mutex::default()));
        self
    }

    /// That nobody else adds to it, as far as it was asked within `age`.
    ///
    /// **Errors**: [`StoreError::Taken`], or see the others.
    pub fn is_ours(&self, age: Duration) -> Result<(), StoreError> {
        let Some((id, asked)) = &self.holder else { return Ok(()) };
        if asked.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < age) {
            return Ok(());
        }
        self.patiently(|store| {
            let id = id.clone();
            async move { store.is_ours(&id).await }
        })?;
        *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// That it answers now: for who should not be held up by one that does not.
    ///
    /// **Errors**: see [`StoreError`].
    pub fn answers(&self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        self.wait(async move { store.get_small(super::CLAIM).await.map(drop) })
    }

    /// See [`Store::list_below`].
    ///
    /// **Errors**: see [`StoreError`].
    pub fn list_below(&self, folder: &str) -> Result<BTreeMap<String, Object>, StoreError> {
        let folder = folder.to_owned();
        self.patiently(move |store| {
            let folder = folder.clone();
            async move { store.list_below(&folder).await }
        })
    }

    /// A whole object.
    ///
    /// **Errors**: see [`StoreError`].
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let name = name.to_owned();
        self.patiently(move |store| {
            let name = name.clone();
            async move { store.get_whole(&name, LONGEST).await }
        })
    }

    /// See [`Store::get_part`].
    ///
    /// **Errors**: see [`StoreError`].
    pub fn get_part(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let name = name.to_owned();
        self.patiently(move |store| {
            let name = name.clone();
            async move { store.get_part(&name, offset, length).await }
        })
    }

    /// See [`Store::put_parts`].
    ///
    /// **Errors**: see [`StoreError`].
    pub fn put_parts(&self, name: &str, parts: &[Bytes], hash: &str) -> Result<(), StoreError> {
        let (name, parts, hash) = (name.to_owned(), parts.to_vec(), hash.to_owned());
        self.patiently(move |store| {
            let (name, parts, hash) = (name.clone(), parts.clone(), hash.clone());
            async move { store.put_parts(&name, &parts, &hash).await }
        })
    }

    /// Removes an object. False: the key may not.
    ///
    /// **Errors**: see [`StoreError`].
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let removed = self.patiently(move |store| {
            let name = name.clone();
            async move { store.remove(&name).await }
        });
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.is_denied() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn patiently<T, F>(&self, ask: impl Fn(Arc<Store>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        for pause in AGAIN {
            match self.wait(ask(Arc::clone(&self.store))) {
                Err(StoreError::Away { .. }) => std::thread::sleep(pause),
                done => return done,
            }
        }
        self.wait(ask(Arc::clone(&self.store)))
    }

    fn wait<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let broken =
            || StoreError::Away { server: self.store.host.clone(), reason: "the request broke off".to_owned() };
        let Some(runtime) = &self.runtime else { return Err(broken()) };
        let (done, waits) = sync_channel(1);
        runtime.spawn(async move { done.send(work.await).ok() });
        waits.recv().map_err(|_| broken())?
    }
}
