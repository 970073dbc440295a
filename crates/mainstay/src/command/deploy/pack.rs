//! Puts a release together: a copy of the files that it is made of, with a hash over all of them.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay_stack::Stack;
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::screen;

mod unpack;

/// Files and bytes of a release: far more than an application has, far less than a build folder.
const MOST: Most = Most { files: 200_000, bytes: 4 << 30 };
/// Names what is left out: a line is a name that is left out wherever it is, or a path below the folder.
const IGNORE: &str = ".mainstayignore";
/// By it programs mark folders that they can make again. **Source**: bford.info/cachedir.
const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The most that a release has.
#[derive(Clone, Copy)]
struct Most {
    files: u64,
    bytes: u64,
}

impl Most {
    fn holds(self, files: u64, bytes: u64) -> bool {
        files <= self.files && bytes <= self.bytes
    }

    fn broken(self) -> Failure {
        Failure::user("MS2141", format!("the release has more than {self}"))
            .help("pack what is needed to run it, and nothing else; nothing was changed")
    }
}

impl std::fmt::Display for Most {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} files or {}", self.files, mainstay_types::Bytes(self.bytes))
    }
}

/// What was copied.
pub(super) struct Packed {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) hash: String,
    /// Folder of the stack file, below the release's files.
    pub(super) folder: String,
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment("MS3140", format!("cannot {what} {}: {error}", path.display()))
        .help("the state folder needs space and the files must be readable; nothing was changed")
}

/// What a copy leaves out.
struct Ignored {
    names: BTreeSet<String>,
    paths: BTreeSet<PathBuf>,
}

impl Ignored {
    fn of(folder: &Path) -> Result<Self, Failure> {
        let mut ignored = Self { names: BTreeSet::from([".git".to_owned()]), paths: BTreeSet::new() };
        let file = folder.join(IGNORE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ignored),
            Err(error) => return Err(failed("read", &file, &error)),
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let path = line.trim_matches('/');
            if path.contains(['*', '?', '[', '!']) {
                return Err(Failure::user(
                    "MS2141",
                    format!("{} holds {line:?}: patterns are not known", file.display()),
                )
                .help("a line is a name that is left out wherever it is, or a path below the folder"));
            }
            if path.contains('/') {
                ignored.paths.insert(PathBuf::from(path));
            } else {
                ignored.names.insert(path.to_owned());
            }
        }
        Ok(ignored)
    }

    fn leaves_out(&self, below: &Path) -> bool {
        let name = below.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| self.names.contains(&name)) || self.paths.contains(below)
    }
}

fn is_cache(folder: &Path) -> bool {
    let mut head = [0; CACHE_SIGNATURE.len()];
    let read = std::fs::File::open(folder.join(CACHE_TAG)).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == CACHE_SIGNATURE
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|error| failed("make", path, &error))?;
    // Whatever the caller's umask: services enter as users of their own.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(|error| failed("make", path, &error))
}

/// A copy in the making.
struct Copy {
    ignored: Ignored,
    files: u64,
    bytes: u64,
    begun: std::time::Instant,
    told: u64,
}

impl Copy {
    fn count(&mut self, bytes: u64, from: &Path) -> Result<(), Failure> {
        self.files += 1;
        self.bytes += bytes;
        if self.begun.elapsed().as_secs() > self.told {
            self.told = self.begun.elapsed().as_secs();
            eprintln!("  {} files, {} MB so far", self.files, self.bytes >> 20);
        }
        if MOST.holds(self.files, self.bytes) {
            return Ok(());
        }
        let text = format!("the release has more than {MOST} (at {})", from.display());
        Err(Failure::user("MS2141", text).help(format!("name what is not needed to run it in {IGNORE}, a name a line")))
    }

