//! `${NAME}` in the environment of a service. `$$` is a dollar sign; a `$` before anything else is an error, so
//! that a mistyped template never reaches an application as text.

use std::collections::BTreeMap;

use crate::words::nearest;

/// Names that templates may use; the `secrets` of the service come on top.
pub const NAMES: [&str; 21] = [
    "PORT",
    "MANAGEMENT_PORT",
    "DATABASE_URL",
    "DATABASE_READ_URL",
    "DATABASE_HOST",
    "DATABASE_PORT",
    "DATABASE_READ_PORT",
    "DATABASE_NAME",
    "DATABASE_USER",
    "DATABASE_PASSWORD",
    "REDIS_URL",
    "REDIS_STORE_URL",
    "REDIS_SOCKET",
    "REDIS_STORE_SOCKET",
    "REDIS_PASSWORD",
    "REDIS_STORE_PASSWORD",
    "MAINSTAY_STACK",
    "MAINSTAY_SERVICE",
    "MAINSTAY_INSTANCE",
    "MAINSTAY_RELEASE",
    "MAINSTAY_ENVIRONMENT",
];

/// Why a template could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `${` without `}`.
    #[error("`${{` is never closed by `}}`")]
    Unclosed,
    /// A `$` before something other than `{` or `$`.
    #[error("a `$` begins no template")]
    Lone,
    /// A name that there is not.
    #[error("`${{{name}}}` does not exist")]
    Unknown {
        /// The name.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
}

/// A part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'v> {
    Text(&'v str),
    Name(&'v str),
}

/// The parts of a value, in order.
pub(crate) fn pieces(value: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        if !before.is_empty() {
            found.push(Piece::Text(before));
        }
        if let Some(after) = after.strip_prefix('$') {
            found.push(Piece::Text("$"));
            rest = after;
        } else if let Some(inner) = after.strip_prefix('{') {
            let (name, after) = inner.split_once('}').ok_or(TemplateError::Unclosed)?;
            found.push(Piece::Name(name));
            rest = after;
        } else {
            return Err(TemplateError::Lone);
        }
    }
    if !rest.is_empty() {
        found.push(Piece::Text(rest));
    }
    Ok(found)
}

/// Puts values in the place of `${NAME}` and `$` in the place of `$$`. What a value contains is not expanded again.
///
/// **Errors**: a name that `names` does not hold, `${` without `}`, a `$` alone.
pub fn expand(value: &str, names: &BTreeMap<String, String>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(value.len());
    for piece in pieces(value)? {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Name(name) => match names.get(name) {
                Some(found) => out.push_str(found),
                None => {
                    let nearest = nearest(name, names.keys().map(String::as_str)).map(str::to_owned);
                    return Err(TemplateError::Unknown { name: name.to_owned(), nearest });
                }
            },
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> BTreeMap<String, String> {
        [("DATABASE_HOST", "127.0.0.1"), ("DATABASE_PORT", "6432"), ("ODD", "${PORT} $")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn names_are_replaced_and_doubled_dollars_halved() {
        let expanded = expand("postgresql+psycopg2://${DATABASE_HOST}:${DATABASE_PORT}/a$$b", &names());
        assert_eq!(expanded.as_deref(), Ok("postgresql+psycopg2://127.0.0.1:6432/a$b"));
    }

    #[test]
    fn values_are_not_expanded_again() {
        assert_eq!(expand("${ODD}", &names()).as_deref(), Ok("${PORT} $"));
    }

    #[test]
    fn an_unknown_name_brings_the_nearest_one() {
        let nearest = Some("DATABASE_HOST".to_owned());
        let error = TemplateError::Unknown { name: "DATABSE_HOST".to_owned(), nearest };
        assert_eq!(expand("${DATABSE_HOST}", &names()), Err(error));
    }

    #[test]
    fn broken_templates_are_errors_not_text() {
        assert_eq!(expand("${PORT", &names()), Err(TemplateError::Unclosed));
        assert_eq!(expand("cost: $5", &names()), Err(TemplateError::Lone));
        assert_eq!(expand("$", &names()), Err(TemplateError::Lone));
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back_as_it_was(text in ".{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &BTreeMap::new()), Ok(text));
        }
    }
}
