//! Which alerts go out together, and when?
//!
//! Alerts of one rule form a group. The first change in a quiet group starts a short wait, so that three nodes that die together make one
//! message; then everything that fires and everything newly resolved goes out. While something fires, the group is told again after the
//! repeat interval. An alert that ends before it was ever told is not told at all. Alerts whose `severity` is neither `critical` nor
//! `warning` are for the journal only.
//!
//! Pure: time comes in as an argument, and nothing is told to anyone here. Nothing is kept over a restart: what still fires is then
//! told once more, which is better than not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::cluster::{AlertState, AlertStatus};

/// Alerts remembered at once. A cluster of a hundred nodes with ten rules stays below.
const ALERTS_MAX: usize = 2000;

/// An alert that is silenced is looked at this often: its silence may be over.
const SILENCE_LOOK: Duration = Duration::from_secs(5);

/// Severities that are told.
const TOLD: [&str; 2] = ["critical", "warning"];

type Labels = BTreeMap<String, String>;

/// The groups, by rule name.
#[derive(Debug)]
pub(super) struct Grouping {
    group_wait: Duration,
    repeat_interval: Duration,
    groups: HashMap<String, Group>,
    /// Alerts in all groups.
    count: usize,
}

#[derive(Debug, Default)]
struct Group {
    alerts: BTreeMap<Labels, Entry>,
    /// When it is told next; `None` once nothing is left to tell.
    due: Option<Instant>,
    /// Whether something changed since it was told.
    changed: bool,
    /// When what fires is told again.
    repeat_at: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    alert: AlertStatus,
    /// Whether people know that it fires.
    is_told: bool,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observed {
    /// It will be told, or changes what will be told.
    Taken,
    /// It is not for people, or nothing new.
    Ignored,
    /// There is no room for another alert.
    Full,
}

/// What is told in one message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    /// The rule.
    pub(super) name: String,
    /// What fires now, told before or not.
    pub(super) firing: Vec<AlertStatus>,
    /// What is over since the last time.
    pub(super) resolved: Vec<AlertStatus>,
    /// Nothing changed: this only says that it goes on.
    pub(super) is_repeat: bool,
}

impl Grouping {
    pub(super) fn new(group_wait: Duration, repeat_interval: Duration) -> Self {
        Self { group_wait, repeat_interval, groups: HashMap::new(), count: 0 }
    }

    /// Takes in an alert that fires or is over.
    pub(super) fn observe(&mut self, now: Instant, alert: AlertStatus) -> Observed {
        let severity = alert.labels.get("severity").map(String::as_str);
        if alert.state == AlertState::Pending || !severity.is_some_and(|it| TOLD.contains(&it)) {
            return Observed::Ignored;
        }
        let is_firing = alert.state == AlertState::Firing;
        let is_known = |group: &Group| group.alerts.contains_key(&alert.labels);
        if !self.groups.get(&alert.name).is_some_and(is_known) {
            if !is_firing {
                return Observed::Ignored;
            }
            if self.count == ALERTS_MAX {
                return Observed::Full;
            }
            self.count += 1;
        }
        let group = self.groups.entry(alert.name.clone()).or_default();
        match group.alerts.get_mut(&alert.labels) {
            Some(entry) if entry.alert.state == alert.state => {
                entry.alert = alert;
                return Observed::Ignored;
            }
            Some(entry) if !is_firing && !entry.is_told => {
                group.alerts.remove(&alert.labels);
                self.count -= 1;
                if group.alerts.is_empty() {
                    self.groups.remove(&alert.name);
                }
                return Observed::Ignored;
            }
            Some(entry) => entry.alert = alert,
            None => {
                let entry = Entry { alert, is_told: false };
                group.alerts.insert(entry.alert.labels.clone(), entry);
            }
        }
        let soon = now + self.group_wait;
        // A change during the wait joins it; one while the repeat is awaited does not wait for that.
        if !std::mem::replace(&mut group.changed, true) {
            group.due = Some(group.due.map_or(soon, |due| due.min(soon)));
        }
        Observed::Taken
    }

