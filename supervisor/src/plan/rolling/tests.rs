//! A rolling restart from beginning to end, and everything that comes between.

use super::*;
use crate::cluster::RedisRole;
use crate::judge::redis::{Link, Sample};

fn address(port: u16) -> Address {
    Address::new("127.0.0.1", port)
}

fn view(port: u16, primary: u16, run: &str, offset: u64, now: Instant) -> ServerView {
    let mut view = ServerView::new(address(port), now);
    (view.link, view.answered_at) = (Link::Open, Some(now));
    let is_primary = port == primary;
    view.sample = Some(Sample {
        at: now,
        role: if is_primary { RedisRole::Primary } else { RedisRole::Replica },
        run_id: run.to_owned(),
        replid: "a".to_owned(),
        replid2: None,
        forked_at: None,
        offset,
        link_up: (!is_primary).then_some(true),
        syncing: false,
        follows: None,
        quiet_seconds: None,
        priority: 100,
        loading: false,
        replicas: 2,
        version: "7.0.15".to_owned(),
    });
    view
}

struct Test {
    begin: Instant,
    rolling: Rolling,
    /// The last epoch whose primary was found.
    found: u64,
}

impl Test {
    fn new(needed: u32) -> Self {
        let servers = [2, 3, 1].map(address).to_vec();
        let timeout = Duration::from_mins(1);
        Self {
            begin: tokio::time::Instant::now().into_std(),
            rolling: Rolling::new("me".to_owned(), servers, needed, timeout, 4),
            found: 1,
        }
    }

    /// `servers`: port, process, offset.
    fn next(
        &mut self,
        second: u64,
        primary: u16,
        epoch: u64,
        servers: &[(u16, &str, u64)],
    ) -> Next {
        let now = self.begin + Duration::from_secs(second);
        let views: Vec<_> =
            servers.iter().map(|(port, run, at)| view(*port, primary, run, *at, now)).collect();
        let primary = address(primary);
        let patience = Duration::from_secs(1);
        let (views, primary, found) = (&views, &primary, self.found);
        self.rolling.next(&World { now, views, primary, epoch, found, patience })
    }
}

#[test]
fn each_server_in_turn_and_the_primary_after_it_has_handed_over() {
    let mut test = Test::new(1);
    let all = [(1, "a", 10), (2, "b", 10), (3, "c", 10)];
    assert_eq!(test.next(0, 1, 4, &all), Next::Restart(address(2)));
    test.rolling.restarted(&address(2), Ok(()));
    assert_eq!(test.next(1, 1, 4, &all), Next::Wait, "it is the old process still");
    let all = [(1, "a", 12), (2, "B", 11), (3, "c", 12)];
    assert_eq!(test.next(2, 1, 4, &all), Next::Wait, "it lacks something");
    let all = [(1, "a", 14), (2, "B", 12), (3, "c", 14)];
    assert_eq!(test.next(3, 1, 4, &all), Next::Restart(address(3)));
    test.rolling.restarted(&address(3), Ok(()));
    let all = [(1, "a", 14), (2, "B", 14), (3, "C", 14)];
    assert_eq!(test.next(4, 1, 4, &all), Next::SwitchOver);
    test.rolling.switched(Ok(5));
    assert_eq!(test.next(5, 3, 5, &all), Next::Restart(address(1)));
    test.rolling.restarted(&address(1), Ok(()));
    let all = [(1, "A", 14), (2, "B", 14), (3, "C", 14)];
    assert_eq!(test.next(6, 3, 5, &all), Next::Finished);
    assert_eq!(test.rolling.status.done, [2, 3, 1].map(address));
    assert_eq!(test.next(7, 3, 5, &all), Next::Wait);
}

#[test]
fn whoever_leads_next_goes_on_with_it() {
    let all = [(1, "a", 10), (2, "b", 10), (3, "c", 10)];
    let back = [(1, "a", 10), (2, "B", 10), (3, "c", 10)];
    for was_restarted in [true, false] {
        let mut test = Test::new(1);
        assert_eq!(test.next(0, 1, 4, &all), Next::Restart(address(2)));
        let plan = serde_json::to_string(&test.rolling.plan()).unwrap();
        let plan = serde_json::from_str(&plan).unwrap();
        test.rolling = Rolling::taken_over(plan, Duration::from_mins(1), test.begin);
        assert_eq!(test.next(1, 1, 4, &all), Next::Wait, "it may be about to end");
        if was_restarted {
            assert_eq!(test.next(2, 1, 4, &[all[0], all[2]]), Next::Wait, "it is away");
        } else {
            assert_eq!(test.next(30, 1, 4, &all), Next::Restart(address(2)), "nobody did it");
            assert_eq!(test.next(31, 1, 4, &back), Next::Wait);
            test.rolling.restarted(&address(2), Ok(()));
        }
        assert_eq!(test.next(32, 1, 4, &back), Next::Restart(address(3)));
    }
}

