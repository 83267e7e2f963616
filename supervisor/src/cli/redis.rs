//! Commands about the Redis primary: move it now or later, pause, resume, approve, acknowledge.

use std::time::Duration;

use chrono::{DateTime, Local, NaiveDateTime, NaiveTime, TimeZone as _, Utc};
use serde_json::{Value, json};

use super::arguments::{Restart, Which};
use super::client::Client;
use super::print::millis;
use super::{CliError, Output};
use crate::cluster::Address;

/// Time between two looks at a rolling restart, which takes seconds for each server.
const RESTART_POLL: Duration = Duration::from_millis(500);

pub(super) async fn failover(
    client: &Client,
    which: &Which,
    target: Option<&Address>,
    at: Option<DateTime<Utc>>,
    output: Output,
) -> Result<(), CliError> {
    if let Some(at) = at {
        let answer: Value =
            client.redis("switchover", which.name(), &json!({"at": at, "target": target})).await?;
        return output.result(&answer, || {
            let local = at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z");
            format!("The Redis primary will be moved at {local}. `holdfast failover --cancel` forgets that.")
        });
    }
    let report = client.failover(which.name(), target).await?;
    output.result(&report, || {
        let from = report.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let loss = match report.lost_bytes {
            Some(0) => "; nothing is lost".to_owned(),
            Some(bytes) => format!("; {bytes} bytes were only on the old primary"),
            None => String::new(),
        };
        let time = millis(report.seconds);
        format!(
            "The Redis primary moved{from} to {} in {time} (epoch {}){loss}.",
            report.to, report.epoch
        )
    })
}

pub(super) async fn pause(
    client: &Client,
    which: &Which,
    reason: &str,
    limit: Option<Duration>,
    output: Output,
) -> Result<(), CliError> {
    let body = json!({"reason": reason, "seconds": limit.map(|limit| limit.as_secs())});
    let answer: Value = client.redis("pause", which.name(), &body).await?;
    output.result(&answer, || {
        "Automatic changes to Redis are paused; what you ask for is still done. `holdfast resume` ends it."
            .to_owned()
    })
}

/// A command without parameters, and what to say when it is done.
pub(super) async fn order(
    client: &Client,
    which: &Which,
    what: &str,
    done: &str,
    output: Output,
) -> Result<(), CliError> {
    let answer: Value = client.redis(what, which.name(), &json!({})).await?;
    output.result(&answer, || done.to_owned())
}

/// Begins, takes up or stops a rolling restart; one that was begun is followed to its end.
pub(super) async fn restart(
    client: &Client,
    which: &Which,
    restart: &Restart,
    output: Output,
) -> Result<(), CliError> {
    let Restart { resume, stop, force, .. } = restart;
    let body = json!({ "force": force, "resume": resume, "stop": stop });
    let answer = client.redis("restart", which.name(), &body).await?;
    if *stop {
        return output.result(&answer, || "The rolling restart has stopped.".to_owned());
    }
    let mut told = 0;
    loop {
        tokio::time::sleep(RESTART_POLL).await;
        let status = client.status().await?;
        let all = status.redis.iter();
        let redis =
            all.into_iter().find(|redis| which.name().is_none_or(|name| name == redis.name));
        let Some(status) = redis.and_then(|redis| redis.restart.clone()) else {
            let text = "the supervisor knows of no rolling restart any more";
            return Err(CliError::Failed(text.to_owned()));
        };
        if !output.is_json() {
            for server in &status.done[told.min(status.done.len())..] {
                output.line(&format!("{server} was restarted and has caught up."))?;
            }
        }
        told = status.done.len();
        if let Some(problem) = &status.problem {
            let left: Vec<_> = status.left.iter().map(ToString::to_string).collect();
            return Err(CliError::Failed(format!(
                "{problem}. Left: {}. `holdfast redis restart --resume` takes it up.",
                left.join(", ")
            )));
        }
        if status.current.is_none() && status.left.is_empty() {
            return output.result(&status, || "All servers were restarted.".to_owned());
        }
    }
}

/// A time of day (the next one), a local date and time, or RFC 3339.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let now = Local::now();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let local = if let Ok(time) = NaiveTime::parse_from_str(text, "%H:%M") {
        let today = now.date_naive().and_time(time);
        if today > now.naive_local() { today } else { today + chrono::TimeDelta::days(1) }
    } else {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").map_err(|_| {
            "expected HH:MM, \"YYYY-MM-DD HH:MM\" (local time) or RFC 3339".to_owned()
        })?
    };
    let found = Local.from_local_datetime(&local).earliest();
    found.map(|time| time.to_utc()).ok_or_else(|| format!("{local} does not exist here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(time("2031-02-03T04:05:06Z").unwrap().timestamp(), 1_927_857_906);
        let next = time("03:00").unwrap() - Utc::now();
        assert!(next > chrono::TimeDelta::zero() && next <= chrono::TimeDelta::hours(25));
        assert!(time("2031-02-03 04:05").is_ok());
        assert!(time("soon").unwrap_err().contains("HH:MM"));
    }
}
