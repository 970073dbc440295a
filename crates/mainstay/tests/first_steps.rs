//! The first commands a person runs, as the program itself answers them: nothing is started here.

use std::path::Path;
use std::process::{Command, Output};

fn mainstay(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mainstay")).args(arguments).current_dir(folder).output().expect("it runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A small application of one's own.
fn application() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("requirements.txt", "flask\ngunicorn\npsycopg2-binary\n");
    write("app.py", "from flask import Flask\n\napp = Flask(__name__)\n");
    folder
}

#[test]
fn init_writes_a_file_that_check_accepts_and_says_what_it_guessed() {
    let folder = application();
    let init = mainstay(folder.path(), &["init"]);
    assert!(init.status.success(), "{}", err(&init));
    assert!(err(&init).contains("app.py:3") && err(&init).contains("requirements.txt:3"), "{}", err(&init));
    assert!(err(&init).lines().all(|line| line.chars().count() <= 120), "{}", err(&init));
    let check = mainstay(folder.path(), &["check"]);
    assert!(check.status.success(), "{}", err(&check));
    assert!(out(&check).contains("services   web × 2"), "{}", out(&check));
}

#[test]
fn init_never_overwrites_not_even_a_dangling_link() {
    let folder = application();
    let file = folder.path().join("mainstay.toml");
    std::fs::write(&file, "mine").expect("written");
    let refused = mainstay(folder.path(), &["init", "."]);
    assert_eq!(refused.status.code(), Some(4), "{}", err(&refused));
    assert!(err(&refused).contains("MS4070"), "{}", err(&refused));
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "mine");
    std::fs::remove_file(&file).expect("removed");
    std::os::unix::fs::symlink("elsewhere.toml", &file).expect("a link");
    assert_eq!(mainstay(folder.path(), &["init"]).status.code(), Some(4));
    assert!(!folder.path().join("elsewhere.toml").exists());
}

#[test]
fn init_prints_without_writing_as_text_and_as_json() {
    let folder = application();
    let printed = mainstay(folder.path(), &["init", "--print"]);
    assert!(printed.status.success() && out(&printed).contains("[service.web]"), "{}", out(&printed));
    let json = mainstay(folder.path(), &["init", "--print", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["toml"].as_str(), Some(out(&printed).as_str()));
    assert!(value["written"].is_null());
    let guessed = value["guessed"].as_array().expect("guesses");
    assert!(guessed.iter().any(|guess| guess["file"] == "app.py" && guess["line"] == 3), "{value}");
    assert!(!folder.path().join("mainstay.toml").exists());
    let json = mainstay(folder.path(), &["init", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(value["written"].as_str().is_some_and(|file| Path::new(file).exists()), "{value}");
}

#[test]
fn init_says_what_it_understands_when_it_finds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let nothing = mainstay(folder.path(), &["init"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(err(&nothing).contains("MS2070") && err(&nothing).contains("Procfile"), "{}", err(&nothing));
    let nowhere = mainstay(folder.path(), &["init", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(err(&nowhere).contains("MS2071"), "{}", err(&nowhere));
}
