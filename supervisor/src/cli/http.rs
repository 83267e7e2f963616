//! What every HTTP call of the command line needs: readable causes, lines of a body as they come, health checks.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use reqwest::Response;
use serde_json::Value;

/// Longest line of a stream; an event is some KiB.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Asks a `/health/ready` of ours; the text says what it waits for.
pub(crate) async fn readiness(http: &reqwest::Client, url: &str) -> Result<(), String> {
    let sent = http.get(url).timeout(Duration::from_secs(2)).send().await;
    let response = sent.map_err(|error| causes(&error))?;
    if response.status().is_success() {
        return Ok(());
    }
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    let unmet = body.get("unmet").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_str).unwrap_or("?").to_owned()
    };
    let unmet: Vec<String> = unmet
        .iter()
        .map(|unmet| format!("{}: {}", text(unmet, "condition"), text(unmet, "reason")))
        .collect();
    Err(if unmet.is_empty() { format!("it answered {status}") } else { unmet.join("; ") })
}

/// The innermost causes of an error; reqwest's own words name the URL and little else.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The body as lines, as they come. A line that is too long ends the stream with an error.
pub(super) fn lines(response: Response) -> impl Stream<Item = Result<String, String>> {
    stream::unfold(Some((response, Vec::new())), |state| async move {
        let (mut response, mut buffer) = state?;
        loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let rest = buffer.split_off(end + 1);
                let line = String::from_utf8_lossy(&buffer[..end]).trim_end().to_owned();
                return Some((Ok(line), Some((response, rest))));
            }
            if buffer.len() > LINE_BYTES_MAX {
                return Some((Err(format!("a line of more than {LINE_BYTES_MAX} bytes")), None));
            }
            match response.chunk().await {
                Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
                Ok(None) => return None,
                Err(error) => return Some((Err(causes(&error)), None)),
            }
        }
    })
    .filter(|line| std::future::ready(!line.as_ref().is_ok_and(String::is_empty)))
}
