//! The operator API: who may do what, what is read, and commands to the parts.

use holdfast_supervisor::cluster::{ServerState, ServerStatus, ServersStatus};
use holdfast_supervisor::control::{ControlError, DrillCommand, FailoverReport, RedisCommand};
use holdfast_supervisor::record::{Draft, Kind, Severity};
use serde_json::{Value, json};

use crate::kit::{self, Server, TOKEN, alert_event, body, node};

#[tokio::test]
async fn changes_need_the_token_and_reads_do_not() {
    let server = Server::start().await;
    let changes = [
        "/operator/v1/servers/chatnode-1",
        "/operator/v1/redis/failover",
        "/operator/v1/backups",
        "/operator/v1/drills/chatnode-crash",
        "/operator/v1/drills/abort",
        "/-/reload",
    ];
    for path in changes {
        let request = || server.client.post(format!("{}{path}", server.base));
        let (status, answer) = body(request().send().await.unwrap()).await;
        assert_eq!(status, 401, "{path}");
        assert!(answer["error"].as_str().unwrap().contains("Authorization"), "{answer}");
        let response = request().bearer_auth("wrong").body("no json").send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(body(response).await, (401, json!({ "error": "the token is wrong" })), "{path}");
    }
    for path in ["/operator/v1/status", "/operator/v1/events", "/operator/v1/backups", "/metrics"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_what_is_wrong() {
    let server = Server::start().await;
    let path = "/operator/v1/servers/chatnode-1";
    let cases = [
        ("{", 400, "the body is not JSON"),
        ("", 422, "give `state`, `weight` or both"),
        (
            r#"{"wieght":1}"#,
            422,
            "unknown field `wieght`, expected one of `state`, `weight`, `force`",
        ),
        (r#"{"state":"up"}"#, 422, "unknown variant `up`, expected one of `ready`, `drain`"),
        (r#"{"weight":257}"#, 422, "expected 0 to 256"),
        (r#"{"weight":-1}"#, 422, "invalid value"),
    ];
    for (text, status, expected) in cases {
        let (found, answer) = server.post(path, text).await;
        assert_eq!(found, status, "{text}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(expected), "{text}: {answer}");
    }
    let (status, answer) = server.post("/operator/v1/redis/failover", r#"{"target":"x"}"#).await;
    assert_eq!(status, 422);
    assert!(answer["error"].as_str().unwrap().contains("expected host:port"), "{answer}");
    let late = json!({
        "matchers": ["NodeDown"], "comment": "", "seconds": 3_600, "starts_at": chrono::DateTime::<chrono::Utc>::MAX_UTC,
    });
    let (status, answer) = server.post("/operator/v1/silences", &late.to_string()).await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("no date is known"), "{answer}");
    let (status, _) = server.post(path, &format!("\"{}\"", "x".repeat(70_000))).await;
    assert_eq!(status, 413);
    let (status, answer) = server.json("/operator/v1/events?sincE_id=1").await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("unknown field `sincE_id`"), "{answer}");
    for path in ["/operator/v1/events/x", "/operator/v1/drills/runs/..%2F..%2Fjournal"] {
        assert_eq!(server.get(path).await.status(), 400, "{path}");
    }
    for path in
        ["/operator/v1/events/9", "/operator/v1/incidents/9", "/operator/v1/drills/runs/x", "/x"]
    {
        let (status, answer) = server.json(path).await;
        assert_eq!(status, 404, "{path}");
        assert!(answer["error"].is_string(), "{path}: {answer}");
    }
    let response = server.client.delete(format!("{}{path}", server.base)).send().await.unwrap();
    assert_eq!(body(response).await.0, 405);
}

#[tokio::test]
async fn status_events_and_incidents_are_read() {
    let server = Server::start().await;
    let id = server.append(alert_event("chatnode-1"));
    server.append(Draft::new(Kind::Circuit, Severity::Warning, "chatnode-1", "opened"));
    server.append(Draft::new(Kind::Reload, Severity::Info, "settings", "read again"));
    let nodes = vec![node("chatnode-1", Some("connection refused")), node("chatnode-2", None)];
    server.servers.send_replace(ServersStatus { nodes, balancer: None });

    let (_, status) = server.json("/operator/v1/status").await;
    assert_eq!((&status["health"], &status["name"]), (&json!("degraded"), &json!("supervisor-1")));
    assert_eq!(status["problems"], json!(["chatnode-1 does not answer: connection refused"]));

    let ids = |list: &Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect()
    };
    let (_, events) = server.json("/operator/v1/events?severity_min=warning&limit=5").await;
    assert_eq!(ids(&events["events"]), [1, 2]);
    let (_, events) =
        server.json("/operator/v1/events?since_id=1&subject=settings&kind=reload").await;
    assert_eq!(ids(&events["events"]), [3]);
    let (_, event) = server.json(&format!("/operator/v1/events/{id}")).await;
    assert_eq!(event["reasons"][0], json!({ "favours": true, "text": "up is 0 for 3 s" }));

    let (_, incidents) = server.json("/operator/v1/incidents?open=true").await;
    assert_eq!(incidents["incidents"][0]["subject"], "chatnode-1");
    let (_, incident) = server.json("/operator/v1/incidents/1").await;
    assert_eq!(incident["causes"], json!(["NodeDown"]));
    assert_eq!(ids(&incident["timeline"]), [1, 2]);
}

#[tokio::test]
async fn commands_reach_their_part_and_bring_its_answer_back() {
    let mut server = Server::start().await;
    let (client, base) = (server.client.clone(), server.base.clone());
    let drain = client
        .post(format!("{base}/operator/v1/servers/chatnode-1"))
        .bearer_auth(TOKEN)
        .body(r#"{"state":"drain","force":true}"#)
        .send();
    let part = async {
        let command = server.commands.servers.recv().await.unwrap();
        assert_eq!((command.server.as_str(), command.weight), ("chatnode-1", None));
        assert_eq!((command.state, command.force), (Some(ServerState::Drain), true));
        assert_eq!(command.by, "operator at 127.0.0.1");
        let after = ServerStatus { state: ServerState::Drain, ..kit::server("chatnode-1") };
        command.reply.send(Ok(after)).unwrap();
    };
    let (response, ()) = tokio::join!(drain, part);
    let (status, answer) = body(response.unwrap()).await;
    assert_eq!((status, &answer["state"]), (200, &json!("drain")));

    let errors = [
        (ControlError::NotFound("no server x".into()), 404),
        (ControlError::Refused("guard".into()), 409),
        (ControlError::Busy("busy".into()), 503),
        (ControlError::Failed("broken".into()), 500),
    ];
    for (error, expected) in errors {
        let text = error.to_string();
        let request = client.post(format!("{base}/operator/v1/redis/failover")).bearer_auth(TOKEN);
        let part = async {
            let RedisCommand::FailOver(command) = server.commands.redis.recv().await.unwrap()
            else {
                panic!("another command");
            };
            assert_eq!(command.target, None);
            command.reply.send(Err::<FailoverReport, _>(error)).unwrap();
        };
        let (response, ()) = tokio::join!(request.send(), part);
        assert_eq!(body(response.unwrap()).await, (expected, json!({ "error": text })));
    }

    let request = client
        .post(format!("{base}/operator/v1/redis/pause?name=main"))
        .bearer_auth(TOKEN)
        .json(&json!({"reason": "network work", "seconds": 60}));
    let part = async {
        match server.commands.redis.recv().await.unwrap() {
            RedisCommand::Pause { pause, reply } => {
                assert_eq!(pause.reason, "network work");
                assert!(pause.until.unwrap() > chrono::Utc::now());
                reply.send(Ok(())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (200, json!({})));
    let elsewhere =
        client.post(format!("{base}/operator/v1/redis/resume?name=cache")).bearer_auth(TOKEN);
    let expected = json!({ "error": "there is no Redis \"cache\"; there are main" });
    assert_eq!(body(elsewhere.send().await.unwrap()).await, (404, expected));
    let wrong = client
        .post(format!("{base}/operator/v1/redis/pause"))
        .bearer_auth(TOKEN)
        .json(&json!({"reason": " "}));
    assert_eq!(body(wrong.send().await.unwrap()).await.0, 409);

    let request =
        client.post(format!("{base}/operator/v1/drills/chatnode-crash")).bearer_auth(TOKEN);
    let part = async {
        match server.commands.drills.recv().await.unwrap() {
            DrillCommand::Start(start) => {
                assert_eq!(start.scenario, "chatnode-crash");
                start.reply.send(Ok("run-1".to_owned())).unwrap();
            }
            DrillCommand::Abort { .. } => panic!("expected a start"),
        }
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (202, json!({ "run": "run-1" })));

    let request = client.post(format!("{base}/operator/v1/drills/abort")).bearer_auth(TOKEN);
    let part = async {
        match server.commands.drills.recv().await.unwrap() {
            DrillCommand::Abort { reply, .. } => reply.send(Ok(())).unwrap(),
            DrillCommand::Start(_) => panic!("expected an abort"),
        }
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(response.unwrap().status(), 200);

    let request = client.post(format!("{base}/-/reload")).bearer_auth(TOKEN);
    let part = async {
        let command = server.commands.reload.recv().await.unwrap();
        command.reply.send(Ok(vec!["3 rules".to_owned()])).unwrap();
    };
    let (response, ()) = tokio::join!(request.send(), part);
    assert_eq!(body(response.unwrap()).await, (200, json!({ "changed": ["3 rules"] })));
}
