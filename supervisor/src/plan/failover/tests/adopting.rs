//! Which server is the primary, after a start and after everything was lost.

use super::*;

fn agreed(primary: u16) -> Register {
    let lineage = Lineage {
        run_id: None,
        replid: "history".to_owned(),
        replid2: None,
        forked_at: None,
        offset: 95,
    };
    Register {
        primary: Some(address(primary)),
        epoch: 7,
        spent: 8,
        lineage: Some(lineage),
        ..Register::default()
    }
}

fn both(views: &mut [ServerView]) {
    sample(&mut views[1]).role = RedisRole::Primary;
    sample(&mut views[1]).replicas = 1;
}
/// What is different from three servers that are well.
type Change = fn(&mut [ServerView]);

#[test]
fn the_primary_is_found_or_nothing_is_done() {
    let now = start();
    let settled = now + Duration::from_secs(2);
    let cases: Vec<(&str, Option<Register>, Change, &str)> = vec![
        ("one", None, |_| {}, "h:1"),
        (
            "two, one with replicas",
            None,
            |v| {
                both(v);
                sample(&mut v[1]).replicas = 0;
            },
            "h:1",
        ),
        ("two with replicas", None, both, "h:1, h:2 all say they are the primary"),
        ("two, we know", Some(agreed(2)), both, "h:2"),
        (
            "none",
            None,
            |v| sample(&mut v[0]).role = RedisRole::Replica,
            "no server that answers is a primary",
        ),
        (
            "none up",
            None,
            |v| v.iter_mut().for_each(|v| v.link = Link::Refused),
            "no server answers",
        ),
        ("dead while we were away", Some(agreed(1)), |v| v[0].link = Link::Refused, "h:1"),
        (
            "replaced while we were away",
            Some(agreed(1)),
            |v| {
                v[0].link = Link::Refused;
                sample(&mut v[1]).role = RedisRole::Primary;
                sample(&mut v[1]).replid2 = Some("history".to_owned());
            },
            "h:2",
        ),
        ("the agreed one is not ours any more", Some(agreed(9)), |_| {}, "h:1"),
    ];
    for (name, register, change, expected) in cases {
        let mut views = three(settled);
        change(&mut views);
        let register = register.unwrap_or_default();
        let found = match find(&views, &register, &settings(), now, settled) {
            Found::Primary { address, .. } => address.to_string(),
            Found::Doubt(why) => why,
            Found::Waiting => "waiting".to_owned(),
        };
        assert_eq!(found, expected, "{name}");
    }
    let views = vec![view(1, 100, now), ServerView::new(address(2), now)];
    assert_eq!(find(&views, &Register::default(), &settings(), now, now), Found::Waiting);
}

#[test]
fn what_was_agreed_on_counts_after_a_restart() {
    let now = start();
    let mut planner = started(now, settings(), &agreed(1));
    assert_eq!(planner.primary(), Some(&address(1)), "clients are told at once");
    assert_eq!(decide(&mut planner, now, &three(now)).action, Action::Nothing);
    assert_eq!((planner.epoch(), planner.register().next_epoch()), (7, 9), "8 was begun");
    let mut planner = started(now, settings(), &agreed(1));
    let mut views = three(now);
    views[0].link = Link::Refused;
    sample(&mut views[1]).role = RedisRole::Primary;
    sample(&mut views[1]).replid2 = Some("history".to_owned());
    sample(&mut views[1]).replicas = 1;
    let Action::Adopt { primary, .. } = decide(&mut planner, now, &views).action else {
        panic!("no adoption")
    };
    agree(&mut planner, now, &views, RedisEntry::Adopt { primary, lineage: None });
    assert_eq!((planner.primary(), planner.epoch()), (Some(&address(2)), 9));
    assert_eq!(decide(&mut planner, now, &views).verdict, Some(Verdict::PrimaryHealthy));
}

#[test]
fn data_lost_everywhere_is_accepted_in_the_end() {
    let now = start();
    let mut planner = settled(now, settings());
    let mut views = three(now);
    for view in &mut views {
        sample(view).replid = "new".to_owned();
        sample(view).offset = 5;
    }
    sample(&mut views[0]).run_id = "again".to_owned();
    let decision = decide(&mut planner, now, &views);
    assert_eq!((decision.event, decision.action), (Event::Answered, Action::Nothing));
    assert_eq!(planner.lineage().unwrap().replid, "new");
}
