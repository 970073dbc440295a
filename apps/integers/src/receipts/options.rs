//! How the receipts client is called.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};

pub(crate) const USAGE: &str = "\
usage: integers                      serve; everything is read from the environment
       integers receipts --url URL   take integers, keep the receipts, compare them with the counter

  --ca FILE         certificate of the stack's CA; without it the URL must be http://
  --api-key KEY     use this user's counter; without it users are registered
  --users N         how many users are registered, their counters used in turn (1)
  --clients N       clients at once (16)
  --seconds N       how long (10); or
  --increments N    how many requests in all; or
  --until-eof       until standard input ends
  --n N             integers of one request (1)
  --pace MS         pause of a client between two requests (0)
  --keys WHICH      clients that send Idempotency-Key: all, half, none (half)
  --json            the report as JSON

exit status: 0 they agree, 10 they do not, 11 fewer than 10 were acknowledged, 1 not done, 2 called wrongly";

/// When it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Seconds(u64),
    Increments(u64),
    InputEnds,
}

impl Until {
    /// A client's share.
    pub(crate) fn increments_of(self, client: usize, clients: usize) -> Option<u64> {
        let Self::Increments(all) = self else { return None };
        let (client, clients) = (client as u64, clients as u64);
        Some(all / clients + u64::from(client < all % clients))
    }
}

/// Which clients send keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    All,
    Half,
    None,
}

impl Keys {
    pub(crate) fn are_sent_by(self, client: usize) -> bool {
        match self {
            Self::All => true,
            Self::Half => client.is_multiple_of(2),
            Self::None => false,
        }
    }
}

/// Checked arguments.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) url: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) api_key: Option<String>,
    pub(crate) users: usize,
    pub(crate) clients: usize,
    pub(crate) until: Until,
    pub(crate) n: i64,
    pub(crate) pace: Duration,
    pub(crate) keys: Keys,
    pub(crate) is_json: bool,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            url: String::new(),
            ca: None,
            api_key: None,
            users: 1,
            clients: 16,
            until: Until::Seconds(10),
            n: 1,
            pace: Duration::ZERO,
            keys: Keys::Half,
            is_json: false,
        };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--url" => options.url = value()?,
                "--ca" => options.ca = Some(value()?.into()),
                "--api-key" => options.api_key = Some(value()?),
                "--users" => options.users = number(&name, &value()?, 1, 1_000)?,
                "--clients" => options.clients = number(&name, &value()?, 1, 1_000)?,
                "--seconds" => options.until = Until::Seconds(number(&name, &value()?, 1, 86_400)?),
                "--increments" => options.until = Until::Increments(number(&name, &value()?, 1, 100_000_000)?),
                "--until-eof" => options.until = Until::InputEnds,
                "--n" => options.n = number(&name, &value()?, 1, 1_000)?,
                "--pace" => options.pace = Duration::from_millis(number(&name, &value()?, 0, 60_000)?),
                "--keys" => {
                    options.keys = match value()?.as_str() {
                        "all" => Keys::All,
                        "half" => Keys::Half,
                        "none" => Keys::None,
                        other => bail!("--keys is all, half or none, not {other:?}"),
                    }
                }
                "--json" => options.is_json = true,
                other => bail!("{other:?} is not known"),
            }
        }
        if options.url.is_empty() {
            bail!("--url is missing");
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    text: &str,
    min: T,
    max: T,
) -> anyhow::Result<T> {
    match text.parse() {
        Ok(value) if value >= min && value <= max => Ok(value),
        _ => bail!("{name} must be {min} to {max}, is {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Options> {
        Options::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn needs_a_url_only() {
        let options = parse("--url http://127.0.0.1:1").unwrap();
        assert_eq!((options.clients, options.until, options.keys), (16, Until::Seconds(10), Keys::Half));
        assert!(parse("").is_err());
    }

    #[test]
    fn names_the_argument_that_is_wrong() {
        for wrong in ["--clients 0", "--n 1001", "--keys some", "--seconds", "--what"] {
            let error = parse(&format!("--url http://127.0.0.1:1 {wrong}")).unwrap_err();
            let name = wrong.split(' ').next().unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn shares_of_the_increments_add_up() {
        for (all, clients) in [(10_000, 64), (3, 8), (64, 64)] {
            let shares = (0..clients).map(|client| Until::Increments(all).increments_of(client, clients).unwrap());
            assert_eq!(shares.sum::<u64>(), all);
        }
    }
}
