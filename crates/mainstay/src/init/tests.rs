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
    Folder { name: name.to_owned(), files, ..Folder::default() }
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
        let proposal = propose(&folder(&name, input))
            .unwrap_or_else(|unread| panic!("{name}: nothing was recognised: {unread:?}"));
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
        let text = render(&propose(&folder(&name, input)).unwrap_or_else(|_| panic!("{name}: nothing recognised")));
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

/// `hunter2` is every password of the golden files.
#[test]
fn no_password_reaches_the_stack_file_or_what_is_said() {
    let mut seen = 0;
    for (name, _, whole) in goldens() {
        let (input, _) = whole.split_once(RULE).unwrap_or((whole.as_str(), ""));
        let proposal = propose(&folder(&name, input)).expect("recognised");
        seen += usize::from(input.contains("hunter2"));
        let told = format!("{}{:?}", said(&proposal), proposal.open);
        assert!(!told.contains("hunter2"), "{name}: {told}");
    }
    assert!(seen >= 4, "only {seen} golden files hold a password");
}

#[test]
fn a_folder_without_any_known_file_has_no_proposal() {
    assert_eq!(propose(&folder("notes", "== README.md\nhello\n== data/a.csv\n1\n")), Err(Nothing::default()));
    let nothing = propose(&folder("library", "== Cargo.toml\n[package]\nname = \"lib\"\n== src/lib.rs\n"))
        .expect_err("a library starts nothing");
    assert_eq!((nothing.unread.len(), nothing.lacking.len()), (0, 1), "{nothing:?}");
}

#[test]
fn byte_order_marks_utf16_and_other_line_ends_change_nothing() {
    let marked = |text: &str| [b"\xef\xbb\xbf", text.replace('\n', "\r\n").as_bytes()].concat();
    let wide = |text: &str| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let old = |text: &str| text.replace('\n', "\r").into_bytes();
    for (name, _, whole) in goldens() {
        let (input, _) = whole.split_once(RULE).unwrap_or((whole.as_str(), ""));
        let plain = folder(&name, input);
        let expected = propose(&plain);
        for write in [&marked as &dyn Fn(&str) -> Vec<u8>, &wide, &old] {
            let mut odd = Folder { name: name.clone(), ..Folder::default() };
            for (path, text) in &plain.files {
                match text {
                    Some(text) => odd.put(path.clone(), &write(text)),
                    None => _ = odd.files.insert(path.clone(), None),
                }
            }
            assert_eq!(propose(&odd), expected, "{name}");
        }
    }
}

