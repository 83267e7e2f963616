//! How writes to records are put to the script. Pure.

use bytes::Bytes;

use crate::broker::{Change, Condition};

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
