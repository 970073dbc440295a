//! Freezing a process with all its children, and the dead man who thaws them whatever becomes of the drill.
//!
//! Every process is named to the dead man before it is stopped. He is a process of his own, holds the read end of a
//! pipe, and thaws all he was told of when the pipe closes (the drill is over, or it died) or his time is up.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use mainstay_supervisor::proc;
use mainstay_types::Pid;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::fault::{Victim, send};

/// The hidden command that runs the dead man.
pub const DEAD_MAN: &str = "thaw-later";

/// How long stopped processes may take to be stopped.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// How long the dead man may take to thaw a few dozen processes.
const THAWED_WITHIN: Duration = Duration::from_secs(10);
/// Looks at the tree until one finds nobody new; a stopped parent makes no more children.
const MOST_LOOKS: u32 = 50;

/// A frozen tree.
pub(crate) struct Frozen {
    pub(crate) victim: Victim,
    /// Every process of it with its start time.
    processes: BTreeMap<Pid, u64>,
    dead_man: DeadMan,
}

/// Freezes the victim alone, not what it started: what its children do without it is the question.
pub(crate) async fn freeze_alone(victim: &Victim, state: &Path, thaw_within: Duration) -> Result<Frozen, String> {
    let root = victim.look(state)?;
    let mut dead_man = DeadMan::start(thaw_within)?;
    let (mut processes, at) = (BTreeMap::new(), Instant::now());
    stop(&mut dead_man, &mut processes, victim.pid, root.start_time)?;
    proven(Frozen { victim: victim.clone(), processes, dead_man }, at).await
}

/// Freezes the victim and its descendants and proves it. Returns the moments of the first signal and of the proof.
pub(crate) async fn freeze(
    victim: &Victim,
    state: &Path,
    thaw_within: Duration,
) -> Result<(Instant, Instant, Frozen), String> {
    let root = victim.look(state)?;
    let mut dead_man = DeadMan::start(thaw_within)?;
    let mut processes = BTreeMap::new();
    let at = Instant::now();
    stop(&mut dead_man, &mut processes, victim.pid, root.start_time)?;
    for _ in 0..MOST_LOOKS {
        let before = processes.len();
        for pid in proc::tree(victim.pid) {
            if let (false, Some(stat)) = (processes.contains_key(&pid), proc::stat(pid)) {
                stop(&mut dead_man, &mut processes, pid, stat.start_time)?;
            }
        }
        if processes.len() == before {
            break;
        }
    }
    let frozen = proven(Frozen { victim: victim.clone(), processes, dead_man }, at).await?;
    Ok((at, Instant::now(), frozen))
}

/// Until each of them is stopped.
async fn proven(frozen: Frozen, at: Instant) -> Result<Frozen, String> {
    while !frozen.is_stopped() {
        if at.elapsed() > STOPPED_WITHIN {
            return Err(format!("{} still runs {} s after SIGSTOP", frozen.victim.name, STOPPED_WITHIN.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(frozen)
}

fn stop(dead_man: &mut DeadMan, processes: &mut BTreeMap<Pid, u64>, pid: Pid, start_time: u64) -> Result<(), String> {
    dead_man.tell(pid, start_time)?;
    match send(pid, Signal::STOP) {
        Ok(()) => {
            processes.insert(pid, start_time);
            Ok(())
        }
        // A backend may end by itself meanwhile.
        Err(_) if proc::stat(pid).is_none_or(|now| now.start_time != start_time) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Frozen {
    /// How many processes are frozen, the postmaster among them.
    pub(crate) fn count(&self) -> usize {
        self.processes.len()
    }

    /// Whether each that still lives is stopped, and the root lives.
    fn is_stopped(&self) -> bool {
        let is_root_there = self.processes.contains_key(&self.victim.pid) && self.alive().contains(&self.victim.pid);
        is_root_there && self.alive().iter().all(|pid| proc::stat(*pid).is_some_and(|stat| stat.state == 'T'))
    }

    /// Those that still live, stopped or not.
    pub(crate) fn alive(&self) -> Vec<Pid> {
        let lives = |(pid, start): (&Pid, &u64)| {
            proc::stat(*pid).filter(|stat| stat.is_alive() && stat.start_time == *start).map(|_| *pid)
        };
        self.processes.iter().filter_map(lives).collect()
    }

    /// Thaws what is left; returns how many were. The dead man does it, as he would without us.
    pub(crate) async fn thaw(&mut self) -> Result<u32, String> {
        self.dead_man.release().await
    }
}

/// Our side of the dead man.
struct DeadMan {
    child: Child,
}

impl DeadMan {
    fn start(within: Duration) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start the process that thaws: {error}");
        let child = Command::new("/proc/self/exe")
            .args([DEAD_MAN, "--within-ms", &within.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own: Ctrl-C ends the drill, not him.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Self { child })
    }

    fn tell(&mut self, pid: Pid, start_time: u64) -> Result<(), String> {
        let input = self.child.stdin.as_mut().ok_or("the process that thaws was let go already")?;
        let told = writeln!(input, "{pid} {start_time}").and_then(|()| input.flush());
        told.map_err(|error| format!("the process that thaws is gone, so nothing more is frozen: {error}"))
    }

    async fn release(&mut self) -> Result<u32, String> {
        drop(self.child.stdin.take());
        let began = Instant::now();
        while began.elapsed() < THAWED_WITHIN {
            if let Ok(Some(_)) = self.child.try_wait() {
                let mut said = String::new();
                let output = self.child.stdout.as_mut().ok_or("the process that thaws has said what it had to")?;
                output.read_to_string(&mut said).map_err(|error| error.to_string())?;
                return said.trim().parse().map_err(|_| format!("the process that thaws said {said:?}"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Err(format!("the process that thaws still runs after {} s", THAWED_WITHIN.as_secs()))
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself within milliseconds; nobody else would wait for it.
        self.child.wait().ok();
    }
}

/// The dead man: reads `PID START_TIME` lines, thaws them all when `input` ends or the time is up, and returns how
/// many were still stopped. A process that took over one of the ids is left alone.
pub fn dead_man(input: impl Read + Send + 'static, within: Duration) -> u32 {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(input).lines() {
            let Ok(line) = line else { return };
            let words = line.split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
            let told: Option<(i32, u64)> = words;
            if told.is_none_or(|told| sender.send(told).is_err()) {
                return;
            }
        }
    });
    let began = std::time::Instant::now();
    let mut told = Vec::new();
    while let Ok(process) = receiver.recv_timeout(within.saturating_sub(began.elapsed())) {
        told.push(process);
    }
    let mut thawed = 0;
    for (pid, start_time) in told {
        let pid = Pid(pid);
        let is_left = proc::stat(pid).is_some_and(|stat| stat.state == 'T' && stat.start_time == start_time);
        if is_left && send(pid, Signal::CONT).is_ok() {
            thawed += 1;
        }
    }
    thawed
}
