//! PostgreSQL's own regression files, as psql runs them: to a server alone, and through the router in both modes.
//! `bin/lib/regress.sh` brings the files; MAINSTAY_REGRESS names their folder.
#![expect(clippy::unwrap_used, reason = "helpers of tests say what they expect by unwrapping")]
#![expect(clippy::print_stdout, reason = "what it finds is its result")]

#[path = "../router/support/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_router::protocol::{PoolMode, PoolPolicy};
use support::*;

/// How psql comes to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Direct,
    /// Once more: what differs here differs by itself.
    Again,
    Session,
    Transaction,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Again => "again",
            Self::Session => "session",
            Self::Transaction => "transaction",
        }
    }
}

/// Files whose output differs through the router, and why. Whatever else differs is a fault.
const KNOWN: [(&str, Way, &str); 2] = [
    ("sequence", Way::Transaction, "currval in a later transaction than its nextval (docs/guide/pooling.md)"),
    ("stats", Way::Transaction, "counts server sessions: a client that connects again may get the one that is there"),
];

/// The files of the schedule, in its order.
fn files(folder: &Path) -> Vec<String> {
    let schedule = std::fs::read_to_string(folder.join("parallel_schedule")).unwrap();
    let lines = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

struct Run {
    host: PathBuf,
    port: u16,
    out: PathBuf,
}

impl Run {
    fn psql(&self, folder: &Path, file: &str) {
        let sql = std::fs::File::open(folder.join("sql").join(format!("{file}.sql"))).unwrap();
        let out = std::fs::File::create(self.out.join(format!("{file}.out"))).unwrap();
        let status = Command::new("timeout")
            .arg("300")
            .arg("psql")
            .args(["-X", "-a", "-q", "-d", "regression", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"])
            .current_dir(&self.out)
            .env_clear()
            .envs([
                ("PATH", "/usr/lib/postgresql/15/bin:/usr/bin:/bin"),
                ("LC_MESSAGES", "C"),
                ("PGPASSWORD", PASSWORD),
            ])
            .envs([("PGTZ", "PST8PDT"), ("PGDATESTYLE", "Postgres, MDY"), ("PGUSER", "app"), ("PG_DLSUFFIX", ".so")])
            .env("PGOPTIONS", "-c intervalstyle=postgres_verbose")
            .env("PGAPPNAME", format!("pg_regress/{file}"))
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PG_ABS_SRCDIR", folder)
            .env("PG_ABS_BUILDDIR", &self.out)
            .env("PG_LIBDIR", "/usr/lib/postgresql/15/lib")
            .stdin(Stdio::from(sql))
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .status()
            .unwrap();
        // 3: the script's own statements failed, and that is in the output; 2: its connection ended, as some files want.
        assert!(matches!(status.code(), Some(0 | 2 | 3)), "{file}: psql ended with {status}; 124: not within 300 s");
    }
}

async fn run(way: Way, folder: &Path, out: &Path, files: &[String]) {
    let primary = Cluster::primary().await;
    let admin = primary.admin("postgres").await;
    admin.batch_execute("alter role app superuser").await.unwrap();
    admin.batch_execute("create database regression template template0").await.unwrap();
    for setting in [
        "lc_messages to 'C'",
        "lc_monetary to 'C'",
        "lc_numeric to 'C'",
        "lc_time to 'C'",
        "bytea_output to 'hex'",
        "timezone_abbreviations to 'Default'",
    ] {
        admin.batch_execute(&format!("alter database regression set {setting}")).await.unwrap();
    }
    let out = out.join(way.name());
    std::fs::create_dir_all(out.join("results")).unwrap();
    // The server writes there, as another user.
    for folder in [out.clone(), out.join("results")] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let router = Router::start();
    let mut control = router.control().await;
    let mut policy = policy();
    policy.databases.push("regression".to_owned());
    let mode = if way == Way::Transaction { PoolMode::Transaction } else { PoolMode::Session };
    policy.pool = PoolPolicy { mode, size: 20, ..PoolPolicy::default() };
    control.policy(policy).await;
    control.point(1, Some(&primary), &[]).await;
    let (host, port) = match way {
        Way::Direct | Way::Again => (primary.folder.path().to_owned(), 5432),
        Way::Session | Way::Transaction => ("127.0.0.1".into(), router.write.port()),
    };
    let run = Run { host, port, out };
    for file in files {
        tokio::task::block_in_place(|| run.psql(folder, file));
    }
    if way == Way::Transaction {
        let pool = control.pool().await;
        println!("  {} servers given out, {} clients refused", pool.acquired, pool.refused);
    }
}

/// What the place of a server changes in an output: paths and names of it.
fn plain(text: &str, way: &str, out: &Path) -> String {
    text.replace(&*out.join(way).to_string_lossy(), "OUT")
}

/// Whether an output is one of those that the suite expects.
fn is_expected(folder: &Path, out: &Path, file: &str) -> bool {
    let text = std::fs::read(out.join(format!("{file}.out"))).unwrap();
    let variants = (0..10).map(|variant| match variant {
        0 => format!("{file}.out"),
        variant => format!("{file}_{variant}.out"),
    });
    variants.filter_map(|name| std::fs::read(folder.join("expected").join(name)).ok()).any(|expected| expected == text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regression_files_say_the_same_through_the_router() {
    let Ok(folder) = std::env::var("MAINSTAY_REGRESS") else {
        println!("untested: PostgreSQL's regression files (bin/lib/regress.sh brings them)");
        return;
    };
    let folder = PathBuf::from(folder);
    let files = files(&folder);
    assert!(files.len() > 150, "{} holds {} files", folder.display(), files.len());
    let kept = std::env::var_os("MAINSTAY_REGRESS_OUT").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let out = kept.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o755)).unwrap();
    for way in [Way::Direct, Way::Again, Way::Session, Way::Transaction] {
        let begun = std::time::Instant::now();
        run(way, &folder, &out, &files).await;
        println!("{}: {} files in {} s", way.name(), files.len(), begun.elapsed().as_secs());
    }
    let read = |way: Way, file: &str| {
        let text = std::fs::read(out.join(way.name()).join(format!("{file}.out"))).unwrap();
        plain(&String::from_utf8_lossy(&text), way.name(), &out)
    };
    let mut unknown = Vec::new();
    let mut counts = BTreeMap::new();
    for file in &files {
        let (direct, again) = (read(Way::Direct, file), read(Way::Again, file));
        for way in [Way::Session, Way::Transaction] {
            let text = read(way, file);
            let known = KNOWN.iter().find(|(name, known, _)| name == file && *known == way);
            let what = match () {
                () if text == direct || text == again => "same",
                () if direct != again => "differ by themselves",
                () if known.is_some() => "differ, and it is known why",
                () => {
                    unknown.push((file.clone(), way));
                    "differ"
                }
            };
            *counts.entry((way, what)).or_insert(0) += 1;
            if what != "same" {
                println!(
                    "{} {file}: {what}{}",
                    way.name(),
                    known.map_or(String::new(), |(_, _, why)| format!(": {why}"))
                );
            }
        }
    }
    for ((way, what), count) in counts {
        println!("{}: {count} {what}", way.name());
    }
    // Some need a library of the test suite that no package has; they fail alike by every way.
    for way in [Way::Direct, Way::Session, Way::Transaction] {
        let count = files.iter().filter(|file| is_expected(&folder, &out.join(way.name()), file)).count();
        println!("{}: {count} of {} as PostgreSQL's own output is", way.name(), files.len());
        // Nine of ten, as measured: where hardly any file says what it should, equal outputs prove nothing.
        assert!(count * 5 >= files.len() * 4, "{}: {count} of {} files", way.name(), files.len());
    }
    for (file, way) in &unknown {
        let (here, there) = (out.join("direct"), out.join(way.name()));
        let name = format!("{file}.out");
        let diff = Command::new("diff").arg("-U2").arg(here.join(&name)).arg(there.join(&name)).output().unwrap();
        let lines = String::from_utf8_lossy(&diff.stdout).into_owned();
        println!("== {file} ({})\n{}", way.name(), lines.lines().take(40).collect::<Vec<_>>().join("\n"));
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}
