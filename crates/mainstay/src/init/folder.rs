//! The names of a folder's files, and the text of those that say something.

use std::collections::{BTreeMap, BTreeSet};

use super::unread::{Unread, decoded};

/// Names of files, with the text of those that [`is_read`] wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    /// The folder's own name.
    pub(crate) name: String,
    /// Text by path relative to the folder; `None` for files that are only known to be there.
    pub(crate) files: BTreeMap<String, Option<String>>,
    /// What could not be read of them, by path; `.` is the listing itself.
    pub(crate) unread: BTreeMap<String, Unread>,
}

/// Folders in which nothing is looked for: dependencies, build results, history.
const SKIPPED: [&str; 18] = [
    ".bundle",
    ".cache",
    ".git",
    ".gradle",
    ".hg",
    ".idea",
    ".next",
    ".tox",
    "__pycache__",
    "build",
    "coverage",
    "dist-packages",
    "log",
    "node_modules",
    "site-packages",
    "target",
    "tmp",
    "vendor",
];

/// Whether a folder of this name is left out of the listing.
pub(crate) fn is_skipped(name: &str) -> bool {
    SKIPPED.contains(&name)
}

/// Files whose text is wanted, by name.
const READ: [&str; 20] = [
    "Procfile",
    "Cargo.toml",
    "package.json",
    "Gemfile",
    "requirements.txt",
    "pyproject.toml",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "settings.gradle",
    "settings.gradle.kts",
    "gradle.properties",
    "puma.rb",
    "Dockerfile",
    "routes.rb",
    "urls.py",
    "celery.py",
    "application.properties",
    "application.yaml",
    "application.yml",
];

/// Names of program texts that may hold the application's start and its routes.
const PROGRAMS: [&str; 7] = ["main", "app", "server", "index", "wsgi", "asgi", "__init__"];

/// Whether the text of this file is wanted.
pub(crate) fn is_read(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_wanted = name.rsplit_once('.').is_some_and(|(stem, _)| PROGRAMS.contains(&stem)) && is_program(name);
    READ.contains(&name) || is_wanted || is_compose(name) || is_dockerfile(name)
}

/// Whether a file of this name says how an application runs, whatever else is there.
pub(crate) fn is_manifest(name: &str) -> bool {
    super::KNOWN.split(", ").any(|known| known == name) || is_compose(name)
}

/// `Dockerfile.prod` and `prod.Dockerfile`, as a compose file names them.
fn is_dockerfile(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("dockerfile.") || name.ends_with(".dockerfile")
}

/// A program text: only searched for words, where another file says how it runs.
pub(crate) fn is_program(path: &str) -> bool {
    let extension = path.rsplit('.').next().unwrap_or_default();
    ["py", "js", "mjs", "cjs", "ts", "rs"].contains(&extension)
}

pub(super) fn is_compose(name: &str) -> bool {
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"].contains(&name)
}

impl Folder {
    /// Notes a file with its content.
    pub(crate) fn put(&mut self, path: String, bytes: &[u8]) {
        let text = match decoded(&path, bytes) {
            Ok(text) => Some(text),
            Err(unread) => {
                self.unread.insert(path.clone(), unread);
                None
            }
        };
        self.files.insert(path, text);
    }

    /// Notes a file whose content is wanted and cannot be had.
    pub(crate) fn put_unread(&mut self, path: String, reason: impl Into<String>) {
        self.unread.insert(path.clone(), Unread::new(&path, None, reason));
        self.files.insert(path, None);
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Folders directly below.
    pub(super) fn folders(&self) -> BTreeSet<String> {
        self.paths().filter_map(|path| path.split_once('/')).map(|(first, _)| first.to_owned()).collect()
    }
}

/// A folder, seen from one below it.
#[derive(Clone, Debug)]
pub(super) struct View<'f> {
    folder: &'f Folder,
    /// Empty, or ending in a slash.
    prefix: String,
}

impl<'f> View<'f> {
    pub(super) fn root(folder: &'f Folder) -> Self {
        Self { folder, prefix: String::new() }
    }

    pub(super) fn below(folder: &'f Folder, name: &str) -> Self {
        Self { folder, prefix: format!("{}/", name.trim_matches('/')) }
    }

    /// A folder below this one.
    pub(super) fn inner(&self, name: &str) -> Self {
        let name = name.trim_start_matches("./").trim_matches('/');
        if matches!(name, "" | ".") {
            return self.clone();
        }
        Self { folder: self.folder, prefix: format!("{}{name}/", self.prefix) }
    }

    /// `dir` of services here.
    pub(super) fn dir(&self) -> Option<String> {
        (!self.prefix.is_empty()).then(|| self.prefix.trim_end_matches('/').to_owned())
    }

    /// The path as seen from the stack file.
    pub(super) fn full(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A path of the folder as seen from here, when it is here or below.
    pub(super) fn relative<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&self.prefix)
    }

    /// The name of this folder itself.
    pub(super) fn name(&self) -> &str {
        let inner = self.prefix.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
        inner.unwrap_or(&self.folder.name)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.folder.files.contains_key(&self.full(path))
    }

    /// Whether a folder of that name holds anything.
    pub(super) fn has_folder(&self, name: &str) -> bool {
        let start = self.full(&format!("{name}/"));
        self.folder.paths().any(|path| path.starts_with(&start))
    }

    pub(super) fn text(&self, path: &str) -> Option<&'f str> {
        self.folder.files.get(&self.full(path))?.as_deref()
    }

    /// Paths here and below, relative to here.
    pub(super) fn paths(&self) -> impl Iterator<Item = &'f str> {
        self.folder.paths().filter_map(|path| path.strip_prefix(&self.prefix))
    }

    /// Program texts here and below.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'f str, &'f str)> {
        self.folder.files.iter().filter_map(|(path, text)| Some((path.strip_prefix(&self.prefix)?, text.as_deref()?)))
    }
}
