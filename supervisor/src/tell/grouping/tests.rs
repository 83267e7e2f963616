use super::*;
use chrono::DateTime;

const WAIT: Duration = Duration::from_secs(1);
const REPEAT: Duration = Duration::from_hours(4);

fn alert(name: &str, server: &str, state: AlertState) -> AlertStatus {
    let labels = [("alertname", name), ("server", server), ("severity", "critical")];
    AlertStatus {
        name: name.to_owned(),
        state,
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        annotations: BTreeMap::new(),
        active_at: DateTime::UNIX_EPOCH,
        fired_at: None,
        resolved_at: None,
        value: 1.0,
    }
}

fn firing(server: &str) -> AlertStatus {
    alert("NodeDown", server, AlertState::Firing)
}

fn resolved(server: &str) -> AlertStatus {
    alert("NodeDown", server, AlertState::Resolved)
}

#[expect(clippy::disallowed_methods, reason = "an instant to count from; no test waits")]
fn start() -> (Grouping, Instant) {
    (Grouping::new(WAIT, REPEAT), Instant::now())
}

/// Servers that fire, servers that are over, whether it is a repeat.
type Told = (Vec<String>, Vec<String>, bool);

fn told(batches: &[Batch]) -> Vec<Told> {
    let servers = |alerts: &[AlertStatus]| -> Vec<String> {
        alerts.iter().map(|alert| alert.labels["server"].clone()).collect()
    };
    batches.iter().map(|b| (servers(&b.firing), servers(&b.resolved), b.is_repeat)).collect()
}

fn loud(_: &Labels) -> bool {
    false
}

fn expect(firing: &[&str], resolved: &[&str], is_repeat: bool) -> Vec<Told> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    vec![(owned(firing), owned(resolved), is_repeat)]
}

#[test]
fn alerts_that_arrive_together_go_out_together() {
    let (mut grouping, t) = start();
    assert_eq!(grouping.next_due(), None);
    assert_eq!(grouping.observe(t, firing("b")), Observed::Taken);
    assert_eq!(grouping.observe(t + WAIT / 2, firing("a")), Observed::Taken);
    assert_eq!(grouping.next_due(), Some(t + WAIT));
    assert_eq!(grouping.poll_due(t + WAIT / 2, &loud), []);
    assert_eq!(told(&grouping.poll_due(t + WAIT, &loud)), expect(&["a", "b"], &[], false));
    assert_eq!(grouping.poll_due(t + WAIT, &loud), []);
}

#[test]
fn rules_do_not_wait_for_each_other() {
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    grouping.observe(t + WAIT / 2, alert("NodeSlow", "a", AlertState::Firing));
    let names = |batches: Vec<Batch>| batches.into_iter().map(|b| b.name).collect::<Vec<_>>();
    assert_eq!(names(grouping.poll_due(t + WAIT, &loud)), ["NodeDown"]);
    assert_eq!(names(grouping.poll_due(t + WAIT * 2, &loud)), ["NodeSlow"]);
}

#[test]
fn what_goes_on_is_repeated_and_its_end_is_told() {
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    let first = t + WAIT;
    grouping.poll_due(first, &loud);
    assert_eq!(grouping.observe(first + WAIT, firing("a")), Observed::Ignored);
    assert_eq!(grouping.next_due(), Some(first + REPEAT));
    assert_eq!(told(&grouping.poll_due(first + REPEAT, &loud)), expect(&["a"], &[], true));

    let end = first + REPEAT + WAIT * 9;
    assert_eq!(grouping.observe(end, resolved("a")), Observed::Taken);
    assert_eq!(grouping.next_due(), Some(end + WAIT));
    assert_eq!(told(&grouping.poll_due(end + WAIT, &loud)), expect(&[], &["a"], false));
    assert_eq!((grouping.next_due(), grouping.count), (None, 0));
}

#[test]
fn a_change_names_what_fires_and_what_is_over() {
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    grouping.observe(t, firing("b"));
    grouping.poll_due(t + WAIT, &loud);
    grouping.observe(t + WAIT * 5, resolved("a"));
    grouping.observe(t + WAIT * 5, firing("c"));
    assert_eq!(told(&grouping.poll_due(t + WAIT * 6, &loud)), expect(&["b", "c"], &["a"], false));
}

