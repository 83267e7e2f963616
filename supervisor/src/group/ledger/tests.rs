use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

/// A ledger with the log it came from.
#[derive(Default)]
struct Log {
    ledger: Ledger,
    commands: Vec<Command>,
}

impl Log {
    fn add(&mut self, term: u64, second: i64, entry: Entry) -> Applied {
        let command = Command { term, at: at(second), entry };
        self.commands.push(command.clone());
        self.ledger.apply(self.commands.len() as u64, command)
    }

    fn lead(&mut self, member: MemberId, second: i64) -> u64 {
        let entry = Entry::Lead { member, name: format!("supervisor-{member}") };
        match self.add(0, second, entry) {
            Applied::Led { term } => term,
            other => panic!("{other:?}"),
        }
    }
}

fn silence(matcher: &str, from: i64, until: i64) -> NewSilence {
    NewSilence {
        matchers: vec![parse_matcher(matcher).unwrap()],
        starts_at: at(from),
        ends_at: at(until),
        created_by: "ann".into(),
        comment: "network work".into(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_leadership_is_later_than_the_one_before_whatever_the_clock_says() {
    let mut log = Log::default();
    let begun = [100, 100, 50, 200].map(|second| log.lead(1, second));
    assert_eq!(begun, [100, 101, 102, 200]);
    assert_eq!(log.ledger.leadership.unwrap().since, at(200));
}

#[test]
fn what_a_former_leader_proposed_is_refused() {
    let mut log = Log::default();
    let first = log.lead(1, 100);
    assert_eq!(log.add(first, 101, Entry::Number), Applied::Numbered(2));
    let second = log.lead(2, 102);
    let late = log.add(first, 103, Entry::Number);
    assert!(matches!(&late, Applied::Refused(why) if why.contains("term 100")), "{late:?}");
    assert_eq!(log.add(second, 104, Entry::Number), Applied::Numbered(3), "none is given twice");
}

#[test]
fn closed_circuits_are_not_kept() {
    let mut log = Log::default();
    let term = log.lead(1, 100);
    let circuit = |state| {
        let record = CircuitRecord { state, percent: None, reason: "slow".into(), since: at(100) };
        Entry::Circuit { server: "chatnode-1".into(), circuit: Some(record) }
    };
    assert_eq!(log.add(term, 101, circuit(CircuitState::Open)), Applied::Done);
    assert_eq!(log.ledger.circuits["chatnode-1"].state, CircuitState::Open);
    assert_eq!(log.add(term, 102, circuit(CircuitState::Closed)), Applied::Done);
    assert!(log.ledger.circuits.is_empty());
}

#[test]
fn a_silence_covers_what_it_matches_while_it_is_active() {
    let mut log = Log::default();
    let term = log.lead(1, 100);
    let added = log.add(term, 100, Entry::Silence(silence("server=~chatnode-[12]", 110, 200)));
    let Applied::Numbered(id) = added else { panic!("{added:?}") };
    let silencing = |log: &Log, server: &str, now| {
        log.ledger.silences.silencing(&labels(&[("server", server)]), at(now))
    };
    assert_eq!(silencing(&log, "chatnode-1", 109), None, "pending");
    assert_eq!(silencing(&log, "chatnode-1", 110), Some(id));
    assert_eq!(silencing(&log, "chatnode-12", 110), None, "the whole value must match");
    assert_eq!(silencing(&log, "chatnode-1", 200), None, "over");
    assert_eq!(log.add(term, 150, Entry::Unsilence { id }), Applied::Done);
    assert_eq!(silencing(&log, "chatnode-1", 150), None, "ended by hand");
    let again = log.add(term, 151, Entry::Unsilence { id });
    assert!(matches!(&again, Applied::Refused(why) if why.contains("over already")), "{again:?}");
    let shown =
        log.ledger.silences.iter().map(|silence| silence.state(at(160))).collect::<Vec<_>>();
    assert_eq!(shown, ["expired"]);
    log.lead(1, 150 + 5 * 24 * 3_600);
    assert_eq!(log.ledger.silences.iter().count(), 0, "forgotten in the end");
}

#[test]
fn a_silence_may_last_until_the_last_date_there_is() {
    let mut log = Log::default();
    let term = log.lead(1, 100);
    let endless = NewSilence { ends_at: DateTime::<Utc>::MAX_UTC, ..silence("NodeDown", 100, 200) };
    assert!(matches!(log.add(term, 100, Entry::Silence(endless)), Applied::Numbered(_)));
    log.lead(1, 200);
    assert_eq!(log.ledger.silences.iter().count(), 1);
}

#[test]
fn silences_that_make_no_sense_are_refused() {
    let mut log = Log::default();
    let term = log.lead(1, 100);
    let everything = NewSilence { matchers: vec![], ..silence("NodeDown", 100, 200) };
    for (wrong, why) in [
        (silence("NodeDown", 100, 90), "over already"),
        (silence("NodeDown", 200, 150), "over already"),
        (silence("team=~.*", 100, 200), "every alert"),
        (everything, "1 to 16 matchers"),
        (NewSilence { comment: "x".repeat(1_001), ..silence("A", 100, 200) }, "1000 bytes"),
    ] {
        let refused = log.add(term, 100, Entry::Silence(wrong));
        assert!(matches!(&refused, Applied::Refused(text) if text.contains(why)), "{refused:?}");
    }
    for index in 0..SILENCES_MAX {
        let server = format!("server=n{index}");
        assert!(matches!(
            log.add(term, 100, Entry::Silence(silence(&server, 100, 200))),
            Applied::Numbered(_)
        ));
    }
    let full = log.add(term, 100, Entry::Silence(silence("NodeDown", 100, 200)));
    assert!(matches!(&full, Applied::Refused(text) if text.contains("500")), "{full:?}");
}

#[test]
fn matchers_are_read_as_amtool_reads_them() {
    for (text, shown) in [
        ("NodeDown", "alertname=\"NodeDown\""),
        ("server=a", "server=\"a\""),
        ("server!=\"a b\"", "server!=\"a b\""),
        ("job=~\"a|b\"", "job=~\"a|b\""),
        ("job!~a.*", "job!~\"a.*\""),
        ("job=", "job=\"\""),
    ] {
        assert_eq!(parse_matcher(text).unwrap().to_string(), shown);
    }
    for wrong in ["", "=a", "job=~(", "job!a"] {
        assert!(parse_matcher(wrong).is_err(), "{wrong}");
    }
}

/// Whatever the log holds: two members that apply it come to the same state, a snapshot in between changes nothing, and terms rise.
#[test]
fn members_that_apply_the_same_log_agree() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut log = Log::default();
        let mut second = 1_000;
        for _ in 0..60 {
            second += random.i64(-2..5);
            let before = log.ledger.term();
            let term = if random.u8(..8) == 0 { before.saturating_sub(1) } else { before };
            let server = format!("chatnode-{}", random.u8(..4));
            match random.u8(..6) {
                0 => assert!(log.lead(random.u64(1..4), second) > before),
                1 => drop(log.add(term, second, Entry::Number)),
                2 | 3 => {
                    let states = [CircuitState::Closed, CircuitState::Open, CircuitState::HalfOpen];
                    let state = states[random.usize(..3)];
                    let circuit = CircuitRecord {
                        state,
                        percent: Some(10),
                        reason: String::new(),
                        since: at(second),
                    };
                    let circuit = random.bool().then_some(circuit);
                    log.add(term, second, Entry::Circuit { server, circuit });
                }
                4 => {
                    let until = second + random.i64(-5..500);
                    let new = silence(&format!("server={server}"), second, until);
                    log.add(term, second, Entry::Silence(new));
                }
                _ => drop(log.add(term, second, Entry::Unsilence { id: random.u64(..60) })),
            }
        }
        let mut other = Ledger::default();
        let cut = random.usize(..log.commands.len());
        for (index, command) in log.commands.iter().enumerate() {
            if index == cut {
                let snapshot = serde_json::to_vec(&other).unwrap();
                other = serde_json::from_slice(&snapshot).unwrap();
            }
            let command = serde_json::to_vec(command).unwrap();
            other.apply(index as u64 + 1, serde_json::from_slice(&command).unwrap());
        }
        assert_eq!(other, log.ledger, "seed {seed}");
        let far = at(second) + TimeDelta::days(400);
        assert!(other.silences.iter().all(|silence| !silence.is_active(far)));
    }
}

fn incident(id: u64, closed: Option<i64>) -> Incident {
    Incident {
        id,
        subject: format!("node-{id}"),
        title: "NodeDown".to_owned(),
        severity: crate::record::Severity::Critical,
        opened: at(1),
        closed: closed.map(at),
        causes: std::collections::BTreeSet::new(),
        events: 1,
    }
}

#[test]
fn open_incidents_stay_and_the_newest_that_are_over() {
    let mut log = Log::default();
    let term = log.lead(1, 100);
    for id in 1..=100 {
        assert_eq!(log.add(term, 101, Entry::Incident(incident(id, None))), Applied::Done);
    }
    for id in 2..=100 {
        log.add(term, 102, Entry::Incident(incident(id, Some(i64::try_from(id).unwrap()))));
    }
    let kept: Vec<_> = log.ledger.incidents.keys().copied().collect();
    let expected: Vec<_> = std::iter::once(1).chain(51..=100).collect();
    assert_eq!(kept, expected, "the one that is open, and fifty");
    // It goes on over a snapshot.
    let json = serde_json::to_string(&log.ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&json).unwrap(), log.ledger);
}

#[test]
fn what_people_were_told_is_known_until_they_are_told_that_it_is_over() {
    let mut log = Log::default();
    let term = log.lead(1, 100);
    let alert = labels(&[("alertname", "NodeDown"), ("server", "b")]);
    let told = Told { labels: alert.clone(), since: at(1), at: at(100) };
    log.add(term, 101, Entry::Told { firing: vec![told.clone()], over: Vec::new() });
    assert_eq!(log.ledger.told.of(&alert), Some(&told));
    assert_eq!(log.ledger.told.of(&labels(&[("alertname", "NodeDown")])), None);
    let over = vec![ToldAlerts::key(&alert)];
    log.add(term, 102, Entry::Told { firing: Vec::new(), over });
    assert_eq!(log.ledger.told, ToldAlerts::default());
    for at_most in 0..600 {
        let labels = labels(&[("server", &at_most.to_string())]);
        let firing = vec![Told { labels, ..told.clone() }];
        log.add(term, 103, Entry::Told { firing, over: Vec::new() });
    }
    assert_eq!(log.ledger.told.iter().count(), 500, "and no more");
}
