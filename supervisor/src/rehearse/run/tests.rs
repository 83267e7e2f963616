use super::*;
use crate::rehearse::scenario;

fn run() -> Run {
    Run::new(scenario::find("redis-primary-crash").unwrap(), Duration::from_secs(2))
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn well() -> Input {
    Input::Observed(Observation { is_over: true, ..Observation::default() })
}

fn unwell(why: &str) -> Input {
    Input::Observed(Observation { unmet: vec![why.to_owned()], is_over: true, stop: None })
}

fn good() -> Measured {
    Measured {
        longest_gap: at(300),
        first_ack_after: Some(at(280)),
        sent: 50,
        acked: 48,
        failed: 2,
        lost: 0,
        unsettled: 0,
    }
}

/// Struck after 3 s, whole again 5 s after that, and watched for 3 s more.
fn recovered() -> Run {
    let mut run = run();
    assert_eq!(run.next(at(0), well()), None);
    assert_eq!(run.next(at(2_900), well()), None);
    assert_eq!(run.next(at(3_000), well()), Some(Task::Inject));
    run.next(at(3_000), Input::Injected);
    assert_eq!(run.next(at(3_100), unwell("Redis has no primary")), None);
    assert_eq!(run.next(at(8_000), well()), None);
    assert_eq!(run.next(at(11_000), well()), None);
    assert_eq!(run.phase(), Phase::Verification);
    run
}

#[test]
fn a_good_run_goes_through_all_phases_and_passes() {
    let mut run = recovered();
    assert_eq!(run.window(), Some((at(3_000), at(11_000))));
    assert_eq!(run.recovery(), Some(at(5_000)));
    run.next(at(11_100), Input::Measured(Measured { unsettled: 1, ..good() }));
    assert_eq!(run.verdict(), None);
    run.next(at(13_000), Input::Measured(good()));
    assert_eq!((run.phase(), run.verdict()), (Phase::Finished, Some(Verdict::Pass)));
    assert_eq!(run.measured(), Some(good()));
    assert!(run.failures().is_empty());
}

#[test]
fn each_missed_bound_fails_the_run_with_its_figures() {
    for (measured, failure) in [
        (
            Measured { longest_gap: at(1_234), ..good() },
            "no message was acknowledged for 1.234 s; the limit is 1 s",
        ),
        (Measured { lost: 2, ..good() }, "acknowledged messages were lost: 2; the limit is 0"),
        (
            Measured { first_ack_after: None, ..good() },
            "no message sent after the fault was acknowledged",
        ),
        (
            Measured { unsettled: 3, ..good() },
            "what became of 3 messages was still not known after 15 s",
        ),
    ] {
        let mut run = recovered();
        run.next(at(26_000), Input::Measured(measured));
        assert_eq!(run.verdict(), Some(Verdict::Fail));
        assert_eq!(run.failures(), [failure]);
    }
    let mut exact = recovered();
    exact.next(at(12_000), Input::Measured(Measured { longest_gap: at(1_000), ..good() }));
    assert_eq!(exact.verdict(), Some(Verdict::Pass));
}

#[test]
fn a_cluster_that_is_not_well_is_left_alone() {
    let mut run = run();
    for second in 0..30 {
        // Well for two seconds at a time only.
        let input = if second % 3 == 0 { unwell("chatnode-2 is down") } else { well() };
        assert_eq!(run.next(Duration::from_secs(second), input), None);
    }
    assert_eq!(run.next(at(30_000), unwell("chatnode-2 is down")), None);
    assert_eq!((run.verdict(), run.fault_at()), (Some(Verdict::Aborted), None));
    assert_eq!(
        run.failures(),
        ["the cluster was not well within 30 s, so nothing was done to it: chatnode-2 is down"]
    );
}

#[test]
fn figures_from_before_the_fault_are_no_recovery() {
    let mut run = run();
    run.next(at(0), well());
    run.next(at(3_000), well());
    run.next(at(3_000), Input::Injected);
    for second in 4..63 {
        // All looks well because nobody noticed: what was killed has not come back.
        let input = Input::Observed(Observation::default());
        assert_eq!(run.next(Duration::from_secs(second), input), None);
        assert_eq!(run.phase(), Phase::Recovery);
    }
    run.next(at(63_000), Input::Observed(Observation::default()));
    assert_eq!((run.phase(), run.recovery()), (Phase::Verification, None));
    run.next(at(63_100), Input::Measured(good()));
    assert_eq!(run.verdict(), Some(Verdict::Fail));
    assert_eq!(
        run.failures(),
        ["the cluster was not well again within 60 s: what was killed does not run again"]
    );
}

#[test]
fn a_fault_that_outlives_its_lease_is_no_recovery() {
    let mut run = Run::new(scenario::find("slow-upstream").unwrap(), Duration::from_secs(2));
    run.next(at(0), well());
    assert_eq!(run.next(at(3_000), well()), Some(Task::Inject));
    run.next(at(3_000), Input::Injected);
    run.next(at(63_000), Input::Observed(Observation::default()));
    assert_eq!(
        run.failures(),
        ["the cluster was not well again within 60 s: the fault is still in force"]
    );
}

#[test]
fn a_recovery_at_the_last_moment_may_prove_itself_but_not_relapse() {
    let late = || {
        let mut run = run();
        run.next(at(0), well());
        run.next(at(3_000), well());
        run.next(at(3_000), Input::Injected);
        run.next(at(62_000), well());
        run.next(at(64_000), well());
        assert_eq!(run.phase(), Phase::Recovery);
        run
    };
    let mut kept = late();
    kept.next(at(65_000), well());
    assert_eq!((kept.phase(), kept.recovery()), (Phase::Verification, Some(at(59_000))));
    let mut relapsed = late();
    relapsed.next(at(64_500), unwell("Redis main is suspect"));
    assert_eq!((relapsed.phase(), relapsed.recovery()), (Phase::Verification, None));
}

#[test]
fn it_is_aborted_from_every_phase_and_stays_so() {
    let stop = || {
        let stop = Some("something else is wrong".to_owned());
        Input::Observed(Observation { stop, ..Observation::default() })
    };
    let abort = || Input::Abort("ada wants it".to_owned());
    let struck = || {
        let mut run = run();
        run.next(at(0), well());
        run.next(at(3_000), well());
        run
    };
    let recovering = || {
        let mut run = struck();
        run.next(at(3_000), Input::Injected);
        run
    };
    let cases = [
        (run(), stop(), "something else is wrong"),
        (run(), abort(), "ada wants it"),
        (struck(), Input::NotInjected("it is gone".to_owned()), "it is gone"),
        (recovering(), stop(), "something else is wrong"),
        (recovering(), abort(), "ada wants it"),
        (recovered(), abort(), "ada wants it"),
    ];
    for (mut run, input, why) in cases {
        run.next(at(12_000), input);
        assert_eq!(run.verdict(), Some(Verdict::Aborted));
        run.next(at(90_000), Input::Measured(good()));
        run.next(at(90_000), abort());
        assert_eq!(run.failures(), [why]);
    }
}

#[test]
fn the_cluster_must_be_well_for_longer_than_its_figures_are_old() {
    let slow = Duration::from_secs(40);
    let mut run = Run::new(scenario::find("chatnode-crash").unwrap(), slow);
    run.next(at(0), well());
    assert_eq!(run.next(at(39_900), well()), None);
    assert_eq!(run.next(at(40_000), well()), Some(Task::Inject));
}

#[test]
fn a_long_list_of_complaints_is_cut() {
    let unmet: Vec<_> = (1..8).map(|number| format!("node {number} is down")).collect();
    assert!(quoted(&unmet).ends_with("node 5 is down; and 2 more"));
}
