//! Users as CSV: which columns there are, what is wrong with which line, and the text of an export.

use std::collections::BTreeMap;

use mainstay_kit::auth::Role;
use mainstay_kit::csv::{self, Record};
use mainstay_kit::problem::{FieldError, Problem};
use serde::Serialize;

use crate::model::{CreateUser, User};

/// Users of one import.
pub(crate) const LINES_MAX: usize = 5_000;
/// A thousand users are about 60 KiB.
pub(crate) const BYTES_MAX: usize = 1024 * 1024;
/// Users of one export.
pub(crate) const EXPORT_MAX: u32 = 50_000;
/// A report names at most this many faults; `faultsTotal` counts all.
const FAULTS_SHOWN: usize = 200;
const COLUMNS: [&str; 5] = ["username", "email", "firstName", "lastName", "role"];
/// Columns of an export that an import reads over.
const IGNORED: [&str; 3] = ["id", "isActive", "createdAt"];

/// One fault of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// Of the text; the first is 1.
    pub(crate) line: usize,
    pub(crate) column: String,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
}

/// What an import did, or would do.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) dry_run: bool,
    /// Lines with users.
    pub(crate) lines: usize,
    /// 0 for a dry run.
    pub(crate) created: usize,
    /// Lines without a fault.
    pub(crate) good: usize,
    pub(crate) faults_total: usize,
    pub(crate) faults: Vec<Fault>,
}

/// Users read from a text, with the lines on which they stand, and what is wrong so far.
#[derive(Debug)]
pub(crate) struct Sheet {
    pub(crate) users: Vec<(usize, CreateUser)>,
    pub(crate) faults: Vec<Fault>,
    lines: usize,
}

impl Sheet {
    /// **Errors**: 422 when the text is not CSV or its first line does not name the columns.
    pub(crate) fn read(text: &str, caller: Role) -> Result<Self, Problem> {
        let wrong = |pointer: &str, code, detail: String| {
            Problem::invalid(vec![FieldError { pointer: pointer.to_owned(), code, detail }])
        };
        let mut records =
            csv::read(text, LINES_MAX + 1).map_err(|error| wrong("", "csv", error.to_string()))?.into_iter();
        let Some(head) = records.next() else {
            return Err(wrong("/1", "header", format!("the first line names the columns: {}", COLUMNS.join(","))));
        };
        let columns = columns(&head).map_err(|detail| wrong("/1", "header", detail))?;
        let mut sheet = Self { users: Vec::new(), faults: Vec::new(), lines: 0 };
        for record in records {
            sheet.lines += 1;
            match user(&record, head.cells.len(), &columns, caller) {
                Ok(user) => sheet.users.push((record.line, user)),
                Err(faults) => sheet.faults.extend(faults),
            }
        }
        sheet.find_doubles();
        Ok(sheet)
    }

    /// Two lines with one name or address: the later one is at fault.
    fn find_doubles(&mut self) {
        let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for (line, user) in &self.users {
            for (column, seen, value) in
                [("username", &mut names, &user.username), ("email", &mut addresses, &user.email)]
            {
                let first = *seen.entry(value.to_lowercase()).or_insert(*line);
                if first != *line {
                    let detail = format!("is the same as in line {first}");
                    self.faults.push(Fault { line: *line, column: column.to_owned(), code: "double", detail });
                }
            }
        }
    }

    /// Names and addresses that the database has already.
    pub(crate) fn mark_taken(&mut self, names: &[String], addresses: &[String]) {
        for (line, user) in &self.users {
            for (column, taken, value) in [("username", names, &user.username), ("email", addresses, &user.email)] {
                if taken.contains(&value.to_lowercase()) {
                    let detail = "is taken by another user".to_owned();
                    self.faults.push(Fault { line: *line, column: column.to_owned(), code: "taken", detail });
                }
            }
        }
        self.faults.sort_by_key(|fault| fault.line);
    }

    pub(crate) fn report(&self, dry_run: bool, created: usize) -> Report {
        let mut bad: Vec<usize> = self.faults.iter().map(|fault| fault.line).collect();
        bad.dedup();
        Report {
            dry_run,
            lines: self.lines,
            created,
            good: self.lines - bad.len(),
            faults_total: self.faults.len(),
            faults: self.faults.iter().take(FAULTS_SHOWN).cloned().collect(),
        }
    }

    /// 422 with a pointer `/{line}/{column}` for each fault.
    pub(crate) fn refusal(&self) -> Problem {
        let shown = self.faults.iter().take(FAULTS_SHOWN).map(|fault| FieldError {
            pointer: format!("/{}/{}", fault.line, fault.column),
            code: fault.code,
            detail: fault.detail.clone(),
        });
        Problem::invalid(shown.collect()).detail(format!(
            "{} fault(s) in {} line(s); nothing was imported",
            self.faults.len(),
            self.lines
        ))
    }
}

