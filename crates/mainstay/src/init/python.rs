//! requirements.txt or pyproject.toml: Django, Flask, FastAPI, Celery, or a program of its own.

use toml::de::{DeTable, DeValue};

use super::folder::View;
use super::text::{Command, add_health, add_service, data_tier, first_of, line_of, port_note, reason};
use super::{Part, Service};

const DATABASE: [&str; 9] = [
    "psycopg2",
    "psycopg2-binary",
    "psycopg",
    "psycopg-binary",
    "asyncpg",
    "pg8000",
    "psycopg-pool",
    "aiopg",
    "databases",
];
const CACHE: [&str; 5] = ["redis", "django-redis", "flask-caching", "aioredis", "walrus"];
const QUEUES: [&str; 4] = ["celery", "rq", "dramatiq", "huey"];

/// What the files of the folder say, put together for the readers below.
struct Project<'v, 'f> {
    view: &'v View<'f>,
    /// The file that lists the dependencies, and its text.
    file: &'static str,
    text: &'f str,
    names: Vec<String>,
    /// Folder of the programs that pip installs.
    bin: String,
}

pub(super) fn read(view: &View<'_>) -> Option<Part> {
    let (file, text, names) = dependencies(view)?;
    let venv = ["venv", "env"].into_iter().find(|name| view.has_folder(name)).unwrap_or(".venv");
    let project = Project { view, file, text, names, bin: format!("{venv}/bin") };
    let mut part = Part::default();
    if let Some(name) = project_name(view) {
        part.name = Some(name);
    }
    let is_found = django(&mut part, &project) || asgi_or_wsgi(&mut part, &project) || program(&mut part, &project);
    // A Procfile names the program: what it needs counts all the same.
    let has_procfile = view.has("Procfile");
    if !is_found && !has_procfile {
        return None;
    }
    if !is_found {
        part.open.clear();
    }
    data_tier(&mut part, &view.full(file), text, &project.names, &DATABASE, &CACHE);
    if part.has_database && project.has("sqlalchemy") {
        let url =
            "postgresql://${DATABASE_USER}:${DATABASE_PASSWORD}@${DATABASE_HOST}:${DATABASE_PORT}/${DATABASE_NAME}";
        part.env.insert("DATABASE_URL".to_owned(), url.to_owned());
        part.reasons.push(reason(
            "env DATABASE_URL begins with postgresql://",
            &view.full(file),
            project.line("sqlalchemy"),
            "SQLAlchemy knows no postgres://",
        ));
    }
    celery(&mut part, &project);
    if has_procfile {
        part.open.push(format!(
            "programs of a Procfile are looked for in PATH: with the packages in {venv}, `run` begins with {}/",
            project.bin
        ));
    }
    add_health(&mut part, view);
    // Output must be seen at once, not when a buffer is full.
    part.env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    if !view.has(&format!("{}/python", project.bin)) && !view.has(&format!("{}/python3", project.bin)) {
        let what = if file == "requirements.txt" { "-r requirements.txt" } else { "." };
        part.open.push(format!(
            "packages must be there before `mainstay up`: /usr/bin/python3 -m venv {venv} && {}/pip install {what}",
            project.bin
        ));
    }
    Some(part)
}

impl Project<'_, '_> {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    fn line(&self, name: &str) -> Option<usize> {
        first_of(&self.names, &self.text.to_lowercase(), &[name]).and_then(|known| known.line)
    }

    /// A program that pip installs; says so when the file does not list it.
    fn tool(&self, part: &mut Part, name: &str) -> String {
        if !self.has(name) {
            part.open.push(format!("`{name}` is not in {}: add it, it is what serves the application", self.file));
        }
        format!("{}/{name}", self.bin)
    }
}

/// Dependencies in lower case with `-`, as PyPI compares them.
fn dependencies<'f>(view: &View<'f>) -> Option<(&'static str, &'f str, Vec<String>)> {
    if let Some(text) = view.text("requirements.txt") {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '-']) && !line.is_empty());
        return Some(("requirements.txt", text, lines.map(package).collect()));
    }
    let text = view.text("pyproject.toml")?;
    let (table, _) = DeTable::parse_recoverable(text);
    let table = table.get_ref();
    let inner = |path: &[&str]| path.iter().try_fold(table, |table, key| table.get(*key)?.get_ref().as_table());
    let mut names = Vec::new();
    if let Some(DeValue::Array(items)) =
        inner(&["project"]).and_then(|project| project.get("dependencies")).map(|v| v.get_ref())
    {
        names.extend(items.iter().filter_map(|item| item.get_ref().as_str()).map(package));
    }
    if let Some(poetry) = inner(&["tool", "poetry", "dependencies"]) {
        names.extend(poetry.keys().map(|key| package(key.get_ref())));
    }
    Some(("pyproject.toml", text, names))
}

