use super::*;
use crate::metrics::Metrics;

const TTL: u64 = 10_000;

fn table(shared: bool) -> StickTable {
    let registry = holdfast_telemetry::metrics::registry("balancer", "0");
    let metrics = Metrics::register(&registry).sticks.handles("p");
    let ttl = Duration::from_millis(TTL);
    let rules = StickRules { key: StickKey::Source, ttl, entries_max: 1_000, shared };
    StickTable::new(rules, crate::pool::now(), metrics)
}

#[test]
fn a_client_is_remembered_for_its_time_after_the_last_use() {
    let table = table(false);
    assert_eq!(table.find(1, 0), None);
    table.note(1, 7, 0);
    assert_eq!(table.find(1, TTL - 1), Some(7));
    table.note(1, 7, TTL - 1);
    assert_eq!(table.look_up(1, TTL), Some((7, Duration::from_millis(TTL - 1))));
    table.note(1, 8, TTL);
    assert_eq!(table.find(1, 2 * TTL - 1), Some(8), "the one that served it last");
    assert_eq!(table.find(1, 2 * TTL), None);
    assert_eq!(table.find(2, 0), None);
    assert!(table.take_untold(9).is_empty(), "nobody to tell");
}

#[test]
fn others_are_told_of_news_and_now_and_then_of_use() {
    let table = table(true);
    for now in [0, 1, 2] {
        table.note(1, 7, now);
    }
    table.note(2, 8, 2);
    assert_eq!(table.take_untold(1), [(1, 7)]);
    assert_eq!(table.take_untold(9), [(2, 8)]);
    table.note(1, 7, TTL / 2 - 1);
    assert!(table.take_untold(9).is_empty());
    table.note(1, 7, TTL / 2);
    assert_eq!(table.take_untold(9), [(1, 7)], "so that they remember it as long");
    table.note(1, 9, TTL / 2 + 1);
    assert_eq!(table.take_untold(9), [(1, 9)], "a move at once");
    table.tell_later([1]);
    table.note(1, 9, TTL / 2 + 2);
    assert_eq!(table.take_untold(9), [(1, 9)], "what was not told, with the next use");
}

#[test]
fn what_others_say_counts_unless_this_one_knows_better() {
    let table = table(true);
    let left = Duration::from_millis(TTL - 100);
    table.learn(1, 7, left, 0);
    assert_eq!(table.look_up(1, 0), Some((7, left)));
    assert!(table.take_untold(9).is_empty(), "it came from there");
    // An older word does not shorten it, another server's replaces it.
    table.learn(1, 7, Duration::from_millis(1), 0);
    assert_eq!(table.look_up(1, 0), Some((7, left)));
    table.note(1, 8, 5);
    table.learn(1, 7, left, 5);
    assert_eq!(table.find(1, 5), Some(8), "this one's word is not in the stream yet");
    assert_eq!(table.take_untold(9), [(1, 8)]);
    table.learn(1, 9, left, 6);
    assert_eq!(table.find(1, 6), Some(9), "said after it");
}

#[test]
fn what_is_forgotten_here_is_forgotten_there() {
    let (here, there) = (table(true), table(true));
    here.note(1, 7, 0);
    for (subject, server) in here.take_untold(9) {
        there.learn(subject, server, Duration::from_millis(TTL), 0);
    }
    assert_eq!(there.find(1, 1), Some(7));
    assert!(here.forget(1, 1));
    assert!(!here.forget(1, 1) && !here.forget(2, 1), "not known");
    assert_eq!(here.find(1, 1), None);
    let told = here.take_untold(9);
    assert_eq!(told, [(1, NOWHERE)]);
    there.learn(1, NOWHERE, Duration::from_millis(TTL), 2);
    assert_eq!(there.find(1, 2), None);
    there.learn(5, NOWHERE, Duration::from_millis(TTL), 2);
    assert_eq!(there.len(), 1, "nothing is remembered of a client that was not known");
}

#[test]
fn more_news_than_can_wait_are_told_with_the_next_use() {
    let table = table(true);
    for subject in 0..UNTOLD_MAX as u64 {
        table.tell(subject);
    }
    table.note(u64::MAX, 7, 0);
    table.take_untold(UNTOLD_MAX);
    assert!(table.take_untold(9).is_empty());
    table.note(u64::MAX, 7, 1);
    assert_eq!(table.take_untold(9), [(u64::MAX, 7)]);
}
