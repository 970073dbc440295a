//! `mainstay explain CODE`: the page of an error code.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// As printed with an error (MS0001), or a SQLSTATE of the database router (08007)
    code: String,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let code = options.code.to_uppercase();
    let page = crate::errors::explain(&code).ok_or_else(|| {
        let help = if crate::errors::is_sqlstate(&code) {
            "this SQLSTATE is PostgreSQL's own, passed on as it is: its manual has it in appendix A"
        } else {
            "codes are MS and four digits, printed in brackets after `error`"
        };
        Failure::user("MS2005", format!("there is no page for {code:?}")).help(help)
    })?;
    if global.json {
        println!("{}", serde_json::json!({"code": code, "page": page}));
    } else {
        println!("{page}");
    }
    Ok(mainstay_types::exit_code::DONE)
}
