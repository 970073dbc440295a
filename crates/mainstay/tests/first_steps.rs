//! The first commands a person runs, as the program itself answers them: nothing is started here.

use std::io::Write;
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
    let check = || mainstay(folder.path(), &["check"]);
    let unbuilt = check();
    // The file is right; what it runs is not there yet, and `check` says so as `up` would.
    assert_eq!(unbuilt.status.code(), Some(3), "{}", err(&unbuilt));
    assert!(out(&unbuilt).contains("has no mistake, but `up` would refuse it"), "{}", out(&unbuilt));
    assert!(err(&unbuilt).contains("MS3021") && err(&unbuilt).contains("it is not built yet"), "{}", err(&unbuilt));
    let text = std::fs::read_to_string(folder.path().join("mainstay.toml")).expect("written");
    let program =
        text.split(['"', ' ']).find(|word| word.ends_with("bin/gunicorn")).expect("a program of the proposal");
    let program = folder.path().join(program);
    std::fs::create_dir_all(program.parent().expect("a folder")).expect("made");
    std::fs::copy("/bin/true", &program).expect("a program");
    let checked = check();
    assert!(checked.status.success() && out(&checked).contains("is valid"), "{}", err(&checked));
    assert!(out(&checked).contains("services   web × 2"), "{}", out(&checked));
}

