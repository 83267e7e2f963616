//! The groups with their rules and alerts as Prometheus' `/api/v1/rules` shows them.

use chrono::DateTime;
use serde_json::{Value, json};

use crate::cluster::{AlertState, AlertStatus};
use crate::judge::rules::{Alert, Engine, GroupState, Health, Rule};
use crate::serve::http::alert_json;

/// Everything under `data`.
pub(super) fn describe(engine: &Engine) -> Value {
    let groups: Vec<_> = engine.groups().iter().map(group).collect();
    json!({ "groups": groups })
}

fn group(state: &GroupState) -> Value {
    let (group, last) = (state.group(), state.last());
    let rules =
        state.rules().enumerate().map(|(at, (rule, health))| self::rule(state, at, rule, health));
    json!({
        "name": group.name,
        "file": group.file,
        "interval": group.interval.as_secs_f64(),
        "queryOffset": group.query_offset.as_secs_f64(),
        "limit": group.limit.unwrap_or(0),
        "evaluationTime": last.duration.as_secs_f64(),
        "lastEvaluation": date(last.time_ms),
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn rule(state: &GroupState, at: usize, rule: &Rule, health: &Health) -> Value {
    let mut shown = match rule {
        Rule::Alert(rule) => {
            let own: Vec<AlertStatus> = state
                .alerts(at)
                .into_iter()
                .filter(|alert| alert.state != AlertState::Resolved)
                .map(Alert::status)
                .collect();
            let firing = own.iter().any(|alert| alert.state == AlertState::Firing);
            let texts = |list: &[(String, crate::judge::rules::template::Template)]| -> Value {
                list.iter().map(|(name, text)| (name.clone(), json!(text.text()))).collect()
            };
            json!({
                "type": "alerting",
                "duration": rule.hold.as_secs_f64(),
                "keepFiringFor": rule.keep_firing_for.as_secs_f64(),
                "labels": texts(&rule.labels),
                "annotations": texts(&rule.annotations),
                "state": match (firing, own.is_empty()) {
                    (true, _) => "firing",
                    (false, false) => "pending",
                    (false, true) => "inactive",
                },
                "alerts": own.iter().map(alert_json).collect::<Vec<_>>(),
            })
        }
        Rule::Record(rule) => {
            let labels: Value =
                rule.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            json!({ "type": "recording", "labels": labels })
        }
    };
    shown["name"] = json!(rule.name());
    shown["query"] = json!(rule.expr().text());
    shown["health"] = json!(match (health.time_ms, &health.error) {
        (None, _) => "unknown",
        (Some(_), Some(_)) => "err",
        (Some(_), None) => "ok",
    });
    if let Some(error) = &health.error {
        shown["lastError"] = json!(error);
    }
    shown["evaluationTime"] = json!(health.duration.as_secs_f64());
    shown["lastEvaluation"] = date(health.time_ms);
    shown
}

/// As Prometheus prints an instant; its zero is the first of January of the year one.
fn date(ms: Option<i64>) -> Value {
    match ms.and_then(DateTime::from_timestamp_millis) {
        Some(date) => json!(date),
        None => json!("0001-01-01T00:00:00Z"),
    }
}
