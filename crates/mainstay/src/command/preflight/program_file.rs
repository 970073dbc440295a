//! The file that an interpreter of a command is to run: `java -jar target/shop.jar`, `node dist/main.js`. The program is
//! there then, and still nothing starts.

use std::path::Path;

use crate::failure::Failure;

/// Options of interpreters that take no further word, so that the program's file is what follows.
const LONE: [(&str, &[&str]); 3] = [
    ("node", &["--enable-source-maps", "--no-deprecation", "--no-warnings", "--trace-warnings", "--expose-gc"]),
    ("python", &["-u", "-B", "-O", "-OO", "-E", "-s", "-S", "-I", "-b"]),
    ("ruby", &["-w", "-W0", "--yjit"]),
];
/// How files of programs end. Without an ending, a word may name something else.
const ENDS: [&str; 9] = [".js", ".mjs", ".cjs", ".ts", ".py", ".rb", ".php", ".pl", ".sh"];

/// Whether the file is there.
///
/// # Errors
/// Which one is not, and what makes it.
pub(super) fn check(service: &str, command: &[String], dir: &Path) -> Result<(), Failure> {
    let Some(file) = of(command) else { return Ok(()) };
    if dir.join(&file).exists() {
        return Ok(());
    }
    let text = format!("service {service}: there is no file {file} in {}", dir.display());
    Err(Failure::environment("MS3021", text).help(maker(&file, dir)))
}

/// The file, where the command names it beyond doubt: what a shell or a template puts in is known when it runs.
fn of(command: &[String]) -> Option<String> {
    let words = words(command);
    let mut words = words.iter().map(String::as_str).skip_while(|word| is_setting(word));
    let program = words.next()?;
    let program = program.rsplit('/').next().unwrap_or(program);
    let file = match program {
        "java" => {
            words.find(|word| *word == "-jar")?;
            words.next()?
        }
        "node" | "nodejs" => script("node", words)?,
        "ruby" | "php" | "perl" | "sh" | "bash" => script(program, words)?,
        _ if program
            .strip_prefix("python")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.')) =>
        {
            script("python", words)?
        }
        _ => return None,
    };
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+@".contains(letter);
    (!file.starts_with('-') && file.chars().all(is_plain)).then(|| file.to_owned())
}

/// `env` and what it sets.
fn is_setting(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    word == "env" || !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn script<'w>(interpreter: &str, mut words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let lone = LONE.iter().find(|(name, _)| *name == interpreter).map_or(&[][..], |(_, lone)| *lone);
    words.find(|word| !lone.contains(word)).filter(|word| ENDS.iter().any(|end| word.ends_with(end)))
}

/// The words of a command; of a shell's line, those of the program that the shell becomes, when it is written plainly.
fn words(command: &[String]) -> Vec<String> {
    let [shell, flag, script] = command else { return command.to_vec() };
    if !["sh", "bash", "/bin/sh", "/bin/bash"].contains(&shell.as_str()) || flag != "-c" {
        return command.to_vec();
    }
    let Some(line) =
        script.strip_prefix("exec ").filter(|line| !line.contains(['|', '&', ';', '<', '>', '`', '(', '\n']))
    else {
        return Vec::new();
    };
    line.split_whitespace().map(str::to_owned).collect()
}

/// What makes the file, as far as its path and what lies beside tell.
fn maker(file: &str, dir: &Path) -> String {
    let has = |name: &str| dir.join(name).is_file();
    let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let make = |command: &str| format!("it is not built yet: `cd {} && {command}`", folder.display());
    let is_in = |names: &[&str]| names.iter().any(|name| file.trim_start_matches("./").starts_with(name));
    let is_archive = file.ends_with(".jar") || file.ends_with(".war");
    if is_archive && is_in(&["target/"]) && has("pom.xml") {
        return make(if has("mvnw") { "./mvnw --batch-mode package" } else { "mvn --batch-mode package" });
    }
    if is_archive && is_in(&["build/"]) && (has("build.gradle") || has("build.gradle.kts")) {
        return make(if has("gradlew") { "./gradlew bootJar" } else { "gradle bootJar" });
    }
    if is_in(&["dist/", "build/", ".output/", ".next/"]) && has("package.json") {
        return make("npm run build");
    }
    "build it first, or mend the path: it is relative to the service's `dir`".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(words: &[&str]) -> Option<String> {
        of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_file_of_an_interpreter_is_told_from_its_options() {
        for (words, wanted) in [
            (&["java", "-jar", "target/x.jar"][..], Some("target/x.jar")),
            (&["/usr/bin/java", "-Xmx512m", "-jar", "a.jar", "--x"], Some("a.jar")),
            (&["sh", "-c", "exec java -jar target/x.jar --server.port=$PORT"], Some("target/x.jar")),
            (&["sh", "-c", "exec env A=1 java -jar target/x.jar"], Some("target/x.jar")),
            (&["node", "--enable-source-maps", "dist/main.js"], Some("dist/main.js")),
            (&[".venv/bin/python", "-u", "app.py"], Some("app.py")),
            (&["python3.12", "app.py"], Some("app.py")),
            // Nobody knows yet, or there is no such file.
            (&["java", "-cp", "lib/a.jar", "shop.Main"], None),
            (&["java", "-jar", "${JAR}"], None),
            (&["sh", "-c", "exec java -jar target/*.jar"], None),
            (&["sh", "-c", "mvn package && java -jar target/x.jar"], None),
            (&["sh", "-c", "exec java -jar target/x.jar || true"], None),
            (&["node", "-r", "./tracing.js", "main.js"], None),
            (&["node", "server"], None),
            (&["python", "-m", "shop.py"], None),
            (&["./server", "app.py"], None),
        ] {
            assert_eq!(file(words).as_deref(), wanted, "{words:?}");
        }
    }

    #[test]
    fn a_jar_that_is_not_built_is_said_with_what_builds_it() {
        let folder = tempfile::tempdir().expect("folder");
        let command = ["java", "-jar", "target/x.jar"].map(str::to_owned);
        std::fs::write(folder.path().join("pom.xml"), "").expect("written");
        let failure = check("web", &command, folder.path()).expect_err("missing");
        assert_eq!(failure.name, "MS3021");
        assert!(failure.text.contains("there is no file target/x.jar"), "{}", failure.text);
        assert!(failure.help.as_deref().is_some_and(|help| help.contains("mvn --batch-mode package")), "{failure:?}");
        std::fs::create_dir(folder.path().join("target")).expect("made");
        std::fs::write(folder.path().join("target/x.jar"), "").expect("written");
        assert!(check("web", &command, folder.path()).is_ok());
    }
}
