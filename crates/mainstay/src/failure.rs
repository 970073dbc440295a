//! How a command fails: whose fault, what, the next step, and the exit status that says so.

use mainstay_types::exit_code;

use crate::again;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Stable code, a page of `docs/errors`.
    pub(crate) name: &'static str,
    /// What failed, with values. May have several lines; may be empty when all was said already.
    pub(crate) text: String,
    /// The next step.
    pub(crate) help: Option<String>,
    /// What failed as well; the first one's exit status counts.
    pub(crate) more: Vec<Failure>,
}

impl Failure {
    pub(crate) fn new(code: u8, name: &'static str, text: impl Into<String>) -> Self {
        Self { code, name, text: text.into(), help: None, more: Vec::new() }
    }

    /// The user's mistake.
    pub(crate) fn user(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(exit_code::USER, name, text)
    }

    /// The command line is none; what else clap says of it is the help.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::user("MS2006", "a command is missing").help("`mainstay --help` lists them");
        }
        let all = error.to_string();
        let all = all.strip_prefix("error: ").unwrap_or(&all).trim_end();
        let (text, help) = all.split_once("\n\n").unwrap_or((all, "`mainstay --help` lists the commands"));
        Self::user("MS2006", text).help(help)
    }

    /// The machine lacks something.
    pub(crate) fn environment(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(exit_code::ENVIRONMENT, name, text)
    }

    /// It ran and did not succeed.
    pub(crate) fn failed(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(exit_code::FAILED, name, text)
    }

    /// Refused for safety.
    pub(crate) fn refused(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(exit_code::REFUSED, name, text)
    }

    /// The stack is not up, and what a last run would have left is not there either.
    pub(crate) fn never_up(error: &mainstay_client::Error, what: &str) -> Self {
        Self::failed("MS1001", format!("{error}: the stack is not up, and no run left {what}"))
            .help("`mainstay up` starts it; `--env` and `--state` must be those of its `up`")
    }

    /// Ours.
    pub(crate) fn bug(text: impl Into<String>) -> Self {
        let help = "this is a bug in mainstay; `mainstay doctor --json` and the command belong into the report";
        Self::new(exit_code::BUG, "MS7000", text).help(help)
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// One failure of several; `None` when there is none.
    pub(crate) fn of_all(all: Vec<Self>) -> Option<Self> {
        let mut all = all.into_iter();
        let first = all.next()?;
        Some(Self { more: all.collect(), ..first })
    }

    /// As JSON, with commands as they are to be typed.
    pub(crate) fn value(&self) -> serde_json::Value {
        let (text, help) = (again::text(&self.text), self.help.as_deref().map(again::text));
        serde_json::json!({"code": self.name, "text": text, "help": help, "exit": self.code})
    }

    pub(crate) fn print(&self, json: bool) {
        // Where the text is empty, all was said already.
        if self.text.is_empty() {
            return;
        }
        if json {
            let mut value = serde_json::json!({"error": self.value()});
            if !self.more.is_empty() {
                value["more"] = self.more.iter().map(Self::value).collect();
            }
            println!("{value}");
            return;
        }
        let text = crate::screen::tame(&self.text);
        eprintln!("{} {text}", crate::screen::red(&format!("error[{}]:", self.name)));
        if let Some(help) = &self.help {
            eprintln!("hint: {}", crate::screen::tame(help));
        }
        for other in &self.more {
            other.print(json);
        }
    }
}

fn keep_answers(socket: &std::path::Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

impl From<mainstay_client::Error> for Failure {
    fn from(error: mainstay_client::Error) -> Self {
        use mainstay_client::Error;
        match &error {
            // Beside the socket lies keep's, and keep ends after all that it keeps.
            Error::NotRunning { socket, .. } if keep_answers(&socket.with_file_name(mainstay_supervisor::SOCKET)) => {
                Self::failed("MS1003", format!("{error}: it is being started again by keep, which runs"))
                    .help("try again in a moment; when it stays so, look at logs/control.log in the state folder")
            }
            Error::NotRunning { .. } => Self::failed("MS1001", format!("{error}: the stack is not up"))
                .help("`mainstay up` starts it, `mainstay logs` and `mainstay events` show its last run; `--env` and `--state` must be those of its `up`"),
            Error::Refused(problem) => {
                // A name that there is none of: a mistake, not a refusal.
                let is_name = ["MS4041", "MS4042", "MS4045", "MS4046", "MS4047"].contains(&problem.code.as_str());
                let failure = match problem.code.as_str() {
                    _ if is_name => Self::user("MS2052", problem.title.clone()),
                    // It has a page of its own.
                    "MS4092" => Self::failed("MS4092", problem.title.clone()),
                    "MS4093" => Self::user("MS4093", problem.title.clone()),
                    "MS4094" => Self::refused("MS4094", problem.title.clone()),
                    "MS4140" => Self::refused("MS4140", problem.title.clone()),
                    "MS4141" => Self::refused("MS4141", problem.title.clone()),
                    "MS4142" => Self::refused("MS4142", problem.title.clone()),
                    "MS4143" => Self::refused("MS4143", problem.title.clone()),
                    "MS4144" => Self::refused("MS4144", problem.title.clone()),
                    _ => Self::failed("MS1002", problem.title.clone()),
                };
                match &problem.help {
                    Some(help) => failure.help(help.clone()),
                    None => failure,
                }
            }
            Error::Timeout { .. } | Error::Broken { .. } => Self::failed("MS1003", error.to_string()).help(
                "the control plane may just be restarted: try again, then look at logs/control.log in the state folder",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `status` said that the stack is not up while its control plane was being started again.
    #[test]
    fn a_stack_whose_keep_runs_is_up_whoever_does_not_answer() {
        let folder = tempfile::tempdir().expect("folder");
        let error = || mainstay_client::Error::NotRunning {
            socket: folder.path().join("api.sock"),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        let down = Failure::from(error());
        assert_eq!(down.name, "MS1001");
        let keep = std::os::unix::net::UnixListener::bind(folder.path().join(mainstay_supervisor::SOCKET));
        let restarting = Failure::from(error());
        assert_eq!(restarting.name, "MS1003");
        assert!(!restarting.text.contains("not up"), "{}", restarting.text);
        drop(keep);
        assert_eq!(Failure::from(error()).name, "MS1001", "a socket that nobody listens at is left by one that died");
    }
}