    /// Copies a folder; `below` is where it stands below the first one.
    fn folder(&mut self, from: &Path, to: &Path, below: &Path) -> Result<(), Failure> {
        make_folder(to)?;
        let entries = std::fs::read_dir(from).map_err(|error| failed("read", from, &error))?;
        let mut names: Vec<_> = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()
            .map_err(|error| failed("read", from, &error))?;
        names.sort();
        for name in names {
            let (source, target, below) = (from.join(&name), to.join(&name), below.join(&name));
            if self.ignored.leaves_out(&below) {
                continue;
            }
            let seen = std::fs::symlink_metadata(&source).map_err(|error| failed("look at", &source, &error))?;
            if seen.is_dir() {
                if !is_cache(&source) {
                    self.folder(&source, &target, &below)?;
                    // What only its folder protects stays so.
                    let mode = std::fs::Permissions::from_mode(seen.permissions().mode() & 0o755 | 0o700);
                    std::fs::set_permissions(&target, mode).map_err(|error| failed("write", &target, &error))?;
                }
            } else if seen.is_symlink() {
                let to = std::fs::read_link(&source).map_err(|error| failed("read", &source, &error))?;
                std::os::unix::fs::symlink(to, &target).map_err(|error| failed("write", &target, &error))?;
                self.count(0, &source)?;
            } else if seen.is_file() {
                self.file(&source, &target)?;
            }
            // Sockets, pipes and devices are no part of a release.
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path) -> Result<(), Failure> {
        let bytes = std::fs::copy(from, to).map_err(|error| failed("copy", from, &error))?;
        self.count(bytes, from)?;
        let mode = std::fs::metadata(to).map_err(|error| failed("look at", to, &error))?.permissions().mode();
        // Nobody changes a release.
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode & 0o555))
            .map_err(|error| failed("write", to, &error))
    }
}

/// Takes `.` and `..` out of an absolute path, by its text.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// From the stack file's folder. Programs that it names outside of it, within the checkout, come along at their place.
pub(super) fn folder(folder: &Path, project: &Path, stack: &Stack, to: &Path) -> Result<Packed, Failure> {
    let below = folder.strip_prefix(project).unwrap_or(Path::new("")).to_owned();
    let ignored = Ignored::of(folder)?;
    let mut copy = Copy { ignored, files: 0, bytes: 0, begun: std::time::Instant::now(), told: 0 };
    if let Some(parent) = to.join(&below).parent() {
        make_folder(parent)?;
    }
    copy.folder(folder, &to.join(&below), Path::new(""))?;
    let commands = stack.services.values().flat_map(|service| {
        [Some(&service.run), service.before.as_ref()].into_iter().flatten().map(|command| (&service.dir, command))
    });
    for (dir, command) in commands {
        let Some(program) = command.first().filter(|program| program.contains('/') && !program.starts_with('/')) else {
            continue;
        };
        let source = normal(&folder.join(dir).join(program));
        let Ok(place) = source.strip_prefix(project) else {
            let text = format!("{program} lies outside of {}", project.display());
            return Err(Failure::user("MS2141", text).help(
                "a release holds what lies in the checkout; name a program that is installed by its whole path",
            ));
        };
        let target = to.join(place);
        if target.exists() {
            continue;
        }
        if !source.is_file() {
            return Err(
                Failure::user("MS2141", format!("there is no program {}", source.display())).help("build it first")
            );
        }
        if let Some(parent) = target.parent() {
            make_folder(parent)?;
        }
        copy.file(&source, &target)?;
    }
    finish(to, below)
}

