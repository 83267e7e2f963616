//! The page of scrape targets.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use holdfast_series::Labels;
use holdfast_settings::duration;
use serde::Serialize;

use super::super::format;
use crate::observe::scrape::{DroppedTarget, TargetHealth, TargetState};

#[derive(Debug, Serialize)]
pub(in super::super) struct TargetsView {
    pub(in super::super) headline: String,
    pub(in super::super) mark: &'static str,
    pools: Vec<PoolView>,
    dropped: Vec<DroppedView>,
}

/// The targets of one job.
#[derive(Debug, Serialize)]
struct PoolView {
    name: String,
    up: usize,
    mark: &'static str,
    targets: Vec<TargetView>,
}

#[derive(Debug, Serialize)]
struct TargetView {
    url: String,
    state: &'static str,
    mark: &'static str,
    labels: Vec<String>,
    /// What it was before relabelling.
    discovered: Vec<String>,
    last: String,
    took: String,
    samples: String,
    interval: String,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct DroppedView {
    job: String,
    discovered: Vec<String>,
}

fn pairs(labels: &Labels) -> Vec<String> {
    labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect()
}

fn target(health: &TargetHealth, now: DateTime<Utc>) -> TargetView {
    let (state, mark) = match health.state {
        TargetState::Unknown => ("not scraped yet", "none"),
        TargetState::Up => ("up", "ok"),
        TargetState::Down => ("down", "bad"),
    };
    let last = health.last_scrape_ms.and_then(DateTime::from_timestamp_millis);
    let known = |text: String| if last.is_some() { text } else { "–".to_owned() };
    TargetView {
        url: if health.url.is_empty() { "in this process".to_owned() } else { health.url.clone() },
        state,
        mark,
        labels: pairs(&health.labels),
        discovered: pairs(&health.discovered),
        last: last.map_or_else(|| "never".to_owned(), |last| format::relative(last, now)),
        took: known(format::seconds(health.last_duration.as_secs_f64())),
        samples: known(health.samples.to_string()),
        interval: duration::format(health.interval),
        error: health.error.clone(),
    }
}

/// All targets by job, those that are down first within each.
pub(in super::super) fn view(
    active: &[TargetHealth],
    dropped: &[DroppedTarget],
    now: DateTime<Utc>,
) -> TargetsView {
    let mut by_job: BTreeMap<&str, Vec<&TargetHealth>> = BTreeMap::new();
    for health in active {
        by_job.entry(&health.job).or_default().push(health);
    }
    let down = |health: &&TargetHealth| health.state == TargetState::Down;
    let pools = by_job.into_iter().map(|(name, mut targets)| {
        targets.sort_by_key(|health| (!down(health), health.labels.clone()));
        let bad = targets.iter().filter(|health| down(health)).count();
        PoolView {
            name: name.to_owned(),
            up: targets.iter().filter(|health| health.state == TargetState::Up).count(),
            mark: if bad > 0 { "bad" } else { "ok" },
            targets: targets.into_iter().map(|health| target(health, now)).collect(),
        }
    });
    let all_down = active.iter().filter(down).count();
    TargetsView {
        headline: match (active.len(), all_down) {
            (0, _) => "Nothing is scraped".to_owned(),
            (all, 0) => format!("{all} targets, none down"),
            (all, bad) => format!("{bad} of {all} targets down"),
        },
        mark: if all_down > 0 { "bad" } else { "ok" },
        pools: pools.collect(),
        dropped: dropped
            .iter()
            .map(|target| DroppedView {
                job: target.job.clone(),
                discovered: pairs(&target.discovered),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn health(job: &str, instance: &str, state: TargetState) -> TargetHealth {
        let labels = Labels::from_pairs([("job", job), ("instance", instance)]);
        TargetHealth {
            job: job.to_owned(),
            discovered: labels.with("__address__", instance),
            labels,
            url: format!("http://{instance}/metrics"),
            state,
            error: (state == TargetState::Down).then(|| "refused".to_owned()),
            last_scrape_ms: (state != TargetState::Unknown).then_some(10_000),
            last_duration: Duration::from_millis(3),
            samples: 12,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn those_that_are_down_come_first_and_the_headline_counts_them() {
        let now = DateTime::from_timestamp(15, 0).unwrap();
        let active = [
            health("b", "x:1", TargetState::Up),
            health("b", "y:1", TargetState::Down),
            health("a", "z:1", TargetState::Unknown),
        ];
        let page = view(&active, &[], now);
        assert_eq!((page.headline.as_str(), page.mark), ("1 of 3 targets down", "bad"));
        let names: Vec<_> = page.pools.iter().map(|pool| (pool.name.as_str(), pool.up)).collect();
        assert_eq!(names, [("a", 0), ("b", 1)]);
        assert_eq!((page.pools[0].mark, page.pools[1].mark), ("ok", "bad"));
        let [first, second] = &page.pools[1].targets[..] else { panic!("two targets") };
        assert_eq!((first.state, first.error.as_deref()), ("down", Some("refused")));
        assert_eq!((second.last.as_str(), second.took.as_str()), ("5 s ago", "3.0 ms"));
        assert_eq!(page.pools[0].targets[0].samples, "–");
        assert_eq!(view(&[], &[], now).headline, "Nothing is scraped");
    }
}
