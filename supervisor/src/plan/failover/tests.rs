use chrono::DateTime;

use super::*;
use crate::cluster::{Pause, RedisRole};
use crate::judge::redis::{Link, Sample};

mod adopting;

#[expect(clippy::disallowed_methods, reason = "tests begin at some instant")]
fn start() -> Instant {
    Instant::now()
}

fn address(port: u16) -> Address {
    Address::new("h", port)
}

pub(super) fn settings() -> Settings {
    Settings {
        manager: Manager::Holdfast,
        observe_only: false,
        probe_timeout: Duration::from_millis(500),
        hang_after: Duration::from_secs(1),
        loss_bytes_max: None,
        approval: None,
        standings: HashMap::new(),
        failover_cooldown: Duration::from_secs(30),
    }
}

/// A server that answers. Port 1 is the primary unless changed.
fn view(port: u16, offset: u64, now: Instant) -> ServerView {
    let is_replica = port != 1;
    let sample = Sample {
        at: now,
        role: if is_replica { RedisRole::Replica } else { RedisRole::Primary },
        run_id: format!("run{port}"),
        replid: "history".to_owned(),
        replid2: None,
        forked_at: None,
        offset,
        link_up: is_replica.then_some(true),
        syncing: false,
        follows: is_replica.then(|| address(1)),
        quiet_seconds: Some(0),
        priority: 100,
        loading: false,
        replicas: if is_replica { 0 } else { 2 },
        version: String::new(),
    };
    ServerView {
        link: Link::Open,
        answered_at: Some(now),
        sample: Some(sample),
        ..ServerView::new(address(port), now)
    }
}

fn three(now: Instant) -> Vec<ServerView> {
    vec![view(1, 100, now), view(2, 100, now), view(3, 90, now)]
}

fn sample(view: &mut ServerView) -> &mut Sample {
    view.sample.as_mut().unwrap()
}

/// What a supervisor by itself decides.
fn decide(planner: &mut Planner, now: Instant, views: &[ServerView]) -> Decision {
    planner.decide(now, views, &Council::of_one())
}

/// The group agrees on `entry`.
fn agree(planner: &mut Planner, now: Instant, views: &[ServerView], entry: RedisEntry) {
    let mut register = planner.register().clone();
    register.apply(1, entry).unwrap();
    planner.follow(now, DateTime::UNIX_EPOCH, &register, views);
}

/// A planner that was started with what the group had agreed on.
fn started(now: Instant, settings: Settings, register: &Register) -> Planner {
    let mut planner = Planner::new(settings, now);
    planner.follow(now, DateTime::UNIX_EPOCH, register, &[]);
    planner
}

/// A planner that has adopted port 1 and seen it healthy.
fn settled(now: Instant, settings: Settings) -> Planner {
    let mut planner = started(now, settings, &Register::default());
    let views = three(now);
    let decision = decide(&mut planner, now, &views);
    assert!(matches!(decision.action, Action::Adopt { .. }), "{decision:?}");
    let adopted = RedisEntry::Adopt { primary: address(1), lineage: None };
    agree(&mut planner, now, &views, adopted);
    let decision = decide(&mut planner, now, &views);
    assert_eq!((decision.event, decision.action), (Event::Answered, Action::Nothing));
    planner
}

fn refuse(views: &mut [ServerView]) {
    views[0].link = Link::Refused;
    views[0].answered_at = None;
}

/// A decision as text, to be read by people.
fn told(decision: &Decision) -> String {
    let mut lines =
        vec![format!("{:?}: {}", decision.event, decision.summary.as_deref().unwrap_or("-"))];
    lines.extend(
        decision
            .reasons
            .iter()
            .map(|r| format!("{} {}", if r.favours { '+' } else { '-' }, r.text)),
    );
    lines.join("\n")
}

