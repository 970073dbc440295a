//! Gemfile: Rails or another Rack application on Puma, Sidekiq beside it.

use super::folder::View;
use super::text::{Command, add_service, data_tier, line_of, reason};
use super::{Part, Service};

const DATABASE: [&str; 2] = ["pg", "sequel_pg"];
const CACHE: [&str; 5] = ["redis", "redis-client", "sidekiq", "resque", "hiredis"];

pub(super) fn read(view: &View<'_>) -> Option<Part> {
    let text = view.text("Gemfile")?;
    let file = view.full("Gemfile");
    let gems = gems(text);
    let has = |name: &str| gems.iter().any(|gem| gem == name);
    let mut part = Part::default();
    let is_rails = has("rails");
    if !is_rails && !view.has("config.ru") {
        // A Procfile names the program: what it needs counts all the same.
        data_tier(&mut part, &file, text, &gems, &DATABASE, &CACHE);
        return (view.has("Procfile") && part.says_something()).then_some(part);
    }
    let framework = if is_rails {
        "rails"
    } else {
        ["sinatra", "hanami", "roda", "rack"].into_iter().find(|gem| has(gem)).unwrap_or("puma")
    };
    // Rails' own config/puma.rb listens on PORT; one that fixes a port is overruled by what the command says.
    let reads_port = view.text("config/puma.rb").is_some_and(|text| text.trim().is_empty() || text.contains("PORT"));
    let command = match (has("puma"), reads_port) {
        (true, true) => "bundle exec puma -C config/puma.rb",
        (true, false) => "bundle exec puma -b tcp://127.0.0.1:$PORT",
        (false, _) if is_rails => "bundle exec rails server -b 127.0.0.1 -p $PORT",
        (false, _) => "bundle exec rackup -o 127.0.0.1 -p $PORT",
    };
    let web = Service::new("web", Command::new(command), true);
    let line = line_of_gem(text, framework);
    add_service(&mut part, view, web, ("Gemfile", line, format!("the gem `{framework}`")));
    if is_rails {
        rails(&mut part, view, &gems, text);
    } else {
        part.env.insert("RACK_ENV".to_owned(), "production".to_owned());
        part.open.push(
            "no health path was seen: `health = \"/path\"` in [service.web] names one that answers 200 when ready"
                .to_owned(),
        );
    }
    data_tier(&mut part, &file, text, &gems, &DATABASE, &CACHE);
    if has("sidekiq") {
        let worker = Service::new("worker", Command::new("bundle exec sidekiq"), false);
        add_service(&mut part, view, worker, ("Gemfile", line_of_gem(text, "sidekiq"), "the gem `sidekiq`".to_owned()));
        part.env.insert("REDIS_URL".to_owned(), "${REDIS_STORE_URL}".to_owned());
        part.open.push(
            "Sidekiq keeps jobs in Redis, so REDIS_URL is the store, which evicts nothing; Rails.cache can have the \
             cache: a further variable with the template ${REDIS_URL}"
                .to_owned(),
        );
    }
    part.open.push("gems must be there before `mainstay up`: bundle install".to_owned());
    Some(part)
}

fn rails(part: &mut Part, view: &View<'_>, gems: &[String], text: &str) {
    for (name, value) in [("RAILS_ENV", "production"), ("RAILS_LOG_TO_STDOUT", "1"), ("RAILS_SERVE_STATIC_FILES", "1")]
    {
        part.env.insert(name.to_owned(), value.to_owned());
    }
    part.secrets.push("SECRET_KEY_BASE".to_owned());
    part.reasons.push(reason(
        "secret SECRET_KEY_BASE, generated",
        &view.full("Gemfile"),
        line_of_gem(text, "rails"),
        "Rails in production wants one",
    ));
    if gems.iter().any(|gem| gem == "pg") && view.has_folder("db/migrate") {
        let command = Command::new("bundle exec rails db:migrate");
        part.before = Some(command.clone());
        if let Some(web) = part.services.first_mut() {
            web.before = Some(command);
        }
        let what = "before: bundle exec rails db:migrate";
        part.reasons.push(reason(what, &view.full("db/migrate"), None, "migrations of Rails"));
    }
    let routes = view.text("config/routes.rb").unwrap_or_default();
    let line = line_of(routes, "rails/health#show");
    if line.is_some() {
        part.health = Some("/up".to_owned());
        if let Some(web) = part.services.first_mut() {
            web.health.clone_from(&part.health);
        }
        part.reasons.push(reason("health /up", &view.full("config/routes.rb"), line, "`rails/health#show`"));
    } else {
        part.open.push(
            "no health path was seen: Rails 7.1 has one, `get \"up\" => \"rails/health#show\"` in config/routes.rb; \
             then `health = \"/up\"` in [service.web]"
                .to_owned(),
        );
    }
    part.open.push(
        "config.hosts of the production environment must admit the edge's host name; assets are built by \
         RAILS_ENV=production bundle exec rails assets:precompile"
            .to_owned(),
    );
}

/// Names of gems: `gem "NAME"` at the start of a line.
fn gems(text: &str) -> Vec<String> {
    text.lines().filter_map(gem).map(str::to_owned).collect()
}

fn gem(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("gem")?.trim_start_matches([' ', '(']);
    let quote = rest.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    rest[1..].split(quote).next()
}

fn line_of_gem(text: &str, name: &str) -> Option<usize> {
    text.lines().position(|line| gem(line) == Some(name)).map(|index| index + 1)
}
