//! The names of a folder's files, and the text of those that say something.

use std::collections::{BTreeMap, BTreeSet};

/// Names of files, with the text of those that [`is_read`] wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    /// The folder's own name.
    pub(crate) name: String,
    /// Text by path relative to the folder; `None` for files that are only known to be there.
    pub(crate) files: BTreeMap<String, Option<String>>,
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
const READ: [&str; 15] = [
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
    "Dockerfile",
    "routes.rb",
    "urls.py",
    "celery.py",
];

/// Names of program texts that may hold the application's start and its routes.
const PROGRAMS: [&str; 7] = ["main", "app", "server", "index", "wsgi", "asgi", "__init__"];

/// Whether the text of this file is wanted.
pub(crate) fn is_read(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_program = name.rsplit_once('.').is_some_and(|(stem, extension)| {
        PROGRAMS.contains(&stem) && ["py", "js", "mjs", "cjs", "ts", "rs"].contains(&extension)
    });
    READ.contains(&name) || is_program || is_compose(name)
}

pub(super) fn is_compose(name: &str) -> bool {
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"].contains(&name)
}

impl Folder {
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
