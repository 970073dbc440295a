//! The second copy of the backups: how far it is, whether it is right, and the way back from it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use mainstay_backup::copy::{Compared, Fetching};
use mainstay_backup::objects::Waiting;
use mainstay_controller::backups::second::{self, Named};
use mainstay_controller::backups::{Backups, card};
use mainstay_controller::paths::Paths;
use mainstay_types::{Bytes, Endpoint, ObjectAddress, exit_code};
use serde_json::{Value, json};

use super::backup::failure;
use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// How a store is reached on a machine that has nothing else.
#[derive(Args)]
pub(crate) struct StoreOptions {
    /// Server of the store; without it Amazon's in the region
    #[arg(long, value_name = "URL", requires = "from")]
    endpoint: Option<Endpoint>,
    /// Region that requests are signed for
    #[arg(long, value_name = "NAME", requires = "from", default_value = "us-east-1")]
    region: String,
    /// File of the certificates that the server's is signed by
    #[arg(long, value_name = "FILE", requires = "from")]
    store_ca: Option<PathBuf>,
    /// Variable that holds the access key, or with _FILE after it names a file of it; without it AWS_ACCESS_KEY_ID,
    /// GS_ACCESS_KEY_ID or AZURE_STORAGE_ACCOUNT
    #[arg(long, value_name = "NAME", requires = "from")]
    access_key: Option<String>,
    /// Variable that holds the secret key, or with _FILE after it names a file of it; without it AWS_SECRET_ACCESS_KEY,
    /// GS_SECRET_ACCESS_KEY or AZURE_STORAGE_KEY
    #[arg(long, value_name = "NAME", requires = "from")]
    secret_key: Option<String>,
    /// Folder that the copy is fetched into; best the one that `database.backup.target` names
    #[arg(long, value_name = "DIR", requires = "from")]
    fetch_into: Option<PathBuf>,
    /// Read in the store and fetch only what the restore needs: for a stack whose target is the store itself
    #[arg(long, requires = "from", conflicts_with = "fetch_into")]
    read_there: bool,
}

/// How far the copy is, for a list; nothing when there is none.
pub(super) fn line(paths: &Paths) -> Result<Option<String>, Failure> {
    let Some((wanted, seen)) = second::standing(paths).map_err(|error| failure(&error))? else { return Ok(None) };
    let text = seen.as_ref().map_or_else(
        || screen::yellow("not begun"),
        |seen| {
            let waits = match seen.waiting {
                0 => String::new(),
                count => format!(", {count} files ({}) wait", Bytes(seen.waiting_bytes)),
            };
            format!("{}; {} base backups{waits}", second::up_to(seen, screen::now()), seen.backups)
        },
    );
    let named = if wanted.is_target { "store" } else { "copy in" };
    Ok(Some(format!("{named} {}: {text}", wanted.store.address)))
}

/// The same for programs.
pub(super) fn value(paths: &Paths) -> Result<Value, Failure> {
    let Some((wanted, seen)) = second::standing(paths).map_err(|error| failure(&error))? else {
        return Ok(Value::Null);
    };
    let now = screen::now();
    let behind = seen.as_ref().and_then(|seen| seen.behind(now)).map(|behind| behind.as_millis());
    Ok(
        json!({"to": wanted.store.address, "is_target": wanted.is_target, "up_to": seen.as_ref().and_then(|seen| seen.up_to()), "behind_ms": behind, "noted": seen}),
    )
}

/// `mainstay backup check --copy`.
pub(super) async fn check(
    global: &Global,
    paths: &Paths,
    backups: &Backups,
    (reads_data, mends): (bool, bool),
) -> Result<u8, Failure> {
    let compared = Box::pin(second::check(paths, backups, reads_data, mends)).await.map_err(|error| failure(&error))?;
    let lagging = second::faults(paths).map_err(|error| failure(&error))?;
    let is_fine = compared.faults.is_empty() && lagging.is_empty();
    if global.json {
        let Compared { files, bytes, read, on_their_way, extra, faults, mended } = &compared;
        println!(
            "{}",
            json!({"files": files, "bytes": bytes, "read": read, "on_their_way": on_their_way, "extra": extra,
                "faults": faults, "mended": mended, "behind": lagging, "read_data": reads_data})
        );
        return Ok(if is_fine { exit_code::DONE } else { exit_code::FAILED });
    }
    if let Some(line) = line(paths)? {
        println!("{line}");
    }
    println!("{} objects ({}), {} of them read and compared", compared.files, Bytes(compared.bytes), compared.read);
    if compared.on_their_way > 0 {
        println!("{} files are so new that they may be on their way", compared.on_their_way);
    }
    if compared.extra > 0 {
        println!("{} objects are there that the folder does not have: kept, and used by nothing here", compared.extra);
    }
    for fault in compared.faults.iter().chain(&lagging) {
        println!("{} {fault}", screen::red("fault:"));
    }
    if is_fine {
        println!(
            "{}",
            if reads_data { "the copy is as the folder is" } else { "everything is there; its bytes were not read" }
        );
        return Ok(exit_code::DONE);
    }
    if compared.mended > 0 {
        println!("{} put again from the folder", compared.mended);
    }
    let text = format!("{} faults in the second copy", compared.faults.len() + lagging.len());
    let help = match (compared.faults.is_empty(), mends) {
        (true, _) => "`mainstay status` says why it does not go on",
        (false, false) => "`mainstay backup check --copy --mend` puts these again from the folder",
        (false, true) => "`mainstay backup check --copy` again shows what is left",
    };
    Err(Failure::failed("MS1111", text).help(help))
}

