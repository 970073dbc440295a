//! Commands that run to their end: runs of a schedule, release commands; and the context of a person's own.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::CommandContext;
use mainstay_decide::backups::Job;
use mainstay_decide::schedule::{Run, ScheduleRecord};
use mainstay_supervisor::protocol::{Child, Limits, Refusal, SpawnSpec};
use mainstay_types::{ChildName, ChildRole, ExitReason, InstanceId, Nonce, Secret, ServiceName, full_text};
use serde::{Deserialize, Serialize};

use super::Effects;
use crate::message::Outcome;
use crate::settings::Settings;

/// A release command (schema changes of an application) may take this long.
const BEFORE_DEADLINE: Duration = Duration::from_mins(10);
/// Pause between two looks at a release command that an earlier control plane began.
const LOOK: Duration = Duration::from_millis(100);

/// The start of a release command, on disk before it is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BeforeRun {
    release: u64,
    nonce: Nonce,
}

impl BeforeRun {
    /// Its name in `state.db`.
    pub(crate) fn fact(service: &ServiceName) -> String {
        format!("before-run:{service}")
    }
}

/// The machine's own work goes first: a job of ours gets what is left.
const LAST: [&str; 5] = ["/usr/bin/ionice", "-c3", "/usr/bin/nice", "-n", "19"];

impl Effects {
    /// A job of the backups, in a process of its own as the stack's user.
    pub(super) async fn start_backup_job(&self, job: Job) -> Result<Outcome, String> {
        self.start_job(crate::backups::status::child(), &["backup-job", job.name()]).await
    }

    /// A command of our own that the machine's work goes before, in a process of its own as the stack's user.
    pub(super) async fn start_job(&self, name: ChildName, command: &[&str]) -> Result<Outcome, String> {
        let paths = &self.settings.paths;
        let text = |path: &std::path::Path| path.display().to_string();
        let mut argv: Vec<String> = Vec::new();
        let programs = [LAST[0], LAST[2]];
        if programs.iter().all(|program| std::path::Path::new(program).exists()) {
            argv.extend(LAST.map(str::to_owned));
        }
        argv.push(text(&paths.program()));
        argv.extend(command.iter().map(|word| (*word).to_owned()));
        argv.extend(["--state".to_owned(), text(&paths.state), "--runtime".to_owned(), text(&paths.runtime)]);
        self.spawn(SpawnSpec {
            log: paths.log(name.as_str()),
            name,
            role: ChildRole::Task,
            nonce: Self::nonce()?,
            argv,
            env: self.base_env(),
            dir: paths.state.clone(),
            user: None,
            listeners: Vec::new(),
            limits: Limits::default(),
            restart: false,
            project: None,
            shown: Vec::new(),
        })
        .await
    }

    pub(super) async fn write_schedule(
        &self,
        service: &ServiceName,
        record: &ScheduleRecord,
    ) -> Result<Outcome, String> {
        let text = serde_json::to_string(record).map_err(|error| error.to_string())?;
        self.journal.set_fact(&crate::schedules::fact(service), &text).await?;
        Ok(Outcome::ScheduleWritten)
    }

    /// What a run of a schedule is given.
    fn run_env(&self, service: &ServiceName, due: Option<&Run>) -> Result<BTreeMap<String, Secret>, String> {
        let mut env = self.settings.service_env(service, None)?;
        env.insert("MAINSTAY_INSTANCE".to_owned(), Secret::new(ChildName::run(service).to_string()));
        if let Some(run) = due {
            env.insert("MAINSTAY_DUE".to_owned(), Secret::new(run.due.to_string()));
        }
        Ok(env)
    }

    pub(super) async fn start_run(&self, service_name: &ServiceName, run: &Run) -> Result<Outcome, String> {
        let service = self.settings.stack.services.get(service_name).ok_or("the stack has no such service")?;
        let mut env = self.run_env(service_name, Some(run))?;
        env.extend(self.base_env().into_iter().filter(|(name, _)| name == "MAINSTAY_STATE"));
        let name = ChildName::run(service_name);
        let mut spec =
            self.service_process(&self.settings, (service_name, name.clone(), ChildRole::Task), &service.run, env)?;
        spec.nonce = run.nonce.clone();
        spec.limits = Limits { memory: service.memory, cpu_milli: service.cpu_milli, pids: None };
        let keep = self.keep()?;
        match keep.spawn(spec).await {
            Ok(pid) => Ok(Outcome::Started { name, nonce: run.nonce.clone(), pid }),
            // It was started by a control plane that did not live to hear so.
            Err(error) if error.refusal() == Some(Refusal::AlreadyRunning) => {
                let known = keep.list().await.map_err(|error| full_text(&error))?;
                let found = known.into_iter().find(|child| child.nonce == run.nonce);
                found.map(Outcome::Found).ok_or_else(|| full_text(&error))
            }
            Err(error) => Err(full_text(&error)),
        }
    }

