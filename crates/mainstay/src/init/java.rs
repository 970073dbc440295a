//! pom.xml or build.gradle: a Spring Boot application, started from the jar that its build makes.

use roxmltree::{Document, Node};

use super::folder::View;
use super::spring::Settings;
use super::text::{Command, add_service, line_of, reason};
use super::{Part, Service};

/// How the build names its jar, and how it is begun.
struct Build {
    file: &'static str,
    /// What it depends on and is built by, with lines.
    says: Vec<(String, usize)>,
    name: String,
    /// The file that names the project, and its line; `None`: its folder does.
    named: Option<(&'static str, Option<usize>)>,
    jar: String,
    command: &'static str,
}

impl Build {
    fn line_of(&self, needle: &str) -> Option<usize> {
        self.says.iter().find(|(text, _)| text.contains(needle)).map(|(_, line)| *line)
    }
}

pub(super) fn read(view: &View<'_>) -> Option<Part> {
    let build = maven(view).or_else(|| gradle(view))?;
    let Some(spring) = build.line_of("org.springframework.boot") else {
        // A Procfile names the program: what it needs counts all the same.
        let mut part = Part::default();
        data(&mut part, view, &build);
        part.env.clear();
        return (view.has("Procfile") && part.says_something()).then_some(part);
    };
    let file = view.full(build.file);
    let name = build
        .named
        .map(|(file, line)| (build.name.clone(), reason("", &view.full(file), line, "the name of the project")));
    let mut part = Part { name, ..Part::default() };
    let web = Service::new(&build.name, Command::new(format!("java -jar {}", build.jar)), true);
    // A Procfile's programs are given these, too.
    for (name, value) in [("SERVER_PORT", "${PORT}"), ("SERVER_ADDRESS", "127.0.0.1"), ("SERVER_SHUTDOWN", "graceful")]
    {
        part.env.insert(name.to_owned(), value.to_owned());
    }
    add_service(&mut part, view, web, (build.file, Some(spring), "Spring Boot".to_owned()));
    health(&mut part, view, &build);
    data(&mut part, view, &build);
    if build.jar.contains("${") {
        part.open.push(format!("{file} makes the jar's name of what init does not know: put its name into `run`"));
    }
    part.open.push(format!("the jar must be there before `mainstay up`: {}", build.command));
    Some(part)
}

/// Where it answers whether it is well, by its dependencies and its own settings.
fn health(part: &mut Part, view: &View<'_>, build: &Build) {
    let settings = Settings::read(part, view);
    settings.port(part);
    let Some(line) = build.line_of("spring-boot-starter-actuator") else {
        part.open.push(
            "no health path was seen: spring-boot-starter-actuator gives `health = \"/actuator/health\"`".to_owned(),
        );
        return;
    };
    let health = match settings.health() {
        Ok(health) => health,
        Err(open) => return part.open.push(open),
    };
    part.health = Some(health.path.clone());
    part.has_management_port = health.is_on_management;
    if health.is_on_management {
        part.env.insert("MANAGEMENT_SERVER_PORT".to_owned(), "${MANAGEMENT_PORT}".to_owned());
        part.env.insert("MANAGEMENT_SERVER_ADDRESS".to_owned(), "127.0.0.1".to_owned());
    }
    for service in &mut part.services {
        service.health.clone_from(&part.health);
        service.has_management_port = part.has_management_port;
    }
    let why = "`spring-boot-starter-actuator`";
    part.reasons.push(reason(format!("health {}", health.path), &view.full(build.file), Some(line), why));
    settings.say(part, &health);
}

fn data(part: &mut Part, view: &View<'_>, build: &Build) {
    let file = view.full(build.file);
    let find =
        |needles: &[&'static str]| needles.iter().find_map(|needle| build.line_of(needle).map(|line| (*needle, line)));
    if let Some((name, line)) = find(&["org.postgresql", "r2dbc-postgresql"]) {
        part.has_database = true;
        part.reasons.push(reason("database (PostgreSQL)", &file, Some(line), format!("`{name}`")));
        for (name, value) in [
            ("SPRING_DATASOURCE_URL", "jdbc:postgresql://${DATABASE_HOST}:${DATABASE_PORT}/${DATABASE_NAME}"),
            ("SPRING_DATASOURCE_USERNAME", "${DATABASE_USER}"),
            ("SPRING_DATASOURCE_PASSWORD", "${DATABASE_PASSWORD}"),
        ] {
            part.env.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some((name, line)) =
        find(&["spring-boot-starter-data-redis", "spring-session-data-redis", "jedis", "lettuce"])
    {
        part.has_cache = true;
        part.env.insert("SPRING_DATA_REDIS_URL".to_owned(), "${REDIS_URL}".to_owned());
        part.reasons.push(reason("cache (Redis)", &file, Some(line), format!("`{name}`")));
    }
    if let Some((name, line)) = find(&["flyway", "liquibase"]) {
        part.migrates_itself = true;
        let what = "no `migrations`: the application runs its own";
        part.reasons.push(reason(what, &file, Some(line), format!("`{name}`")));
    }
}

fn maven(view: &View<'_>) -> Option<Build> {
    // Why it cannot be read is said by `unread`.
    let document = Document::parse(view.text("pom.xml")?).ok()?;
    let project = document.root_element();
    // One that only gathers others makes no jar: they are looked at, each in its folder.
    let packaging = text_of(project, &["packaging"]).unwrap_or("jar");
    if packaging == "pom" {
        return None;
    }
    let name = text_of(project, &["artifactId"])?.to_owned();
    let version = text_of(project, &["version"]).or_else(|| text_of(project, &["parent", "version"]));
    let version = resolved(project, version.unwrap_or("0.0.1-SNAPSHOT"));
    let jar = text_of(project, &["build", "finalName"]).map(|name| resolved(project, name));
    let jar = jar.unwrap_or_else(|| format!("{name}-{version}"));
    let extension = if packaging == "war" { "war" } else { "jar" };
    let line = |node: Node<'_, '_>| document.text_pos_at(node.range().start).row as usize;
    let ids = document.descendants().filter(|node| ["groupId", "artifactId"].contains(&node.tag_name().name()));
    let says = ids.filter_map(|node| Some((node.text()?.trim().to_owned(), line(node)))).collect();
    let named = child(project, "artifactId").map(line);
    let command = if view.has("mvnw") { "./mvnw --batch-mode package" } else { "mvn --batch-mode package" };
    let jar = format!("target/{jar}.{extension}");
    Some(Build { file: "pom.xml", says, name, named: Some(("pom.xml", named)), jar, command })
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.tag_name().name() == name)
}

/// The text of an element, by its path.
fn text_of<'a>(node: Node<'a, '_>, path: &[&str]) -> Option<&'a str> {
    let found = path.iter().try_fold(node, |node, name| child(node, name))?;
    found.text().map(str::trim).filter(|text| !text.is_empty())
}

/// `${revision}` and its like, as the pom's own properties say; what they do not say stays.
fn resolved(project: Node<'_, '_>, text: &str) -> String {
    let mut out = text.to_owned();
    // Properties may be made of properties; a circle ends all the same.
    for _ in 0..4 {
        let Some((before, (name, after))) =
            out.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        else {
            break;
        };
        let value = match name.strip_prefix("project.").or_else(|| name.strip_prefix("pom.")) {
            Some("version") => text_of(project, &["version"]).or_else(|| text_of(project, &["parent", "version"])),
            Some(own) => text_of(project, &[own]),
            None => text_of(project, &["properties", name]),
        };
        let Some(value) = value else { break };
        out = format!("{before}{value}{after}");
    }
    out
}

fn gradle(view: &View<'_>) -> Option<Build> {
    let file = ["build.gradle", "build.gradle.kts"].into_iter().find(|file| view.text(file).is_some())?;
    let text = view.text(file)?;
    let settings =
        ["settings.gradle", "settings.gradle.kts"].into_iter().find_map(|file| Some((file, view.text(file)?)));
    let given = settings.and_then(|(file, text)| Some((assigned(text, "rootProject.name")?, file, text)));
    // Without a name in the settings, a project has that of its folder.
    let (name, named) = match given {
        Some((name, file, text)) => (name, Some((file, line_of(text, "rootProject.name")))),
        None => (view.name().to_owned(), None),
    };
    let properties = view.text("gradle.properties").unwrap_or_default();
    let property =
        properties.lines().find_map(|line| line.trim().strip_prefix("version")?.trim_start().strip_prefix('='));
    let version = assigned(text, "version").or_else(|| property.map(|version| version.trim().to_owned()));
    let base = assigned(text, "archiveBaseName").unwrap_or_else(|| name.clone());
    let jar = match (assigned(text, "archiveFileName"), version) {
        (Some(whole), _) => format!("build/libs/{whole}"),
        (None, Some(version)) => format!("build/libs/{base}-{version}.jar"),
        (None, None) => format!("build/libs/{base}.jar"),
    };
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let says = code.map(|(index, line)| (line.to_owned(), index + 1)).collect();
    let command = if view.has("gradlew") { "./gradlew bootJar" } else { "gradle bootJar" };
    Some(Build { file, says, name, named, jar, command })
}

/// `KEY = "VALUE"` and `KEY.set("VALUE")` in either of Gradle's languages.
fn assigned(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        // In a block of one line too: `bootJar { archiveFileName = "app.jar" }`.
        let line = line.trim_start();
        let rest = line.strip_prefix(key).or_else(|| line.split_once("{ ")?.1.trim_start().strip_prefix(key))?;
        let rest = rest.strip_prefix(".set(").unwrap_or(rest).trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
        let quote = rest.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
        rest[1..].split(quote).next().map(str::to_owned)
    })
}
