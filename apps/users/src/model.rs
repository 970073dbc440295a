//! Users as the interface shows and takes them.

use std::time::SystemTime;

use mainstay_kit::auth::Role;
use mainstay_kit::problem::Problem;
use mainstay_kit::time::rfc3339;
use mainstay_kit::validation::{Checks, NewPassword, PASSWORD_LEAST};
use serde::{Deserialize, Serialize};

/// A user, without anything secret: this is also what the cache holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) username: String,
    pub(crate) email: String,
    pub(crate) first_name: String,
    pub(crate) last_name: String,
    pub(crate) role: Role,
    pub(crate) is_active: bool,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) created_by: String,
    pub(crate) updated_by: String,
    pub(crate) version: i64,
}

impl User {
    /// Strong entity tag: the version says everything about the content.
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    pub(crate) fn instant(at: SystemTime) -> String {
        rfc3339(at)
    }
}

/// Body of `POST /api/users`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateUser {
    pub(crate) username: String,
    pub(crate) email: String,
    #[serde(default)]
    pub(crate) first_name: String,
    #[serde(default)]
    pub(crate) last_name: String,
    pub(crate) role: Option<Role>,
    /// Without one the user cannot sign in.
    pub(crate) password: Option<String>,
}

impl CreateUser {
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let mut checks = Checks::new();
        checks.name("/username", &self.username, 3, 50);
        check_person(&mut checks, &self.email, &self.first_name, &self.last_name);
        if let Some(password) = &self.password {
            let new = NewPassword { value: password, username: &self.username, least: PASSWORD_LEAST };
            checks.password("/password", &new);
        }
        checks.finish()
    }
}

/// Body of `PUT /api/users/{id}`. What is absent stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpdateUser {
    pub(crate) username: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) first_name: Option<String>,
    pub(crate) last_name: Option<String>,
    pub(crate) role: Option<Role>,
    pub(crate) is_active: Option<bool>,
    pub(crate) password: Option<String>,
}

impl UpdateUser {
    /// The user as it would be.
    pub(crate) fn apply(&self, user: &User) -> User {
        let text = |new: &Option<String>, old: &str| new.clone().unwrap_or_else(|| old.to_owned());
        User {
            username: text(&self.username, &user.username),
            email: text(&self.email, &user.email),
            first_name: text(&self.first_name, &user.first_name),
            last_name: text(&self.last_name, &user.last_name),
            role: self.role.unwrap_or(user.role),
            is_active: self.is_active.unwrap_or(user.is_active),
            ..user.clone()
        }
    }

    pub(crate) fn check(&self, wanted: &User) -> Result<(), Problem> {
        let mut checks = Checks::new();
        checks.name("/username", &wanted.username, 3, 50);
        check_person(&mut checks, &wanted.email, &wanted.first_name, &wanted.last_name);
        if let Some(password) = &self.password {
            let new = NewPassword { value: password, username: &wanted.username, least: PASSWORD_LEAST };
            checks.password("/password", &new);
        }
        checks.finish()
    }
}

fn check_person(checks: &mut Checks, email: &str, first_name: &str, last_name: &str) {
    checks.email("/email", email);
    checks.length("/firstName", first_name, 0, 50);
    checks.length("/lastName", last_name, 0, 50);
}

/// Query of the lists.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    pub(crate) page: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) sort: Option<String>,
    pub(crate) q: Option<String>,
    pub(crate) role: Option<Role>,
    pub(crate) active: Option<bool>,
}

/// A checked list request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) page: u32,
    pub(crate) size: u32,
    /// SQL text from our own table of columns, never from the caller.
    pub(crate) order: &'static str,
    pub(crate) is_descending: bool,
    pub(crate) pattern: Option<String>,
    pub(crate) role: Option<Role>,
    pub(crate) active: Option<bool>,
}

/// Pages hold at most this many users.
pub(crate) const PAGE_MAX: u32 = 100;
/// Further pages cost as much as all before them together.
const PAGE_NUMBER_MAX: u32 = 10_000;

