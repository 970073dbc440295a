//! Slow looks at the databases: pages that the disk damaged, told once for every time that their number grows, and how
//! large all of them are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::now;
use crate::effects::Effects;
use crate::journal::Journal;
use crate::message::Message;
use crate::store::NewEvent;

/// Pause between two looks: a damaged page is met when it is read, and stays damaged.
const LOOK: Duration = Duration::from_secs(10);

/// What was told, in the store: a control plane that begins anew tells nothing twice.
const FACT: &str = "checksum-failures";

/// A look at the size opens every file of the databases: one of this many.
const SIZE_EVERY: u64 = 6;

/// Looks until the end.
pub(crate) async fn observe(effects: Arc<Effects>, journal: Journal, sender: mpsc::Sender<Message>) {
    let mut known = told(&journal).await;
    for look in 0_u64.. {
        tokio::time::sleep(LOOK).await;
        if look.is_multiple_of(SIZE_EVERY)
            && let Some(bytes) = effects.database_bytes().await
            && sender.send(Message::DatabaseSize(bytes)).await.is_err()
        {
            return;
        }
        for (member, count) in effects.checksum_failures().await {
            let name = format!("postgres-{member}");
            let before = known.insert(name.clone(), count).unwrap_or(0);
            if count == before {
                continue;
            }
            if count > before {
                let text = format!(
                    "{name} met {} pages whose checksum is wrong: the disk or memory damaged them; `mainstay logs {name}` \
                     names them",
                    count - before
                );
                journal.emit(NewEvent::error(now(), "CorruptPagesFound", text).about(&name).with("pages", count));
            }
            // What cannot be recorded is told again after the next start, which harms nobody.
            if let Ok(text) = serde_json::to_string(&known) {
                journal.set_fact(FACT, &text).await.ok();
            }
        }
    }
}

/// Counts by child that were told; what cannot be read was not.
async fn told(journal: &Journal) -> BTreeMap<String, u64> {
    let text = journal.fact(FACT).await.ok().flatten();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
