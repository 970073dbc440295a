//! The process that thaws what a drill froze: whatever becomes of the drill, nothing stays frozen.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that does nothing, frozen.
struct Sleeper(Child);

impl Sleeper {
    fn frozen() -> Self {
        let sleeper = Self(Command::new("sleep").arg("600").spawn().unwrap());
        Command::new("kill").args(["-STOP", &sleeper.0.id().to_string()]).status().unwrap();
        sleeper.becomes('T');
        sleeper
    }

    /// Its state and its start time.
    fn stat(&self) -> (char, u64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[0].chars().next().unwrap(), fields[19].parse().unwrap())
    }

    fn becomes(&self, state: char) {
        let began = Instant::now();
        while self.stat().0 != state {
            assert!(began.elapsed() < Duration::from_secs(30), "it is {}, not {state}", self.stat().0);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn dead_man(within_ms: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mainstay"))
        .args(["thaw-later", "--within-ms", &within_ms.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn tell(dead_man: &mut Child, sleeper: &Sleeper, start_time: u64) {
    let input = dead_man.stdin.as_mut().unwrap();
    writeln!(input, "{} {start_time}", sleeper.0.id()).unwrap();
    input.flush().unwrap();
}

#[test]
fn a_drill_that_dies_leaves_nothing_frozen() {
    let sleepers = [Sleeper::frozen(), Sleeper::frozen()];
    let mut dead_man = dead_man(600_000);
    for sleeper in &sleepers {
        tell(&mut dead_man, sleeper, sleeper.stat().1);
    }
    assert_eq!(sleepers[0].stat().0, 'T');
    // The kernel closes the pipe of a drill that was killed.
    drop(dead_man.stdin.take());
    for sleeper in &sleepers {
        sleeper.becomes('S');
    }
    let output = dead_man.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2\n");
}

#[test]
fn a_drill_that_hangs_leaves_nothing_frozen_for_longer_than_its_time() {
    let sleeper = Sleeper::frozen();
    let mut dead_man = dead_man(500);
    tell(&mut dead_man, &sleeper, sleeper.stat().1);
    sleeper.becomes('S');
    assert!(dead_man.wait().unwrap().success(), "and ends, although the pipe is still open");
}

#[test]
fn a_process_that_took_over_the_id_is_left_alone() {
    let sleeper = Sleeper::frozen();
    let mut dead_man = dead_man(600_000);
    tell(&mut dead_man, &sleeper, sleeper.stat().1 + 1);
    drop(dead_man.stdin.take());
    let output = dead_man.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n");
    assert_eq!(sleeper.stat().0, 'T');
}