#[test]
fn service_install_prints_the_unit_as_text_and_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mainstay.toml"), "stack = \"shop\"\n[cache]\n").expect("written");
    let print = |more: &[&str]| {
        let all = [&["--state", "s", "service", "install", "--print"], more].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(all).current_dir(folder.path()).env("HOME", "/root").output().expect("it runs")
    };
    let text = out(&print(&[]));
    assert!(text.contains("[Service]") && text.contains("up --service"), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&print(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["text"].as_str(), Some(text.as_str()));
    assert_eq!(json["unit"], "mainstay-shop-development.service");
    assert!(json["file"].as_str().is_some_and(|file| file.ends_with("/mainstay-shop-development.service")), "{json}");
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
    // What is there is told with what it lacks, and a folder is no file.
    std::fs::write(folder.path().join("package.json"), "{}").expect("written");
    let lacking = mainstay(folder.path(), &["init"]);
    assert!(err(&lacking).contains("package.json: it has no script `start`"), "{}", err(&lacking));
    std::fs::create_dir(folder.path().join("Procfile")).expect("made");
    let unread = mainstay(folder.path(), &["init"]);
    assert!(err(&unread).contains("MS2073"), "{}", err(&unread));
    assert!(err(&unread).contains("Procfile was not read: it is a folder"), "{}", err(&unread));
    let nowhere = mainstay(folder.path(), &["init", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(err(&nowhere).contains("error[MS2071]: there is no folder nowhere"), "{}", err(&nowhere));
    let file = mainstay(folder.path(), &["init", "package.json"]);
    assert!(err(&file).contains("error[MS2071]: package.json is not a folder"), "{}", err(&file));
    // A circle of links is no lack of a folder; nor is one that this user may not enter, which root may.
    std::os::unix::fs::symlink("circle", folder.path().join("circle")).expect("a link");
    let circle = mainstay(folder.path(), &["init", "circle"]);
    assert!(err(&circle).contains("error[MS2071]: cannot enter the folder circle: "), "{}", err(&circle));
    assert!(
        ["compose.yml", "docker-compose.yaml"].iter().all(|name| err(&nothing).contains(name)),
        "{}",
        err(&nothing)
    );
}

/// A state folder with an authority, as an `up` leaves it, and the arguments of a command about it.
fn with_authority(folder: &Path) -> Vec<String> {
    std::fs::write(folder.join("mainstay.toml"), "stack = \"shop\"\n[cache]\n").expect("written");
    let ca = folder.join("state/shop/development/ca");
    let now = mainstay_types::Timestamp::from_micros(1_790_000_000_000_000);
    mainstay_edge::ca::local_ca(&ca, &["shop.localhost".to_owned()], now).expect("made");
    let state = folder.join("state").display().to_string();
    let root = folder.join("root").display().to_string();
    ["--state", &state, "trust", "--root", &root].map(str::to_owned).to_vec()
}

#[test]
fn trust_puts_the_authority_into_the_store_and_takes_it_out_again() {
    if !Path::new("/usr/sbin/update-ca-certificates").exists() {
        skipped("no update-ca-certificates on this machine");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let common = with_authority(folder.path());
    let trust = |more: &[&str]| {
        let arguments: Vec<&str> = common.iter().map(String::as_str).chain(more.iter().copied()).collect();
        mainstay(folder.path(), &arguments)
    };
    let pem = std::fs::read_to_string(out(&trust(&["--path"])).trim()).expect("the path of the certificate");
    let body = pem.lines().nth(3).expect("a line of it");
    let bundle = folder.path().join("root/etc/ssl/certs/ca-certificates.crt");
    let has = || std::fs::read_to_string(&bundle).unwrap_or_default().contains(body);

    let shown = trust(&[]);
    assert!(shown.status.success(), "{}", err(&shown));
    assert!(out(&shown).contains("mainstay local CA shop.localhost") && out(&shown).contains("does not trust it"));
    assert!(out(&shown).lines().chain(err(&shown).lines()).count() > 6);
    let installed = trust(&["--install"]);
    assert!(installed.status.success() && has(), "{}", err(&installed));
    assert!(out(&trust(&["--install"])).contains("nothing was changed"));
    let json: serde_json::Value = serde_json::from_slice(&trust(&["--json"]).stdout).expect("JSON");
    assert_eq!(json["in_system_store"], true, "{json}");
    let path: serde_json::Value = serde_json::from_slice(&trust(&["--path", "--json"]).stdout).expect("JSON");
    assert_eq!(path["certificate"], json["certificate"]);
    assert_eq!(json["fingerprint_sha256"].as_str().map(str::len), Some(95), "{json}");
    let removed = trust(&["--remove"]);
    assert!(removed.status.success() && !has(), "{}", err(&removed));
    assert!(bundle.exists(), "the other authorities are still there");
    assert!(out(&trust(&["--remove"])).contains("nothing was changed"));
}

#[test]
fn trust_says_that_there_is_no_authority_before_the_first_up() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mainstay.toml"), "stack = \"shop\"\n[cache]\n").expect("written");
    let state = folder.path().display().to_string();
    let none = mainstay(folder.path(), &["--state", &state, "trust"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(err(&none).contains("MS1070") && err(&none).contains(&format!("--state {state} up`")), "{}", err(&none));
}

/// Names of commands that help shows.
fn commands(folder: &Path) -> Vec<String> {
    let help = out(&mainstay(folder, &["--help"]));
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = list.lines().take_while(|line| line.starts_with("  ")).filter(|line| !line.starts_with("   "));
    lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn the_manual_has_a_page_for_every_command_and_says_its_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    let written = mainstay(folder.path(), &["manual", "--out", "man1"]);
    assert!(written.status.success(), "{}", err(&written));
    let commands = commands(folder.path());
    assert!(commands.len() >= 18, "{commands:?}");
    for name in &commands {
        let page = std::fs::read_to_string(pages.join(format!("mainstay-{name}.1"))).expect("a page");
        for part in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH EXAMPLES", ".SH EXIT STATUS", ".SH FILES"] {
            assert!(page.contains(part), "{name} lacks {part}:\n{page}");
        }
        assert!(page.contains("\\-\\-state"), "{name} does not name the options of every command");
    }
    // Commands of commands have pages too.
    assert!(std::fs::read_dir(&pages).expect("pages").count() > commands.len() + 1);
    let psql = std::fs::read_to_string(pages.join("mainstay-db-psql.1")).expect("a page");
    assert_eq!(out(&mainstay(folder.path(), &["manual", "db", "psql"])), psql);
    let whole = out(&mainstay(folder.path(), &["manual"]));
    assert!(commands.iter().all(|name| whole.contains(&name.replace('-', "\\-"))), "{whole}");
    assert!(!whole.contains("keep(1)"), "a hidden command is shown");
    let unknown = mainstay(folder.path(), &["manual", "upp"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(err(&unknown).contains("MS2072"));
}

#[test]
fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = out(&mainstay(folder.path(), &["completions", "bash"]));
    std::fs::write(folder.path().join("mainstay.bash"), script).expect("written");
    let complete = |words: &str| {
        let count = words.split(' ').count() - 1;
        let text = format!(
            "source ./mainstay.bash; COMP_WORDS=({words}); COMP_CWORD={count}; COMP_LINE='{words}'; \
             _mainstay mainstay \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$((COMP_CWORD - 1))]}}\"; \
             echo \"${{COMPREPLY[@]}}\""
        );
        out(&Command::new("bash").args(["-c", &text]).current_dir(folder.path()).output().expect("bash"))
    };
    assert_eq!(complete("mainstay dri").trim(), "drill");
    assert_eq!(complete("mainstay up --det").trim(), "--detach");
    // Names, and nothing that nobody types.
    assert_eq!(complete("mainstay drill database-cr").trim(), "database-crash");
    assert_eq!(complete("mainstay explain MS207").trim(), "MS2070 MS2071 MS2072 MS2073");
    for hidden in ["thaw", "backup-j", "store-c", "wal"] {
        assert_eq!(complete(&format!("mainstay {hidden}")).trim(), "", "{hidden}");
    }
    let stack = "stack = \"shop\"\n[service.front-page]\nrun = \"./x\"\n";
    std::fs::write(folder.path().join("mainstay.toml"), stack).expect("written");
    for command in ["logs", "env", "run", "exec", "scale", "explain"] {
        assert_eq!(complete(&format!("mainstay {command} fro")).trim(), "front-page", "{command}");
    }
}

/// Not by a macro of printing: the harness keeps that to itself while a test passes.
fn skipped(why: &str) {
    writeln!(std::io::stderr(), "skipped: {why}").expect("stderr");
}

/// A shell of this machine that ends with what it printed; `None`, and a word about it, when there is none.
fn in_shell(shell: &str, folder: &std::path::Path, script: &str) -> Option<String> {
    match Command::new(shell).args(["-c", script]).current_dir(folder).output() {
        Ok(output) => {
            assert!(output.status.success() && err(&output).is_empty(), "{shell}: {}", err(&output));
            Some(out(&output))
        }
        Err(error) => {
            skipped(&format!("{shell} did not load its completions: {error}"));
            None
        }
    }
}

#[test]
fn zsh_and_fish_load_their_completions() {
    let folder = tempfile::tempdir().expect("a folder");
    for (shell, file) in [("zsh", "_mainstay"), ("fish", "mainstay.fish")] {
        let script = out(&mainstay(folder.path(), &["completions", shell]));
        assert!(commands(folder.path()).iter().all(|name| script.contains(name.as_str())), "{shell}");
        std::fs::write(folder.path().join(file), script).expect("written");
    }
    // Found by its name in a folder of functions, as after an installation.
    let zsh = "fpath=($PWD $fpath); autoload -Uz compinit && compinit -u -d ./dump; \
               print -r -- ${_comps[mainstay]}; autoload +X _mainstay && print loaded";
    if let Some(said) = in_shell("zsh", folder.path(), zsh) {
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["_mainstay", "loaded"]);
    }
    std::fs::write(folder.path().join("mainstay.toml"), "[service.front-page]\n").expect("written");
    let fish = "source mainstay.fish; complete -C 'mainstay dri'; complete -C 'mainstay up --det'; \
                complete -C 'mainstay drill database-cr'; complete -C 'mainstay env fro'";
    if let Some(said) = in_shell("fish", folder.path(), fish) {
        let words: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(words, ["drill", "--detach", "database-crash", "front-page"]);
    }
}

#[test]
fn what_is_no_code_is_said_so_also_where_no_stack_is() {
    let folder = tempfile::tempdir().expect("a folder");
    for word in ["MS9999", "foo", "zzzzz"] {
        let unknown = mainstay(folder.path(), &["explain", word]);
        assert_eq!(unknown.status.code(), Some(2));
        assert!(err(&unknown).contains("error[MS2005]: no code is called"), "{word}: {}", err(&unknown));
    }
    assert!(err(&mainstay(folder.path(), &["explain", "foo"])).contains(" explain` lists all codes"));
    let all = out(&mainstay(folder.path(), &["explain"]));
    for code in ["08007   ", "MS0001  the text is not TOML", "MS2005  ", "MS6429  a client asked too often"] {
        assert!(all.lines().any(|line| line.starts_with(code)), "{code} is not in\n{all}");
    }
    // Beside a stack file whose stack is not up, too.
    std::fs::write(folder.path().join("mainstay.toml"), "stack = \"shop\"\n[service.web]\nrun = \"web\"\n")
        .expect("written");
    for word in ["MS9999", "foo", "500", "", "rate_limited", "worker"] {
        let unknown = mainstay(folder.path(), &["--state", "s", "explain", word]);
        assert!(
            err(&unknown).contains("error[MS2005]: ") && unknown.status.code() == Some(2),
            "{word}: {}",
            err(&unknown)
        );
    }
    let known = mainstay(folder.path(), &["--state", "s", "explain", "web"]);
    assert!(err(&known).contains("error[MS1001]: "), "{}", err(&known));
}

#[test]
fn doctor_says_the_same_as_text_within_80_columns_and_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mainstay.toml"), "stack = \"shop\"\n[database]\n").expect("written");
    let doctor = |more: &[&str]| mainstay(folder.path(), &[&["--state", "s", "doctor"], more].concat());
    let text = out(&doctor(&[]));
    let json: serde_json::Value = serde_json::from_slice(&doctor(&["--json"]).stdout).expect("JSON");
    let findings = json.as_array().expect("a list");
    assert!(findings.len() >= 12, "{json}");
    for finding in findings {
        assert!(text.contains(finding["what"].as_str().expect("a name")), "{finding} is not in\n{text}");
        if finding["what"] == "postgresql" {
            let found = finding["found"].as_str().unwrap_or_default();
            let (_, version) = found.split_once("version ").expect("the version");
            assert!(version.split(',').next().is_some_and(|version| version.contains('.')), "{finding}");
        }
        let is_fine = finding["health"] == "fine";
        assert_eq!(finding["mend"].as_array().is_some_and(Vec::is_empty), is_fine, "{finding}");
    }
    assert!(text.contains("backups") && text.contains("not configured"), "{text}");
    assert!(!text.contains("drills"), "nothing was up yet, so no drill is owed:\n{text}");
    assert!(!folder.path().join("s").exists(), "looking makes no state folder");
}

