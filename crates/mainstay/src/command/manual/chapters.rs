//! What clap does not know of a command: examples, exit status, files. Appended to each manual page.

use std::fmt::Write;

use mainstay_types::exit_code;

use super::roff;

/// What to type, and what for. A test parses each line.
type Examples = &'static [(&'static str, &'static str)];

/// Examples by command, its words joined by spaces; the program's own is "".
#[rustfmt::skip]
const EXAMPLES: &[(&str, Examples)] = &[
    ("", &[
        ("mainstay init", "propose a stack file for the application in this folder"),
        ("mainstay up", "start all of it; Ctrl-C stops it"),
        ("mainstay drill database-crash", "kill the primary and measure what clients felt"),
    ]),
    ("init", &[("mainstay init --print ~/shop", "show what would be written, and from what it was guessed")]),
    ("up", &[
        ("mainstay up", "start it and stay until Ctrl-C"),
        ("mainstay up -d", "start it and come back when all is ready"),
        ("mainstay up --env staging", "with the keys of [env.staging]"),
    ]),
    ("down", &[
        ("mainstay down", "stop everything; data stays"),
        ("mainstay down --delete-data --confirm shop", "and delete the data of the stack shop"),
    ]),
    ("status", &[("mainstay status --watch", "again and again, until Ctrl-C")]),
    ("ps", &[("mainstay ps --json", "for programs")]),
    ("top", &[("mainstay top --once", "one table, not a screen")]),
    ("logs", &[("mainstay logs -f backend-1", "what an instance prints, as it is printed")]),
    ("tap", &[
        ("mainstay tap '/api/*'", "requests of that route, as they end"),
        ("mainstay tap --json > requests.jsonl", "all of them, a line of JSON each"),
    ]),
    ("events", &[("mainstay events -n 20", "the last twenty")]),
    ("check", &[("mainstay check mainstay.toml", "every mistake at once; nothing is started")]),
    ("config", &[("mainstay config --computed", "every value, and where it comes from")]),
    ("doctor", &[("mainstay doctor", "what this machine lacks, with the command that mends it")]),
    ("env", &[("mainstay env backend --show-secrets", "what the service backend is given")]),
    ("run", &[
        ("mainstay run backend -- python3 manage.py createsuperuser", "a command with the environment of backend"),
        ("mainstay run nightly", "a scheduled service, now"),
    ]),
    ("exec", &[("mainstay exec backend-1 -- printenv PORT", "beside a running instance, in its limits")]),
    ("db", &[("mainstay db info", "who is primary, how far standbys are, what is set")]),
    ("db import", &[
        ("mainstay db import dump.sql.gz", "a dump, in one transaction"),
        ("mainstay db import --replace postgres://db.example.org/shop", "a database that runs; all of the schema public steps aside"),
    ]),
    ("db psql", &[("mainstay db psql -- -c 'select count(*) from users'", "a statement through the router")]),
    ("db info", &[("mainstay db info", "who is primary, how far standbys are, what is set")]),
    ("db slow", &[("mainstay db slow", "the statements that took longest")]),
    ("db locks", &[("mainstay db locks", "who waits for whom")]),
    ("db cancel", &[("mainstay db cancel 4711", "cancel what that session does; --terminate ends the session")]),
    ("db pool", &[("mainstay db pool", "how full the router's pools are")]),
    ("db replicas", &[("mainstay db replicas", "each standby: state, lag, slot")]),
    ("db restart", &[("mainstay db restart b", "the member b, and nobody notices")]),
    ("db failover", &[("mainstay db failover --to b", "give the primary up at once and promote b")]),
    ("db switchover", &[("mainstay db switchover --drain-timeout 10s", "change places, without a failed statement")]),
    ("db migrate", &[
        ("mainstay db migrate --plan", "what would run, and which locks it takes"),
        ("mainstay db migrate --rehearse", "try it on a copy of the database"),
    ]),
    ("backup", &[("mainstay backup list", "which there are, and which was proven when")]),
    ("backup now", &[("mainstay backup now --name before-the-move", "take one")]),
    ("backup list", &[("mainstay backup list", "which there are, and which was proven when")]),
    ("backup prove", &[("mainstay backup prove", "restore the newest beside the present, count its rows")]),
    ("backup check", &[("mainstay backup check", "read all of it, compare all sums")]),
    ("backup prune", &[("mainstay backup prune", "let go of what retention does not keep")]),
    ("backup card", &[("mainstay backup card > card.txt", "what a person needs after the loss of this machine")]),
    ("retention", &[("mainstay retention --explain", "by which rule each backup is kept")]),
    ("restore", &[
        ("mainstay restore --to '10 minutes ago'", "open that moment beside the present, read-only"),
    ]),
    ("store", &[("mainstay store copies", "copies of the store that there are")]),
    ("store copies", &[("mainstay store copies", "copies of the store that there are")]),
    ("store copy", &[("mainstay store copy", "take one")]),
    ("store prove", &[("mainstay store prove", "load the newest beside the present, count its keys")]),
    ("store restore", &[("mainstay store restore --from 20261126T120000", "put that copy back")]),
    ("drill", &[
        ("mainstay drill", "which there are, and how each ended last"),
        ("mainstay drill database-crash --runs 5 --report drill.html", "one of them, five times, with a report"),
        ("mainstay drill --all", "each that applies"),
    ]),
    ("deploy", &[
        ("mainstay deploy --plan", "what would happen"),
        ("mainstay deploy --strategy canary", "the folder's state, for a growing share of the clients"),
    ]),
    ("rollback", &[("mainstay rollback", "back to the release before")]),
    ("releases", &[("mainstay releases", "which are kept, and the rollout under way")]),
    ("service", &[("mainstay service install", "start the stack with the machine")]),
    ("service install", &[("mainstay service install --print", "show the unit, write nothing")]),
    ("service remove", &[("mainstay service remove", "start it no more with the machine")]),
    ("service status", &[("mainstay service status", "whether the unit is there, and runs")]),
    ("scale", &[("mainstay scale backend=4", "four instances, until the load decides again")]),
    ("route", &[("mainstay route explain GET /api/users", "which route takes it, and what it meets there")]),
    ("route explain", &[("mainstay route explain GET /api/users", "which route takes it, and what it meets there")]),
    ("route list", &[("mainstay route list", "each route, where it leads, whether it serves")]),
    ("route maintenance", &[
        ("mainstay route maintenance '/api/*' on --retry-after 10m", "nobody is let in there, until off"),
        ("mainstay route maintenance '/api/*' off", "as the stack file says"),
    ]),
    ("edge", &[("mainstay edge test", "what the stack file promises of the edge, measured")]),
    ("edge test", &[("mainstay edge test --json", "each promise, what was measured, what is not tested")]),
    ("console", &[("mainstay console", "a link that opens the console once")]),
    ("trust", &[("mainstay trust --install", "let this machine's browsers trust the stack's authority")]),
    ("schema", &[("mainstay schema > mainstay.schema.json", "for an editor")]),
    ("completions", &[("mainstay completions bash > /etc/bash_completion.d/mainstay", "for everybody on this machine")]),
    ("manual", &[("mainstay manual --out /usr/local/share/man/man1", "all pages, to where man finds them")]),
    ("explain", &[
        ("mainstay explain MS2001", "the page of an error's code"),
        ("mainstay explain", "all codes"),
    ]),
];