    /// Runs a release command once for a release: one that an earlier control plane began is waited for.
    pub(super) async fn run_before(&self, settings: &Settings, service_name: &ServiceName) -> Result<Outcome, String> {
        let service = settings.stack.services.get(service_name).ok_or("the stack has no such service")?;
        let command = service.before.as_ref().ok_or("the service has no release command")?;
        let name = ChildName::before(service_name);
        let log = settings.paths.log(name.as_str());
        // What earlier tries printed was told then.
        let mut begin = 0;
        let reason = match self.begun_before(settings, service_name).await? {
            Some(reason) if reason.is_success() => reason,
            _ => {
                begin = std::fs::metadata(&log).map_or(0, |log| log.len());
                let env = settings.service_env(service_name, None)?;
                let spec =
                    self.service_process(settings, (service_name, name.clone(), ChildRole::Task), command, env)?;
                self.note_before(settings, service_name, spec.nonce.clone()).await?;
                self.keep()?.run_task(spec, BEFORE_DEADLINE).await.map_err(|error| full_text(&error))?
            }
        };
        if !reason.is_success() {
            let (lines, _) = mainstay_supervisor::logs::read_tail_since(&log, begin, 10).unwrap_or_default();
            // It goes into events and answers, and it was given the service's secrets.
            let tail = crate::secrets::Mask::of(&settings.paths.state).hide(&lines.join("\n"));
            let next = format!("all of its output: `mainstay logs {service_name}`");
            return Err(format!("the release command of {service_name} ended: {reason}\n{tail}\n{next}"));
        }
        // Of a release on its way only the rollout needs to know: that of the live one stays done.
        if settings.launch.release != self.settings.launch.release {
            return Ok(Outcome::BeforeDone);
        }
        let fact = format!("before:{service_name}");
        self.journal.set_fact(&fact, &format!("v{}", settings.launch.release)).await?;
        Ok(Outcome::BeforeDone)
    }

    async fn note_before(&self, settings: &Settings, service: &ServiceName, nonce: Nonce) -> Result<(), String> {
        let run = BeforeRun { release: settings.launch.release, nonce };
        let text = serde_json::to_string(&run).map_err(|error| error.to_string())?;
        self.journal.set_fact(&BeforeRun::fact(service), &text).await?;
        self.before_runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(service.clone(), run);
        Ok(())
    }

    /// How a release command of this release ended that was begun before; waits for one that runs, of whatever release:
    /// what changes a schema is not ended half-way, and two of them would meet.
    async fn begun_before(&self, settings: &Settings, service: &ServiceName) -> Result<Option<ExitReason>, String> {
        let known = self.before_runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(service).cloned();
        let run = known.filter(|run| run.release == settings.launch.release);
        let name = ChildName::before(service);
        let deadline = tokio::time::Instant::now() + BEFORE_DEADLINE;
        loop {
            let children = self.keep()?.list().await.map_err(|error| full_text(&error))?;
            let Some(child) = children.into_iter().find(|child| child.name == name) else { return Ok(None) };
            if let Some(ended) = child.ended {
                return Ok(run.filter(|run| run.nonce == child.nonce).map(|_| ended.reason));
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("{} (pid {}) does not end", child.name, child.pid));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What a command needs to run as a service does.
    ///
    /// **Errors**: its home cannot be made.
    pub(crate) fn service_context(&self, name: &str) -> Result<Option<CommandContext>, String> {
        let Ok(service) = ServiceName::new(name) else { return Ok(None) };
        if !self.settings.stack.services.contains_key(&service) {
            return Ok(None);
        }
        let env = self.settings.service_env(&service, None)?;
        self.context_of(&service, env).map(Some)
    }

    /// The same as a running instance does: the named one, or the first of the named service.
    ///
    /// **Errors**: as for [`Effects::service_context`].
    pub(crate) fn running_context(&self, name: &str, children: &[Child]) -> Result<Option<CommandContext>, String> {
        let running = |wanted: &ChildName| children.iter().find(|child| child.name == *wanted && child.ended.is_none());
        for (service_name, service) in &self.settings.stack.services {
            let is_whole = service_name.as_str() == name;
            let run = ChildName::run(service_name);
            let mut candidates: Vec<(ChildName, Option<InstanceId>)> = Vec::new();
            for id in self.settings.launch.fleet.most(service_name, service) {
                candidates.push((ChildName::instance(&id), Some(id)));
            }
            candidates.extend(service.schedule.map(|_| (run, None)));
            for (child_name, id) in candidates.into_iter().filter(|(child, _)| is_whole || child.as_str() == name) {
                let Some(child) = running(&child_name) else { continue };
                let env = match &id {
                    Some(id) => self.settings.service_env(service_name, Some(id))?,
                    None => self.run_env(service_name, None)?,
                };
                let mut context = self.context_of(service_name, env)?;
                (context.instance, context.pid) = (Some(child_name), Some(child.pid));
                return Ok(Some(context));
            }
        }
        Ok(None)
    }

    fn context_of(&self, service: &ServiceName, env: BTreeMap<String, Secret>) -> Result<CommandContext, String> {
        let user = self.service_home(service)?;
        let dir = self.settings.stack.services.get(service).map(|service| service.dir.clone()).unwrap_or_default();
        Ok(CommandContext {
            service: service.clone(),
            instance: None,
            pid: None,
            env,
            dir: self.settings.launch.folder.join(dir).display().to_string(),
            project: self.settings.launch.project.display().to_string(),
            home: Some(self.home_of(service).display().to_string()),
            user: user.map(|user| (user.uid, user.gid)),
        })
    }
}
