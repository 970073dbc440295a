//! The load of a round: writers, requests, keys, knocks, each with its own history.

use std::collections::BTreeMap;

use mainstay_client::Client;
use mainstay_decide::drills::Fault;
use mainstay_stack::Stack;
use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::aim;
use crate::counter::{Counter, NoNumbers, Receipts};
use crate::data::{self, Data, Examined, Recorded};
use crate::history::{History, Operation};
use crate::http::{self, Probe};
use crate::keys::{self, Keys, Readback};
use crate::ledger::{self, Honesty};
use crate::record::Record;
use crate::run::{Error, Options, Sabotage};
use crate::{fault, knock, whole, workload};

/// Clients that connect anew for each operation, where new connections are what the drill is about.
const FRESH: u32 = 2;

/// Clients with names of their own, where the edge tells clients from each other: one in sixteen is 6 % of them.
const CROWD: u32 = 16;

/// What all rounds are loaded with.
pub(crate) struct Loads {
    ledger_url: Option<Secret>,
    http: Option<Probe>,
    counter: Option<Counter>,
    keys_url: Option<Secret>,
    /// The cache, as applications reach it.
    cache_url: Option<Secret>,
    /// Doors that are knocked at.
    doors: Vec<u16>,
    fresh_writers: u32,
    fresh_clients: u32,
}

/// The load of one round while it runs.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    data: Option<Data>,
    record: Record,
    keys: Option<Keys>,
    receipts: Option<Receipts>,
    has_http: bool,
    writes: History,
    requests: History,
    keys_set: History,
    knocks: History,
}

/// What a load is told when it ends.
pub(crate) struct Ended {
    /// Names the history.
    pub(crate) of: String,
    /// When the fault came, and when it was proven.
    pub(crate) injected: Option<Instant>,
    pub(crate) gone: Instant,
    /// Age of rows that may be lost.
    pub(crate) rpo: std::time::Duration,
}

/// What clients did and saw in one round.
pub(crate) struct Seen {
    pub(crate) writes: Vec<Operation>,
    pub(crate) requests: Vec<Operation>,
    pub(crate) keys: Vec<Operation>,
    pub(crate) knocks: Vec<Operation>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// The history and what the checkers say.
    pub(crate) examined: Examined,
    pub(crate) keys_read: Option<Readback>,
    /// What the application's counter answered in place of numbers.
    pub(crate) no_numbers: NoNumbers,
}

/// Port of a DSN.
fn port_of(dsn: &Secret) -> Option<u16> {
    let config: tokio_postgres::Config = dsn.expose().parse().ok()?;
    config.get_ports().first().copied()
}

impl Loads {
    /// What this stack can be loaded with for this fault.
    ///
    /// **Errors**: the stack does not answer, or lacks what the fault is about.
    pub(crate) async fn of(client: &Client, stack: &Stack, options: &Options) -> Result<Self, Error> {
        let fault = options.fault;
        let database = match stack.database {
            Some(_) => Some(client.database().await?),
            None => None,
        };
        let past = past_the_edge(client, stack, options).await?;
        let http = match aim::probe(stack) {
            Some((_, path)) => Some(Probe {
                host: stack.edge.host.clone(),
                port: options.https_port,
                path,
                tls: http::trust(&options.ca).map_err(Error::Trust)?,
                history: History::default(),
                crowd: if fault == Fault::Deploy { CROWD } else { 0 },
                name: http::NAME.to_owned(),
                past: Vec::new(),
            }),
            None => None,
        };
        let edge_door = http.as_ref().map(|http| http.port);
        let router_doors =
            database.iter().flat_map(|access| [port_of(&access.ledger_url), port_of(&access.app_read_url)]);
        let (doors, fresh_writers, fresh_clients) = match fault {
            Fault::EdgeCrash => (edge_door.into_iter().collect(), 0, FRESH),
            Fault::RouterCrash => (router_doors.flatten().collect(), FRESH, 0),
            Fault::Null => (edge_door.into_iter().chain(router_doors.flatten()).collect(), FRESH, FRESH),
            Fault::InstanceCrash
            | Fault::DatabaseCrash
            | Fault::DatabaseFreeze
            | Fault::StandbyLoss
            | Fault::Switchover
            | Fault::ScaleUp
            | Fault::ScaleDown
            | Fault::Deploy
            | Fault::ReplicationLag
            | Fault::CorruptPage
            | Fault::PoolExhaustion
            | Fault::DiskFull
            | Fault::CacheCrash
            | Fault::CacheLoss
            | Fault::StoreCrash
            | Fault::ControlPlaneCrash
            | Fault::KeepCrash
            | Fault::BackupRestore
            | Fault::DropTable
            | Fault::CorruptBackup
            | Fault::MissingWal
            | Fault::MachineLoss => (Vec::new(), 0, 0),
        };
        let ledger_url = database.map(|access| access.ledger_url);
        let counter = match &http {
            Some(edge) => Counter::of(client, stack, edge.clone()).await?,
            None => None,
        };
        let http = http.map(|http| Probe { past, ..http });
        Ok(Self {
            ledger_url,
            http,
            counter,
            keys_url: keys_url(client, stack, fault).await?,
            cache_url: redis_url(client, stack, "REDIS_URL").await?,
            doors,
            fresh_writers,
            fresh_clients,
        })
    }

