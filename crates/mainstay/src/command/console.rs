//! `mainstay console`: a one-time link.

use crate::Global;
use crate::failure::Failure;

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let link = crate::place::client(global)?.console_link().await?;
    if global.json {
        println!("{}", serde_json::json!({"url": link.url}));
    } else {
        println!("{}", link.url);
        eprintln!("good once, for 10 minutes");
    }
    Ok(mainstay_types::exit_code::DONE)
}
