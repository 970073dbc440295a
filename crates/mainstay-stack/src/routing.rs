//! Which route a path takes: the exact one, else the longest prefix.
//!
//! The edge compiles its routes for speed; a test there holds it to what is said here.

/// Whether a route's path takes a request's path. `/x/*` also takes `/x`.
pub fn takes(route: &str, path: &str) -> bool {
    let Some(prefix) = route.strip_suffix('*') else { return route == path };
    let is_bare = prefix.strip_suffix('/').is_some_and(|bare| !bare.is_empty() && path == bare);
    path.starts_with(prefix) || is_bare
}

/// What the `*` of a route stands for in a path that it takes; nothing without one.
pub fn below<'p>(route: &str, path: &'p str) -> &'p str {
    path.strip_prefix(route.strip_suffix('*').unwrap_or(route)).unwrap_or_default()
}

/// A path as servers behind may read it: escapes decoded, slashes together one, parameters (`;…`) of segments cut.
pub fn plain(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut plain = String::with_capacity(text.len());
    for segment in text.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        if !name.is_empty() {
            plain.push('/');
            plain.push_str(name);
        }
    }
    if plain.is_empty() || text.ends_with('/') {
        plain.push('/');
    }
    plain
}

/// How many a server reads a path without any sign of it: case does not count, nor a slash at the end. In lower case.
pub fn alike(path: &str) -> Vec<String> {
    let lower = plain(path).to_ascii_lowercase();
    let other = match lower.strip_suffix('/') {
        Some("") => return vec![lower],
        Some(bare) => bare.to_owned(),
        None => format!("{lower}/"),
    };
    vec![lower, other]
}

/// Whether a route is one within another, as `/api/admin/*` is within `/api/*`, whatever their case is.
pub fn is_within(narrow: &str, broad: &str) -> bool {
    let (narrow, broad) = (narrow.to_ascii_lowercase(), broad.to_ascii_lowercase());
    narrow != broad && takes(&broad, narrow.strip_suffix('*').unwrap_or(&narrow))
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

    #[test]
    fn a_path_is_read_without_case_and_with_or_without_its_last_slash() {
        assert_eq!(alike("/API/Admin"), ["/api/admin", "/api/admin/"]);
        assert_eq!(alike("/api/admin/"), ["/api/admin/", "/api/admin"]);
        assert_eq!(alike("/"), ["/"]);
        assert!(is_within("/api/admin/*", "/api/*") && is_within("/api/admin", "/API/*") && is_within("/x", "/*"));
        assert!(!is_within("/*", "/login") && !is_within("/api/*", "/API/*") && !is_within("/api/*", "/api/admin/*"));
    }

    #[test]
    fn a_plain_path_is_what_a_server_may_make_of_it() {
        for (path, expected) in [
            ("/admin/x", "/admin/x"),
            ("/%61dmin/x", "/admin/x"),
            ("//admin///x", "/admin/x"),
            ("/admin%2fx", "/admin/x"),
            ("/admin;a=b/x;c", "/admin/x"),
            ("/;x/admin/", "/admin/"),
            ("/admin/%", "/admin/%"),
            ("/%C3%BC/%ff", "/\u{fc}/\u{fffd}"),
            ("/", "/"),
            ("//", "/"),
        ] {
            assert_eq!(plain(path), expected, "{path}");
        }
    }
}
