//! What is scraped, how it is doing, and what it says about its metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use chrono::DateTime;
use holdfast_series::{Labels, Matcher, Metadata, SeriesData, Store, is_stale};
use holdfast_settings::duration;
use serde_json::{Value, json};

use super::error::{ApiError, data};
use super::input::Input;
use super::list::{label_map, selector};
use super::now_ms;
use crate::serve::http::Handle;

/// How old the last `up` of a target may be for it to be listed.
const TARGET_AGE_MS: i64 = 5 * 60 * 1000;
/// What the names of series add to the name of their family.
const SUFFIXES: [&str; 6] = ["", "_total", "_bucket", "_sum", "_count", "_info"];

/// The newest `metric` of every target that is not too old.
fn newest(store: &Store, metric: &str) -> Vec<SeriesData> {
    let now = now_ms();
    store.select_latest(&[Matcher::equal("__name__", metric)], now - TARGET_AGE_MS, now)
}

/// Scrape targets by their newest `up`, with what the scrapers say about them.
pub(super) async fn targets(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let store = &shared.api.store;
    let seconds = newest(store, "scrape_duration_seconds");
    let seconds: HashMap<_, _> = seconds
        .iter()
        .filter_map(|series| Some((series.labels.without_name(), series.samples.last()?.value)))
        .collect();
    let known = shared.api.sources.targets.active();
    let known: HashMap<_, _> = known.iter().map(|health| (&health.labels, health)).collect();
    let target = |series: &SeriesData| {
        let sample = series.samples.last().filter(|sample| !is_stale(sample.value))?;
        let labels = series.labels.without_name();
        if input.get("scrapePool").is_some_and(|pool| labels.value("job") != pool) {
            return None;
        }
        let last = DateTime::from_timestamp_millis(sample.timestamp_ms);
        let health = known.get(&labels);
        let url = health.filter(|health| !health.url.is_empty()).map_or_else(
            || format!("http://{}/metrics", labels.value("instance")),
            |health| health.url.clone(),
        );
        Some(json!({
            "discoveredLabels": health.map(|health| label_map(&health.discovered)).unwrap_or_default(),
            "labels": label_map(&labels),
            "scrapePool": labels.value("job"),
            "scrapeUrl": url,
            "globalUrl": url,
            "lastError": health.and_then(|health| health.error.as_deref()).unwrap_or_default(),
            "scrapeInterval": health.map(|health| duration::format(health.interval)),
            "scrapeTimeout": health.map(|health| duration::format(health.timeout)),
            "health": if sample.value > 0.0 { "up" } else { "down" },
            "lastScrape": last,
            "lastScrapeDuration": seconds.get(&labels),
        }))
    };
    let all_dropped = shared.api.sources.targets.dropped();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for dropped in &all_dropped {
        *counts.entry(&dropped.job).or_default() += 1;
    }
    let dropped: Vec<Value> = match input.get("state") {
        Some("active") => Vec::new(),
        _ => all_dropped
            .iter()
            .map(|target| json!({ "discoveredLabels": label_map(&target.discovered), "scrapePool": target.job }))
            .collect(),
    };
    let active: Vec<_> = match input.get("state") {
        Some("dropped") => Vec::new(),
        _ => newest(store, "up").iter().filter_map(target).collect(),
    };
    Ok(data(&json!({
        "activeTargets": active,
        "droppedTargets": dropped,
        "droppedTargetCounts": counts,
    })))
}

/// The jobs that have targets.
pub(super) async fn scrape_pools(State(shared): State<Handle>) -> Response {
    let pools: BTreeSet<String> = newest(&shared.api.store, "up")
        .iter()
        .map(|series| series.labels.value("job").to_owned())
        .collect();
    data(&json!({ "scrapePools": pools }))
}

/// What targets say about their metrics. Metadata is kept by the name of the family, not by target: where targets disagree about one,
/// every statement is given for each of them.
pub(super) async fn metadata(
    State(shared): State<Handle>,
    input: Input,
) -> Result<Response, ApiError> {
    let wanted = match input.get("match_target") {
        Some(text) => selector("match_target", text)?,
        None => Vec::new(),
    };
    let (limit, metric) = (input.limit(usize::MAX)?, input.get("metric").map(str::to_owned));
    let store = Arc::clone(&shared.api.store);
    let list = move || {
        let targets = newest(&store, "up").into_iter().map(|series| series.labels.without_name());
        let matches = |target: &Labels| wanted.iter().all(|m| m.matches(target.value(m.name())));
        let all = match &metric {
            Some(name) => vec![(name.as_str().into(), store.metadata_of(name))],
            None => store.metadata(),
        };
        let mut list = Vec::new();
        for target in targets.filter(matches).take(limit) {
            let own: Vec<_> =
                target.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
            let names = store.label_values("__name__", &own);
            let has = |family: &str| {
                SUFFIXES.iter().any(|suffix| names.contains(format!("{family}{suffix}").as_str()))
            };
            for (family, statements) in all.iter().filter(|(family, _)| has(family)) {
                let family = metric.is_none().then_some(&**family);
                list.extend(statements.iter().map(|about| entry(&target, family, about)));
            }
        }
        list
    };
    let list = tokio::task::spawn_blocking(list).await;
    let list = list.map_err(|_| ApiError::new("internal", "the store failed"))?;
    if list.is_empty() {
        return Err(ApiError::new("not_found", "specified metadata not found"));
    }
    Ok(data(&Value::Array(list)))
}

/// One statement; the family is named only where it was not asked for by name.
fn entry(target: &Labels, family: Option<&str>, about: &Metadata) -> Value {
    let mut entry = json!({
        "target": label_map(target),
        "type": about.kind.name(),
        "help": about.help,
        "unit": about.unit,
    });
    if let Some(family) = family {
        entry["metric"] = family.into();
    }
    entry
}
