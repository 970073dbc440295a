//! What the files that init knows lack, where none of them says how the application is started.

use super::compose;
use super::folder::View;
use super::rust;
use super::unread::Unread;

/// A known file, and what it would have to say.
struct Wanted {
    file: &'static str,
    lacks: &'static str,
}

const WANTED: [Wanted; 8] = [
    Wanted { file: "Procfile", lacks: "it names no process: `web: COMMAND`" },
    Wanted {
        file: "package.json",
        lacks: "it has no script `start`, no `main` that is there, and none of the builders of pages that init knows \
                (vite, react-scripts, astro, parcel)",
    },
    Wanted { file: "Gemfile", lacks: "it has no gem `rails`, and no config.ru is beside it" },
    Wanted {
        file: "Cargo.toml",
        lacks: "no package has a web framework among its dependencies (axum, actix-web, rocket, poem, salvo, warp, tide, \
                hyper)",
    },
    Wanted { file: "requirements.txt", lacks: PYTHON },
    Wanted { file: "pyproject.toml", lacks: PYTHON },
    Wanted { file: "pom.xml", lacks: JAVA },
    Wanted { file: "build.gradle", lacks: JAVA },
];
const PYTHON: &str = "it has neither Django with its manage.py, nor another web framework with the program text that makes \
                      its `app`, nor app.py, main.py or server.py";
const JAVA: &str = "it makes no Spring Boot application: `org.springframework.boot` is nowhere in it";
/// What is looked at only in the folder that `init` is given.
const BELOW: &str = "it is read only in the folder that init is given: `mainstay init` with that folder";
/// Only gathers others.
const PARENT: &str = "its packaging is `pom`, so it makes no jar, and none of the folders directly below does";

/// The known files of this very folder, each with what it lacks. Called where no file says enough.
pub(super) fn of(view: &View<'_>, unread: &[Unread]) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |name: &str, lacks: &str| push(&mut all, view, unread, name, lacks);
    for Wanted { file, lacks } in WANTED {
        let is_parent =
            file == "pom.xml" && view.text(file).is_some_and(|text| text.contains("<packaging>pom</packaging>"));
        let is_below = file == "Procfile" && view.dir().is_some();
        add(
            file,
            if is_parent {
                PARENT
            } else if is_below {
                BELOW
            } else {
                lacks
            },
        );
    }
    add("build.gradle.kts", JAVA);
    let is_unread = |file: &str| unread.iter().any(|one| one.file == file);
    if let Some((file, web)) = rust::without_program(view).filter(|(file, _)| !is_unread(file)) {
        let said = view.full("Cargo.toml");
        all.retain(|line| !line.starts_with(&format!("{said}: ")));
        all.push(format!(
            "{file}: it depends on `{web}` and makes no program: there is neither src/main.rs nor a [[bin]]"
        ));
    }
    let mut add = |name: &str, lacks: &str| push(&mut all, view, unread, name, lacks);
    if let Some(file) = compose::file(view) {
        let lacks = "no service of it is built here, and none has the image of PostgreSQL or Redis";
        add(file, if view.dir().is_some() { BELOW } else { lacks });
    }
    all
}

fn push(all: &mut Vec<String>, view: &View<'_>, unread: &[Unread], name: &str, lacks: &str) {
    let file = view.full(name);
    // Why it was not read is said already.
    if view.text(name).is_some() && !unread.iter().any(|one| one.file == file) {
        all.push(format!("{file}: {lacks}"));
    }
}

#[cfg(test)]
mod tests {
    use crate::init::{Folder, propose};

    #[test]
    fn every_known_file_that_says_nothing_is_told_with_what_it_lacks() {
        let files = [
            ("Procfile", "# nothing\n", "Procfile: it names no process"),
            ("package.json", "{\"name\": \"x\"}", "package.json: it has no script `start`"),
            ("Gemfile", "gem 'rake'\n", "Gemfile: it has no gem `rails`"),
            ("Cargo.toml", "[package]\nname = \"x\"\n", "Cargo.toml: no package has a web framework"),
            (
                "Cargo.toml",
                "[package]\nname = \"x\"\n[dependencies]\naxum = \"0.8\"\n",
                "Cargo.toml: it depends on `axum` and makes no program",
            ),
            ("requirements.txt", "numpy\n", "requirements.txt: it has neither Django"),
            ("pyproject.toml", "[project]\nname = \"x\"\n", "pyproject.toml: it has neither Django"),
            ("pom.xml", "<project><artifactId>x</artifactId></project>", "pom.xml: it makes no Spring Boot"),
            (
                "pom.xml",
                "<project><artifactId>x</artifactId><packaging>pom</packaging></project>",
                "pom.xml: its packaging is `pom`",
            ),
            ("build.gradle", "plugins { id 'java' }\n", "build.gradle: it makes no Spring Boot"),
            ("build.gradle.kts", "plugins { java }\n", "build.gradle.kts: it makes no Spring Boot"),
            ("compose.yaml", "services:\n  mail:\n    image: mailpit\n", "compose.yaml: no service of it is built"),
        ];
        for (file, text, wanted) in files {
            for below in ["", "api/"] {
                let mut folder = Folder { name: "x".to_owned(), ..Folder::default() };
                folder.put(format!("{below}{file}"), text.as_bytes());
                let nothing = propose(&folder).expect_err("nothing is said");
                let is_of_root = ["Procfile", "compose.yaml"].contains(&file);
                let wanted = if is_of_root && !below.is_empty() {
                    format!("{file}: it is read only")
                } else {
                    wanted.to_owned()
                };
                assert_eq!(nothing.lacking.len(), 1, "{file}: {nothing:?}");
                assert!(nothing.lacking[0].starts_with(&format!("{below}{wanted}")), "{nothing:?}");
            }
        }
    }
}