/// Status and meaning, of every command.
const EXITS: &[(u8, &str)] = &[
    (exit_code::DONE, "It is done."),
    (exit_code::FAILED, "The command ran, and what was asked did not happen."),
    (exit_code::USER, "The command line or the stack file has a mistake."),
    (exit_code::ENVIRONMENT, "The machine lacks something: a program, a port, space, a right."),
    (exit_code::REFUSED, "Refused for safety, or another mainstay is at work."),
];

const DRILL_EXITS: &[(u8, &str)] = &[
    (exit_code::DRILL_FAIL, "A promise was broken."),
    (exit_code::DRILL_VOID, "Fault or load could not be proven: the drill says nothing."),
    (exit_code::DRILL_ABORTED, "The drill was stopped, or the stack was not whole."),
];

const FILES: &[(&str, &str)] = &[
    ("mainstay.toml", "The stack file, in the present folder or one above it; --file names another."),
    ("/var/lib/mainstay/STACK/ENVIRONMENT", "State and data of a stack that root runs; --state names another folder."),
    ("~/.local/state/mainstay/STACK/ENVIRONMENT", "The same for other users ($XDG_STATE_HOME)."),
    ("/run/mainstay, $XDG_RUNTIME_DIR/mainstay", "Sockets."),
];

fn examples(command: &str) -> Examples {
    EXAMPLES.iter().find(|(name, _)| *name == command).map_or(&[], |(_, examples)| examples)
}