    /// When [`Grouping::poll_due`] will next have something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.groups.values().filter_map(|group| group.due).min()
    }

    /// Cuts the wait of every group that has something new: there will be no later.
    pub(super) fn hasten(&mut self, now: Instant) {
        for group in self.groups.values_mut().filter(|group| group.changed) {
            group.due = Some(now);
        }
    }

    /// Whatever is due at `now` is due `wait` later.
    pub(super) fn put_off(&mut self, now: Instant, wait: Duration) {
        let due = self.groups.values_mut().filter_map(|group| group.due.as_mut());
        for due in due.filter(|due| **due <= now) {
            *due = now + wait;
        }
    }

    /// What is to be told by now; it then counts as told. An alert that `is_silenced` is not told until it no longer is.
    pub(super) fn poll_due(
        &mut self,
        now: Instant,
        is_silenced: &dyn Fn(&Labels) -> bool,
    ) -> Vec<Batch> {
        let mut batches = Vec::new();
        for (name, group) in &mut self.groups {
            if group.due.is_some_and(|due| due <= now) {
                let before = group.alerts.len();
                let batch = group.take(name.clone(), now, is_silenced);
                self.count -= before - group.alerts.len();
                if !batch.firing.is_empty() {
                    group.repeat_at = Some(now + self.repeat_interval);
                }
                group.due = group.next_due(now, self.repeat_interval);
                batches.push(batch);
            }
        }
        self.groups.retain(|_, group| !group.alerts.is_empty());
        batches.retain(|batch| !batch.firing.is_empty() || !batch.resolved.is_empty());
        batches.sort_by(|a, b| a.name.cmp(&b.name));
        batches
    }
}

impl Group {
    /// Everything that fires, if there is something new or it is time to repeat it, and everything newly resolved.
    fn take(&mut self, name: String, now: Instant, is_silenced: &dyn Fn(&Labels) -> bool) -> Batch {
        let changed = std::mem::replace(&mut self.changed, false);
        let repeats = self.repeat_at.is_none_or(|at| at <= now);
        let silenced: BTreeSet<_> =
            self.alerts.keys().filter(|labels| is_silenced(labels)).cloned().collect();
        let is_new = |(labels, entry): (&Labels, &Entry)| {
            let is_firing = entry.alert.state == AlertState::Firing;
            is_firing && !entry.is_told && !silenced.contains(labels)
        };
        let is_over = |(labels, entry): (&Labels, &Entry)| {
            entry.alert.state != AlertState::Firing && !silenced.contains(labels)
        };
        // What changed under a silence is no news.
        let is_news = (changed && silenced.is_empty())
            || self.alerts.iter().any(is_new)
            || self.alerts.iter().any(is_over);
        let tells_firing = is_news || repeats;
        let mut batch =
            Batch { name, firing: Vec::new(), resolved: Vec::new(), is_repeat: !is_news };
        self.alerts.retain(|labels, entry| {
            let is_firing = entry.alert.state == AlertState::Firing;
            if silenced.contains(labels) {
                return is_firing;
            }
            if is_firing && tells_firing {
                batch.firing.push(entry.alert.clone());
                entry.is_told = true;
            } else if !is_firing {
                batch.resolved.push(entry.alert.clone());
            }
            is_firing
        });
        batch
    }

    /// When it is looked at again: to repeat what fires, or to see whether a silence is over.
    fn next_due(&self, now: Instant, repeat_interval: Duration) -> Option<Instant> {
        let has_hidden = self.alerts.values().any(|entry| !entry.is_told);
        let repeat = self.repeat_at.unwrap_or(now + repeat_interval);
        let look = if has_hidden { repeat.min(now + SILENCE_LOOK) } else { repeat };
        (!self.alerts.is_empty()).then_some(look.max(now))
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            told(&grouping.poll_due(t + WAIT * 6, &loud)),
            expect(&["b", "c"], &["a"], false)
        );
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
}
