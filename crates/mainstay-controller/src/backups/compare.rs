//! What the past and the present hold, side by side: before a person agrees that one takes the place of the other.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_postgres::compare::{self, Name, Rows};

use super::past::Open;
use super::{Backups, Error};

/// Time to count each side; what is not reached by then is estimated.
const COUNT_WITHIN: Duration = Duration::from_secs(20);

/// A table of which the two have not the same number of rows, or that one of them does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its database.
    pub database: String,
    /// Schema and name, as SQL writes them.
    pub table: String,
    /// Rows in the present; `None`: it is not there.
    pub now: Option<Rows>,
    /// Rows in the past.
    pub then: Option<Rows>,
}

/// The two, compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What differs, or cannot be told.
    pub different: Vec<Difference>,
    /// Tables with as many rows in both; what is in the rows was not compared.
    pub alike: usize,
}

/// Counts both.
///
/// **Errors**: one of them does not answer.
pub async fn compare(backups: &Backups, open: &Open) -> Result<Compared, Error> {
    let present = backups.access(backups.primary()?);
    let (now, then) =
        tokio::try_join!(compare::rows(&present, COUNT_WITHIN), compare::rows(&open.access, COUNT_WITHIN))?;
    Ok(difference(&now, &then))
}

fn difference(now: &BTreeMap<Name, Rows>, then: &BTreeMap<Name, Rows>) -> Compared {
    let mut compared = Compared::default();
    let names = now.keys().chain(then.keys().filter(|name| !now.contains_key(*name)));
    for name in names {
        let (one, other) = (now.get(name).copied(), then.get(name).copied());
        // Two estimates are of two moments nobody knows: equal ones say nothing.
        if let (Some(Rows::Exact(one)), Some(Rows::Exact(other))) = (one, other)
            && one == other
        {
            compared.alike += 1;
            continue;
        }
        let (database, table) = name.clone();
        compared.different.push(Difference { database, table, now: one, then: other });
    }
    compared.different.sort_by(|a, b| (&a.database, &a.table).cmp(&(&b.database, &b.table)));
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_alike_only_when_both_were_counted() {
        let side = |tables: &[(&str, Rows)]| -> BTreeMap<Name, Rows> {
            tables.iter().map(|(name, rows)| (("shop".to_owned(), (*name).to_owned()), *rows)).collect()
        };
        let now = side(&[
            ("public.a", Rows::Exact(3)),
            ("public.b", Rows::Exact(3)),
            ("public.big", Rows::Estimate(9)),
            ("public.new", Rows::Exact(1)),
        ]);
        let then = side(&[
            ("public.a", Rows::Exact(3)),
            ("public.b", Rows::Exact(2)),
            ("public.big", Rows::Estimate(9)),
            ("public.gone", Rows::Unknown),
        ]);
        let compared = difference(&now, &then);
        assert_eq!(compared.alike, 1);
        let names: Vec<&str> = compared.different.iter().map(|one| one.table.as_str()).collect();
        assert_eq!(names, ["public.b", "public.big", "public.gone", "public.new"]);
        let of = |name: &str| compared.different.iter().find(|one| one.table == name).map(|one| (one.now, one.then));
        assert_eq!(of("public.gone"), Some((None, Some(Rows::Unknown))));
        assert_eq!(of("public.new"), Some((Some(Rows::Exact(1)), None)));
    }
}