/// The chapters of the command whose words these are.
pub(super) fn chapters(command: &str) -> String {
    let mut out = String::from(".SH EXAMPLES\n");
    // Writing to a String cannot fail.
    let item = |out: &mut String, term: &str, text: &str| {
        write!(out, ".TP\n\\fB{}\\fR\n{}\n", roff(term), roff(text)).ok();
    };
    for (line, what) in examples(command) {
        item(&mut out, line, &format!("{}{}.", what[..1].to_uppercase(), &what[1..]));
    }
    out.push_str(".SH EXIT STATUS\n");
    if ["run", "exec", "db psql"].contains(&command) {
        out.push_str("That of the command that was run. Before it begins:\n");
    }
    let own = if command == "drill" { DRILL_EXITS } else { &[] };
    for (status, text) in EXITS.iter().chain(own) {
        item(&mut out, &status.to_string(), text);
    }
    item(&mut out, &exit_code::BUG.to_string(), "A bug in mainstay.");
    out.push_str(".SH FILES\n");
    FILES.iter().for_each(|(path, text)| item(&mut out, path, text));
    out.push_str(
        ".SH SEE ALSO\n\\fBmainstay explain\\fR \\fICODE\\fR, for the code in brackets of an error message.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn names(command: &clap::Command, name: &str, found: &mut Vec<String>) {
        found.push(name.to_owned());
        for inner in super::super::visible(command) {
            names(inner, format!("{name} {}", inner.get_name()).trim(), found);
        }
    }

    /// As a shell would, as far as the examples need one.
    fn words(line: &str) -> Vec<String> {
        let (line, _) = line.split_once(" > ").unwrap_or((line, ""));
        let quoted = line.split('\'').enumerate().flat_map(|(at, part)| {
            let is_quoted = at % 2 == 1;
            if is_quoted { vec![part.to_owned()] } else { part.split_whitespace().map(str::to_owned).collect() }
        });
        quoted.collect()
    }

    #[test]
    fn every_command_has_an_example_and_every_example_is_a_command_line() {
        let mut all = Vec::new();
        names(&crate::Cli::command(), "", &mut all);
        assert!(all.len() > 50, "{all:?}");
        for name in &all {
            assert!(!examples(name).is_empty(), "mainstay {name} has no example");
        }
        for (name, examples) in EXAMPLES {
            assert!(all.iter().any(|known| known == name), "there is no command {name}");
            for (line, _) in *examples {
                if let Err(error) = crate::Cli::try_parse_from(words(line)) {
                    panic!("{line}: {error}");
                }
                // A group and the program show what is below them.
                let shown = words(line)[1..].join(" ");
                assert!(shown.starts_with(name), "{line} is no example of {name}");
            }
        }
    }
}