#[test]
fn what_ends_before_it_was_told_is_not_told() {
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    assert_eq!(grouping.observe(t + WAIT / 2, resolved("a")), Observed::Ignored);
    assert_eq!((grouping.next_due(), grouping.count), (None, 0));
    assert_eq!(grouping.poll_due(t + WAIT, &loud), []);
    assert_eq!(grouping.observe(t, resolved("never-fired")), Observed::Ignored);
}

#[test]
fn what_fires_again_before_its_end_was_told_just_goes_on() {
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    grouping.poll_due(t + WAIT, &loud);
    grouping.observe(t + WAIT * 2, resolved("a"));
    grouping.observe(t + WAIT * 2, firing("a"));
    assert_eq!(told(&grouping.poll_due(t + WAIT * 3, &loud)), expect(&["a"], &[], false));
    assert_eq!(grouping.count, 1);
}

#[test]
fn at_the_end_only_news_is_hastened() {
    let (mut grouping, t) = start();
    grouping.observe(t, alert("NodeSlow", "a", AlertState::Firing));
    grouping.poll_due(t + WAIT, &loud);
    grouping.observe(t + WAIT * 2, firing("b"));
    grouping.hasten(t + WAIT * 2);
    assert_eq!(told(&grouping.poll_due(t + WAIT * 2, &loud)), expect(&["b"], &[], false));
}

#[test]
fn only_severities_for_people_are_told() {
    let (mut grouping, t) = start();
    for severity in ["info", "none", ""] {
        let mut alert = firing("a");
        alert.labels.insert("severity".to_owned(), severity.to_owned());
        assert_eq!(grouping.observe(t, alert), Observed::Ignored, "{severity}");
    }
    let pending = alert("NodeDown", "a", AlertState::Pending);
    assert_eq!(grouping.observe(t, pending), Observed::Ignored);
}

#[test]
fn alerts_are_bounded() {
    let (mut grouping, t) = start();
    for index in 0..ALERTS_MAX {
        assert_eq!(grouping.observe(t, firing(&index.to_string())), Observed::Taken);
    }
    assert_eq!(grouping.observe(t, firing("one more")), Observed::Full);
    assert_eq!(grouping.poll_due(t + WAIT, &loud)[0].firing.len(), ALERTS_MAX);
    grouping.observe(t + WAIT, resolved("7"));
    grouping.poll_due(t + WAIT * 2, &loud);
    assert_eq!(grouping.observe(t + WAIT * 2, firing("one more")), Observed::Taken);
}

#[test]
fn what_is_silenced_is_told_once_the_silence_is_over() {
    let (mut grouping, t) = start();
    let hush_a = |labels: &Labels| labels["server"] == "a";
    grouping.observe(t, firing("a"));
    grouping.observe(t, firing("b"));
    assert_eq!(told(&grouping.poll_due(t + WAIT, &hush_a)), expect(&["b"], &[], false));
    let look = grouping.next_due().unwrap();
    assert_eq!(look, t + WAIT + SILENCE_LOOK);
    assert_eq!(grouping.poll_due(look, &hush_a), [], "nothing is repeated meanwhile");
    let later = look + SILENCE_LOOK;
    assert_eq!(told(&grouping.poll_due(later, &loud)), expect(&["a", "b"], &[], false));
    assert_eq!(grouping.next_due(), Some(later + REPEAT));

    // One that ends while it is silenced ends in silence.
    grouping.observe(later, resolved("a"));
    assert_eq!(grouping.poll_due(later + WAIT, &hush_a), []);
    assert_eq!(grouping.count, 1);
}

#[test]
fn what_is_put_off_is_not_lost() {
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    grouping.put_off(t + WAIT, WAIT);
    assert_eq!(grouping.poll_due(t + WAIT, &loud), []);
    assert_eq!(told(&grouping.poll_due(t + WAIT * 2, &loud)), expect(&["a"], &[], false));
}

