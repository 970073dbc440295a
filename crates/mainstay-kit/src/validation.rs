//! Field rules for request bodies: collect every wrong field, then refuse once with 422.
//!
//! Rejected: a derive crate. Five rules do not need a macro, and the rules stay readable in one place.

use crate::problem::{FieldError, Problem};

/// RFC 5321: the longest address that can be delivered to.
const EMAIL_MAX: usize = 254;

/// The least length of a password that may be asked for, in characters. **Source**: ASVS 5.0.0, 6.2.1.
pub const PASSWORD_LEAST: usize = 8;

/// The greatest length of a password, in characters. **Source**: ASVS 5.0.0, 6.2.9 asks for 64 and more.
pub const PASSWORD_MOST: usize = 128;

/// A password that somebody wants to have.
#[derive(Clone, Copy)]
pub struct NewPassword<'a> {
    /// The password.
    pub value: &'a str,
    /// Its user's name, which it must not be.
    pub username: &'a str,
    /// The least length that the application wants, in characters: [`PASSWORD_LEAST`] or more.
    pub least: usize,
}

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

    /// As many characters as the application wants, no composition rules. **Source**: ASVS 5.0.0, 6.2.5, 6.2.9.
    pub fn password(&mut self, pointer: &str, new: &NewPassword<'_>) {
        let NewPassword { value, username, least } = *new;
        let length = value.chars().count();
        if !(least..=PASSWORD_MOST).contains(&length) {
            let rule = format!("must be {least} to {PASSWORD_MOST} characters, is {length}");
            self.reject(pointer, "length", rule);
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
        checks.password("/password", &NewPassword { value: "short", username: "ada", least: PASSWORD_LEAST });
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

    #[test]
    fn passwords_of_any_wrong_length_are_refused_with_the_bounds_of_the_application() {
        let said = |length: usize| {
            let mut checks = Checks::new();
            let value = "x".repeat(length);
            checks.password("/password", &NewPassword { value: &value, username: "ada", least: 12 });
            checks.errors.first().map(|error| error.detail.clone())
        };
        assert_eq!(said(11).as_deref(), Some("must be 12 to 128 characters, is 11"));
        assert_eq!(said(129).as_deref(), Some("must be 12 to 128 characters, is 129"));
        assert_eq!((said(12), said(128)), (None, None));
    }
}
