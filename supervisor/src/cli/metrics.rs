//! Commands about the metrics: what is scraped, and what takes the room.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::client::Client;
use super::print::{age, append, bytes, millis, table};
use super::{CliError, Output};

/// Every target with its last scrape; with `down_only` those that are not up.
pub(super) async fn targets(
    client: &Client,
    down_only: bool,
    output: Output,
) -> Result<(), CliError> {
    let answer = client.prometheus("targets", &[("state", "active".to_owned())]).await?;
    let mut targets = answer["activeTargets"].as_array().cloned().unwrap_or_default();
    let all = targets.len();
    targets.retain(|target| !down_only || target["health"] != "up");
    output.result(&json!(targets), || {
        let now = Utc::now();
        let mut shown = table(["job", "instance", "health", "last scrape", "took", "error"]);
        for target in &targets {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let labels = &target["labels"];
            let last =
                target["lastScrape"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok());
            shown.add_row([
                text(&target["scrapePool"]),
                text(&labels["instance"]),
                text(&target["health"]),
                last.map(|last| format!("{} ago", age(now - last))).unwrap_or_default(),
                target["lastScrapeDuration"].as_f64().map(millis).unwrap_or_default(),
                text(&target["lastError"]),
            ]);
        }
        match (targets.len(), down_only) {
            (0, true) => format!("All {all} targets are up."),
            (0, false) => "Nothing is scraped.".to_owned(),
            _ => shown.to_string(),
        }
    })
}

/// The names and labels with the most series.
pub(super) async fn cardinality(
    client: &Client,
    limit: u16,
    output: Output,
) -> Result<(), CliError> {
    let answer = client.prometheus("status/tsdb", &[("limit", limit.to_string())]).await?;
    output.result(&answer, || {
        let head = &answer["headStats"];
        let mut text = format!(
            "{} series of {} label pairs in memory",
            head["numSeries"], head["numLabelPairs"]
        );
        let plain = |count: f64| format!("{count:.0}");
        for (key, title, unit, show) in [
            ("seriesCountByMetricName", "metric", "series", plain as fn(f64) -> String),
            ("labelValueCountByLabelName", "label", "values", plain),
            ("seriesCountByLabelValuePair", "pair", "series", plain),
            ("memoryInBytesByLabelName", "label", "memory of values", bytes),
        ] {
            let mut shown = table([title, unit]);
            for row in answer[key].as_array().into_iter().flatten() {
                let name = row["name"].as_str().unwrap_or_default().to_owned();
                shown.add_row([name, show(row["value"].as_f64().unwrap_or_default())]);
            }
            append!(text, "\n{shown}");
        }
        text
    })
}
