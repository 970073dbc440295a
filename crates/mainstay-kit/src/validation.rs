//! Field rules for request bodies: collect every wrong field, then refuse once with 422.
//!
//! Rejected: a derive crate. Five rules do not need a macro, and the rules stay readable in one place.

use crate::problem::{FieldError, Problem};

/// RFC 5321: the longest address that can be delivered to.
const EMAIL_MAX: usize = 254;

/// Collects wrong fields.
#[derive(Debug, Default)]
pub struct Checks {
    errors: Vec<FieldError>,
}

impl Checks {
    /// Nothing wrong yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that `pointer` breaks rule `code`.
    pub fn reject(&mut self, pointer: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError { pointer: pointer.to_owned(), code, detail: detail.into() });
    }

    /// Characters, not bytes, between the two bounds; no control characters.
    pub fn length(&mut self, pointer: &str, value: &str, min: usize, max: usize) {
        let length = value.chars().count();
        if length < min || length > max {
            self.reject(pointer, "length", format!("must be {min} to {max} characters, is {length}"));
        } else if value.chars().any(char::is_control) {
            self.reject(pointer, "characters", "must not contain control characters");
        }
    }

    /// Letters, digits, `.`, `_` and `-`: what can stand in a path without escaping.
    pub fn name(&mut self, pointer: &str, value: &str, min: usize, max: usize) {
        self.length(pointer, value, min, max);
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !value.chars().all(is_allowed) {
            self.reject(pointer, "characters", "may hold letters, digits, '.', '_' and '-' only");
        }
    }

    /// One `@`, a domain with a dot, no blanks. Whether it is delivered only a message can tell.
    pub fn email(&mut self, pointer: &str, value: &str) {
        if !is_email(value) {
            self.reject(pointer, "email", "must be an e-mail address such as ada@example.org");
        }
    }

    /// 8 to 128 characters, no composition rules. **Source**: ASVS 5.0.0, 6.2.1, 6.2.5, 6.2.9.
    pub fn password(&mut self, pointer: &str, value: &str, username: &str) {
        let length = value.chars().count();
        if !(8..=128).contains(&length) {
            self.reject(pointer, "length", format!("must be 8 to 128 characters, is {length}"));
        } else if value.eq_ignore_ascii_case(username) {
            self.reject(pointer, "password", "must not be the user name");
        }
    }

    /// **Errors**: 422 with every wrong field.
    pub fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }
}

fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.split_once('@') else {
        return false;
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    let is_local = |c: char| c.is_alphanumeric() || "!#$%&'*+/=?^_`{|}~.-".contains(c);
    value.len() <= EMAIL_MAX
        && !local.is_empty()
        && local.len() <= 64
        && local.chars().all(is_local)
        && domain.contains('.')
        && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_addresses_from_other_text() {
        for good in ["ada@example.org", "a.b+c@sub.example.co", "x@ex-ample.org"] {
            assert!(is_email(good), "{good}");
        }
        for bad in
            ["", "ada", "@example.org", "ada@", "ada@localhost", "a b@example.org", "a@b@c.org", "a@-b.org", "a@b..org"]
        {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn reports_all_wrong_fields_at_once() {
        let mut checks = Checks::new();
        checks.name("/username", "a b", 3, 50);
        checks.email("/email", "nobody");
        checks.password("/password", "short", "ada");
        let problem = checks.finish().expect_err("three fields are wrong");
        let pointers: Vec<_> = problem.errors().iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/username", "/email", "/password"]);
    }

    #[test]
    fn counts_characters_not_bytes() {
        let mut checks = Checks::new();
        checks.length("/firstName", "žščřž", 1, 5);
        assert!(checks.finish().is_ok());
    }
}
