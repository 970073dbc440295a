//! pom.xml or build.gradle: a Spring Boot application, started from the jar that its build makes.

use super::folder::View;
use super::text::{Command, add_service, line_of, reason};
use super::{Part, Service};

/// How the build names its jar, and how it is begun.
struct Build<'f> {
    file: &'static str,
    text: &'f str,
    name: String,
    /// The file that names the project, and its line.
    named: (&'static str, Option<usize>),
    jar: String,
    command: &'static str,
}

pub(super) fn read(view: &View<'_>) -> Option<Part> {
    let build = maven(view).or_else(|| gradle(view))?;
    if !build.text.contains("org.springframework.boot") {
        return None;
    }
    let file = view.full(build.file);
    let mut part = Part::default();
    let at = |needle: &str| line_of(build.text, needle);
    part.name =
        Some((build.name.clone(), reason("", &view.full(build.named.0), build.named.1, "the name of the project")));
    let mut web = Service::new(&build.name, Command::new(format!("java -jar {}", build.jar)), true);
    web.env.insert("SERVER_PORT".to_owned(), "${PORT}".to_owned());
    web.env.insert("SERVER_SHUTDOWN".to_owned(), "graceful".to_owned());
    let found = ("spring-boot", "Spring Boot");
    add_service(&mut part, view, web, (build.file, at(found.0), found.1.to_owned()));
    if let Some(line) = at("spring-boot-starter-actuator") {
        set_health(&mut part, "/actuator/health");
        let why = "`spring-boot-starter-actuator`";
        part.reasons.push(reason("health /actuator/health", &file, Some(line), why));
    } else {
        part.open.push(
            "no health path was seen: spring-boot-starter-actuator gives `health = \"/actuator/health\"`".to_owned(),
        );
    }
    data(&mut part, view, &build);
    part.open.push(format!("the jar must be there before `mainstay up`: {}", build.command));
    Some(part)
}

fn set_health(part: &mut Part, path: &str) {
    part.health = Some(path.to_owned());
    for service in &mut part.services {
        service.health.clone_from(&part.health);
    }
}

fn data(part: &mut Part, view: &View<'_>, build: &Build<'_>) {
    let file = view.full(build.file);
    let find = |needles: &[&'static str]| {
        needles.iter().find_map(|needle| line_of(build.text, needle).map(|line| (*needle, line)))
    };
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

fn maven<'f>(view: &View<'f>) -> Option<Build<'f>> {
    let text = view.text("pom.xml")?;
    // The parent has names of its own, which come first.
    let own = text.split_once("</parent>").map_or(text, |(_, rest)| rest);
    let own = own.split_once("<dependencies>").map_or(own, |(head, _)| head);
    let name = tag(own, "artifactId")?.to_owned();
    let version = tag(own, "version").unwrap_or("0.0.1-SNAPSHOT");
    let jar = match tag(text, "finalName").filter(|name| !name.contains('$')) {
        Some(name) => format!("target/{name}.jar"),
        None => format!("target/{name}-{version}.jar"),
    };
    let command = if view.has("mvnw") { "./mvnw --batch-mode package" } else { "mvn --batch-mode package" };
    let named = ("pom.xml", line_of(text, &name));
    Some(Build { file: "pom.xml", text, name, named, jar, command })
}

fn tag<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(value, _)| value.trim())
}

fn gradle<'f>(view: &View<'f>) -> Option<Build<'f>> {
    let file = ["build.gradle", "build.gradle.kts"].into_iter().find(|file| view.text(file).is_some())?;
    let text = view.text(file)?;
    let settings =
        ["settings.gradle", "settings.gradle.kts"].into_iter().find_map(|file| Some((file, view.text(file)?)));
    let name = settings.and_then(|(_, text)| assigned(text, "rootProject.name")).or_else(|| view.dir());
    let name = name.unwrap_or_else(|| "app".to_owned());
    let named = settings.map_or((file, None), |(file, text)| (file, line_of(text, "rootProject.name")));
    let jar = match assigned(text, "version") {
        Some(version) => format!("build/libs/{name}-{version}.jar"),
        None => format!("build/libs/{name}.jar"),
    };
    let command = if view.has("gradlew") { "./gradlew bootJar" } else { "gradle bootJar" };
    Some(Build { file, text, name, named, jar, command })
}

/// `KEY = "VALUE"` in either of Gradle's languages.
fn assigned(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(key)?.trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
        let quote = rest.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
        rest[1..].split(quote).next().map(str::to_owned)
    })
}
