//! The schema that is there, held against the one that the applied migrations make on an empty database.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{MigrateError, Plan, Request, State};
use crate::access::Access;

/// How an object differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Difference {
    /// It is in the database, and no migration makes it.
    Extra,
    /// A migration makes it, and it is not in the database.
    Gone,
    /// It is another than the migrations make.
    Other {
        /// In the database.
        there: String,
        /// By the migrations.
        made: String,
    },
}

/// An object that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drifted {
    /// Kind and name: `column public.users.email`.
    pub object: String,
    /// How.
    #[serde(flatten)]
    pub difference: Difference,
}

/// Objects by kind and name: what they belong to, and how they are defined.
pub type Objects = BTreeMap<String, (Option<String>, String)>;

/// What the migrations make that the plan says are applied, on an empty database.
///
/// **Errors**: as [`MigrateError`]; the history contradicts the files, or begins with a baseline, whose schema no file
/// tells.
pub async fn made(plan: &Plan, scratch: &Request<'_>) -> Result<Objects, MigrateError> {
    plan.can_be_made()?;
    super::migrate_these(scratch, &super::rehearse::applied(&plan.migrations)).await?;
    objects(scratch.superuser).await
}

impl Plan {
    /// Whether the files tell the schema that is there.
    ///
    /// **Errors**: as of [`made`], of the present alone.
    pub fn can_be_made(&self) -> Result<(), MigrateError> {
        let is_baseline = |one: &&super::Planned| one.state == State::BelowBaseline;
        if let Some(below) = self.migrations.iter().find(is_baseline) {
            return Err(MigrateError::Baseline { script: below.script.clone() });
        }
        super::plan::refusal(&self.migrations, self.convention, true)
    }
}

/// What is there. `superuser` leads into the database.
///
/// **Errors**: as [`MigrateError`].
pub async fn objects(superuser: &Access) -> Result<Objects, MigrateError> {
    let what = "read the schema";
    let client = superuser.connect().await?;
    let failed = |error| MigrateError::History { what, source: superuser.explain(error) };
    // With an empty path every name in a definition has its schema, whoever reads it.
    client.batch_execute("SET search_path = ''").await.map_err(failed)?;
    let mut objects = Objects::new();
    for sql in CATALOGS {
        let sql = sql.replace("OWN", OWN).replace("OF_EXTENSION", OF_EXTENSION);
        for row in client.query(&sql, &[]).await.map_err(failed)? {
            // What an aggregate makes of nothing is no text: a type without labels, a record without columns.
            objects.insert(row.get(0), (row.get(1), row.get::<_, Option<String>>(2).unwrap_or_default()));
        }
    }
    Ok(objects)
}

/// What differs. What belongs to a table that differs as a whole is not named one by one.
pub fn compare(there: &Objects, made: &Objects) -> Vec<Drifted> {
    let mut found = Vec::new();
    let is_in = |objects: &Objects, of: &Option<String>| of.as_ref().is_none_or(|of| objects.contains_key(of));
    for (object, (of, definition)) in there {
        match made.get(object) {
            None if is_in(made, of) => found.push(Drifted { object: object.clone(), difference: Difference::Extra }),
            Some((_, other)) if other != definition => {
                let difference = Difference::Other { there: definition.clone(), made: other.clone() };
                found.push(Drifted { object: object.clone(), difference });
            }
            None | Some(_) => {}
        }
    }
    for (object, (of, _)) in made {
        if !there.contains_key(object) && is_in(there, of) {
            found.push(Drifted { object: object.clone(), difference: Difference::Gone });
        }
    }
    found.sort_by(|a, b| a.object.cmp(&b.object));
    found
}

/// Schemas whose objects are the application's. An import sets aside what was there before.
const OWN: &str = "(n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
    AND n.nspname !~ '^(pg_temp_|pg_toast_temp_|before_import_)')";
const OF_EXTENSION: &str = "SELECT objid FROM pg_catalog.pg_depend WHERE deptype = 'e'";