#[test]
fn a_death_is_acted_on_and_explained() {
    let now = start();
    let mut planner = settled(now, settings());
    let mut views = three(now);
    refuse(&mut views);
    let decision = decide(&mut planner, now, &views);
    assert_eq!(decision.action, Action::FailOver);
    assert_eq!(
        told(&decision),
        "Down: the primary is dead\n\
         + h:1 refuses connections: nobody listens there\n\
         + h:2 has the most data: offset 100\n\
         - h:3 lacks 10 bytes more"
    );
}

/// What is different from the usual settings.
type Setting = fn(&mut Settings);

#[test]
fn what_is_held_back_says_why() {
    let now = start();
    let no_candidate = |views: &mut Vec<ServerView>| {
        sample(&mut views[1]).priority = 0;
        sample(&mut views[2]).replid = "another".to_owned();
    };
    let cases: [(Setting, bool, &str); 3] = [
        (
            |s| s.manager = Manager::None,
            true,
            "the primary is dead, but `redis.manager` is \"none\"",
        ),
        (
            |s| s.observe_only = true,
            true,
            "the primary is dead, but this supervisor is set to observe only",
        ),
        (|_| {}, false, "the primary is dead, but no server can take its place"),
    ];
    for (change, has_candidate, expected) in cases {
        let mut settings = settings();
        change(&mut settings);
        let mut planner = settled(now, settings);
        let mut views = three(now);
        refuse(&mut views);
        if !has_candidate {
            no_candidate(&mut views);
        }
        let decision = decide(&mut planner, now, &views);
        assert_eq!(decision.action, Action::Nothing);
        assert_eq!(decision.summary.as_deref(), Some(expected));
        assert_eq!(decision.event, Event::Withheld);
    }
}

#[test]
fn the_cooldown_holds_for_silence_and_not_for_proof() {
    let now = start();
    let mut planner = settled(now, settings());
    planner.last_failover = Some(now);
    let later = now + Duration::from_secs(5);
    let mut views = three(later);
    views[0].waiting_since = Some(now + Duration::from_secs(3));
    views[0].fresh = Some((later, crate::judge::redis::Fresh::Silent));
    let decision = decide(&mut planner, later, &views);
    assert_eq!(decision.verdict, Some(Verdict::PrimaryHung));
    assert!(decision.withheld.unwrap().contains("less than 30 s ago"));
    refuse(&mut views);
    assert_eq!(decide(&mut planner, later, &views).action, Action::FailOver);
}

#[test]
fn a_failed_attempt_is_repeated_with_growing_pauses() {
    let now = start();
    let mut planner = settled(now, settings());
    let mut at = now;
    for milliseconds in [500, 1000, 2000] {
        planner.failed(at, "no route".to_owned());
        let mut views = three(at);
        refuse(&mut views);
        assert!(decide(&mut planner, at, &views).withheld.unwrap().contains("no route"));
        at += Duration::from_millis(milliseconds);
        let mut views = three(at);
        refuse(&mut views);
        assert_eq!(
            decide(&mut planner, at, &views).action,
            Action::FailOver,
            "after {milliseconds} ms"
        );
    }
}