/// What the group knows people were told: that these servers fire.
fn known(servers: &[&str], at: i64) -> ToldAlerts {
    let told = |server: &&str| crate::group::Told {
        labels: firing(server).labels,
        since: DateTime::UNIX_EPOCH,
        at: DateTime::from_timestamp(at, 0).unwrap(),
    };
    let mut alerts = ToldAlerts::default();
    alerts.note(servers.iter().map(told).collect(), &[]);
    alerts
}

/// As a member that follows: what it tells by itself.
fn left(grouping: &mut Grouping, now: Instant, told: &ToldAlerts) -> Vec<Batch> {
    grouping.leave_to_others(now, told, &loud, WAIT)
}

#[test]
fn whoever_comes_to_lead_tells_what_nobody_was_told() {
    let clock = DateTime::from_timestamp(1_000, 0).unwrap();
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    grouping.observe(t, firing("b"));
    assert_eq!(left(&mut grouping, t + WAIT, &known(&["a"], 990)), []);
    // The leader dies: "a" was told by it, "b" was not.
    grouping.learn(t + WAIT * 2, clock, &known(&["a"], 990));
    let news = grouping.poll_due(t + WAIT * 2, &loud);
    assert_eq!(told(&news), expect(&["a", "b"], &[], false), "b is new, and a is named with it");
}

#[test]
fn whoever_comes_to_lead_tells_nothing_twice_and_repeats_in_time() {
    let clock = DateTime::from_timestamp(1_000, 0).unwrap();
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    assert_eq!(left(&mut grouping, t + WAIT, &known(&["a"], 400)), []);
    grouping.learn(t + WAIT, clock, &known(&["a"], 400));
    assert_eq!(grouping.poll_due(t + WAIT * 2, &loud), []);
    let repeat = t + WAIT + REPEAT.checked_sub(Duration::from_mins(10)).unwrap();
    assert_eq!(grouping.next_due(), Some(repeat));
    assert_eq!(told(&grouping.poll_due(repeat, &loud)), expect(&["a"], &[], true));
}

#[test]
fn an_end_is_told_by_whoever_leads_then_to_those_who_knew() {
    let clock = DateTime::from_timestamp(1_000, 0).unwrap();
    for knew in [true, false] {
        let (mut grouping, t) = start();
        let told_by_the_leader = known(&["a"], 990);
        grouping.observe(t, firing("a"));
        left(&mut grouping, t + WAIT, &told_by_the_leader);
        grouping.observe(t + WAIT * 2, resolved("a"));
        left(&mut grouping, t + WAIT * 3, &told_by_the_leader);
        // The leader told the end as well, or died before.
        let at_the_change = if knew { told_by_the_leader } else { ToldAlerts::default() };
        grouping.learn(t + WAIT * 4, clock, &at_the_change);
        let news = told(&grouping.poll_due(t + WAIT * 5, &loud));
        assert_eq!(news, if knew { expect(&[], &["a"], false) } else { Vec::new() });
        assert_eq!(grouping.count, 0);
    }
}

#[test]
fn what_the_leader_does_not_see_is_told_by_whoever_does() {
    let (mut grouping, t) = start();
    let nobody = ToldAlerts::default();
    grouping.observe(t, firing("a"));
    assert_eq!(left(&mut grouping, t + WAIT, &nobody), []);
    let late = t + WAIT + OTHERS_PATIENCE;
    assert_eq!(told(&left(&mut grouping, late, &nobody)), expect(&["a"], &[], false));
    assert_eq!(left(&mut grouping, late + WAIT * 9, &nobody), [], "once");
    grouping.observe(late + WAIT * 10, resolved("a"));
    let end = left(&mut grouping, late + WAIT * 11, &nobody);
    assert_eq!(told(&end), expect(&[], &["a"], false));
    assert_eq!(grouping.count, 0);
}

#[test]
fn what_people_believe_and_nobody_sees_is_over() {
    let clock = DateTime::from_timestamp(1_000, 0).unwrap();
    let (mut grouping, t) = start();
    grouping.observe(t, firing("a"));
    let orphans = grouping.orphans(clock, &known(&["a", "b"], 990));
    assert_eq!(told(&orphans), expect(&[], &["b"], false));
    assert_eq!(orphans[0].resolved[0].resolved_at, Some(clock));
}