/// Where a restore with the card begins.
pub(super) enum From {
    /// A folder that is there.
    Folder(PathBuf),
    /// A folder that all of a store was fetched into.
    Fetched(PathBuf),
    /// A store, and the folder with what is small of it.
    Store(PathBuf, Arc<Waiting>),
}

impl From {
    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Folder(folder) | Self::Fetched(folder) | Self::Store(folder, _) => folder,
        }
    }
}

/// The folder, or what was fetched of a store.
pub(super) async fn folder_of(global: &Global, from: &Path, options: &StoreOptions) -> Result<From, Failure> {
    let text = from.to_string_lossy();
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::environment("MS3110", format!("cannot find {}: {error}", path.display())))
    };
    if !ObjectAddress::is_meant(&text) {
        return Ok(From::Folder(absolute(from)?));
    }
    let address: ObjectAddress = text.parse().map_err(|error| {
        Failure::user("MS2110", format!("--from {text}: {error}"))
            .help("as in --from s3://my-backups/shop, or a folder")
    })?;
    let into = match &options.fetch_into {
        Some(folder) => absolute(folder)?,
        None => {
            let kind = if options.read_there { "there" } else { "fetched" };
            let below = format!("{}-{}", address.bucket(), address.prefix().replace('/', "-"));
            crate::place::state_base(global)?.join(kind).join(below.trim_end_matches('-'))
        }
    };
    if !global.json {
        let what = if options.read_there { "reading" } else { "fetching" };
        eprintln!("{what} {address} into {}", into.display());
    }
    let (access, secret) = address.kind().variables();
    let keys = (options.access_key.as_deref().unwrap_or(access), options.secret_key.as_deref().unwrap_or(secret));
    let named = Named {
        address,
        endpoint: options.endpoint.clone(),
        region: options.region.clone(),
        ca: options.store_ca.clone(),
    };
    if options.read_there {
        let store = second::gather(named, keys, &into).await.map_err(|error| failure(&error))?;
        return Ok(From::Store(into, store));
    }
    let mut progress = Progress::new(global.json);
    let fetched = second::fetch(named, keys, &into, &mut |so_far| progress.tell(so_far)).await;
    progress.end();
    let fetched = fetched.map_err(|error| failure(&error))?;
    if !global.json {
        let had = if fetched.had > 0 { format!(", {} were here already", fetched.had) } else { String::new() };
        eprintln!("{} files ({}) fetched{had}", fetched.files, Bytes(fetched.bytes));
    }
    Ok(From::Fetched(into))
}

/// For a folder that was fetched: whoever reads WAL must be able to.
pub(super) fn hand_over(opened: &card::Opened, folder: &Path) -> Result<(), Failure> {
    let place = mainstay_backup::Place::new(folder);
    second::hand_over(&place, &opened.about.stack).map_err(|error| failure(&error))
}

/// Says how far it is, not too often.
struct Progress {
    is_silent: bool,
    is_terminal: bool,
    told: Option<Instant>,
    begun: Instant,
}

impl Progress {
    fn new(is_silent: bool) -> Self {
        Self { is_silent, is_terminal: std::io::stderr().is_terminal(), told: None, begun: Instant::now() }
    }

    fn tell(&mut self, so_far: Fetching) {
        let pause = Duration::from_millis(if self.is_terminal { 250 } else { 10_000 });
        if self.is_silent || self.told.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.told = Some(Instant::now());
        let rate = so_far.bytes / self.begun.elapsed().as_secs().max(1);
        let Fetching { files, bytes, all_files, all_bytes } = so_far;
        let text = format!("{files} of {all_files} files, {} of {}, {}/s", Bytes(bytes), Bytes(all_bytes), Bytes(rate));
        if self.is_terminal {
            eprint!("\r\x1b[K{text}");
            std::io::stderr().flush().ok();
        } else {
            eprintln!("{text}");
        }
    }

    fn end(&self) {
        if self.is_terminal && self.told.is_some() {
            std::eprintln!();
        }
    }
}