fn package(line: &str) -> String {
    let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.')));
    line[..end.unwrap_or(line.len())].to_lowercase().replace(['_', '.'], "-")
}

fn project_name(view: &View<'_>) -> Option<(String, super::Reason)> {
    let text = view.text("pyproject.toml")?;
    let (table, _) = DeTable::parse_recoverable(text);
    let table = table.get_ref();
    let project = table.get("project").or_else(|| table.get("tool")?.get_ref().as_table()?.get("poetry"))?;
    let name = project.get_ref().as_table()?.get("name")?;
    let line = super::text::line_at(text, name.span().start);
    Some((name.get_ref().as_str()?.to_owned(), reason("", &view.full("pyproject.toml"), Some(line), "`name`")))
}

fn django(part: &mut Part, project: &Project<'_, '_>) -> bool {
    let view = project.view;
    if !view.has("manage.py") || !project.has("django") {
        return false;
    }
    let module = view.paths().find_map(|path| path.strip_suffix("/wsgi.py")).filter(|module| !module.contains('/'));
    let Some(module) = module else {
        part.open.push("no wsgi.py was found below manage.py: `run` is a guess".to_owned());
        return false;
    };
    let gunicorn = project.tool(part, "gunicorn");
    let command = Command::new(format!("{gunicorn} {module}.wsgi --bind 127.0.0.1:$PORT"));
    let mut web = Service::new("web", command, true);
    let migrate = Command::new(format!("{}/python manage.py migrate --noinput", project.bin));
    part.before = Some(migrate.clone());
    web.before = Some(migrate);
    add_service(part, view, web, (project.file, project.line("django"), format!("`django`, and {module}/wsgi.py")));
    part.reasons.push(reason("before: manage.py migrate", &view.full("manage.py"), None, "migrations of Django"));
    let databases =
        "DATABASES in settings.py must read DATABASE_URL (dj-database-url does) or DATABASE_HOST and its like";
    part.open.push(if DATABASE.iter().any(|driver| project.has(driver)) {
        databases.to_owned()
    } else {
        format!(
            "no driver of PostgreSQL is in {} (psycopg, psycopg2-binary), so no [database] comes from it: to keep data in \
             PostgreSQL add one, and [database] here; then {databases}. The file of SQLite is in no backup, and every release \
             has a folder of its own",
            project.file
        )
    });
    part.open.push("ALLOWED_HOSTS in settings.py must admit the edge's host name and 127.0.0.1".to_owned());
    true
}

/// `NAME = FastAPI(` or `NAME = Flask(` in a program text.
fn asgi_or_wsgi(part: &mut Part, project: &Project<'_, '_>) -> bool {
    let view = project.view;
    let kinds = [
        ("fastapi", "FastAPI("),
        ("starlette", "Starlette("),
        ("litestar", "Litestar("),
        ("quart", "Quart("),
        ("flask", "Flask("),
        ("bottle", "Bottle("),
        ("falcon", "falcon.App("),
    ];
    for (package, call) in kinds {
        if !project.has(package) {
            continue;
        }
        let Some(Found { file, line, object, is_factory, why }) = callable(view, call) else { continue };
        let module =
            file.trim_end_matches(".py").trim_end_matches("/__init__").trim_start_matches("src/").replace('/', ".");
        let is_async = !matches!(package, "flask" | "bottle" | "falcon");
        let command = match (is_async, is_factory) {
            (true, false) => format!("{} {module}:{object}", project.tool(part, "uvicorn")),
            (true, true) => format!("{} --factory {module}:{object}", project.tool(part, "uvicorn")),
            (false, false) => format!("{} {module}:{object}", project.tool(part, "gunicorn")),
            (false, true) => format!("{} '{module}:{object}()'", project.tool(part, "gunicorn")),
        };
        let place = if is_async { "--host 127.0.0.1 --port $PORT" } else { "--bind 127.0.0.1:$PORT" };
        let mut web = Service::new("web", Command::new(format!("{command} {place}")), true);
        let has_source = view.paths().any(|path| path.starts_with("src/") && path.ends_with(".py"));
        if file.starts_with("src/") || has_source && view.text(file).is_some_and(|text| text.contains("import")) {
            web.env.insert("PYTHONPATH".to_owned(), "src".to_owned());
        }
        add_service(part, view, web, (file, Some(line), why));
        return true;
    }
    false
}

