//! Which alerts go out together, and when?
//!
//! Alerts of one rule form a group. The first change in a quiet group starts a short wait, so that three nodes that die together make one
//! message; then everything that fires and everything newly resolved goes out. While something fires, the group is told again after the
//! repeat interval. An alert that ends before it was ever told is not told at all. Alerts whose `severity` is neither `critical` nor
//! `warning` are for the journal only.
//!
//! Pure: time comes in as an argument, and nothing is told to anyone here. What people know already, from an earlier run or another
//! supervisor of the group, comes in from outside ([`Grouping::learn`], [`Grouping::leave_to_others`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::cluster::{AlertState, AlertStatus};
use crate::group::{Told, ToldAlerts};

/// Alerts remembered at once. A cluster of a hundred nodes with ten rules stays below.
const ALERTS_MAX: usize = 2000;

/// An alert that is silenced is looked at this often: its silence may be over.
const SILENCE_LOOK: Duration = Duration::from_secs(5);

/// An alert that the leader of the group has not told for this long is not seen there: then whoever sees it tells it.
const OTHERS_PATIENCE: Duration = Duration::from_mins(2);

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
    /// Since when another supervisor is to tell what is new.
    left_since: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    alert: AlertStatus,
    /// Whether people know that it fires.
    is_told: bool,
    /// They know it from us, though another supervisor leads: it does not see it.
    is_ours: bool,
}

impl Entry {
    /// Whether people believe that it fires, as far as the group knows.
    fn is_known(&self, told: &ToldAlerts) -> bool {
        told.of(&self.alert.labels).is_some()
    }

    fn is_firing(&self) -> bool {
        self.alert.state == AlertState::Firing
    }
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
#[derive(Debug, Clone, Default, PartialEq)]
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
                let entry = Entry { alert, is_told: false, is_ours: false };
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

    /// Takes over what people know, when it becomes our turn to tell them.
    pub(super) fn learn(&mut self, now: Instant, clock: DateTime<Utc>, told: &ToldAlerts) {
        for group in self.groups.values_mut() {
            group.left_since = None;
            let before = group.alerts.len();
            group.alerts.retain(|_, entry| {
                let is_known = entry.is_known(told);
                entry.is_told = is_known || entry.is_ours;
                // That it is over is for those who knew that it fired.
                entry.is_firing() || is_known || entry.is_ours
            });
            self.count -= before - group.alerts.len();
            let last =
                group.alerts.keys().filter_map(|labels| told.of(labels)).map(|it| it.at).max();
            if let Some(last) = last {
                let passed = (clock - last).to_std().unwrap_or_default();
                group.repeat_at = Some(now + self.repeat_interval.saturating_sub(passed));
            }
            let is_news = |entry: &Entry| !entry.is_told || !entry.is_firing();
            group.changed = group.alerts.values().any(is_news);
            let repeat_at = *group.repeat_at.get_or_insert(now + self.repeat_interval);
            group.due = if group.changed { group.due.or(Some(now)) } else { Some(repeat_at) };
        }
        self.groups.retain(|_, group| !group.alerts.is_empty());
    }

    /// Whatever is due is another supervisor's to tell: keeps what it has not told yet, so that it can be told should we lead next.
    /// Returns what it does not see, which nobody but us will tell.
    pub(super) fn leave_to_others(
        &mut self,
        now: Instant,
        told: &ToldAlerts,
        is_silenced: &dyn Fn(&Labels) -> bool,
        look_again: Duration,
    ) -> Vec<Batch> {
        let mut batches = Vec::new();
        for (name, group) in &mut self.groups {
            if group.due.is_none_or(|due| due > now) {
                continue;
            }
            let since = *group.left_since.get_or_insert(now);
            let is_late = now.saturating_duration_since(since) >= OTHERS_PATIENCE;
            let mut batch = Batch { name: name.clone(), ..Batch::default() };
            let before = group.alerts.len();
            group.alerts.retain(|labels, entry| {
                let is_known = entry.is_known(told);
                entry.is_told = is_known || entry.is_ours;
                if !entry.is_firing() {
                    if entry.is_ours {
                        batch.resolved.push(entry.alert.clone());
                    }
                    return is_known && !entry.is_ours && !is_late;
                }
                if !entry.is_told && is_late && !is_silenced(labels) {
                    (entry.is_told, entry.is_ours) = (true, true);
                    batch.firing.push(entry.alert.clone());
                }
                true
            });
            self.count -= before - group.alerts.len();
            let is_waiting = |entry: &Entry| !entry.is_told || !entry.is_firing();
            group.changed = group.alerts.values().any(is_waiting);
            if group.changed {
                group.due = Some(now + look_again);
            } else {
                (group.left_since, group.due) = (None, Some(now + self.repeat_interval));
            }
            batches.push(batch);
        }
        self.groups.retain(|_, group| !group.alerts.is_empty());
        batches.retain(|batch| !batch.firing.is_empty() || !batch.resolved.is_empty());
        batches
    }

    /// Alerts people were told of by an earlier run or another supervisor and that nobody sees any more, as of `clock`.
    pub(super) fn orphans(&self, clock: DateTime<Utc>, told: &ToldAlerts) -> Vec<Batch> {
        let is_seen = |told: &Told| {
            let mut groups = self.groups.values();
            groups.any(|group| group.alerts.contains_key(&told.labels))
        };
        let mut batches: BTreeMap<String, Batch> = BTreeMap::new();
        for (_, told) in told.iter().filter(|(_, told)| !is_seen(told)) {
            let name = told.labels.get("alertname").cloned().unwrap_or_default();
            let batch = batches.entry(name.clone()).or_default();
            batch.resolved.push(AlertStatus {
                name: name.clone(),
                state: AlertState::Resolved,
                labels: told.labels.clone(),
                annotations: BTreeMap::new(),
                active_at: told.since,
                fired_at: None,
                resolved_at: Some(clock),
                value: 0.0,
            });
            batch.name = name;
        }
        batches.into_values().collect()
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
mod tests;
