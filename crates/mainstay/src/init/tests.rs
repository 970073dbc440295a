//! Folders of every kind, each with the file that is proposed for it. Input and expected output are in one file:
//! `== PATH` begins a file of the folder, a line of dashes the proposal. `MAINSTAY_BLESS=1` rewrites the latter.

use std::collections::BTreeMap;
use std::path::Path;

use mainstay_types::EnvironmentName;

use super::*;

const RULE: &str = "\n----------------\n";

fn folder(name: &str, text: &str) -> Folder {
    let mut files: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut path = String::new();
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("== ") {
            next.clone_into(&mut path);
            files.insert(path.clone(), is_read(next).then(String::new));
        } else if let Some(Some(text)) = files.get_mut(&path) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Folder { name: name.to_owned(), files }
}

fn said(proposal: &Proposal) -> String {
    let mut out = render(proposal);
    out.push_str(RULE.trim_start_matches('\n'));
    for Reason { what, file, line, found } in &proposal.reasons {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        out.push_str(&format!("{what}  ({file}{line}, {found})\n"));
    }
    out
}

fn goldens() -> Vec<(String, std::path::PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/init");
    let entries = std::fs::read_dir(folder).expect("the folder of golden files").flatten();
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("readable");
            (name, path, text)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_kind_of_folder_gets_the_proposal_of_its_golden_file() {
    let is_blessing = std::env::var("MAINSTAY_BLESS").is_ok();
    let mut wrong = Vec::new();
    for (name, path, whole) in goldens() {
        let (input, expected) = whole.split_once(RULE).unwrap_or((whole.as_str(), ""));
        let proposal = propose(&folder(&name, input)).unwrap_or_else(|| panic!("{name}: nothing was recognised"));
        let found = said(&proposal);
        if is_blessing {
            std::fs::write(&path, format!("{}{RULE}{found}", input.trim_end())).expect("writable");
        } else if found != expected {
            wrong.push(format!("{name}\n--- expected\n{expected}\n--- found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_proposal_passes_check_without_a_warning() {
    let mut seen = 0;
    for (name, _, whole) in goldens() {
        let (input, _) = whole.split_once(RULE).unwrap_or((whole.as_str(), ""));
        let text = render(&propose(&folder(&name, input)).unwrap_or_else(|| panic!("{name}: nothing recognised")));
        let parsed = mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default())
            .unwrap_or_else(|found| panic!("{name}: {found}\n{text}"));
        assert!(parsed.warnings.is_empty(), "{name}: {}\n{text}", parsed.warnings);
        seen += 1;
    }
    assert!(seen >= 14, "only {seen} golden files were found");
}

#[test]
fn every_guess_names_a_file_that_is_there_and_a_line_that_it_has() {
    for (name, _, whole) in goldens() {
        let (input, _) = whole.split_once(RULE).unwrap_or((whole.as_str(), ""));
        let folder = folder(&name, input);
        for reason in propose(&folder).expect("recognised").reasons {
            let is_folder = folder.files.keys().any(|path| path.starts_with(&format!("{}/", reason.file)));
            let file = folder.files.get(&reason.file);
            assert!(file.is_some() || is_folder || reason.file == folder.name, "{name}: {reason:?}");
            if let (Some(line), Some(Some(text))) = (reason.line, file) {
                assert!(line >= 1 && line <= text.lines().count(), "{name}: {reason:?}");
            }
            assert!(!reason.what.is_empty() && !reason.found.is_empty(), "{name}: {reason:?}");
        }
    }
}

#[test]
fn a_folder_without_any_known_file_has_no_proposal() {
    assert_eq!(propose(&folder("notes", "== README.md\nhello\n== data/a.csv\n1\n")), None);
    assert_eq!(propose(&folder("library", "== Cargo.toml\n[package]\nname = \"lib\"\n== src/lib.rs\n")), None);
}

#[test]
fn no_proposal_has_the_name_of_a_part_of_ours() {
    for part in mainstay_stack::OUR_PARTS {
        let files = BTreeMap::from([("Procfile".to_owned(), Some(format!("{part}: ./server --port $PORT\n")))]);
        let proposal = propose(&Folder { name: part.to_owned(), files }).expect("a proposal");
        assert_eq!(proposal.services[0].name, format!("my-{part}"));
        assert!(mainstay_stack::parse(&render(&proposal), "x", &EnvironmentName::default()).is_ok(), "{part}");
    }
}

#[test]
fn hostile_files_bring_no_reader_down() {
    let nasty = [
        "",
        "{",
        "[package",
        "services:\n  :\n    image",
        "<artifactId>",
        "\u{0}\u{1b}[31m",
        "web:\nweb: \n: x",
        "==== =",
    ];
    let files = [
        "Procfile",
        "Cargo.toml",
        "package.json",
        "Gemfile",
        "requirements.txt",
        "pyproject.toml",
        "pom.xml",
        "build.gradle",
        "compose.yaml",
        "app.py",
        "manage.py",
    ];
    for text in nasty {
        for file in files {
            let files = BTreeMap::from([(file.to_owned(), Some(text.to_owned()))]);
            propose(&Folder { name: "x".to_owned(), files });
        }
        let files = files.iter().map(|file| ((*file).to_owned(), Some(text.to_owned()))).collect();
        if let Some(proposal) = propose(&Folder { name: "\u{1b}".to_owned(), files }) {
            let text = render(&proposal);
            assert!(mainstay_stack::parse(&text, "x", &EnvironmentName::default()).is_ok(), "{text}");
        }
    }
}
