//! `holdfast token` and `holdfast chat`: being a chat user.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_settings::Secret;
use holdfast_telemetry::shutdown;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::context::LOCAL_RUN;
use super::{CliError, Output};
use crate::config::Config;
use crate::observe::chat_client::{ChatClient, Event, Options, Publication, State, mint};

/// How long a token of `holdfast chat` is good for; it makes a new one when needed.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// Without a connection by then the address is wrong or the cluster is down.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Messages of the past that are shown on arrival.
const BACKLOG: usize = 10;

pub(super) fn token(
    user: &str,
    secret_file: Option<PathBuf>,
    lifetime: Duration,
    output: Output,
) -> Result<(), CliError> {
    let token = mint(&secret(secret_file)?, user, lifetime);
    output.result(&json!({ "user": user, "token": token }), || token.clone())
}

fn secret(file: Option<PathBuf>) -> Result<Secret, CliError> {
    let path = file.unwrap_or_else(|| Path::new(LOCAL_RUN).join("secrets/chat.secret"));
    Secret::from_file(&path)
        .map_err(|error| CliError::Usage(format!("{error}; give --secret-file FILE")))
}

/// The chat address of the cluster that runs in this folder.
fn local_url() -> Result<String, CliError> {
    let path = Path::new(LOCAL_RUN).join("etc/holdfast.toml");
    if !path.is_file() {
        let text = "no cluster of `holdfast up` in this folder: give --url ws://host:port/connection/websocket";
        return Err(CliError::Usage(text.to_owned()));
    }
    let canary = Config::read(&path)?.canary;
    let canary = canary
        .ok_or_else(|| CliError::Usage("give --url, the local cluster has none".to_owned()))?;
    Ok(canary.url)
}

pub(super) async fn run(
    user: String,
    channel: String,
    url: Option<String>,
    secret_file: Option<PathBuf>,
    output: Output,
) -> Result<(), CliError> {
    let secret = secret(secret_file)?;
    let url = url.map_or_else(local_url, Ok)?;
    let name = user.clone();
    let tokens = Arc::new(move || mint(&secret, &name, TOKEN_LIFETIME));
    let (client, events) = ChatClient::start(Options::new(url, tokens));
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(format!("{channel}: {error}"));
    client.connected(CONNECT_WITHIN).await.map_err(|error| failed(&error))?;
    let subscribed = client.subscribe(&channel, None).await.map_err(|error| failed(&error))?;
    if subscribed.position.is_some() {
        let history =
            client.whole_history(&channel, 10_000).await.map_err(|error| failed(&error))?;
        let skip = history.publications.len().saturating_sub(BACKLOG);
        for publication in history.publications.iter().skip(skip) {
            show(publication, output)?;
        }
    }
    let result = tokio::select! {
        result = talk(&client, &user, &channel, events, output) => result,
        () = shutdown::signal() => Ok(()),
    };
    client.close().await;
    result
}

async fn talk(
    client: &ChatClient,
    user: &str,
    channel: &str,
    mut events: mpsc::Receiver<Event>,
    output: Output,
) -> Result<(), CliError> {
    let mut lines = typed_lines();
    let mut state = client.state();
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => {
                    let data = json!({ "user": user, "text": line });
                    if let Err(error) = client.publish(channel, data).await {
                        note(output, &format!("not acknowledged: {error}"))?;
                    }
                }
                None => return Ok(()),
            },
            event = events.recv() => match event {
                Some(Event::Publication(publication)) => show(&publication, output)?,
                Some(Event::Unsubscribed { reason, .. }) => return Err(CliError::Failed(reason)),
                Some(Event::Subscribed(again)) => {
                    if again.recovered == Some(false) {
                        note(output, "some messages may be missing here")?;
                    }
                }
                None => return Err(CliError::Failed("the connection has ended".to_owned())),
            },
            changed = state.changed() => {
                if changed.is_err() {
                    return Err(CliError::Failed("the connection has ended".to_owned()));
                }
                let now = state.borrow_and_update().clone();
                match now {
                    State::Connected { connections, .. } if connections > 1 => note(output, "connected again")?,
                    State::Connected { .. } => {}
                    State::Connecting { reason, .. } => {
                        note(output, &format!("reconnecting: {}", reason.unwrap_or_default()))?;
                    }
                    State::Ended { reason } => return Err(CliError::Failed(reason)),
                }
            }
        }
    }
}

/// Lines of standard input. The thread that waits for them is left behind when the program ends.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn show(publication: &Publication, output: Output) -> Result<(), CliError> {
    if output.is_json() {
        return output
            .json_line(&json!({ "offset": publication.offset, "data": publication.data }));
    }
    let field = |name: &str| publication.data.get(name).and_then(Value::as_str);
    output.line(&match (field("user"), field("text")) {
        (Some(user), Some(text)) => format!("{user}: {}", printable(text)),
        _ => printable(&publication.data.to_string()),
    })
}

/// Without what would steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn note(output: Output, text: &str) -> Result<(), CliError> {
    if output.is_json() {
        output.json_line(&json!({ "note": text }))
    } else {
        output.line(&format!("-- {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_send_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n\u{9b}c"), "a[2Jbc");
    }
}