/// What a server is told to call.
struct Found<'f> {
    file: &'f str,
    line: usize,
    object: &'f str,
    /// It makes the application first.
    is_factory: bool,
    why: String,
}

/// The application of a program text: made there, made by a factory of the application's own, or that factory.
fn callable<'f>(view: &View<'f>, call: &str) -> Option<Found<'f>> {
    let texts = || view.texts().filter(|(file, _)| file.ends_with(".py") && !file.contains("test"));
    let made = |call: &str| {
        texts().find_map(|(file, text)| {
            let (index, object) = object(text, call)?;
            Some(Found { file, line: index + 1, object, is_factory: false, why: format!("`{object} = {call}…)`") })
        })
    };
    made(call).or_else(|| FACTORIES.into_iter().find_map(|name| made(&format!("{name}(")))).or_else(|| {
        FACTORIES.into_iter().find_map(|name| {
            // One that asks for something cannot be called from outside.
            let needle = format!("def {name}()");
            let (file, line) = texts().find_map(|(file, text)| Some((file, line_of(text, &needle)?)))?;
            Some(Found { file, line, object: name, is_factory: true, why: format!("`{needle}`") })
        })
    })
}

/// How functions that make an application are named.
const FACTORIES: [&str; 4] = ["create_app", "make_app", "get_app", "create_application"];

fn object<'t>(text: &'t str, call: &str) -> Option<(usize, &'t str)> {
    text.lines().enumerate().find_map(|(index, line)| {
        let (name, value) = line.split_once('=')?;
        // Only at the start of a line: what a function makes cannot be named from outside.
        let is_name = !name.starts_with(char::is_whitespace);
        let name = name.split(':').next().unwrap_or(name).trim();
        let fits = is_name && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (fits && value.trim_start().trim_start_matches("flask.").starts_with(call)).then_some((index, name))
    })
}

/// A program without a framework that we know.
fn program(part: &mut Part, project: &Project<'_, '_>) -> bool {
    let view = project.view;
    let Some(file) = ["app.py", "main.py", "server.py"].into_iter().find(|file| view.has(file)) else { return false };
    let mut web = Service::new("web", Command::new(format!("{}/python {file}", project.bin)), true);
    let text = view.text(file).unwrap_or_default();
    let line = ["\"PORT\"", "'PORT'"].iter().find_map(|needle| line_of(text, needle));
    port_note(part, &mut web, view);
    let found = if line.is_some() { "it reads PORT" } else { "the program that is there" };
    add_service(part, view, web, (file, line, found.to_owned()));
    true
}

fn celery(part: &mut Part, project: &Project<'_, '_>) {
    let view = project.view;
    if let Some(known) = first_of(&project.names, project.text, &QUEUES) {
        part.has_cache = true;
        let found = format!("`{}`", known.name);
        part.reasons.push(reason("cache (Redis)", &view.full(project.file), project.line(known.name), found));
        part.env.insert("REDIS_URL".to_owned(), "${REDIS_STORE_URL}".to_owned());
        part.open.push(format!(
            "`{}` keeps jobs in Redis, so REDIS_URL is the store, which evicts nothing; the cache has its own address \
             in the template ${{REDIS_URL}}",
            known.name
        ));
    }
    if !project.has("celery") || view.has("Procfile") {
        return;
    }
    let Some(module) = view.paths().find_map(|path| path.strip_suffix("/celery.py")).filter(|m| !m.contains('/'))
    else {
        part.open.push(
            "`celery` is there, and no MODULE/celery.py: a worker is [service.worker] with `port = false` and \
             `run = \".venv/bin/celery -A MODULE worker\"`"
                .to_owned(),
        );
        return;
    };
    let command = Command::new(format!("{}/celery -A {module} worker --loglevel INFO", project.bin));
    let file = format!("{module}/celery.py");
    let worker = Service::new("worker", command, false);
    add_service(part, view, worker, (&file, None, "an application of Celery".to_owned()));
}