#[test]
fn the_first_problem_stops_it_and_what_is_left_can_be_taken_up() {
    let all = [(1, "a", 10), (2, "b", 10), (3, "c", 10)];
    let mut test = Test::new(1);
    assert_eq!(test.next(0, 1, 4, &all), Next::Restart(address(2)));
    test.rolling.restarted(&address(2), Err("no".to_owned()));
    assert!(!test.rolling.is_going());
    assert_eq!(test.rolling.status.left, [2, 3, 1].map(address));
    test.rolling.resume("you".to_owned(), 4);
    assert_eq!(test.next(1, 1, 4, &all), Next::Restart(address(2)));
    test.rolling.restarted(&address(2), Ok(()));
    assert!(matches!(test.next(70, 1, 4, &all), Next::Stopped(why) if why.contains("not back")));
}

#[test]
fn it_goes_on_when_the_primary_was_replaced_by_us() {
    let mut test = Test::new(1);
    let all = [(1, "a", 10), (2, "b", 10), (3, "c", 10)];
    assert_eq!(test.next(0, 1, 4, &all), Next::Restart(address(2)));
    // The primary dies, and the third takes its place: now that one goes last.
    assert_eq!(test.next(1, 3, 5, &all), Next::GoesOn);
    assert_eq!(test.rolling.status.left, [1, 3].map(address));
    test.rolling.restarted(&address(2), Ok(()));
    let back = [(1, "a", 10), (2, "B", 9), (3, "c", 10)];
    assert_eq!(test.next(2, 3, 5, &back), Next::Wait, "it lacks something of the new one's");
    let back = [(1, "a", 10), (2, "B", 10), (3, "c", 10)];
    assert_eq!(test.next(3, 3, 5, &back), Next::Restart(address(1)));
    // The one that is restarted may be the next primary as well.
    test.rolling.restarted(&address(1), Ok(()));
    let back = [(1, "A", 10), (2, "B", 10), (3, "c", 10)];
    assert_eq!(test.next(4, 1, 6, &back), Next::GoesOn);
    assert_eq!(test.next(5, 1, 6, &back), Next::Restart(address(3)), "it is no primary any more");
    assert_eq!(test.rolling.status.done, [2, 1].map(address));
}

#[test]
fn it_outlives_some_changes_of_ours_and_none_of_others() {
    let all = [(1, "a", 10), (2, "b", 10), (3, "c", 10)];
    let mut test = Test::new(1);
    for epoch in 5..8 {
        assert_eq!(test.next(epoch, 1, epoch, &all), Next::GoesOn);
        // Whoever leads next counts on.
        let plan = serde_json::to_string(&test.rolling.plan()).unwrap();
        let plan = serde_json::from_str(&plan).unwrap();
        test.rolling = Rolling::taken_over(plan, Duration::from_mins(1), test.begin);
    }
    let Next::Stopped(why) = test.next(9, 1, 8, &all) else { panic!("it goes on") };
    assert!(why.contains("replaced 4 times"), "{why}");
    test.rolling.resume("you".to_owned(), 8);
    assert_eq!(test.next(10, 1, 9, &all), Next::GoesOn, "it counts anew");

    let mut test = Test::new(1);
    test.found = 5;
    let Next::Stopped(why) = test.next(0, 3, 6, &all) else { panic!("it goes on") };
    assert!(why.contains("somebody else"), "{why}");
}

#[test]
fn no_server_goes_while_too_few_would_stay() {
    let two = [(1, "a", 10), (2, "b", 10)];
    let mut test = Test::new(1);
    assert_eq!(test.next(0, 1, 4, &two), Next::Wait);
    let Next::Stopped(why) = test.next(31, 1, 4, &two) else { panic!("it goes on") };
    assert!(why.contains("only 0 replicas"), "{why}");
    assert_eq!(Test::new(0).next(0, 1, 4, &two), Next::Restart(address(2)));
}
