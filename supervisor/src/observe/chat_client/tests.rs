//! The client against a stand-in node that says exactly what a test wants said. The real chat node is met in the end-to-end tests.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

struct Node {
    listener: TcpListener,
}

struct Link(WebSocketStream<TcpStream>);

impl Node {
    async fn start() -> (Self, Options) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/connection/websocket", listener.local_addr().unwrap());
        let mut options = Options::new(url, Arc::new(|| "token".to_owned()));
        options.backoff_min = Duration::from_millis(5);
        options.backoff_max = Duration::from_millis(20);
        (Self { listener }, options)
    }

    /// The next connection, with its connect command answered.
    async fn accept(&self) -> (Link, Vec<Value>) {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut link = Link(accept_async(stream).await.unwrap());
        let mut commands = link.receive().await;
        let connect = commands.remove(0);
        assert_eq!(connect["connect"]["token"], "token");
        let client = json!({ "client": "c", "version": "0", "ping": 25, "pong": true });
        link.say(&json!({ "id": connect["id"], "connect": client })).await;
        (link, commands)
    }
}

impl Link {
    async fn receive(&mut self) -> Vec<Value> {
        let message =
            tokio::time::timeout(DEADLINE, self.0.next()).await.unwrap().unwrap().unwrap();
        let text = message.into_text().unwrap();
        text.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn say(&mut self, value: &Value) {
        self.0.send(Message::text(value.to_string())).await.unwrap();
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap()
}

fn publication(offset: u64, recovered: bool) -> Event {
    let data = json!({ "n": offset });
    Event::Publication(Publication { channel: "room".to_owned(), data, offset, recovered })
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_what_was_missed_is_recovered() {
    let (node, options) = Node::start().await;
    let (client, mut events) = ChatClient::start(options);
    let (mut link, _) = node.accept().await;
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscribe("room", None).await })
    };
    let command = link.receive().await.remove(0);
    assert_eq!(command["subscribe"], json!({ "channel": "room" }));
    let result = json!({ "recoverable": true, "positioned": true, "epoch": "e", "offset": 3 });
    link.say(&json!({ "id": command["id"], "subscribe": result })).await;
    let subscribed = subscribing.await.unwrap().unwrap();
    let at = |offset| Some(Position { offset, epoch: "e".to_owned() });
    assert_eq!((subscribed.position, subscribed.recovered), (at(3), None));
    link.say(&json!({ "push": { "channel": "room", "pub": { "data": { "n": 4 }, "offset": 4 } } }))
        .await;
    assert!(matches!(next(&mut events).await, Event::Subscribed(_)));
    assert_eq!(next(&mut events).await, publication(4, false));
    drop(link);

    let (mut link, commands) = node.accept().await;
    let expected = json!({ "channel": "room", "recover": true, "offset": 4, "epoch": "e" });
    assert_eq!(commands[0]["subscribe"], expected);
    let missed = [5, 6].map(|offset| json!({ "data": { "n": offset }, "offset": offset }));
    let result = json!({
        "recoverable": true, "epoch": "e", "offset": 4, "was_recovering": true, "recovered": true,
        "publications": missed,
    });
    link.say(&json!({ "id": commands[0]["id"], "subscribe": result })).await;
    let Event::Subscribed(again) = next(&mut events).await else { panic!("not subscribed again") };
    assert_eq!((again.recovered, again.count), (Some(true), 2));
    assert_eq!(next(&mut events).await, publication(5, true));
    assert_eq!(next(&mut events).await, publication(6, true));
    assert!(matches!(&*client.state().borrow(), State::Connected { connections: 2, .. }));
}

