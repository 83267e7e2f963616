//! The canary against a stand-in node.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

/// Turns the first `refused` connections away for good and serves the others.
async fn node(listener: TcpListener, refused: usize) {
    let mut links = JoinSet::new();
    for number in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        links.spawn(serve(stream, number < refused));
    }
}

async fn serve(stream: TcpStream, is_refused: bool) {
    let mut link = accept_async(stream).await.unwrap();
    if is_refused {
        // Read to the end: with something unread the close would be a reset, which turns nobody away for good.
        link.next().await.unwrap().unwrap();
        let frame = CloseFrame { code: 3500.into(), reason: "invalid token".into() };
        link.close(Some(frame)).await.unwrap();
        while link.next().await.is_some() {}
        return;
    }
    while let Some(Ok(Message::Text(text))) = link.next().await {
        for line in text.lines() {
            let command: Value = serde_json::from_str(line).unwrap();
            let result = match command.as_object().unwrap() {
                c if c.contains_key("connect") => {
                    json!({"connect": {"client": "c", "version": "0"}})
                }
                c if c.contains_key("subscribe") => json!({"subscribe": {}}),
                _ => json!({"publish": {}}),
            };
            let mut reply = json!({"id": command["id"]});
            reply.as_object_mut().unwrap().extend(result.as_object().unwrap().clone());
            link.send(Message::text(reply.to_string())).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_canary_that_was_turned_away_for_good_comes_back_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        url: format!("ws://{}/connection/websocket", listener.local_addr().unwrap()),
        hmac_secret: holdfast_settings::Secret::new("0123456789abcdef0123456789abcdef"),
        channel: "canary:probe".to_owned(),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(2),
    };
    let mut parts = JoinSet::new();
    parts.spawn(node(listener, 2));
    let registry = metrics::registry("supervisor", "0");
    let (canary, _handle, mut status) = Canary::new(settings, &registry, Arc::new(|_| ()));
    let stop = CancellationToken::new();
    parts.spawn(canary.run(stop.clone()));
    for is_good in [false, true] {
        let seen = status.wait_for(|status| {
            let error = status.error.as_deref().unwrap_or_default();
            if is_good { status.acked > 0 } else { error.contains("invalid token") }
        });
        let seen = tokio::time::timeout(DEADLINE, seen).await.map(drop);
        assert!(seen.is_ok(), "good: {is_good}, {:?}", status.borrow());
    }
}
