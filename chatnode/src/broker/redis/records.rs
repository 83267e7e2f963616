//! How records and writes to them are named in Redis. Pure.

use bytes::Bytes;

use crate::broker::{Change, Condition, Key};

/// Both keys of a record.
pub(super) fn keys(key: Key<'_>) -> Vec<String> {
    vec![name(key, "fields"), name(key, "members")]
}

pub(super) fn fields_key(key: Key<'_>) -> Bytes {
    name(key, "fields").into()
}

pub(super) fn members_key(key: Key<'_>) -> Bytes {
    name(key, "members").into()
}

fn name(key: Key<'_>, part: &str) -> String {
    format!("holdfast:{}:{{{}}}:{part}", key.collection, key.id)
}

type Words = [Bytes; 3];

fn words(word: &'static str, first: impl Into<Bytes>, second: impl Into<Bytes>) -> Words {
    [Bytes::from_static(word.as_bytes()), first.into(), second.into()]
}

/// A condition as the script reads it.
pub(super) fn condition(condition: Condition) -> Words {
    match condition {
        Condition::Absent => words("absent", "", ""),
        Condition::Present => words("present", "", ""),
        Condition::FieldAbsent(name) => words("field_absent", name, ""),
        Condition::FieldPresent(name) => words("field_present", name, ""),
        Condition::FieldIs(name, value) => words("field_is", name, value),
        Condition::FieldsBelow(count) => words("fields_below", count.to_string(), ""),
        Condition::MembersBelow(count) => words("members_below", count.to_string(), ""),
    }
}

/// A change as the script reads it.
pub(super) fn change(change: Change) -> Words {
    match change {
        Change::Set(name, value) => words("set", name, value),
        Change::Raise(name, to) => words("raise", name, to.to_string()),
        Change::Add(name, by) => words("add", name, by.to_string()),
        Change::Remove(name) => words("remove", name, ""),
        Change::Rank(member, score) => words("rank", member, score.to_string()),
        Change::Unrank(member) => words("unrank", member, ""),
        Change::Clear => words("clear", "", ""),
    }
}
