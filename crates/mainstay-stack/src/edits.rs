//! What a route changes in requests and answers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Changes of one route. Default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edits {
    /// The path that the service sees: `/new`, or `/new/*` with what the route's own `*` stands for.
    pub rewrite: Option<String>,
    /// Headers of requests.
    pub request: Lines,
    /// Headers of answers.
    pub response: Lines,
}

/// Headers that are set and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// By name; they replace what is there.
    pub set: BTreeMap<String, String>,
    /// Names of those that go.
    pub remove: BTreeSet<String>,
}

/// A name as CGI-like servers see it: to them `_` and `-` are one letter.
pub fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// The path that a service sees, of a request of which `below` is what the route's `*` stands for.
pub fn rewritten(rewrite: &str, below: &str) -> String {
    match rewrite.strip_suffix('*') {
        // Without slashes at the front: some servers take `//name` for another host.
        Some(begin) => format!("{begin}{}", below.trim_start_matches('/')),
        None => rewrite.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewritten_path_keeps_what_is_below_the_route() {
        assert_eq!(rewritten("/*", "users/7"), "/users/7");
        assert_eq!(rewritten("/v1/*", ""), "/v1/");
        assert_eq!(rewritten("/v1/*", "//evil.example"), "/v1/evil.example");
        assert_eq!(rewritten("/*", "//evil.example/"), "/evil.example/");
        assert_eq!(rewritten("/one", "x"), "/one");
    }
}