/// Index of each of [`COLUMNS`] in the text.
fn columns(head: &Record) -> Result<[Option<usize>; 5], String> {
    let mut found = [None; 5];
    for (index, name) in head.cells.iter().enumerate() {
        if IGNORED.iter().any(|ignored| ignored.eq_ignore_ascii_case(name.trim())) {
            continue;
        }
        let Some(column) = COLUMNS.iter().position(|column| column.eq_ignore_ascii_case(name.trim())) else {
            return Err(format!("there is no column {name:?}; there are {}", COLUMNS.join(", ")));
        };
        if found[column].replace(index).is_some() {
            return Err(format!("the column {name:?} is there twice"));
        }
    }
    match found {
        [Some(_), Some(_), ..] => Ok(found),
        _ => Err("the columns username and email must be there".to_owned()),
    }
}

fn user(record: &Record, width: usize, columns: &[Option<usize>; 5], caller: Role) -> Result<CreateUser, Vec<Fault>> {
    let fault =
        |column: &str, code, detail: String| Fault { line: record.line, column: column.to_owned(), code, detail };
    if record.cells.len() != width {
        let detail = format!("has {} cells, the first line has {width}", record.cells.len());
        return Err(vec![fault("", "cells", detail)]);
    }
    let cell = |column: usize| columns[column].map_or("", |index| record.cells[index].trim()).to_owned();
    let mut faults = Vec::new();
    let role = match cell(4).to_lowercase().as_str() {
        "" => None,
        text => match text.parse::<Role>() {
            Ok(role) if role > Role::Viewer && caller < Role::Admin => {
                faults.push(fault("role", "rights", "only an administrator gives rights".to_owned()));
                None
            }
            Ok(role) => Some(role),
            Err(error) => {
                faults.push(fault("role", "role", error.to_string()));
                None
            }
        },
    };
    let user =
        CreateUser { username: cell(0), email: cell(1), first_name: cell(2), last_name: cell(3), role, password: None };
    if let Err(problem) = user.check() {
        for error in problem.errors() {
            faults.push(fault(error.pointer.trim_start_matches('/'), error.code, error.detail.clone()));
        }
    }
    if faults.is_empty() { Ok(user) } else { Err(faults) }
}

/// An export; an import can read it.
pub(crate) fn export(users: &[User]) -> String {
    let mut out = String::with_capacity(users.len() * 80 + 80);
    csv::write(&mut out, ["id", "username", "email", "firstName", "lastName", "role", "isActive", "createdAt"]);
    for user in users {
        let id = user.id.to_string();
        let is_active = if user.is_active { "true" } else { "false" };
        csv::write(
            &mut out,
            [
                &id,
                &user.username,
                &user.email,
                &user.first_name,
                &user.last_name,
                user.role.as_str(),
                is_active,
                &user.created_at,
            ],
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str, caller: Role) -> Vec<(usize, String, &'static str)> {
        let sheet = Sheet::read(text, caller).unwrap();
        sheet.faults.into_iter().map(|fault| (fault.line, fault.column, fault.code)).collect()
    }

    #[test]
    fn names_every_fault_by_line_and_column() {
        let text = "username,email,role\nada,ada@example.org,\nx,nobody,king\nADA,other@example.org,\nfew\n";
        let wanted = [
            (3, "role", "role"),
            (3, "username", "length"),
            (3, "email", "email"),
            (5, "", "cells"),
            (4, "username", "double"),
        ];
        let wanted: Vec<_> = wanted.into_iter().map(|(line, column, code)| (line, column.to_owned(), code)).collect();
        assert_eq!(faults(text, Role::Admin), wanted);
    }

    #[test]
    fn an_editor_imports_viewers_only() {
        let text = "username,email,role\nada,ada@example.org,admin\nbob,bob@example.org,viewer\n";
        assert_eq!(faults(text, Role::Editor), [(2, "role".to_owned(), "rights")]);
        assert!(faults(text, Role::Admin).is_empty());
    }

    #[test]
    fn wants_its_columns_named_in_any_order() {
        let sheet = Sheet::read("Email,username\nada@example.org,ada\n", Role::Admin).unwrap();
        assert_eq!((sheet.users[0].0, sheet.users[0].1.username.as_str()), (2, "ada"));
        for head in ["username", "username,email,password", "username,email,email", "", "a\"b,c"] {
            assert!(Sheet::read(head, Role::Admin).is_err(), "{head}");
        }
    }

    #[test]
    fn counts_good_lines_once_however_many_faults_a_line_has() {
        let mut sheet = Sheet::read("username,email\nx,y\nada,ada@example.org\n", Role::Admin).unwrap();
        sheet.mark_taken(&[], &[]);
        let report = sheet.report(true, 0);
        assert_eq!((report.lines, report.good, report.faults_total), (2, 1, 2));
    }
}