#[test]
fn offset_comes_before_priority_and_history_before_offset() {
    let now = start();
    let lineage = Lineage {
        run_id: None,
        replid: "history".to_owned(),
        replid2: Some("former".to_owned()),
        forked_at: None,
        offset: 120,
    };
    let pick = |change: &dyn Fn(&mut Vec<ServerView>)| {
        let mut views = three(now);
        change(&mut views);
        let from = address(1);
        let search = Search {
            now,
            patience: Duration::from_millis(500),
            from: Some(&from),
            lineage: Some(&lineage),
            last_resort: false,
            wanted: None,
            standings: &HashMap::new(),
        };
        choose(&views, &search).map(|choice| (choice.address.port(), choice.lacks_bytes))
    };
    assert_eq!(pick(&|_| {}), Ok((2, Some(20))));
    let prefers_three = |views: &mut Vec<ServerView>| sample(&mut views[2]).priority = 1;
    assert_eq!(pick(&prefers_three), Ok((2, Some(20))));
    let equals = |views: &mut Vec<ServerView>| {
        sample(&mut views[1]).offset = 90;
        sample(&mut views[2]).priority = 1;
    };
    assert_eq!(pick(&equals), Ok((3, Some(30))));
    let tie = |views: &mut Vec<ServerView>| sample(&mut views[1]).offset = 90;
    assert_eq!(pick(&tie), Ok((2, Some(30))), "run2 sorts before run3");
    let former = |views: &mut Vec<ServerView>| sample(&mut views[1]).replid = "former".to_owned();
    assert_eq!(pick(&former), Ok((3, Some(30))));
    let promoted = |views: &mut Vec<ServerView>| {
        sample(&mut views[2]).role = RedisRole::Primary;
        sample(&mut views[2]).replid = "next".to_owned();
        sample(&mut views[2]).replid2 = Some("history".to_owned());
        sample(&mut views[2]).offset = 110;
    };
    assert_eq!(pick(&promoted), Ok((3, Some(10))), "an interrupted promotion is completed");
    let none = |views: &mut Vec<ServerView>| {
        sample(&mut views[1]).loading = true;
        views[2].waiting_since = Some(now.checked_sub(Duration::from_secs(1)).unwrap());
    };
    assert_eq!(
        pick(&none).unwrap_err().into_iter().map(|reason| reason.text).collect::<Vec<_>>(),
        ["h:2 is loading a dataset", "h:3 does not answer"]
    );
}

#[test]
fn stragglers_are_brought_in_line_once_in_a_while() {
    let now = start();
    let mut planner = settled(now, settings());
    planner.register.fork = Some(Fork { replid: "older".to_owned(), offset: 70 });
    let mut views = three(now);
    sample(&mut views[1]).role = RedisRole::Primary;
    sample(&mut views[1]).link_up = None;
    sample(&mut views[1]).replid = "older".to_owned();
    sample(&mut views[2]).follows = Some(address(9));
    sample(&mut views[2]).link_up = Some(false);
    let Action::Repair(repairs) = decide(&mut planner, now, &views).action else {
        panic!("repairs")
    };
    let told: Vec<_> = repairs
        .iter()
        .map(|r| (r.server.port(), r.demote, r.diverged.as_ref().map(|d| d.bytes)))
        .collect();
    assert_eq!(told, [(2, true, Some(30)), (3, false, None)]);
    assert_eq!(decide(&mut planner, now, &views).action, Action::Nothing, "they need a moment");
    let later = now + REPAIR_EVERY;
    assert!(matches!(decide(&mut planner, later, &views).action, Action::Repair(_)));
}

#[test]
fn a_replica_that_knows_the_primary_by_another_name_is_left_alone() {
    let now = start();
    let mut planner = settled(now, settings());
    let mut views = three(now);
    sample(&mut views[2]).follows = Some(Address::new("alias", 1));
    assert_eq!(decide(&mut planner, now, &views).action, Action::Nothing);
    sample(&mut views[2]).follows = Some(address(2));
    assert!(
        matches!(decide(&mut planner, now, &views).action, Action::Repair(_)),
        "chains are undone"
    );
}

fn rules(rules: &[(u16, Promotion)]) -> HashMap<Address, Standing> {
    let standing = |promotion| Standing { promotion, zone: None };
    rules.iter().map(|(port, promotion)| (address(*port), standing(*promotion))).collect()
}

/// Name, settings, what is changed, who is chosen, and a part of the reason.
type TieBreak =
    (&'static str, HashMap<Address, Standing>, fn(&mut [ServerView]), u16, &'static str);

