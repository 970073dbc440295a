//! Headers that a route sets and removes, compiled.

use http::{HeaderMap, HeaderName, HeaderValue};
use mainstay_stack::edits::{Lines, plain};

/// Changes of one direction.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    /// As [`plain`] has them.
    gone: Vec<String>,
    set: Vec<(HeaderName, HeaderValue)>,
}

impl Edit {
    /// `None` when a name or value cannot be sent; with the name.
    ///
    /// **Errors**: the name.
    pub(crate) fn new(of: &Lines) -> Result<Self, String> {
        let mut edit = Self::default();
        for (name, value) in &of.set {
            let header = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            edit.set.push(header.ok_or_else(|| name.clone())?);
        }
        // What is set is removed first, in every spelling: a client cannot put its own beside it.
        edit.gone = of.remove.iter().chain(of.set.keys()).map(|name| plain(name)).collect();
        Ok(edit)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty()
    }

    /// Names of a head that go.
    pub(crate) fn gone(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        headers.keys().filter(|name| self.gone.contains(&plain(name.as_str()))).cloned().collect()
    }

    /// What comes instead.
    pub(crate) fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_removed_in_every_spelling() {
        let lines =
            Lines { set: [("X-User".to_owned(), "edge".to_owned())].into(), remove: ["x-debug".to_owned()].into() };
        let edit = Edit::new(&lines).expect("usable");
        let mut headers = HeaderMap::new();
        for name in ["x-user", "x_user", "x-debug", "x_debug", "x-users"] {
            headers.append(HeaderName::from_bytes(name.as_bytes()).expect("name"), HeaderValue::from_static("client"));
        }
        let mut gone: Vec<_> = edit.gone(&headers).iter().map(|name| name.as_str().to_owned()).collect();
        gone.sort();
        assert_eq!(gone, ["x-debug", "x-user", "x_debug", "x_user"]);
        let bad = Lines { set: [("X".to_owned(), "a\nb".to_owned())].into(), ..Lines::default() };
        assert_eq!(Edit::new(&bad).err().as_deref(), Some("X"));
    }
}
