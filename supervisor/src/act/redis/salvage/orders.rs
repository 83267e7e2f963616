//! What operators do with salvages: list them, look into one, replay one.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_telemetry::errors::Chain;
use serde_json::{Value, json};

use super::replay::replay;
use super::store::{Manifest, Replayed, Store, StoreError};
use super::units::{Cutter, Keys, Unit, keys, name, units};
use crate::act::redis::RedisController;
use crate::act::redis::commands::brisk;
use crate::act::redis::repair::Aside;
use crate::control::{ControlError, SalvageOrder};
use crate::record::{Draft, Kind, Severity};

/// Units shown at once; whoever wants all of them has the file.
const SHOWN_MAX: usize = 1000;

/// Bytes of a value that are shown.
const VALUE_BYTES_MAX: usize = 256;

impl RedisController {
    /// Carries out an order about salvages beside the loop, and answers it.
    pub(in crate::act::redis) fn salvage_order(&mut self, order: SalvageOrder) {
        let store = self.salvage_store();
        match order {
            SalvageOrder::List { reply } => {
                let name = self.config.name.clone();
                self.asides.spawn(async move {
                    let answer = blocking(move || list(&store, &name)).await;
                    // The asker may have gone.
                    let _ = reply.send(answer);
                    Aside::Answered
                });
            }
            SalvageOrder::Show { id, from, values, reply } => {
                let name = self.config.name.clone();
                self.asides.spawn(async move {
                    let answer = blocking(move || show(&store, &name, &id, from, values)).await;
                    // The asker may have gone.
                    let _ = reply.send(answer);
                    Aside::Answered
                });
            }
            SalvageOrder::Replay { id, dry_run, force, by, reply } => {
                let refusal = match (self.planner.primary(), self.planner.forbidden()) {
                    (None, _) => Some("the primary is not known".to_owned()),
                    (_, Some(why)) if !dry_run => Some(why),
                    _ if !dry_run && !self.replaying.insert(id.clone()) => {
                        Some(format!("{id} is being replayed"))
                    }
                    _ => None,
                };
                let (Some(primary), None) = (self.planner.primary().cloned(), &refusal) else {
                    let refusal = ControlError::Refused(refusal.unwrap_or_default());
                    // The asker may have gone.
                    let _ = reply.send(Err(refusal));
                    return;
                };
                let endpoint = brisk(self.config.endpoint(&primary));
                let redis = self.config.name.clone();
                let (sink, subject) = (Arc::clone(&self.sink), self.subject());
                self.asides.spawn(async move {
                    let replay = Replay { store, redis, id: id.clone(), dry_run, force, by };
                    let (answer, draft) = replay.run(&endpoint, subject).await;
                    if let Some(draft) = draft {
                        sink(draft);
                    }
                    // The asker may have gone; what was done is journalled.
                    let _ = reply.send(answer);
                    if dry_run { Aside::Answered } else { Aside::Replayed(id) }
                });
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(ControlError::Failed(error.to_string())))
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        let text = Chain(&error).to_string();
        match error {
            StoreError::Unknown(_) => Self::NotFound(text),
            StoreError::File { .. } => Self::Failed(text),
        }
    }
}

fn list(store: &Store, redis: &str) -> Result<Value, ControlError> {
    let mut manifests = store.list()?;
    manifests.retain(|manifest| manifest.redis == redis);
    Ok(json!({ "salvages": manifests }))
}

fn show(
    store: &Store,
    redis: &str,
    id: &str,
    from: usize,
    values: bool,
) -> Result<Value, ControlError> {
    let (manifest, saved) = read(store, redis, id)?;
    let total = saved.units.len();
    let shown = saved.units.iter().skip(from).take(SHOWN_MAX);
    let shown: Vec<_> = shown.map(|unit| shown_unit(unit, values)).collect();
    let next = (from + shown.len() < total).then_some(from + shown.len());
    Ok(json!({
        "salvage": manifest, "units": shown, "of": total, "messages": saved.messages, "next": next,
        "file": store.commands_path(id),
    }))
}

fn read(store: &Store, redis: &str, id: &str) -> Result<(Manifest, Cutter), ControlError> {
    let manifest = store.manifest(id)?;
    if manifest.redis != redis {
        return Err(StoreError::Unknown(id.to_owned()).into());
    }
    let saved = units(&store.commands(&manifest)?);
    let path = store.commands_path(id);
    let damaged = |error| ControlError::Failed(format!("{} is damaged: {error}", path.display()));
    Ok((manifest, saved.map_err(damaged)?))
}

/// A unit without what users wrote, unless that is asked for.
fn shown_unit(unit: &Unit, values: bool) -> Value {
    let text = |word: &Bytes| {
        let end = word.len().min(VALUE_BYTES_MAX);
        let cut = if end < word.len() { "…" } else { "" };
        format!("{}{cut}", String::from_utf8_lossy(&word[..end]))
    };
    let commands = unit.commands.iter().map(|words| {
        let mut shown = json!({ "command": name(words), "arguments": words.len() - 1 });
        if let Keys::Known(keys) = keys(words) {
            shown["keys"] = json!(keys.iter().map(text).collect::<Vec<_>>());
        }
        if values {
            shown["values"] = json!(words.iter().skip(1).map(text).collect::<Vec<_>>());
        }
        shown
    });
    json!({ "database": unit.database, "commands": commands.collect::<Vec<_>>() })
}

/// A replay that was ordered.
struct Replay {
    store: Store,
    redis: String,
    id: String,
    dry_run: bool,
    force: bool,
    by: String,
}

impl Replay {
    async fn run(
        self,
        primary: &holdfast_psync::Endpoint,
        subject: String,
    ) -> (Result<Value, ControlError>, Option<Draft>) {
        let Self { store, redis, id, dry_run, force, by } = self;
        let (reading, name) = (store.clone(), id.clone());
        let (mut manifest, saved) = match blocking(move || read(&reading, &redis, &name)).await {
            Ok(read) => read,
            Err(error) => return (Err(error), None),
        };
        if let Some(Replayed { at, by, .. }) = &manifest.replay {
            let at = at.format("%F %T UTC");
            let text = format!("{id} was replayed at {at} by {by}; a second time would repeat it");
            return (Err(ControlError::Refused(text)), None);
        }
        let report = match replay(primary, &manifest, saved, dry_run, force).await {
            Ok(report) => report,
            Err(error) => {
                let text = Chain(&error).to_string();
                let message = format!("replay of {id} broke off; it can be taken up again");
                let draft = Draft::new(Kind::ActionFailed, Severity::Warning, subject, message);
                let draft = draft.because(format!("{by} asked for it")).despite(text.clone());
                return (Err(ControlError::Failed(text)), (!dry_run).then_some(draft));
            }
        };
        let answer = json!({ "salvage": id, "report": report });
        if dry_run {
            return (Ok(answer), None);
        }
        let applied = report.applied + report.before;
        let skipped = report.newer + report.keyless;
        let message = format!(
            "{id} was replayed: {applied} commands carried out, {skipped} left out, {} refused",
            report.failed
        );
        let draft = Draft::new(Kind::ActionTaken, Severity::Warning, subject, message)
            .because(format!("{by} asked for it"))
            .detail(answer.clone());
        let at = chrono::Utc::now();
        manifest.replay = Some(Replayed { at, by, applied, skipped, failed: report.failed });
        let kept = blocking(move || Ok(store.write_manifest(&manifest)?)).await;
        // The mark in the primary keeps it from being repeated all the same.
        (kept.map(|()| answer), Some(draft))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_is_shown_only_if_asked_for() {
        let words = ["SET", "room:1", "hello"].map(|word| Bytes::from_static(word.as_bytes()));
        let unit = Unit { database: 0, commands: vec![words.to_vec()] };
        let shown = shown_unit(&unit, false).to_string();
        assert!(shown.contains("room:1") && !shown.contains("hello"), "{shown}");
        assert!(shown_unit(&unit, true).to_string().contains("hello"));
        let long = vec![Bytes::from_static(b"SET"), Bytes::from(vec![b'x'; 9999])];
        let long = Unit { database: 0, commands: vec![long] };
        assert!(shown_unit(&long, true).to_string().len() < 3 * VALUE_BYTES_MAX);
    }
}