/// Name, what it belongs to, definition. Histories are of those who run migrations.
const CATALOGS: [&str; 12] = [
    "SELECT 'schema ' || n.nspname, NULL, 'owner ' || pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_namespace n
     WHERE OWN AND n.nspname <> 'public' AND n.oid NOT IN (OF_EXTENSION)",
    "SELECT 'extension ' || extname, NULL, '' FROM pg_catalog.pg_extension",
    "SELECT 'table ' || n.nspname || '.' || c.relname, NULL,
        concat_ws(' ', CASE c.relkind WHEN 'f' THEN 'foreign' END, CASE c.relpersistence WHEN 'u' THEN 'unlogged' END,
        pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
        CASE WHEN c.relrowsecurity THEN 'row security' END, CASE WHEN c.relforcerowsecurity THEN 'forced' END,
        array_to_string(c.reloptions, ', '), 'owner ' || pg_get_userbyid(c.relowner))
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND OWN AND c.oid NOT IN (OF_EXTENSION)
     AND c.relname NOT IN ('flyway_schema_history', '_sqlx_migrations')",
    "SELECT 'column ' || n.nspname || '.' || c.relname || '.' || a.attname, 'table ' || n.nspname || '.' || c.relname,
        concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        CASE WHEN a.attgenerated <> '' THEN 'generated ' ELSE 'default ' END || pg_get_expr(d.adbin, d.adrelid),
        CASE a.attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity' END,
        (SELECT 'collate ' || l.collname FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE l.oid = a.attcollation AND l.oid <> t.typcollation))
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f') AND OWN
     AND c.oid NOT IN (OF_EXTENSION) AND c.relname NOT IN ('flyway_schema_history', '_sqlx_migrations')",
    "SELECT 'constraint ' || n.nspname || '.' || c.relname || '.' || k.conname,
        'table ' || n.nspname || '.' || c.relname, pg_get_constraintdef(k.oid)
     FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE OWN AND c.oid NOT IN (OF_EXTENSION) AND c.relname NOT IN ('flyway_schema_history', '_sqlx_migrations')",
    "SELECT 'index ' || n.nspname || '.' || i.relname, 'table ' || n.nspname || '.' || c.relname,
        pg_get_indexdef(x.indexrelid) || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
     FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
     JOIN pg_catalog.pg_class c ON c.oid = x.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE OWN AND c.oid NOT IN (OF_EXTENSION) AND c.relname NOT IN ('flyway_schema_history', '_sqlx_migrations')",
    "SELECT CASE c.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || n.nspname || '.' || c.relname, NULL,
        concat_ws(' ', array_to_string(c.reloptions, ', '), pg_get_viewdef(c.oid))
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('v', 'm') AND OWN AND c.oid NOT IN (OF_EXTENSION)",
    "SELECT 'function ' || n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', NULL,
        CASE WHEN p.prokind IN ('f', 'p', 'w') THEN pg_get_functiondef(p.oid) ELSE 'aggregate' END
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE OWN AND p.oid NOT IN (OF_EXTENSION)
     AND p.oid NOT IN (SELECT objid FROM pg_catalog.pg_depend WHERE deptype = 'i')",
    "SELECT 'trigger ' || n.nspname || '.' || c.relname || '.' || t.tgname, 'table ' || n.nspname || '.' || c.relname,
        pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' disabled' ELSE ' ' || t.tgenabled::text END
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT t.tgisinternal AND OWN AND c.oid NOT IN (OF_EXTENSION)",
    "SELECT 'sequence ' || n.nspname || '.' || c.relname, NULL,
        concat_ws(' ', format_type(s.seqtypid, NULL), 'start', s.seqstart, 'increment', s.seqincrement,
        'from', s.seqmin, 'to', s.seqmax, CASE WHEN s.seqcycle THEN 'cycle' END)
     FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE OWN AND c.oid NOT IN (OF_EXTENSION)",
    "SELECT 'type ' || n.nspname || '.' || t.typname, NULL, CASE t.typtype
        WHEN 'e' THEN 'enum ' || (SELECT coalesce(string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder), '')
            FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
        WHEN 'd' THEN concat_ws(' ', 'domain', format_type(t.typbasetype, t.typtypmod),
            CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'default ' || t.typdefault,
            (SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname)
             FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid))
        WHEN 'c' THEN (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
        ELSE 'range' END
     FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
     WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c') AND OWN
     AND t.oid NOT IN (OF_EXTENSION)",
    "SELECT 'policy ' || n.nspname || '.' || c.relname || '.' || p.polname, 'table ' || n.nspname || '.' || c.relname,
        concat_ws(' ', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, p.polcmd::text,
        (SELECT 'to ' || string_agg(pg_get_userbyid(role), ', ' ORDER BY role) FROM unnest(p.polroles) AS role WHERE role <> 0),
        'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
     FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE OWN AND c.oid NOT IN (OF_EXTENSION)",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(all: &[(&str, Option<&str>, &str)]) -> Objects {
        let of = |(name, of, definition): &(&str, Option<&str>, &str)| {
            ((*name).to_owned(), (of.map(str::to_owned), (*definition).to_owned()))
        };
        all.iter().map(of).collect()
    }

    #[test]
    fn what_differs_is_named_once_and_tables_as_a_whole() {
        let there = objects(&[
            ("table t", None, ""),
            ("column t.a", Some("table t"), "integer"),
            ("column t.b", Some("table t"), "text"),
            ("table extra", None, ""),
            ("column extra.a", Some("table extra"), "integer"),
        ]);
        let made = objects(&[
            ("table t", None, ""),
            ("column t.a", Some("table t"), "bigint"),
            ("column t.c", Some("table t"), "text"),
            ("table gone", None, ""),
            ("column gone.a", Some("table gone"), "integer"),
        ]);
        let found: Vec<_> = compare(&there, &made).into_iter().map(|one| (one.object, one.difference)).collect();
        let other = Difference::Other { there: "integer".to_owned(), made: "bigint".to_owned() };
        let wanted = [
            ("column t.a", other),
            ("column t.b", Difference::Extra),
            ("column t.c", Difference::Gone),
            ("table extra", Difference::Extra),
            ("table gone", Difference::Gone),
        ];
        assert_eq!(found, wanted.map(|(object, difference)| (object.to_owned(), difference)));
        assert_eq!(compare(&there, &there), []);
    }
}