/// From what another program writes as a tar archive: `git archive`, or a file.
pub(super) fn archive(source: &Archive<'_>, to: &Path) -> Result<Packed, Failure> {
    make_folder(to)?;
    match source {
        Archive::File(file) => {
            if !file.is_file() {
                return Err(Failure::user("MS2141", format!("there is no archive {}", file.display()))
                    .help("a tar archive, packed or not, with mainstay.toml at its top"));
            }
            let mut tar = unpack::tar(to);
            tar.arg("-f").arg(file);
            unpack::run(tar, MOST)?.or_refused(&file.display().to_string())?;
        }
        Archive::Reference { folder, name } => {
            let mut git = Command::new("git");
            git.arg("-C")
                .arg(folder)
                .args(["archive", "--format=tar", name])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = git.spawn().map_err(|error| {
                Failure::environment("MS3140", format!("cannot run git: {error}")).help("apt-get install git")
            })?;
            let mut tar = unpack::tar(to);
            tar.stdin(child.stdout.take().map_or_else(Stdio::null, Stdio::from));
            // With its end the pipe has no reader, at which git would wait for ever.
            let unpacked = unpack::run(tar, MOST);
            let said = child.wait_with_output().map_err(|error| failed("wait for", Path::new("git"), &error))?;
            let unpacked = unpacked?;
            if !said.status.success() && !unpacked.is_too_much() {
                let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
                return Err(
                    Failure::user("MS2141", format!("git has no {name:?} here: {why}")).help("`git log --oneline`")
                );
            }
            unpacked.or_refused(name)?;
        }
    }
    finish(to, PathBuf::new())
}

/// Where an archive comes from.
pub(super) enum Archive<'a> {
    File(&'a Path),
    /// What git has under a name, of a folder of the checkout.
    Reference {
        folder: &'a Path,
        name: &'a str,
    },
}

/// Hashes all that is there, and brings it to the disk.
fn finish(to: &Path, below: PathBuf) -> Result<Packed, Failure> {
    let mut all = Sha256::new();
    let (mut files, mut bytes) = (0, 0);
    hash(to, Path::new(""), &mut all, &mut (&mut files, &mut bytes))?;
    let folder = std::fs::File::open(to).map_err(|error| failed("open", to, &error))?;
    rustix::fs::syncfs(&folder).map_err(|error| failed("write", to, &error.into()))?;
    let hash = all.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Packed { files, bytes, hash, folder: below.display().to_string() })
}

fn hash(folder: &Path, below: &Path, all: &mut Sha256, counts: &mut (&mut u64, &mut u64)) -> Result<(), Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| failed("read", folder, &error))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let (path, below) = (folder.join(&name), below.join(&name));
        let seen = std::fs::symlink_metadata(&path).map_err(|error| failed("look at", &path, &error))?;
        if seen.is_dir() {
            hash(&path, &below, all, counts)?;
            continue;
        }
        if !seen.is_symlink() && !seen.is_file() {
            let text = format!("the release holds a pipe, a socket or a device: {}", below.display());
            return Err(
                Failure::user("MS2141", text).help("a release is files, folders and links; nothing was changed")
            );
        }
        *counts.0 += 1;
        *counts.1 += if seen.is_file() { seen.len() } else { 0 };
        if !MOST.holds(*counts.0, *counts.1) {
            return Err(MOST.broken());
        }
        let mut one = Sha256::new();
        if seen.is_symlink() {
            let to = std::fs::read_link(&path).map_err(|error| failed("read", &path, &error))?;
            one.update(to.as_os_str().as_encoded_bytes());
        } else {
            let mut file = std::fs::File::open(&path).map_err(|error| failed("open", &path, &error))?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                let count = file.read(&mut buffer).map_err(|error| failed("read", &path, &error))?;
                if count == 0 {
                    break;
                }
                one.update(&buffer[..count]);
            }
            // Nobody changes a release.
            let mode = std::fs::Permissions::from_mode(seen.permissions().mode() & 0o555);
            std::fs::set_permissions(&path, mode).map_err(|error| failed("write", &path, &error))?;
        }
        all.update(below.as_os_str().as_encoded_bytes());
        all.update([0, u8::from(seen.permissions().mode() & 0o100 != 0), u8::from(seen.is_symlink())]);
        all.update(one.finalize());
    }
    Ok(())
}