/// As an ordinary user: to root no folder is closed.
#[test]
fn doctor_says_that_a_state_folder_cannot_be_written_to() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().expect("a folder");
    // The program where every user reaches it.
    let program = folder.path().join("mainstay");
    std::fs::copy(env!("CARGO_BIN_EXE_mainstay"), &program).expect("copied");
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).expect("made");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).expect("set");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("set");
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let state = closed.join("state").display().to_string();
    let told = command.args(["--state", &state, "doctor"]).current_dir(&folder).output().expect("runs");
    assert_eq!(told.status.code(), Some(3), "{}", err(&told));
    let said = out(&told).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains(&format!("missing state {}, in which it would be made, cannot be", closed.display())),
        "{said}"
    );
}

#[test]
fn a_drill_that_cannot_end_well_is_refused_before_anything_is_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let few = mainstay(folder.path(), &["drill", "database-crash", "--runs", "-1"]);
    assert!(few.status.code() == Some(2) && err(&few).contains("--runs -1 is not within 1"), "{}", err(&few));
    let nowhere = mainstay(folder.path(), &["drill", "database-crash", "--junit", "none/x.xml"]);
    assert!(nowhere.status.code() == Some(3) && err(&nowhere).contains("mkdir -p none"), "{}", err(&nowhere));
}