impl ListQuery {
    /// **Errors**: 422 with the parameters that are out of range.
    pub(crate) fn check(&self) -> Result<Listing, Problem> {
        let mut checks = Checks::new();
        let (page, size) = (self.page.unwrap_or(0), self.size.unwrap_or(20));
        if !(1..=PAGE_MAX).contains(&size) {
            checks.reject("size", "range", format!("must be 1 to {PAGE_MAX}, is {size}"));
        }
        if page > PAGE_NUMBER_MAX {
            checks.reject("page", "range", format!("must be at most {PAGE_NUMBER_MAX}"));
        }
        let sort = self.sort.as_deref().unwrap_or("id");
        let (field, direction) = sort.split_once(',').unwrap_or((sort, "asc"));
        let order = match field {
            "id" => "id",
            "username" => "lower(username)",
            "email" => "lower(email)",
            "firstName" => "lower(first_name)",
            "lastName" => "lower(last_name)",
            "role" => "role",
            "createdAt" => "created_at",
            "updatedAt" => "updated_at",
            _ => {
                checks.reject("sort", "field", "must be one of id, username, email, firstName, lastName, role, createdAt, updatedAt, then ,asc or ,desc");
                "id"
            }
        };
        if !matches!(direction, "asc" | "desc") {
            checks.reject("sort", "direction", "must be asc or desc");
        }
        let words = self.q.as_deref().map(str::trim).filter(|q| !q.is_empty());
        if words.is_some_and(|q| q.chars().count() > 100) {
            checks.reject("q", "length", "must be at most 100 characters");
        }
        if self.q.as_deref().is_some_and(|q| q.chars().any(char::is_control)) {
            checks.reject("q", "characters", "must not contain control characters");
        }
        checks.finish()?;
        Ok(Listing {
            page,
            size,
            order,
            is_descending: direction == "desc",
            pattern: words.map(like_pattern),
            role: self.role,
            active: self.active,
        })
    }
}

/// Text that LIKE takes literally.
fn like_pattern(words: &str) -> String {
    let escaped = words.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// One page, in the shape of Spring Data.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    pub(crate) content: Vec<User>,
    pub(crate) number: u32,
    pub(crate) size: u32,
    pub(crate) total_elements: i64,
    pub(crate) total_pages: i64,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

impl Page {
    pub(crate) fn new(content: Vec<User>, listing: &Listing, total_elements: i64) -> Self {
        let size = i64::from(listing.size);
        let total_pages = (total_elements + size - 1) / size;
        Self {
            content,
            number: listing.page,
            size: listing.size,
            total_elements,
            total_pages,
            first: listing.page == 0,
            last: i64::from(listing.page) + 1 >= total_pages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(size: u32, sort: &str) -> ListQuery {
        ListQuery { size: Some(size), sort: Some(sort.to_owned()), ..ListQuery::default() }
    }

    #[test]
    fn sorts_by_known_columns_only() {
        let listing = query(20, "username,desc").check().unwrap();
        assert_eq!((listing.order, listing.is_descending), ("lower(username)", true));
        for sort in ["password_hash", "id;drop table users", "id,up", ""] {
            assert!(query(20, sort).check().is_err(), "{sort}");
        }
    }

    #[test]
    fn bounds_page_size_and_offset() {
        assert!(query(0, "id").check().is_err());
        assert!(query(101, "id").check().is_err());
        let far = ListQuery { page: Some(u32::MAX), ..query(100, "id") };
        assert!(far.check().is_err());
    }

    #[test]
    fn searches_for_percent_signs_literally() {
        assert_eq!(like_pattern("50%_A\\"), "%50\\%\\_a\\\\%");
    }

    #[test]
    fn counts_pages_upwards() {
        let listing = query(10, "id").check().unwrap();
        for (total, pages, last) in [(0, 0, true), (10, 1, true), (11, 2, false)] {
            let page = Page::new(vec![], &listing, total);
            assert_eq!((page.total_pages, page.last), (pages, last), "{total}");
        }
    }

    #[test]
    fn refuses_fields_that_a_client_must_not_set() {
        let body = r#"{"username":"ada","email":"a@example.org","version":7}"#;
        assert!(serde_json::from_str::<CreateUser>(body).is_err());
    }
}
