//! Looking at a server: PING, INFO, and its metrics in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mainstay_types::{Seen, Timestamp};

use crate::layout::Settings;
use crate::resp::ResponseError;

/// Whether it answers PING. A server that loads its data answers with an error: it is not there yet.
///
/// One look knows nothing of the looks before it: `Silent` is since this one.
pub async fn ping(settings: &Settings, now: Timestamp) -> Seen<()> {
    match settings.door().ask(&["PING"]).await {
        Ok(answer) if answer == "PONG" => Seen::Fact { value: (), observed_at: now },
        Err(error) if error.is_silence() => Seen::Silent { since: now },
        Ok(_) | Err(_) => Seen::Unknown,
    }
}

/// Fields of INFO by name; those of `# Keyspace` as `db0` and so on.
///
/// **Errors**: as [`ResponseError`].
pub async fn info(settings: &Settings) -> Result<BTreeMap<String, String>, ResponseError> {
    let text = settings.door().ask(&["INFO"]).await?;
    let fields = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(':'));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.trim_end().to_owned())).collect())
}

/// Field of INFO, metric, type, help. Names are those of the well-known exporter.
const FIELDS: [(&str, &str, &str, &str); 15] = [
    ("uptime_in_seconds", "redis_uptime_in_seconds", "gauge", "Time since its start."),
    ("used_memory", "redis_memory_used_bytes", "gauge", "Memory of data and buffers."),
    ("used_memory_rss", "redis_memory_used_rss_bytes", "gauge", "Memory of the process."),
    ("maxmemory", "redis_memory_max_bytes", "gauge", "Bound on memory."),
    ("connected_clients", "redis_connected_clients", "gauge", "Clients."),
    ("blocked_clients", "redis_blocked_clients", "gauge", "Clients in a blocking command."),
    ("rejected_connections", "redis_rejected_connections_total", "counter", "Clients turned away: too many."),
    ("total_commands_processed", "redis_commands_processed_total", "counter", "Commands."),
    ("keyspace_hits", "redis_keyspace_hits_total", "counter", "Keys looked up and found."),
    ("keyspace_misses", "redis_keyspace_misses_total", "counter", "Keys looked up and not found."),
    ("evicted_keys", "redis_evicted_keys_total", "counter", "Keys evicted for want of memory."),
    ("expired_keys", "redis_expired_keys_total", "counter", "Keys whose time was over."),
    ("aof_enabled", "redis_aof_enabled", "gauge", "Whether an append-only file is written."),
    ("aof_current_size", "redis_aof_current_size_bytes", "gauge", "Size of the append-only file."),
    ("aof_last_write_status", "redis_aof_last_write_ok", "gauge", "Whether the last write to it went well."),
];

/// One page for a server. One that cannot be asked is `redis_up 0`, and the reason a comment.
pub async fn metrics(settings: &Settings) -> String {
    let kind = settings.name();
    let up = |value: u8| {
        format!("# HELP redis_up Whether it answers.\n# TYPE redis_up gauge\nredis_up{{redis=\"{kind}\"}} {value}\n")
    };
    match info(settings).await {
        Ok(fields) => up(1) + &page(&kind, &fields),
        Err(error) => up(0) + &format!("# {}\n", error.to_string().replace(['\n', '\r'], " ")),
    }
}

fn page(kind: &str, fields: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (field, name, metric, help) in FIELDS {
        let Some(value) = fields.get(field).and_then(|value| number(value)) else { continue };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {metric}\n{name}{{redis=\"{kind}\"}} {value}");
    }
    let _ = writeln!(text, "# HELP redis_db_keys Keys, by database.\n# TYPE redis_db_keys gauge");
    for (name, value) in fields {
        let is_database = name.strip_prefix("db").is_some_and(|rest| rest.parse::<u32>().is_ok());
        // "keys=2,expires=0,avg_ttl=0"
        let keys = value.split(',').find_map(|part| part.strip_prefix("keys=")).and_then(number);
        if let Some(keys) = keys.filter(|_| is_database) {
            let _ = writeln!(text, "redis_db_keys{{redis=\"{kind}\",db=\"{name}\"}} {keys}");
        }
    }
    text
}

fn number(value: &str) -> Option<u64> {
    match value {
        "ok" => Some(1),
        "err" => Some(0),
        digits => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_what_info_says_and_leaves_out_the_rest() {
        let fields = [("used_memory", "1024"), ("db0", "keys=2,expires=0,avg_ttl=0"), ("role", "master")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let page = page("cache", &fields);
        assert!(page.contains("redis_memory_used_bytes{redis=\"cache\"} 1024\n"));
        assert!(page.contains("redis_db_keys{redis=\"cache\",db=\"db0\"} 2\n"));
        assert!(!page.contains("role") && !page.contains("redis_connected_clients"));
    }
}
