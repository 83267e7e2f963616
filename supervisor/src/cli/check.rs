//! `holdfast check-config`: the settings and everything they name.

use std::path::Path;

use serde_json::json;

use super::{CliError, Output};
use crate::config::Config;
use crate::supervise;

pub(super) async fn run(path: &Path, output: Output) -> Result<(), CliError> {
    let config = Config::read(path)?;
    let rules = supervise::rules_of(&config).await;
    let rules = rules.map_err(|error| CliError::Usage(error.to_string()))?;
    let alerts = rules.alert_rules().count();
    let redis = config.redis.iter().map(|redis| redis.servers.len()).sum::<usize>();
    let summary = json!({
        "file": path, "nodes": config.nodes.len(), "redis_servers": redis, "alert_rules": alerts,
        "canary": config.canary.is_some(), "backup": config.backup.is_some(),
        "email": config.notify.email.is_some(), "webhooks": config.notify.webhooks.len(),
        "drills_scheduled": config.drills.schedule.len(),
    });
    output.result(&summary, || {
        let on = |is_on: bool| if is_on { "on" } else { "off" };
        format!(
            "ok: {} chat nodes, {redis} Redis servers, {alerts} alert rules, canary {}, backup {}, e-mail {}, {} webhooks, {} drills scheduled",
            config.nodes.len(),
            on(config.canary.is_some()),
            on(config.backup.is_some()),
            on(config.notify.email.is_some()),
            config.notify.webhooks.len(),
            config.drills.schedule.len()
        )
    })
}