#[test]
fn every_command_takes_the_options_of_all() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in commands(folder.path()) {
        let help = out(&mainstay(folder.path(), &[&name, "--help"]));
        for option in ["--file <FILE>", "--env <NAME>", "--state <DIR>", "--json"] {
            assert!(help.contains(option), "`{name} --help` does not name {option}:\n{help}");
        }
    }
}

#[test]
fn check_takes_the_file_as_an_option_and_as_an_argument() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("other.toml"), "stack = \"shop\"\n[cache]\n").expect("written");
    for arguments in [["check", "--file", "other.toml"], ["--file", "other.toml", "check"]] {
        let checked = mainstay(folder.path(), &arguments);
        assert!(out(&checked).contains("other.toml is valid: stack shop"), "{}", err(&checked));
    }
    assert!(mainstay(folder.path(), &["check", "other.toml"]).status.success());
    // The nearer word wins.
    let both = mainstay(folder.path(), &["--file", "absent.toml", "check", "other.toml"]);
    assert!(both.status.success(), "{}", err(&both));
}

#[test]
fn check_says_that_a_jar_is_not_built_and_acts_on_no_terminal() {
    let above = tempfile::tempdir().expect("a folder");
    let folder = above.path().join("a\u{1b}[31mb");
    std::fs::create_dir(&folder).expect("made");
    // Whether java is here is said apart.
    let stack = "stack = \"shop\"\n[service.web]\nrun = \"java -jar target/x.jar\"\n";
    std::fs::write(folder.join("mainstay.toml"), stack).expect("written");
    std::fs::write(folder.join("pom.xml"), "<project/>").expect("written");
    let missing = mainstay(&folder, &["check"]);
    assert_eq!(missing.status.code(), Some(3), "{}", err(&missing));
    assert!(err(&missing).contains("there is no file target/x.jar"), "{}", err(&missing));
    assert!(err(&missing).contains("mvn --batch-mode package"), "{}", err(&missing));
    let named = mainstay(above.path(), &["check", "a\u{1b}[31mb"]);
    let said = format!("{}{}", out(&named), err(&named));
    assert!(said.contains("a\\u{1b}[31mb"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn commands_about_no_stack_answer_in_json_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = mainstay(folder.path(), &[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", out(&output)))
    };
    let same = |value: &serde_json::Value, arguments: &[&str]| {
        assert_eq!(value.as_str().map(str::trim), Some(out(&mainstay(folder.path(), arguments)).trim()));
    };
    let explained = json(&["explain", "ms2070"]);
    assert_eq!(explained["code"], "MS2070");
    same(&explained["page"], &["explain", "MS2070"]);
    let manual = json(&["manual", "db", "psql"]);
    assert_eq!(manual["command"], "mainstay db psql");
    same(&manual["page"], &["manual", "db", "psql"]);
    let completions = json(&["completions", "fish"]);
    assert_eq!(completions["shell"], "fish");
    same(&completions["script"], &["completions", "fish"]);
    assert_eq!(json(&["explain", "MS9999"])["error"]["code"], "MS2005");
}

#[test]
fn init_says_which_file_it_could_not_read_and_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let init = || mainstay(folder.path(), &["init", "--print"]);
    std::fs::write(path("package.json"), "{\n  \"name\": \"shop\",\n  \"scripts\": {\n").expect("written");
    let broken = init();
    assert_eq!(broken.status.code(), Some(2));
    assert!(
        err(&broken).contains("MS2073") && err(&broken).contains("package.json:4 was not read"),
        "{}",
        err(&broken)
    );
    // A link in a circle, one to nowhere, a huge file, a pipe, which nobody writes to.
    std::fs::remove_file(path("package.json")).expect("removed");
    std::os::unix::fs::symlink("package.json", path("package.json")).expect("a link");
    std::os::unix::fs::symlink("nowhere", path("Gemfile")).expect("a link");
    std::fs::write(path("pom.xml"), vec![b' '; 10 << 20]).expect("written");
    assert!(Command::new("mkfifo").arg(path("Procfile")).status().expect("mkfifo").success());
    std::os::unix::fs::symlink(".", path("round")).expect("a link");
    let odd = err(&init());
    for wanted in [
        "package.json was not read: Too many levels of symbolic links",
        "Gemfile was not read: No such file",
        "pom.xml was not read: it has 10485760 bytes",
        "Procfile was not read: it is not a file",
        "round was not read: it is a link to a folder",
    ] {
        assert!(odd.contains(wanted), "{wanted:?} is not in\n{odd}");
    }
    // Beside what says enough, a proposal is made, and says what it lacks.
    std::fs::write(path("requirements.txt"), "flask\ngunicorn\n").expect("written");
    std::fs::write(path("app.py"), "from flask import Flask\napp = Flask(__name__)\n").expect("written");
    let made = init();
    assert!(made.status.success() && out(&made).contains("# - Gemfile was not read"), "{}", out(&made));
    assert!(err(&made).contains("to do: pom.xml was not read"), "{}", err(&made));
    let json = mainstay(folder.path(), &["init", "--print", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["unread"][0]["file"], "Gemfile", "{value}");
    // A link to a file is that file.
    std::fs::write(path("aside"), "web: ./server --port $PORT\n").expect("written");
    std::fs::remove_file(path("Procfile")).expect("removed");
    std::os::unix::fs::symlink("aside", path("Procfile")).expect("a link");
    assert!(out(&init()).contains("exec ./server --port $PORT"), "{}", out(&init()));
}

#[test]
fn a_stack_of_somebody_else_is_said_to_be_one() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mainstay.toml"), "stack = \"shop\"\n[cache]\n").expect("written");
    let state = folder.path().join("s/shop/development");
    std::fs::create_dir_all(&state).expect("made");
    if std::os::unix::fs::chown(&state, Some(65534), None).is_err() {
        skipped("only root gives a folder away");
        return;
    }
    let commands: [&[&str]; 7] = [
        &["status"],
        &["run", "web", "--", "id"],
        &["exec", "web-1", "--", "id"],
        &["db", "psql"],
        &["db", "import", "dump.sql"],
        &["down"],
        &["console"],
    ];
    for command in commands {
        let refused = mainstay(folder.path(), &[&["--state", "s"], command].concat());
        assert_eq!(refused.status.code(), Some(3), "{command:?}: {}", err(&refused));
        let text = err(&refused);
        assert!(text.contains("MS3030") && text.contains("belongs to user 65534, mainstay runs as user 0"), "{text}");
        assert!(text.contains("sudo -u '#65534'"), "{text}");
    }
}

#[test]
fn init_copies_no_value_that_looks_like_a_key_whatever_its_name_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let compose = "services:\n  web:\n    build: .\n    command: [node, x, --key, hunter2]\n    environment:\n      \
                   AUTH: hunter2\n      CERT_PEM: hunter2\n      \
                   STRIPE: sk_live_hunter2\n      AWS_ACCESS_KEY_ID: AKIAHUNTER2HUNTER2\n      \
                   SENTRY_DSN: https://hunter2@o1.ingest.sentry.io/1\n      \
                   WEBHOOK: https://hooks.slack.com/services/T/B/hunter2\n";
    let procfile = "web: STRIPE=sk_live_hunter2 node x --auth user:hunter2 --dsn https://hunter2@sentry.io/1\n\
                    worker: node y -H \"Authorization: Bearer hunter2\"\n";
    for (name, text) in [("compose.yaml", compose), ("Procfile", procfile)] {
        write(name, text);
        let init = mainstay(folder.path(), &["init", "--print"]);
        let all = format!("{}{}", out(&init), err(&init));
        assert!(init.status.success() && !all.to_ascii_lowercase().contains("hunter2"), "{name}: {all}");
        assert!(err(&init).contains("STRIPE is left out"), "{name}: {all}");
        std::fs::remove_file(folder.path().join(name)).expect("removed");
    }
}

