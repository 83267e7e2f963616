//! Answers that come bit by bit: events, backups, drills.

use holdfast_supervisor::cluster::Address;
use holdfast_supervisor::control::{BackupProgress, BackupReport, ControlError};
use holdfast_supervisor::record::{Draft, Kind, Severity};
use reqwest::Response;
use serde_json::{Value, json};

use crate::kit::{Server, TOKEN, alert_event, body};

/// Messages of an event stream, as they come.
struct Messages {
    response: Response,
    text: String,
}

impl Messages {
    async fn next(&mut self) -> Value {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let data = message.lines().find_map(|line| line.strip_prefix("data: "));
                let value = data.map(|data| serde_json::from_str(data).unwrap());
                self.text = String::from(rest);
                if let Some(value) = value {
                    return value;
                }
                continue;
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_delivers_the_backlog_then_each_event_once() {
    let server = Server::start().await;
    for _ in 0..3 {
        server.append(alert_event("chatnode-1"));
    }
    let response = server.get("/operator/v1/events/stream?since_id=1").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut all = Messages { response, text: String::new() };
    let response = server.get("/operator/v1/events/stream?subject=settings").await;
    let mut filtered = Messages { response, text: String::new() };
    for id in 2..=3 {
        assert_eq!(all.next().await["id"], id);
    }
    // More than a slow listener's buffer holds, so that it must catch up from the journal.
    for _ in 4..=2100 {
        server.append(Draft::new(Kind::Circuit, Severity::Info, "chatnode-2", "opened"));
    }
    server.append(Draft::new(Kind::Reload, Severity::Info, "settings", "read again"));
    for id in 4..=2101 {
        assert_eq!(all.next().await["id"], id);
    }
    assert_eq!(filtered.next().await["id"], 2101);
    server.shutdown.cancel();
    assert_eq!(all.response.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn a_backup_streams_its_progress_and_ends_with_its_result() {
    let mut server = Server::start().await;
    let path = format!("{}/operator/v1/backups", server.base);
    let request = server.client.post(&path).bearer_auth(TOKEN);
    let part = async {
        let command = server.commands.backup.recv().await.unwrap();
        let progress = command.progress.unwrap();
        for done_bytes in [0, 10] {
            let step =
                BackupProgress { phase: "snapshot".to_owned(), done_bytes, total_bytes: Some(10) };
            progress.send(step).await.unwrap();
        }
        let report = BackupReport {
            id: "b2".to_owned(),
            source: Address::new("127.0.0.1", 6380),
            offset: 7,
            keys: 1,
            raw_bytes: 10,
            stored_bytes: 5,
            verified: true,
            seconds: 0.1,
        };
        command.reply.send(Ok(report)).unwrap();
    };
    let (response, ()) = tokio::join!(request.send(), part);
    let response = response.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0]["progress"]["phase"], "snapshot");
    assert_eq!(lines[2]["result"]["id"], "b2");

    let request = server.client.post(&path).bearer_auth(TOKEN);
    let part = async {
        let command = server.commands.backup.recv().await.unwrap();
        command.reply.send(Err(ControlError::Busy("one is running".to_owned()))).unwrap();
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (503, json!({ "error": "one is running" })));
    let (_, listed) = server.json("/operator/v1/backups").await;
    assert_eq!(listed, json!({ "backups": [{ "id": "b1" }] }));
}

#[tokio::test]
async fn a_drill_shows_its_progress_then_its_report() {
    let server = Server::start().await;
    server.drill.send_modify(|drill| {
        drill.run = Some("run-1".to_owned());
        drill.phase = Some("fault".to_owned());
    });
    let (status, answer) = server.json("/operator/v1/drills/runs/run-1").await;
    assert_eq!((status, &answer["phase"]), (200, &json!("fault")));
    let reports = server.dir.path().join("drills");
    std::fs::create_dir(&reports).unwrap();
    std::fs::write(reports.join("run-1.json"), r#"{"verdict":"pass"}"#).unwrap();
    let answer = server.json("/operator/v1/drills/runs/run-1").await;
    assert_eq!(answer, (200, json!({ "verdict": "pass" })));
}
