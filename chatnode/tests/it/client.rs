//! A small client of the JSON protocol that sees everything an SDK hides.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::kit::{DEADLINE, SECRET};

/// A token with these claims.
pub(crate) fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

/// What arrives.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    Document(Value),
    Closed(u16, String),
}

pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    documents: VecDeque<Value>,
    pushes: VecDeque<Value>,
    next_id: u32,
    pub(crate) id: String,
}

impl Client {
    /// Opens a WebSocket and sends nothing.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/connection/websocket");
        let (socket, _) = connect_async(url).await.unwrap();
        let (documents, pushes) = (VecDeque::new(), VecDeque::new());
        Self { socket, documents, pushes, next_id: 1, id: String::new() }
    }

    /// Connects as `user`.
    pub(crate) async fn connect(address: SocketAddr, user: &str) -> Self {
        let mut client = Self::open(address).await;
        let reply = client.call("connect", json!({"token": token(&json!({"sub": user}))})).await;
        client.id = reply["connect"]["client"].as_str().expect("a connect result").into();
        client
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// The next document, or the close.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            if let Some(document) = self.documents.pop_front() {
                return Incoming::Document(document);
            }
            let message = timeout(DEADLINE, self.socket.next()).await.expect("something arrives");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let documents =
                        text.split('\n').map(|text| serde_json::from_str(text).unwrap());
                    self.documents.extend(documents);
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Incoming::Closed(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => {
                    return Incoming::Closed(0, String::new());
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// Sends a command without waiting; returns its id.
    pub(crate) async fn command(&mut self, name: &str, body: Value) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"id": id, name: body}).to_string()).await;
        id
    }

    /// Sends a command and returns its reply; pushes that arrive before it are kept.
    pub(crate) async fn call(&mut self, name: &str, body: Value) -> Value {
        let id = self.command(name, body).await;
        self.reply(id).await
    }

    /// The reply to the command with this id.
    pub(crate) async fn reply(&mut self, id: u32) -> Value {
        loop {
            match self.next().await {
                Incoming::Document(document) if document["id"] == id => return document,
                Incoming::Document(document) => self.keep(document).await,
                closed @ Incoming::Closed(..) => panic!("{closed:?} instead of a reply"),
            }
        }
    }

    /// Keeps a push, answers a ping.
    async fn keep(&mut self, document: Value) {
        if document.get("push").is_some() {
            self.pushes.push_back(document["push"].clone());
        } else if document == json!({}) {
            self.send("{}").await;
        }
    }

    /// The next push.
    pub(crate) async fn push(&mut self) -> Value {
        loop {
            if let Some(push) = self.pushes.pop_front() {
                return push;
            }
            match self.next().await {
                Incoming::Document(document) => self.keep(document).await,
                closed @ Incoming::Closed(..) => panic!("{closed:?} instead of a push"),
            }
        }
    }

    /// The next push of this kind; others are dropped.
    pub(crate) async fn push_of(&mut self, kind: &str) -> Value {
        loop {
            let push = self.push().await;
            if let Some(body) = push.get(kind) {
                return body.clone();
            }
        }
    }

    /// The close, after whatever comes before it.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            if let Incoming::Closed(code, _) = self.next().await {
                return code;
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> Value {
        let reply = self.call("subscribe", json!({"channel": channel})).await;
        assert!(reply.get("error").is_none(), "{reply}");
        reply["subscribe"].clone()
    }

    pub(crate) async fn publish(&mut self, channel: &str, data: Value) -> Value {
        self.call("publish", json!({"channel": channel, "data": data})).await
    }

    /// Payloads of the channel's whole history, with their offsets.
    pub(crate) async fn history(&mut self, channel: &str) -> Vec<(u64, Value)> {
        let reply = self.call("history", json!({"channel": channel, "limit": -1})).await;
        let publications = reply["history"]["publications"].as_array().expect("a history");
        publications.iter().map(|p| (p["offset"].as_u64().unwrap(), p["data"].clone())).collect()
    }
}
