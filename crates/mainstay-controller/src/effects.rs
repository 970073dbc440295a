//! Executes steps. Every choice is in the step; here is only how.

mod children;
mod database;
mod mistakes;
mod releases;
mod runs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mainstay_api::{DatabaseAccess, Sabotage, ServiceEnv};
use mainstay_decide::damage::Damages;
use mainstay_decide::plan::{EndpointPlan, Plan, Step};
use mainstay_edge::protocol::Endpoint;
use mainstay_supervisor::client::Keep;
use mainstay_supervisor::protocol::SpawnSpec;
use mainstay_types::{ChildName, ChildRole, InstanceId, Nonce, ServiceName, full_text};
use tokio::sync::watch;

pub(crate) use database::{Cluster, Fallen};
pub(crate) use mistakes::Mistakes;
pub(crate) use runs::BeforeRun;

use crate::journal::Journal;
use crate::links::{Endpoints, Link, Shown};
use crate::maintenance::ToEdge;
use crate::message::Outcome;
use crate::paths::Paths;
use crate::settings::{Settings, upstream_name};

/// What executors need; shared by all steps.
pub(crate) struct Effects {
    pub(crate) settings: Arc<Settings>,
    pub(crate) keep: watch::Receiver<Option<Keep>>,
    pub(crate) edge: Link,
    pub(crate) router: Link,
    pub(crate) endpoints: watch::Sender<Endpoints>,
    /// The certificate of a public authority, if one is kept.
    pub(crate) certificate: watch::Sender<Option<crate::acme::Seen>>,
    /// How the edge is told its policy.
    pub(crate) to_edge: ToEdge,
    /// Observers look when it changes; a change while one looks is not lost to it.
    pub(crate) looks: watch::Sender<()>,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) journal: Journal,
    pub(crate) telemetry_files: std::sync::Mutex<()>,
    /// The last start of each release command: its release and identity.
    pub(crate) before_runs: std::sync::Mutex<BTreeMap<ServiceName, runs::BeforeRun>>,
    pub(crate) mistakes: Mistakes,
    /// Damaged pages that are known, for who looks whether they still are.
    pub(crate) damages: watch::Sender<Damages>,
    /// What the release on its way is made of.
    pub(crate) next: std::sync::RwLock<Option<Arc<Settings>>>,
}

impl Effects {
    /// Executes one step.
    ///
    /// **Errors**: what failed, with the last evidence, in words for people.
    pub(crate) async fn run(&self, step: &Step) -> Result<Outcome, String> {
        match step {
            Step::StartChild { name } => self.start_child(name).await,
            Step::StartInstance { id } => self.start_instance(&self.settings, id).await,
            Step::StartNew { id, release } => self.start_instance(&*self.next(*release)?, id).await,
            Step::ReleaseWork { release, work } => self.release_work(*release, work).await,
            Step::WriteRollout { rollout } => self.write_rollout(rollout),
            Step::CommitRelease { .. } => self.commit_release(),
            Step::EndRollout { reason, .. } => self.end_rollout(reason),
            Step::Stop { name, nonce, signal, grace } => self.stop(name, nonce, *signal, *grace).await,
            Step::RunBefore { service } => self.run_before(&self.settings, service).await,
            Step::WriteSchedule { service, record, .. } => self.write_schedule(service, record).await,
            Step::StartRun { service, run } => self.start_run(service, run).await,
            Step::StartBackupJob { job } => self.start_backup_job(*job).await,
            Step::PromoteStore { to, from, epoch } => self.promote_store(*to, *from, *epoch).await,
            Step::StartStoreCopy => self.start_job(mainstay_decide::store::child(), &["store-copy"]).await,
            Step::Finish => self.finish().await,
            Step::InitPrimary { .. }
            | Step::Clone { .. }
            | Step::Rewind { .. }
            | Step::Follow { .. }
            | Step::StartPostgres { .. }
            | Step::Fence { .. }
            | Step::Promote { .. }
            | Step::WriteRecord { .. }
            | Step::SetSynchronous { .. }
            | Step::Checkpoint { .. }
            | Step::SwapIn { .. }
            | Step::PointRouter { .. }
            | Step::PrepareDatabase { .. }
            | Step::Migrate { .. } => {
                let cluster = self.cluster.as_ref().ok_or("the stack has no database")?;
                cluster.run(self, step).await
            }
        }
    }

    /// Makes a mistake on purpose, or none any more.
    pub(crate) fn sabotage(&self, sabotage: Sabotage) {
        self.mistakes.plant(sabotage);
        let listeners = match sabotage {
            Sabotage::CloseEdgeListeners => ["edge-https", "edge-http"],
            Sabotage::CloseRouterListeners => ["router-write", "router-read"],
            Sabotage::Off
            | Sabotage::PromoteWithoutFencing
            | Sabotage::ThawWithoutFencing
            | Sabotage::StartLate
            | Sabotage::UnblockLate
            | Sabotage::KeepBallast
            | Sabotage::LeaveOut
            | Sabotage::KillUndrained => return,
        };
        if let Ok(keep) = self.keep() {
            tokio::spawn(async move {
                for name in listeners {
                    // One that is not held is as closed as it should be.
                    keep.unlisten(name).await.ok();
                }
            });
        }
    }

    /// The present connection to keep.
    ///
    /// **Errors**: there is none just now; a new keep is being started.
    pub(crate) fn keep(&self) -> Result<Keep, String> {
        self.keep.borrow().clone().ok_or_else(|| "keep is being restarted".to_owned())
    }

