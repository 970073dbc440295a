//! `mainstay db pool`: the router's clients and server connections.

use mainstay_api::Pool;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let pools = crate::place::client(global)?.pools().await?;
    if global.json {
        let text = serde_json::to_string_pretty(&pools).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(mainstay_types::exit_code::DONE);
    }
    for line in table(&pools) {
        println!("{line}");
    }
    Ok(mainstay_types::exit_code::DONE)
}

fn table(pools: &[Pool]) -> Vec<String> {
    if pools.is_empty() {
        return vec!["no client has come to the router yet".to_owned()];
    }
    let mut lines = vec![
        screen::bold("                          CLIENTS                        SERVERS            WAITS"),
        screen::bold("ROLE@DATABASE       DOOR  ACTIVE   IDLE  WAIT TIED HELD   USED IDLE  MOST    COUNT       P95"),
    ];
    for pool in pools {
        let name =
            if pool.role == pool.database { pool.role.clone() } else { format!("{}@{}", pool.role, pool.database) };
        // Without a pool there is no bound of one role: each client has a server.
        let most = if pool.mode == "session" { "-".to_owned() } else { pool.size.to_string() };
        let p95 = pool.wait_p95_us.map_or("-".to_owned(), milliseconds);
        lines.push(format!(
            "{name:<19.19} {:<5} {:>6} {:>6} {:>5} {:>4} {:>4} {:>6} {:>4} {most:>5} {:>8} {p95:>9}",
            pool.door,
            pool.clients_active,
            pool.clients_idle,
            pool.clients_waiting,
            pool.clients_tied,
            pool.held,
            pool.clients_active,
            pool.servers_idle,
            pool.waited,
        ));
        if !pool.tied_by.is_empty() {
            let reasons: Vec<String> = pool.tied_by.iter().map(|(why, count)| format!("{count} by {why}")).collect();
            lines.push(format!("  tied: {}", reasons.join(", ")));
        }
        if pool.behind > 0 {
            let p95 = pool.behind_p95_us.map_or("-".to_owned(), milliseconds);
            lines.push(format!(
                "  {} reads waited for a standby (p95 {p95}), {} of them went to the primary",
                pool.behind, pool.to_primary
            ));
        }
        if pool.refused > 0 {
            lines.push(format!(
                "  {} clients waited too long, or the queue was full, and were told so (53300)",
                pool.refused
            ));
        }
    }
    let modes: std::collections::BTreeSet<&str> = pools.iter().map(|pool| pool.mode.as_str()).collect();
    lines.push(format!("mode: {}; waits since the router started", modes.into_iter().collect::<Vec<_>>().join(", ")));
    lines
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_line_of_at_most_a_hundred_columns() {
        let pool = Pool {
            door: "write".to_owned(),
            database: "shop".to_owned(),
            role: "shop".to_owned(),
            mode: "transaction".to_owned(),
            size: 20,
            clients_active: 3,
            clients_idle: 997,
            clients_waiting: 0,
            clients_tied: 3,
            tied_by: [("LISTEN".to_owned(), 1), ("a temporary object".to_owned(), 2)].into(),
            servers_idle: 17,
            acquired: 100_000,
            waited: 12,
            wait_p95_us: Some(1_750),
            refused: 2,
            held: 0,
            behind: 3,
            behind_p95_us: Some(4_100),
            to_primary: 1,
        };
        let lines = table(&[pool]);
        assert!(lines.iter().skip(2).all(|line| line.len() <= 100), "{lines:#?}");
        assert!(lines[2].contains(" 997 ") && lines[2].ends_with("1.7 ms"), "{lines:#?}");
        assert_eq!(lines[3], "  tied: 1 by LISTEN, 2 by a temporary object");
        assert_eq!(lines[4], "  3 reads waited for a standby (p95 4.1 ms), 1 of them went to the primary");
        assert!(lines[5].starts_with("  2 clients waited"), "{lines:#?}");
        assert_eq!(table(&[]), ["no client has come to the router yet"]);
    }
}
