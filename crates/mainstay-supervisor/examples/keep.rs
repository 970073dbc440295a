//! keep alone, for the tests: `keep STATE RUNTIME [LOG_BOUND_BYTES [CONTROL ARG…]]`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use mainstay_supervisor::keep::{Control, Options, run};
use mainstay_types::Bytes;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [state, runtime, rest @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let state = PathBuf::from(state);
    let log_bound = rest.first().and_then(|text| text.parse().ok()).map_or(mainstay_supervisor::logs::BOUND, Bytes);
    let control = rest.get(1).map(|_| Control {
        argv: rest[1..].to_vec(),
        env: BTreeMap::new(),
        dir: PathBuf::from("/"),
        log: state.join("control.log"),
    });
    match run(Options { state, runtime: PathBuf::from(runtime), control, log_bound }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "{error}").ok();
            ExitCode::from(error.exit_code())
        }
    }
}
