//! Which route a path takes: the exact one, else the longest prefix.
//!
//! The edge compiles its routes for speed; a test there holds it to what is said here.

/// Whether a route's path takes a request's path. `/x/*` also takes `/x`.
pub fn takes(route: &str, path: &str) -> bool {
    let Some(prefix) = route.strip_suffix('*') else { return route == path };
    let is_bare = prefix.strip_suffix('/').is_some_and(|bare| !bare.is_empty() && path == bare);
    path.starts_with(prefix) || is_bare
}

/// The indices of all routes that take a path, the one that gets it first.
pub fn candidates<'r>(routes: impl IntoIterator<Item = &'r str>, path: &str) -> Vec<usize> {
    let mut found: Vec<(usize, &str)> =
        routes.into_iter().enumerate().filter(|(_, route)| takes(route, path)).collect();
    found.sort_by_key(|(_, route)| (route.ends_with('*'), std::cmp::Reverse(route.len())));
    found.into_iter().map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_one_comes_first_and_then_the_longest_prefix() {
        let routes = ["/*", "/api/*", "/api/deep/*", "/api/deep", "/other"];
        assert_eq!(candidates(routes, "/api/deep"), [3, 2, 1, 0]);
        assert_eq!(candidates(routes, "/api/deep/x"), [2, 1, 0]);
        assert_eq!(candidates(routes, "/api"), [1, 0]);
        assert_eq!(candidates(routes, "/apix"), [0]);
        assert!(candidates(["/api/*"], "/apix").is_empty());
    }
}
