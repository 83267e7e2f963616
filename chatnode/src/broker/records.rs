//! Records: what a chat model keeps beside streams, such as accounts, contacts, groups and inboxes.
//!
//! A record has a name, a set of fields and a list of members ordered by a score. One write changes both at once, under conditions,
//! and is confirmed by replicas like a publication. There is no transaction across records: each lies on one shard. Rejected: handing
//! out Redis commands, which would tie the model to Redis and make every caller think of shards and confirmation.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::Pending;

/// Names a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// What kind of record: a fixed word.
    pub collection: &'static str,
    /// Which of its kind.
    pub id: &'a str,
}

/// All fields of a record.
pub type Record = BTreeMap<String, Bytes>;

/// What must hold for a write to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The record has neither fields nor members.
    Absent,
    /// It has some.
    Present,
    /// It has no such field.
    FieldAbsent(String),
    /// It has such a field.
    FieldPresent(String),
    /// The field has this value.
    FieldIs(String, Bytes),
    /// It has fewer fields than this.
    FieldsBelow(u32),
    /// It has fewer ordered members than this.
    MembersBelow(u32),
}

/// One change to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a field.
    Set(String, Bytes),
    /// Sets a field to a number unless it is already as high; exact up to 2^53.
    Raise(String, i64),
    /// Adds to a field that is a number, 0 if it is absent.
    Add(String, i64),
    /// Removes a field.
    Remove(String),
    /// Puts a member into the order, or moves it; exact up to 2^53.
    Rank(String, i64),
    /// Takes a member out of the order.
    Unrank(String),
    /// Removes every field and member.
    Clear,
}

/// A write to one record: all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Write {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Made in this order.
    pub changes: Vec<Change>,
    /// The record is gone after this time; `None` leaves what was set before.
    pub ttl: Option<Duration>,
}

/// Which part of the ordered members to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Members left out at the start.
    pub offset: u32,
    /// Most members read.
    pub limit: u32,
    /// Highest score first.
    pub highest_first: bool,
}

/// Reads and writes records.
pub trait Records: Send + Sync + 'static {
    /// Writes; ready once as many replicas as configured have it. False: a condition did not hold, and nothing was done.
    fn write(&self, key: Key<'_>, write: Write) -> Pending<bool>;
    /// The values of these fields, in their order.
    fn fields(&self, key: Key<'_>, names: &[&str]) -> Pending<Vec<Option<Bytes>>>;
    /// All fields; empty if there is no such record.
    fn record(&self, key: Key<'_>) -> Pending<Record>;
    /// Members with their scores, in order; those with the same score by name.
    fn ranked(&self, key: Key<'_>, window: Window) -> Pending<Vec<(String, i64)>>;
}
