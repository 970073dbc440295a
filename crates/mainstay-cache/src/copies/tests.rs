//! What needs no server.

use super::*;

#[test]
fn keys_are_counted_by_database_and_other_lines_are_passed_over() {
    let info = "# Keyspace\r\ndb0:keys=2,expires=1,avg_ttl=1450\r\ndb3:keys=1,expires=0,avg_ttl=0\r\nrole:master\r\n";
    let found = counts(info);
    assert_eq!(found.len(), 2);
    assert_eq!(found[&0], Count { keys: 2, expires: 1 });
    assert_eq!(keys(&found), 3);
    assert!(counts("# Keyspace\r\n").is_empty());
}

fn copy(id: &str, faults: Option<&[&str]>) -> Copy {
    let proof = faults.map(|faults| Proof {
        at: Timestamp::default(),
        counts: Counts::new(),
        took_ms: 1,
        faults: faults.iter().map(|fault| (*fault).to_owned()).collect(),
    });
    Copy {
        version: VERSION,
        id: id.to_owned(),
        at: Timestamp::default(),
        name: None,
        is_scheduled: true,
        is_replaced: false,
        bytes: 1,
        sha256: String::new(),
        before: Counts::new(),
        after: Counts::new(),
        memory: 1,
        took_ms: 1,
        proof,
        right_since: None,
    }
}

#[test]
fn a_copy_is_named_by_its_beginning_and_latest_is_one_that_is_proven() {
    let list = [copy("20261126T10", Some(&[])), copy("20261126T11", Some(&["0 keys"])), copy("20261127T10", None)];
    assert_eq!(find(&list, "latest").unwrap().id, "20261126T10");
    assert_eq!(find(&list, "20261127").unwrap().id, "20261127T10");
    assert!(matches!(find(&list, "20261126"), Err(CopyError::Ambiguous(..))));
    assert!(matches!(find(&list, ""), Err(CopyError::NoCopy(_))));
    assert!(matches!(find(&list[1..], "latest"), Err(CopyError::NoCopy(_))));
}

#[test]
fn the_first_of_two_copies_of_one_second_is_named_by_its_whole_name() {
    let list = [copy("20261126T235645", None), copy("20261126T235645b", None)];
    assert_eq!(find(&list, "20261126T235645").unwrap().id, "20261126T235645");
    assert_eq!(find(&list, "20261126T235645b").unwrap().id, "20261126T235645b");
    assert!(matches!(find(&list, "20261126T2356"), Err(CopyError::Ambiguous(..))));
}

/// Restored twice, `latest` brought back what the first restore had replaced.
#[test]
fn latest_is_never_what_a_restore_replaced() {
    let replaced = Copy { is_replaced: true, ..copy("20261127T11", Some(&[])) };
    let list = [copy("20261127T10", Some(&[])), replaced];
    assert_eq!(find(&list, "latest").unwrap().id, "20261127T10");
    assert_eq!(find(&list, "20261127T11").unwrap().id, "20261127T11", "by its name it is found");
    let error = find(&list[1..], "latest").unwrap_err().to_string();
    assert!(error.contains("20261127T11"), "{error}");
}

#[test]
fn a_note_of_an_earlier_version_is_read() {
    let mut note = serde_json::to_value(copy("20261127T10", Some(&[]))).unwrap();
    let fields = note.as_object_mut().unwrap();
    assert!(fields.remove("is_replaced").is_some() && fields.remove("right_since").is_some());
    assert_eq!(serde_json::from_value::<Copy>(note).unwrap().id, "20261127T10");
}