    /// Starts a child through keep.
    pub(crate) async fn spawn(&self, spec: SpawnSpec) -> Result<Outcome, String> {
        let (name, nonce) = (spec.name.clone(), spec.nonce.clone());
        let pid = self.keep()?.spawn(spec).await.map_err(|error| full_text(&error))?;
        Ok(Outcome::Started { name, nonce, pid })
    }

    /// Makes observers look now instead of at their next turn.
    pub(crate) fn look_again(&self) {
        self.looks.send_replace(());
    }

    /// Shows the edge its endpoints and shares, if they changed. An upstream that is not planned keeps what it has, and
    /// nothing is shown before each was planned once: a control plane that has just begun knows of no instance.
    pub(crate) fn set_endpoints(&self, plan: &Plan) {
        let before = self.endpoints.borrow().clone().unwrap_or_default();
        let mut wanted = Shown::default();
        for (name, service) in &self.settings.stack.services {
            for management in [false, true] {
                let key = upstream_name(name, management);
                let has_door = if management { service.has_management_port } else { service.has_port };
                if !has_door {
                    continue;
                }
                let planned = plan.endpoints.get(&key).or_else(|| plan.endpoints.get(name.as_str()));
                let (shown, share) = match (planned, before.upstreams.get(&key)) {
                    (Some(endpoints), known) => (
                        self.mistakes.told(
                            endpoints.iter().filter_map(|endpoint| self.endpoint(endpoint, management)).collect(),
                            known.map_or(&[], Vec::as_slice),
                        ),
                        plan.shares.get(&key).or_else(|| plan.shares.get(name.as_str())),
                    ),
                    (None, Some(known)) => (known.clone(), before.shares.get(&key)),
                    (None, None) => return,
                };
                wanted.shares.extend(share.map(|share| (key.clone(), *share)));
                wanted.upstreams.insert(key, shown);
            }
        }
        self.endpoints.send_if_modified(|current| {
            let differs = current.as_ref() != Some(&wanted);
            if differs {
                *current = Some(wanted);
            }
            differs
        });
    }

    fn endpoint(&self, planned: &EndpointPlan, management: bool) -> Option<Endpoint> {
        let port = self.instance_port(&planned.instance, management)?;
        let short = &planned.nonce.as_str()[..12];
        Some(Endpoint {
            id: format!("{}/{short}", planned.instance),
            address: format!("127.0.0.1:{port}"),
            is_ready: planned.is_ready,
            release: planned.release,
        })
    }

    /// The port of an instance, or its management port.
    pub(crate) fn instance_port(&self, id: &InstanceId, management: bool) -> Option<u16> {
        let live = self.settings.doors.of(id, management);
        live.or_else(|| self.next.read().ok()?.as_ref()?.doors.of(id, management))
    }

    /// What a child of that name is for.
    pub(crate) fn role_of(&self, name: &ChildName) -> ChildRole {
        match name.as_str() {
            "edge" => ChildRole::Edge,
            "router" => ChildRole::Router,
            "cache" | "store" | "store-b" | "store-c" => ChildRole::Redis,
            "prometheus" => ChildRole::Prometheus,
            "alertmanager" => ChildRole::Alertmanager,
            "control" => ChildRole::Control,
            postgres if postgres.starts_with("postgres-") => ChildRole::Postgres,
            task if task.ends_with("-run") || task.ends_with("-before") => ChildRole::Task,
            _ => ChildRole::Instance,
        }
    }

    /// Folders of this stack.
    pub(crate) fn paths(&self) -> &Paths {
        &self.settings.paths
    }

    /// Every log that there is, by child.
    pub(crate) fn log_files(&self) -> Vec<(ChildName, PathBuf)> {
        crate::logs::files(&self.settings.paths.state)
    }

    /// What a service is given.
    pub(crate) fn service_env(&self, name: &str) -> Option<ServiceEnv> {
        let service = ServiceName::new(name).ok()?;
        // No service can be called so.
        if name == "edge" {
            let env = self.settings.edge_env();
            return (!env.is_empty()).then(|| ServiceEnv { service, env, ports: BTreeMap::new() });
        }
        if !self.settings.stack.services.contains_key(&service) {
            return None;
        }
        let env = self.settings.service_env(&service, None).ok()?;
        let instances = self.settings.doors.instances.iter();
        let ports =
            instances.filter(|(id, _)| id.service == service).map(|(id, port)| (id.to_string(), *port)).collect();
        Some(ServiceEnv { service, env, ports })
    }

    /// How the database is reached.
    pub(crate) fn database_access(&self) -> Option<DatabaseAccess> {
        let cluster = self.cluster.as_ref()?;
        Some(DatabaseAccess {
            app_url: self.settings.application_dsn(false)?,
            app_read_url: self.settings.application_dsn(true)?,
            ledger_url: self.settings.ledger_dsn(),
            direct: cluster.direct_dsns(&self.settings),
        })
    }

    pub(crate) async fn edge_metrics(&self) -> Result<String, String> {
        self.edge.metrics().await
    }

    pub(crate) async fn router_metrics(&self) -> Result<String, String> {
        self.router.metrics().await
    }

    /// How the router's pools are.
    pub(crate) async fn router_pools(&self) -> Result<Vec<mainstay_api::Pool>, String> {
        Ok(self.router.pools().await?.into_iter().map(crate::links::pool).collect())
    }

    /// A new identity for a start.
    ///
    /// **Errors**: the kernel gives no random bytes.
    pub(crate) fn nonce() -> Result<Nonce, String> {
        mainstay_supervisor::ids::nonce().map_err(|error| format!("no random bytes: {error}"))
    }
}