#[tokio::test]
async fn publishes_are_answered_each_by_its_own_reply() {
    let (node, options) = Node::start().await;
    let (client, _events) = ChatClient::start(options);
    let publish = |text: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.publish("room", json!(text)).await })
    };
    // Both wait for the connection.
    let (good, bad) = (publish("good"), publish("bad"));
    let (mut link, _) = node.accept().await;
    let mut commands = link.receive().await;
    commands.extend(link.receive().await);
    commands.reverse();
    for command in commands {
        let error = json!({ "code": 100, "message": "internal", "temporary": true });
        link.say(&match command["publish"]["data"].as_str() {
            Some("good") => json!({ "id": command["id"], "publish": {} }),
            _ => json!({ "id": command["id"], "error": error }),
        })
        .await;
    }
    assert_eq!(good.await.unwrap(), Ok(()));
    let refused = ChatError::Refused { code: 100, message: "internal".to_owned(), temporary: true };
    assert_eq!(bad.await.unwrap(), Err(refused));

    // One that is under way when the connection breaks has an unknown outcome, and is not sent again.
    let lost = publish("lost");
    link.receive().await;
    drop(link);
    assert!(matches!(lost.await.unwrap(), Err(ChatError::ConnectionLost(_))));
}

#[tokio::test]
async fn pings_are_answered() {
    let (node, options) = Node::start().await;
    let (_client, _events) = ChatClient::start(options);
    let (mut link, _) = node.accept().await;
    link.say(&json!({})).await;
    assert_eq!(link.receive().await, [json!({})]);
}

#[tokio::test]
async fn a_final_disconnect_ends_the_client_and_a_passing_one_does_not() {
    let (node, options) = Node::start().await;
    let (client, _events) = ChatClient::start(options);
    for (code, text) in [(3001_u16, "shutdown"), (3500, "invalid token")] {
        let (mut link, _) = node.accept().await;
        let frame = CloseFrame { code: code.into(), reason: text.into() };
        link.0.close(Some(frame)).await.unwrap();
    }
    let mut state = client.state();
    let ended = state.wait_for(|state| matches!(state, State::Ended { .. }));
    let ended = tokio::time::timeout(DEADLINE, ended).await.unwrap().unwrap().clone();
    assert_eq!(ended, State::Ended { reason: "3500 invalid token".to_owned() });
    let error = client.publish("room", json!(1)).await.unwrap_err();
    assert_eq!(error, ChatError::Ended("3500 invalid token".to_owned()));
}

#[tokio::test]
async fn a_call_without_an_answer_times_out_and_is_not_sent_later() {
    let (node, mut options) = Node::start().await;
    options.call_timeout = Duration::from_secs(2);
    let (client, _events) = ChatClient::start(options);
    let error = client.publish("room", json!("never sent")).await.unwrap_err();
    assert!(matches!(error, ChatError::Timeout(_)), "{error}");
    let (mut link, _) = node.accept().await;
    let publish = client.publish("room", json!("sent"));
    let (_, command) = tokio::join!(publish, link.receive());
    assert_eq!(command[0]["publish"]["data"], "sent");
}

#[tokio::test]
async fn history_is_read_page_by_page() {
    let (node, options) = Node::start().await;
    let (client, _events) = ChatClient::start(options);
    let (mut link, _) = node.accept().await;
    let reading = tokio::spawn(async move { client.whole_history("room", 1000).await });
    for (since, count) in [(0, 300), (300, 20)] {
        let command = link.receive().await.remove(0);
        assert_eq!(command["history"]["since"]["offset"].as_u64().unwrap_or(0), since);
        let page: Vec<_> =
            (since + 1..=since + count).map(|n| json!({ "data": n, "offset": n })).collect();
        let result = json!({ "publications": page, "epoch": "e", "offset": 320 });
        link.say(&json!({ "id": command["id"], "history": result })).await;
    }
    let history = reading.await.unwrap().unwrap();
    let offsets: Vec<u64> = history.publications.iter().map(|p| p.offset).collect();
    assert_eq!(offsets, (1..=320).collect::<Vec<_>>());
    assert_eq!(history.top, Position { offset: 320, epoch: "e".to_owned() });
}

#[test]
fn tokens_carry_user_and_expiry() {
    let secret = holdfast_settings::Secret::new("s3cret");
    let token = mint(&secret, "ann", Duration::from_mins(1));
    let key = jsonwebtoken::DecodingKey::from_secret(b"s3cret");
    let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
    assert_eq!(claims["sub"], "ann");
}
