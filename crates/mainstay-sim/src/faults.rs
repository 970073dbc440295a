//! What goes wrong.

use mainstay_decide::observed::Errand;
use mainstay_stack::Stack;
use mainstay_types::{ChildName, InstanceId, Member, Timestamp};

use crate::random::Random;
use crate::world::after;

/// A freeze that only a kill ends.
pub const FOR_EVER: u64 = u64::MAX;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the main process.
    Kill(ChildName),
    /// SIGSTOP to a process and its descendants, SIGCONT after so many milliseconds; [`FOR_EVER`]: never.
    Freeze(ChildName, u64),
    /// The control plane dies; keep starts the next one.
    ControlCrash,
    /// keep is gone for so many milliseconds; its children go on.
    KeepLost(u64),
    /// Machine pressure explains silence for so many milliseconds.
    Pressure(u64),
    /// Instances end at once for so many milliseconds.
    InstancesFail(u64),
    /// Somebody promotes a standby past us.
    Rogue(Member),
    /// A page of this member is damaged on its disk, while a whole copy is elsewhere.
    Damage(Member),
    /// A person asks the cluster for something: no fault, but other faults are to meet it.
    Ask(Errand),
}

/// How unreliable looks and steps are, in hundredths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intensity {
    /// Looks that never arrive.
    pub lost: u64,
    /// Looks that arrive up to 1.5 s late, after later ones.
    pub stale: u64,
    /// Steps that fail.
    pub failing: u64,
}

/// A schedule that only the seed decides.
pub(crate) fn schedule(stack: &Stack, random: &mut Random, from: Timestamp) -> Vec<(Timestamp, Fault)> {
    let mut children: Vec<ChildName> = vec![child("edge"), child("router")];
    let mut postgres = Vec::new();
    if let Some(database) = &stack.database {
        postgres.extend((0..=database.standbys).filter_map(|n| Member::nth(n as usize)).map(ChildName::postgres));
    }
    for (name, service) in &stack.services {
        let instance = |slot| ChildName::instance(&InstanceId { service: name.clone(), slot });
        children.extend((1..=service.instances).map(instance));
        children.extend(service.schedule.map(|_| ChildName::run(name)));
    }
    if stack.cache.is_some() {
        children.extend([child("cache"), child("store")]);
    }
    let mut faults = Vec::new();
    let mut at = from;
    for _ in 0..random.within(1, 7) {
        // Often close together: the second fault is to meet the repair of the first.
        let pause = if random.chance(60) { random.within(5, 400) } else { random.within(400, 6_000) };
        at = after(at, pause);
        faults.push((at, one(random, &children, &postgres)));
        if random.chance(30) {
            at = after(at, random.within(5, 1_500));
            faults.push((at, Fault::Ask(errand(random, postgres.len()))));
        }
    }
    faults
}

fn errand(random: &mut Random, members: usize) -> Errand {
    let nth = usize::try_from(random.within(0, members as u64)).unwrap_or(0);
    let member = Member::nth(nth).unwrap_or(Member::A);
    match random.within(0, 4) {
        0 => Errand::Failover { to: member },
        1 => Errand::Restart { member },
        _ => {
            let drain_ms = random.within(0, 2_000);
            Errand::Switchover { to: member, drain_ms, is_forced: random.chance(25) }
        }
    }
}

fn one(random: &mut Random, children: &[ChildName], postgres: &[ChildName]) -> Fault {
    let any = |random: &mut Random, from: &[ChildName]| random.pick(from).cloned().unwrap_or_else(|| child("edge"));
    match random.within(0, 100) {
        0..35 => Fault::Kill(any(random, postgres)),
        35..45 => Fault::Kill(any(random, children)),
        45..62 => {
            let millis = if random.chance(30) { FOR_EVER } else { random.within(200, 9_000) };
            Fault::Freeze(any(random, postgres), millis)
        }
        62..70 => {
            let millis = if random.chance(10) { FOR_EVER } else { random.within(200, 5_000) };
            let name = any(random, children);
            // Nothing but a timeout ends a frozen run; other children that hang are a person's to see.
            let is_run = name.as_str().ends_with("-run");
            Fault::Freeze(name, if millis == FOR_EVER && !is_run { 5_000 } else { millis })
        }
        70..84 => Fault::ControlCrash,
        84..90 => Fault::KeepLost(random.within(50, 2_000)),
        90..94 => Fault::Pressure(random.within(1_000, 8_000)),
        94..97 => Fault::InstancesFail(random.within(500, 6_000)),
        _ => match postgres.len() {
            // A primary alone: nobody could be promoted past us.
            0 | 1 => Fault::ControlCrash,
            _ => Fault::Rogue(Member::B),
        },
    }
}

fn child(name: &str) -> ChildName {
    ChildName::new(name).expect("a valid name")
}