/// What decides between servers with the same data, in this order.
#[test]
fn between_equals_decide_rule_priority_zone_and_version() {
    let now = start();
    let zone = |name: &str| Standing { zone: Some(name.to_owned()), ..Standing::default() };
    let zones = [(address(1), zone("a")), (address(2), zone("b")), (address(3), zone("a"))].into();
    let cases: [TieBreak; 6] = [
        ("nothing", HashMap::new(), |_| {}, 2, "the smaller run id decides"),
        (
            "a rule before priority",
            rules(&[(3, Promotion::Prefer)]),
            |views| sample(&mut views[1]).priority = 1,
            3,
            "its promotion rule puts it behind",
        ),
        (
            "priority",
            HashMap::new(),
            |views| sample(&mut views[2]).priority = 1,
            3,
            "but replica-priority 100",
        ),
        ("zone", zones, |_| {}, 3, "is in another zone"),
        (
            "version",
            HashMap::new(),
            |views| sample(&mut views[1]).version = "7.10.1".to_owned(),
            3,
            "which older replicas cannot follow",
        ),
        ("never", rules(&[(2, Promotion::Never)]), |_| {}, 3, "never to be promoted"),
    ];
    for (name, standings, change, expected, reason) in cases {
        let mut planner = settled(now, Settings { standings, ..settings() });
        let mut views = three(now);
        sample(&mut views[2]).offset = 100;
        change(&mut views);
        refuse(&mut views);
        let decision = decide(&mut planner, now, &views);
        let choice = decision.candidate.as_ref().unwrap();
        assert_eq!(choice.address, address(expected), "{name}: {}", told(&decision));
        assert!(told(&decision).contains(reason), "{name}: {}", told(&decision));
    }
    // Offset comes before every rule.
    let standings = rules(&[(3, Promotion::Prefer)]);
    let mut planner = settled(now, Settings { standings, ..settings() });
    let mut views = three(now);
    refuse(&mut views);
    assert_eq!(decide(&mut planner, now, &views).candidate.unwrap().address, address(2));
}

#[test]
fn a_failover_that_would_lose_too_much_waits_for_an_operator() {
    let now = start();
    for (max, held) in [(9, true), (10, false)] {
        let mut planner = settled(now, Settings { loss_bytes_max: Some(max), ..settings() });
        let mut views = three(now);
        for view in &mut views[1..] {
            sample(view).offset = 90;
        }
        refuse(&mut views);
        let decision = decide(&mut planner, now, &views);
        assert_eq!(decision.withheld.is_some(), held, "{}", told(&decision));
        assert_eq!(told(&decision).contains("lacks 10 bytes of what the primary had"), held);
    }
}

#[test]
fn a_pause_holds_failovers_and_repairs_back_until_it_ends() {
    let now = start();
    let mut planner = settled(now, settings());
    let pause = Pause { reason: "network work".into(), by: "ann".into(), until: None };
    agree(&mut planner, now, &[], RedisEntry::Pause(Some(pause)));
    let mut views = three(now);
    sample(&mut views[2]).role = RedisRole::Primary;
    let decision = decide(&mut planner, now, &views);
    assert_eq!(decision.action, Action::Nothing);
    assert!(decision.withheld.unwrap().contains("paused (network work, by ann)"));
    let mut views = three(now);
    refuse(&mut views);
    let decision = decide(&mut planner, now, &views);
    assert_eq!(decision.action, Action::Nothing);
    assert!(decision.withheld.unwrap().contains("paused"));
    agree(&mut planner, now, &[], RedisEntry::Pause(None));
    assert_eq!(decide(&mut planner, now, &views).action, Action::FailOver);
}