    /// Version of the database, when there is one and it says.
    pub(crate) async fn database_version(&self) -> Option<String> {
        ledger::version(self.ledger_url.as_ref()?).await
    }

    /// Whether rows are written, and whether requests are made.
    pub(crate) fn has_writes(&self) -> bool {
        self.ledger_url.is_some()
    }

    pub(crate) fn has_requests(&self) -> bool {
        self.http.is_some()
    }

    /// Keys of a round of this name.
    pub(crate) fn keys(&self, drill: &str, history: &History) -> Option<Keys> {
        let url = self.keys_url.clone()?;
        Some(Keys { url, drill: drill.to_owned(), history: history.clone() })
    }

    /// What is emptied: the cache, or by mistake the store.
    pub(crate) fn emptied_url(&self, is_mistaken: bool) -> Option<&Secret> {
        if is_mistaken { self.keys_url.as_ref() } else { self.cache_url.as_ref() }
    }

    /// Begins the load of the round of this name.
    ///
    /// **Errors**: the ledger cannot be made.
    pub(crate) async fn start(&self, drill: &str, seed: u64, honesty: Honesty) -> Result<Running, Error> {
        let (writes, requests, keys_set, knocks) =
            (History::default(), History::default(), History::default(), History::default());
        let (stop, stopped) = watch::channel(false);
        let record = Record::new();
        let data = match &self.ledger_url {
            Some(url) => {
                let round = data::Round { name: drill.to_owned(), url, seed, writes: &writes, record: &record };
                Some(Data::prepare(round).await?)
            }
            None => None,
        };
        let receipts = match &self.counter {
            Some(counter) => Some(counter.begin(&record, &requests).await?),
            None => None,
        };
        let keys = self.keys(drill, &keys_set);
        let mut tasks = Vec::new();
        if let Some(receipts) = &receipts {
            tasks.extend(receipts.start(&stopped));
        }
        if let Some(data) = &data {
            tasks.extend(data.start(honesty, self.fresh_writers, &stopped));
        }
        if let Some(http) = &self.http {
            tasks.extend(Probe { history: requests.clone(), ..http.clone() }.start(self.fresh_clients, &stopped));
        }
        if let Some(keys) = &keys {
            tasks.extend(keys.start(&stopped));
        }
        tasks.extend(knock::start(&self.doors, &knocks, &stopped));
        Ok(Running {
            stop,
            tasks,
            data,
            record,
            keys,
            receipts,
            has_http: self.http.is_some(),
            writes,
            requests,
            keys_set,
            knocks,
        })
    }