#[test]
fn with_json_stdout_is_one_document_also_for_a_command_line_that_is_none_and_an_up_that_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let toml = "stack = \"shop\"\n[service.web]\nrun = \".venv/bin/web\"\n";
    std::fs::write(folder.path().join("mainstay.toml"), toml).expect("written");
    let cases: [(&[&str], i32, &str); 5] = [
        (&["status", "--wach", "--json"], 2, "MS2006"),
        (&["--json"], 2, "MS2006"),
        (&["exec", "--json"], 2, "MS2006"),
        (&["--state", "s", "up", "-d", "--json"], 3, "MS3021"),
        (&["--state", "s", "logs", "--json"], 1, "MS1001"),
    ];
    for (arguments, status, code) in cases {
        let output = mainstay(folder.path(), arguments);
        let json: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", out(&output)));
        assert_eq!(json["error"]["code"], code, "{json}");
        assert_eq!(output.status.code(), Some(status), "{json}");
    }
    let usage = mainstay(folder.path(), &["status", "--wach"]);
    assert!(err(&usage).starts_with("error[MS2006]: unexpected argument '--wach' found\n"), "{}", err(&usage));
    assert_eq!(usage.status.code(), Some(2));
    // After `--` it is another program's.
    let others = mainstay(folder.path(), &["up", "--wach", "--", "--json"]);
    assert!(out(&others).is_empty() && err(&others).contains("--wach"), "{}", err(&others));
}

#[test]
fn a_hint_names_a_command_that_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let toml = "stack = \"shop\"\n[service.web]\nrun = \".venv/bin/web\"\n";
    std::fs::write(folder.path().join("mainstay.toml"), toml).expect("written");
    let check = || err(&mainstay(folder.path(), &["check"]));
    assert!(check().contains("/usr/bin/python3 -m venv .venv` makes") && !check().contains('…'), "{}", check());
    std::fs::write(folder.path().join("requirements.txt"), "flask\n").expect("written");
    assert!(check().contains("venv .venv && .venv/bin/pip install -r requirements.txt`"), "{}", check());
    for command in ["logs", "events"] {
        let never = err(&mainstay(folder.path(), &["--state", "s", command]));
        assert!(never.contains("MS1001") && never.contains("--state s up`"), "{never}");
        assert!(!never.contains(&format!(" {command}`")), "{never}");
    }
}
