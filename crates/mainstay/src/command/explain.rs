//! `mainstay explain CODE`: the page of an error code; without one, all codes. `mainstay explain SERVICE`: why it has so
//! many instances.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// A code as printed with an error (MS0001), a SQLSTATE of the database router (08007), or a service that runs: why it
    /// has so many instances; without any, all codes are listed
    #[arg(value_name = "CODE|SERVICE")]
    what: Option<String>,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let Some(what) = &options.what else { return list(global) };
    let code = what.to_uppercase();
    let Some(page) = crate::errors::explain(&code) else { return service(global, what, &code).await };
    if global.json {
        println!("{}", serde_json::json!({"code": code, "page": page}));
    } else {
        println!("{page}");
    }
    Ok(mainstay_types::exit_code::DONE)
}

/// Every code with the title of its page.
fn list(global: &Global) -> Result<u8, Failure> {
    let mut all: Vec<(&str, &str)> = crate::errors::all()
        .map(|(code, page)| {
            (code, page.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, title)| title))
        })
        .collect();
    all.sort_unstable();
    if global.json {
        let all: Vec<_> = all.iter().map(|(code, title)| serde_json::json!({"code": code, "title": title})).collect();
        println!("{}", serde_json::Value::from(all));
    } else {
        all.iter().for_each(|(code, title)| println!("{code:<7} {title}"));
    }
    Ok(mainstay_types::exit_code::DONE)
}

/// Whether the stack file can be read and has no such service. A broken one may have it.
fn is_unknown(global: &Global, name: &str) -> bool {
    let read = || {
        let file = crate::place::stack_file(global).ok()?;
        let text = std::fs::read_to_string(&file).ok()?;
        let environment = crate::place::environment(global).ok()?;
        mainstay_stack::parse(&text, &file.display().to_string(), &environment).ok()
    };
    read().is_some_and(|parsed| !parsed.stack.services.keys().any(|known| known.as_str() == name))
}

/// What is no code that has a page is a service; `web01` has the form of a SQLSTATE.
async fn service(global: &Global, name: &str, code: &str) -> Result<u8, Failure> {
    let is_code =
        crate::errors::is_sqlstate(code) || code.strip_prefix("MS").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let is_name = mainstay_types::ServiceName::new(name).is_ok();
    let text = if !is_name && !is_code {
        format!("{name:?} is no code that has a page, and no service can be called so")
    } else {
        match super::scale::explain(global, name).await {
            Ok(Some(done)) => return Ok(done),
            // Without a stack file nobody asks for a service.
            Err(failure) if failure.name == "MS2001" => {
                format!("no code is called {name:?}, and no stack file says of a service")
            }
            // What is not up says nothing of a service that its file does not know either.
            Err(failure) if failure.name == "MS1001" && is_unknown(global, name) => {
                format!("no code is called {name:?}, and the stack file has no service of that name")
            }
            Err(failure) if !is_code => return Err(failure),
            Ok(None) | Err(_) => format!("there is no page for {name:?}, and no service of that name runs"),
        }
    };
    let help = if crate::errors::is_sqlstate(code) {
        "a SQLSTATE without a page is PostgreSQL's own, passed on as it is: its manual has it in appendix A"
    } else {
        "`mainstay explain` lists all codes: MS and four digits, printed in brackets after `error`; `mainstay scale` lists services"
    };
    Err(Failure::user("MS2005", text).help(help))
}