    /// What the load is, for people.
    pub(crate) fn text(&self) -> String {
        let writes = self.ledger_url.as_ref().map(|_| format!("{} writers through the router", ledger::WRITERS));
        let fresh_writers =
            (self.fresh_writers > 0).then(|| format!("{} writers that connect anew for each row", self.fresh_writers));
        let requests = self.http.as_ref().map(Probe::text);
        let fresh_clients = (self.fresh_clients > 0)
            .then(|| format!("{} clients that connect anew for each request", self.fresh_clients));
        let keys = self.keys_url.as_ref().map(|_| format!("{} writers of keys", keys::WRITERS));
        let knocks = (!self.doors.is_empty()).then(|| {
            let ports: Vec<String> = self.doors.iter().map(ToString::to_string).collect();
            format!("a knock every 10 ms at port {}", ports.join(" and "))
        });
        let workloads = self.ledger_url.as_ref().map(|_| workload::describe_load());
        let receipts = self.counter.as_ref().map(Counter::text);
        let parts = [writes, fresh_writers, workloads, receipts, requests, fresh_clients, keys, knocks];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A positive control: ports of the instances that are asked, which clients then ask past the edge.
async fn past_the_edge(client: &Client, stack: &Stack, options: &Options) -> Result<Vec<u16>, Error> {
    if options.sabotage != Some(Sabotage::PastTheEdge) {
        return Ok(Vec::new());
    }
    let Some((service, _)) = aim::probe(stack) else { return Ok(Vec::new()) };
    let processes = client.processes().await?;
    let of_service = processes.iter().filter(|process| fault::is_instance_of(&process.name, service));
    let port = |process: &mainstay_api::Process| process.address.as_ref()?.rsplit_once(':')?.1.parse().ok();
    Ok(of_service.filter_map(port).collect())
}

/// The Redis that keys are written to, as an application reaches it.
async fn keys_url(client: &Client, stack: &Stack, fault: Fault) -> Result<Option<Secret>, Error> {
    let variable = match fault {
        Fault::CacheCrash => "REDIS_URL",
        Fault::CacheLoss | Fault::StoreCrash | Fault::Null => "REDIS_STORE_URL",
        Fault::InstanceCrash
        | Fault::EdgeCrash
        | Fault::RouterCrash
        | Fault::DatabaseCrash
        | Fault::DatabaseFreeze
        | Fault::StandbyLoss
        | Fault::Switchover
        | Fault::ScaleUp
        | Fault::ScaleDown
        | Fault::Deploy
        | Fault::ReplicationLag
        | Fault::CorruptPage
        | Fault::PoolExhaustion
        | Fault::DiskFull
        | Fault::ControlPlaneCrash
        | Fault::KeepCrash
        | Fault::BackupRestore
        | Fault::DropTable
        | Fault::CorruptBackup
        | Fault::MissingWal
        | Fault::MachineLoss => return Ok(None),
    };
    redis_url(client, stack, variable).await
}

/// A Redis by the name of the variable that applications find it in.
async fn redis_url(client: &Client, stack: &Stack, variable: &str) -> Result<Option<Secret>, Error> {
    let user = stack.services.iter().find(|(_, service)| service.uses_cache && stack.cache.is_some());
    let Some((name, _)) = user else { return Ok(None) };
    Ok(client.service_env(name.as_str()).await?.env.get(variable).cloned())
}

impl Running {
    /// Successes since a moment, of the load that has least.
    pub(crate) fn least_since(&self, since: Instant) -> usize {
        let writes = self.data.as_ref().map(|_| self.writes.successes_since(since));
        let requests = self.has_http.then(|| self.requests.successes_since(since));
        let keys = self.keys.as_ref().map(|_| self.keys_set.successes_since(since));
        [writes, requests, keys].into_iter().flatten().min().unwrap_or(0)
    }

    /// Told when the load stops.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Waits until the load is there; past `within` it counts as not proven.
    pub(crate) async fn wait_for(&self, least: usize, began: Instant, within: std::time::Duration) {
        while self.least_since(began) < least && began.elapsed() < within {
            tokio::time::sleep(whole::LOOK).await;
        }
    }

    /// Stops the load, waits for what is in flight, reads back and checks.
    ///
    /// **Errors**: rows, keys or the application's counter cannot be read back: what was lost is not known.
    pub(crate) async fn finish(self, ended: Ended) -> Result<Seen, Error> {
        self.stop.send_replace(true);
        for task in self.tasks {
            // A writer that panicked would be a loss of load; its own history shows it.
            task.await.ok();
        }
        if let Some(data) = &self.data {
            data.read_back(&self.record).await?;
        }
        let no_numbers = match &self.receipts {
            Some(receipts) => receipts.read_back().await?,
            None => NoNumbers::default(),
        };
        let keys_read = match &self.keys {
            Some(keys) => Some(keys.read_back().await.map_err(|error| Error::Keys(error.to_string()))?),
            None => None,
        };
        let (writes, requests) = (self.writes.all(), self.requests.all());
        Ok(Seen {
            examined: data::examine(Recorded {
                of: ended.of,
                injected: ended.injected,
                gone: ended.gone,
                rpo: ended.rpo,
                record: &self.record,
                writes: &writes,
                requests: &requests,
                has_rows: self.data.is_some(),
                counter: self.receipts.as_ref().and_then(|receipts| receipts.base),
            }),
            errors: History::errors_of(&[&self.writes, &self.requests, &self.keys_set, &self.knocks]),
            writes,
            requests,
            keys: self.keys_set.all(),
            knocks: self.knocks.all(),
            keys_read,
            no_numbers,
        })
    }
}
