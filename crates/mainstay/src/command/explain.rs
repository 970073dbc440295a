//! `mainstay explain CODE`: the page of an error code. `mainstay explain SERVICE`: why it has so many instances.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// A code as printed with an error (MS0001), a SQLSTATE of the database router (08007), or a service that runs: why it
    /// has so many instances
    #[arg(value_name = "CODE|SERVICE")]
    what: String,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let code = options.what.to_uppercase();
    let Some(page) = crate::errors::explain(&code) else { return service(global, &options.what, &code).await };
    if global.json {
        println!("{}", serde_json::json!({"code": code, "page": page}));
    } else {
        println!("{page}");
    }
    Ok(mainstay_types::exit_code::DONE)
}

/// What is no code that has a page is a service; `web01` has the form of a SQLSTATE.
async fn service(global: &Global, name: &str, code: &str) -> Result<u8, Failure> {
    let is_code =
        crate::errors::is_sqlstate(code) || code.strip_prefix("MS").is_some_and(|rest| rest.parse::<u32>().is_ok());
    match super::scale::explain(global, name).await {
        Ok(Some(done)) => Ok(done),
        Err(failure) if !is_code => Err(failure),
        Ok(None) | Err(_) => {
            let help = if crate::errors::is_sqlstate(code) {
                "this SQLSTATE is PostgreSQL's own, passed on as it is: its manual has it in appendix A"
            } else {
                "codes are MS and four digits, printed in brackets after `error`; `mainstay scale` lists services"
            };
            Err(Failure::user("MS2005", format!("there is no page for {name:?}, and no service of that name runs"))
                .help(help))
        }
    }
}