/// What is said of a folder that holds only this file.
fn unread(file: &str, bytes: &[u8]) -> String {
    let mut folder = Folder { name: "x".to_owned(), ..Folder::default() };
    folder.put(file.to_owned(), bytes);
    let all = propose(&folder).expect_err("nothing else is there");
    all.unread.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_process_that_stands_twice_in_a_procfile_is_named_with_its_line() {
    let mut folder = Folder { name: "x".to_owned(), ..Folder::default() };
    folder.put("Procfile".to_owned(), b"web: ./a\nWeb: ./b\n");
    let proposal = propose(&folder).expect("one of them is proposed");
    assert_eq!(proposal.services.len(), 1);
    assert_eq!(proposal.unread[0].to_string(), "Procfile:2 was not read: a process of that name stands above");
}

#[test]
fn what_cannot_be_read_is_said_with_file_line_and_reason() {
    for (file, text, wanted) in [
        (
            "package.json",
            "{\n  \"name\": \"x\"\n  \"scripts\": {}\n}",
            "package.json:3 was not read: it is no JSON: expected",
        ),
        ("package.json", "", "package.json:1 was not read: it is no JSON: EOF"),
        ("package.json", "[]", "package.json:1 was not read: it is no JSON object"),
        ("package.json", "{\n\"scripts\": []}", "package.json:2 was not read: `scripts` is no object"),
        ("Cargo.toml", "[package]\nname = \n", "Cargo.toml:2 was not read: it is no TOML"),
        ("pyproject.toml", "[project\n", "pyproject.toml:1 was not read: it is no TOML"),
        ("Procfile", "# mine\nweb ./server\n", "Procfile:2 was not read: the line is no `NAME: COMMAND`"),
        ("requirements.txt", "\n-r base.txt\n", "requirements.txt:2 was not read: init does not follow `-r base.txt`"),
        ("compose.yaml", "services:\n  web: {image: [}\n", "compose.yaml:2 was not read: "),
        ("compose.yaml", "web:\n  image: redis\n", "compose.yaml:1 was not read: it has no `services`"),
        ("compose.yaml", "services:\n  web: redis\n", "compose.yaml:2 was not read: the service `web` is no map"),
        ("compose.yaml", "services:\n  a: {}\n  a: {}\n", "compose.yaml:3 was not read: the key `a` is there twice"),
        ("pom.xml", "<project>\n<a></b></project>", "pom.xml:2 was not read: it is no XML: expected 'a' tag, not 'b'"),
        ("pom.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]>\n<x/>", "pom.xml:1 was not read: it is no XML: XML with DTD"),
        ("compose.yaml", "", "compose.yaml:1 was not read: it has no `services`"),
    ] {
        let found = unread(file, text.as_bytes());
        assert!(found.contains(wanted), "{file} {text:?}: {found}");
    }
    assert!(unread("Procfile", b"web: ./a\nb: \xe9\n").contains("Procfile:2 was not read: it is not UTF-8"));
    assert!(unread("Procfile", b"web: ./a\nb: \0\n").contains("Procfile:2 was not read: it holds a NUL"));
    assert!(unread("Procfile", b"\xff\xfew").contains("Procfile was not read: it is broken UTF-16"));
}

#[test]
fn a_program_in_another_encoding_is_searched_all_the_same() {
    let mut folder = Folder { name: "x".to_owned(), ..Folder::default() };
    folder.put("requirements.txt".to_owned(), b"flask\ngunicorn\n");
    folder.put("app.py".to_owned(), b"# caf\xe9\nfrom flask import Flask\napp = Flask(__name__)\n");
    let proposal = propose(&folder).expect("a proposal");
    assert!(proposal.reasons.iter().any(|reason| reason.file == "app.py" && reason.line == Some(3)), "{proposal:?}");
}

#[test]
fn no_proposal_has_the_name_of_a_part_of_ours() {
    for part in mainstay_stack::OUR_PARTS {
        let files = BTreeMap::from([("Procfile".to_owned(), Some(format!("{part}: ./server --port $PORT\n")))]);
        let proposal = propose(&Folder { name: part.to_owned(), files, ..Folder::default() }).expect("a proposal");
        assert_eq!(proposal.services[0].name, format!("my-{part}"));
        assert!(mainstay_stack::parse(&render(&proposal), "x", &EnvironmentName::default()).is_ok(), "{part}");
    }
}

#[test]
fn a_file_whose_name_holds_control_characters_breaks_no_proposal() {
    let mut folder = Folder { name: "x".to_owned(), ..Folder::default() };
    folder.put("Procfile".to_owned(), b"web: ./server --port $PORT\n");
    folder.put_unread("a\u{1b}[31m\u{7}".to_owned(), "it is not a file");
    let text = render(&propose(&folder).expect("a proposal"));
    assert!(text.contains("a?[31m?"), "{text}");
    assert!(mainstay_stack::parse(&text, "x", &EnvironmentName::default()).is_ok(), "{text}");
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
            propose(&Folder { name: "x".to_owned(), files, ..Folder::default() }).ok();
        }
        let files = files.iter().map(|file| ((*file).to_owned(), Some(text.to_owned()))).collect();
        if let Ok(proposal) = propose(&Folder { name: "\u{1b}".to_owned(), files, ..Folder::default() }) {
            let text = render(&proposal);
            assert!(mainstay_stack::parse(&text, "x", &EnvironmentName::default()).is_ok(), "{text}");
        }
    }
}
