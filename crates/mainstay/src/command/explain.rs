//! `mainstay explain CODE`: the page of an error code.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// As printed with an error: MS0001
    code: String,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let code = options.code.to_uppercase();
    let page = crate::errors::explain(&code).ok_or_else(|| {
        Failure::user("MS2005", format!("there is no page for {code:?}"))
            .help("codes are MS and four digits, printed in brackets after `error`")
    })?;
    if global.json {
        println!("{}", serde_json::json!({"code": code, "page": page}));
    } else {
        println!("{page}");
    }
    Ok(mainstay_types::exit_code::DONE)
}