/// `214 files, 31 MB`.
pub(super) fn size(files: u64, bytes: u64) -> String {
    let size = if bytes < 1 << 20 { format!("{} KB", bytes.div_ceil(1024)) } else { format!("{} MB", bytes >> 20) };
    screen::tame(&format!("{files} files, {size}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        let text = "stack = \"s\"\n[[edge.route]]\npath = \"/*\"\nto = \"web\"\n[service.web]\nrun = \"../target/release/web\"\n";
        mainstay_stack::parse(text, "mainstay.toml", &mainstay_types::EnvironmentName::default())
            .expect("a stack")
            .stack
    }

    fn checkout() -> tempfile::TempDir {
        let checkout = tempfile::tempdir().expect("folder");
        let at = |path: &str| checkout.path().join(path);
        for folder in ["app/src", "app/logs", "app/deep/logs", "app/.git", "target/release"] {
            std::fs::create_dir_all(at(folder)).expect("folders");
        }
        std::fs::write(at("app/src/a"), "a").expect("writes");
        std::fs::write(at("app/deep/logs/x"), "x").expect("writes");
        std::fs::write(at("app/.git/config"), "no").expect("writes");
        std::fs::write(at("target/CACHEDIR.TAG"), CACHE_SIGNATURE).expect("writes");
        std::fs::write(at("target/release/web"), "program").expect("writes");
        std::fs::write(at("target/release/other"), "other").expect("writes");
        checkout
    }

    #[test]
    fn a_release_is_the_folder_and_the_programs_it_names() {
        let (checkout, out) = (checkout(), tempfile::tempdir().expect("folder"));
        let to = out.path().join("files");
        let packed =
            folder(&checkout.path().join("app"), checkout.path(), &stack(), &to).unwrap_or_else(|_| panic!("packs"));
        assert_eq!((packed.files, packed.folder.as_str()), (3, "app"));
        assert!(to.join("app/src/a").is_file() && to.join("target/release/web").is_file());
        assert!(!to.join("target/release/other").exists() && !to.join("app/.git").exists());
        let mode = std::fs::metadata(to.join("app/src/a")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o222, 0, "nobody changes a release");
    }

    #[test]
    fn the_hash_is_of_names_and_contents() {
        let checkout = checkout();
        let pack = || {
            let out = tempfile::tempdir().expect("folder");
            let app = checkout.path().join("app");
            folder(&app, checkout.path(), &stack(), &out.path().join("f")).unwrap_or_else(|_| panic!("packs")).hash
        };
        let first = pack();
        assert_eq!(first, pack());
        std::fs::write(checkout.path().join("app/src/a"), "b").expect("writes");
        assert_ne!(first, pack());
    }

    #[test]
    fn what_is_named_is_left_out_and_patterns_are_refused() {
        let (checkout, out) = (checkout(), tempfile::tempdir().expect("folder"));
        let app = checkout.path().join("app");
        std::fs::write(app.join(IGNORE), "# logs\nlogs\n/src/a\n").expect("writes");
        let to = out.path().join("files");
        folder(&app, checkout.path(), &stack(), &to).unwrap_or_else(|_| panic!("packs"));
        assert!(!to.join("app/deep/logs").exists() && !to.join("app/src/a").exists());
        std::fs::write(app.join(IGNORE), "*.log\n").expect("writes");
        let refused = folder(&app, checkout.path(), &stack(), &out.path().join("again"));
        assert!(refused.is_err_and(|failure| failure.text.contains("patterns")));
    }

    #[test]
    fn a_broken_archive_is_refused_with_its_reason() {
        let out = tempfile::tempdir().expect("folder");
        let file = out.path().join("x.tar");
        std::fs::write(&file, "no archive").expect("writes");
        let refused = archive(&Archive::File(&file), &out.path().join("files"));
        assert!(refused.is_err_and(|failure| failure.text.contains("no whole archive")));
    }
}