#[test]
fn a_failover_waits_for_approval_and_is_asked_for_again() {
    let now = start();
    let limit = Duration::from_mins(15);
    let mut planner = settled(now, Settings { approval: Some(limit), ..settings() });
    assert!(!planner.awaits_approval());
    let mut views = three(now);
    refuse(&mut views);
    let decision = decide(&mut planner, now, &views);
    assert_eq!(decision.action, Action::Nothing);
    assert!(decision.withheld.unwrap().contains("waits for an operator's approval"));
    assert!(planner.awaits_approval());
    let later = now + limit;
    let decision = decide(&mut planner, later, &views);
    assert!(decision.withheld.unwrap().contains("asked 2 times"));
    agree(&mut planner, later, &views, RedisEntry::Approve(true));
    assert!(!planner.awaits_approval());
    assert_eq!(decide(&mut planner, later, &views).action, Action::FailOver);
    // What was agreed to is done, and the next one is asked for anew.
    let (from, to) = (address(1), address(2));
    agree(&mut planner, later, &views, RedisEntry::Begin { epoch: 2, from, to, is_planned: false });
    assert!(planner.register().approved, "until it is done");
    let lineage = planner.lineage().cloned().unwrap();
    let done = RedisEntry::Done {
        epoch: 2,
        to: address(2),
        lineage,
        fork: None,
        at: DateTime::UNIX_EPOCH,
    };
    agree(&mut planner, later, &views, done);
    assert!(!planner.register().approved);
}

#[test]
fn a_preferred_server_that_has_caught_up_takes_over() {
    let now = start();
    let standings = rules(&[(1, Promotion::PreferNot), (3, Promotion::Prefer)]);
    let mut planner = settled(now, Settings { standings, ..settings() });
    // Not before things have settled.
    let settled_at = now + settings().failover_cooldown;
    let views = three(settled_at);
    let Action::HandOver(choice) = decide(&mut planner, settled_at, &views).action else {
        panic!("no hand-over");
    };
    assert_eq!(choice.address, address(3));
    let mut views = three(settled_at);
    sample(&mut views[2]).link_up = Some(false);
    let Action::HandOver(choice) = decide(&mut planner, settled_at, &views).action else {
        panic!("no hand-over to the neutral one");
    };
    assert_eq!(choice.address, address(2));
    planner.failed(settled_at, "it did not catch up".to_owned());
    assert_eq!(decide(&mut planner, settled_at, &three(settled_at)).action, Action::Nothing);
}

#[test]
fn what_others_did_is_noticed_where_nobody_tells() {
    let now = start();
    for manager in [Manager::None, Manager::Sentinel] {
        let mut planner = settled(now, Settings { manager, ..settings() });
        let mut views = three(now);
        refuse(&mut views);
        let decision = decide(&mut planner, now, &views);
        assert_eq!(decision.action, Action::Nothing, "{decision:?}");
        let is_sentinels = manager == Manager::Sentinel;
        assert_eq!(decision.withheld.is_none(), is_sentinels, "{decision:?}");

        (sample(&mut views[1]).role, sample(&mut views[1]).link_up) = (RedisRole::Primary, None);
        sample(&mut views[1]).replid2 = Some("history".to_owned());
        let decision = decide(&mut planner, now, &views);
        let adopts =
            matches!(&decision.action, Action::Adopt { primary, .. } if *primary == address(2));
        assert_eq!(adopts, !is_sentinels, "{decision:?}");

        // Two of them: which one is not for us to guess.
        (sample(&mut views[2]).role, sample(&mut views[2]).replicas) = (RedisRole::Primary, 1);
        assert_eq!(decide(&mut planner, now, &views).action, Action::Nothing);
        assert_eq!(planner.heir(now, &views), None);
    }
}

#[test]
fn a_primary_that_is_adopted_again_gets_a_new_epoch() {
    let now = start();
    let planner = settled(now, Settings { manager: Manager::Sentinel, ..settings() });
    let mut planner = started(now, planner.settings.clone(), planner.register());
    let views = three(now);
    let epochs: Vec<_> = [2, 1, 2]
        .map(|port| {
            let entry = RedisEntry::Adopt { primary: address(port), lineage: None };
            agree(&mut planner, now, &views, entry);
            planner.epoch()
        })
        .to_vec();
    assert_eq!(epochs, [2, 3, 4]);
}
