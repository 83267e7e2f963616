//! Who is let in, and for how long: tokens of all kinds, key sets, revocation, modes without tokens.

use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Client, Incoming, token};
use crate::kit::{Node, Redis};

/// A private key made by OpenSSL.
struct Key {
    algorithm: Algorithm,
    signing: EncodingKey,
    id: &'static str,
}

impl Key {
    fn make(dir: &TempDir, id: &'static str, algorithm: Algorithm) -> Self {
        let path = dir.path().join(format!("{id}.pem"));
        let arguments: &[&str] = match algorithm {
            Algorithm::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Algorithm::ES384 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Algorithm::EdDSA => &["-algorithm", "ED25519"],
            _ => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        };
        let made =
            Command::new("openssl").arg("genpkey").args(arguments).arg("-out").arg(&path).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
        let pem = std::fs::read(&path).unwrap();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
            _ => EncodingKey::from_rsa_pem(&pem),
        };
        Self { algorithm, signing: key.unwrap(), id }
    }

    /// The public half, as PEM.
    fn public(&self, dir: &TempDir) -> String {
        let path = dir.path().join(format!("{}.pem", self.id));
        let public = dir.path().join(format!("{}.pub", self.id));
        let done = Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(&path)
            .arg("-out")
            .arg(&public)
            .status();
        assert!(done.unwrap().success());
        public.display().to_string()
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.signing, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }
}

/// A node with these settings beside those of its Redis.
async fn node(redis: &Redis, more: &str) -> Node {
    Node::with(&format!("address = \"{}\"\nconfirm_replicas = 0", redis.address()), more).await
}

/// What the connect command with this token is answered with.
async fn connect(node: &Node, token: &str) -> Incoming {
    let mut client = Client::open(node.client).await;
    client.command("connect", json!({"token": token})).await;
    client.next().await
}

async fn assert_admitted(node: &Node, token: &str) {
    match connect(node, token).await {
        Incoming::Document(reply) => assert!(reply.get("connect").is_some(), "{reply}"),
        closed @ Incoming::Closed(..) => panic!("{closed:?}"),
    }
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_taken_from_an_issuer_that_changes_its_keys() {
    let (redis, dir) = (Redis::primary().await, tempfile::tempdir().unwrap());
    let set = Arc::new(Mutex::new(json!({"keys": []})));
    let serve = async |State(set): State<Arc<Mutex<Value>>>| set.lock().unwrap().to_string();
    let router = Router::new().route("/keys", get(serve)).with_state(Arc::clone(&set));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let keys: Vec<_> = [
        ("rs", Algorithm::RS256),
        ("ps", Algorithm::PS512),
        ("es256", Algorithm::ES256),
        ("es384", Algorithm::ES384),
        ("ed", Algorithm::EdDSA),
    ]
    .into_iter()
    .map(|(id, algorithm)| Key::make(&dir, id, algorithm))
    .collect();
    let first: Vec<_> = keys.iter().map(Key::jwk).collect();
    *set.lock().unwrap() = json!({"keys": first});

    let claims = json!({"sub": "42"});
    let file = Key::make(&dir, "file", Algorithm::RS384);
    let public = file.public(&dir);
    let tokens = format!("jwks_url = \"{url}\"\npublic_key_files = [\"{public}\"]\n");
    let address = format!("address = \"{}\"\nconfirm_replicas = 0", redis.address());
    let node = Node::with_tokens(&tokens, &address, "").await;
    for key in &keys {
        assert_admitted(&node, &key.sign(&claims)).await;
    }
    assert_admitted(&node, &file.sign(&claims)).await;
    assert_admitted(&node, &token(&claims)).await;
    // A key that the issuer does not have is no reason to hammer it: at first the client is told to come again.
    let stranger = Key::make(&dir, "stranger", Algorithm::ES256);
    match connect(&node, &stranger.sign(&claims)).await {
        Incoming::Document(reply) => assert_eq!(reply["error"]["code"], 100, "{reply}"),
        Incoming::Closed(code, _) => assert_eq!(code, 3500),
    }
    // The issuer takes it into use; within the pause between two reads it is known.
    *set.lock().unwrap() = json!({"keys": [stranger.jwk()]});
    crate::kit::eventually("the new key", async || {
        match connect(&node, &stranger.sign(&claims)).await {
            Incoming::Document(reply) => reply.get("connect").map(|_| ()),
            Incoming::Closed(..) => None,
        }
    })
    .await;
    assert!(
        !matches!(connect(&node, &keys[0].sign(&claims)).await,
        Incoming::Document(reply) if reply.get("connect").is_some()),
        "a withdrawn key is no good"
    );
    let forged = Key { id: "stranger", ..Key::make(&dir, "forger", Algorithm::ES256) };
    let refused = Incoming::Closed(3500, "invalid token".to_owned());
    assert_eq!(connect(&node, &forged.sign(&claims)).await, refused);
}

#[tokio::test]
async fn a_subscription_token_opens_one_channel_for_one_user() {
    let redis = Redis::primary().await;
    let node = node(&redis, "").await;
    let mut client = Client::connect(node.client, "42").await;
    let subscribe = |claims: Value| json!({"channel": "$secret", "token": token(&claims)});
    let without = client.call("subscribe", json!({"channel": "$secret"})).await;
    assert_eq!(without["error"]["code"], 103);
    let expired = json!({"sub": "42", "channel": "$secret", "exp": 1});
    assert_eq!(client.call("subscribe", subscribe(expired)).await["error"]["code"], 109);
    let over = json!({"sub": "42", "channel": "$secret", "expire_at": 1});
    assert_eq!(client.call("subscribe", subscribe(over)).await["error"]["code"], 110);
    let forged = json!({"channel": "$secret", "token": "a.b.c"});
    assert_eq!(client.call("subscribe", forged).await["error"]["code"], 103);
    let good = json!({"sub": "42", "channel": "$secret", "client": client.id, "data": {"seat": 3}});
    let reply = client.call("subscribe", subscribe(good)).await;
    assert_eq!(reply["subscribe"]["data"], json!({"seat": 3}), "{reply}");
    for claims in [
        json!({"sub": "43", "channel": "$secret"}),
        json!({"sub": "42", "channel": "$other"}),
        json!({"sub": "42", "channel": "$secret", "client": "another"}),
    ] {
        let mut client = Client::connect(node.client, "42").await;
        client.command("subscribe", subscribe(claims)).await;
        assert_eq!(client.closed().await, 3500);
    }
}

#[tokio::test]
async fn without_a_token_one_is_anonymous_or_everybody_or_not_let_in() {
    let redis = Redis::primary().await;
    let strict = node(&redis, "").await;
    let mut client = Client::open(strict.client).await;
    client.command("connect", json!({})).await;
    assert_eq!(client.closed().await, 3501);
    assert_eq!(
        connect(&strict, &token(&json!({"sub": ""}))).await,
        Incoming::Closed(3507, "permission denied".to_owned())
    );

    let anonymous = node(&redis, "[access]\nanonymous = true\n").await;
    let mut client = Client::open(anonymous.client).await;
    assert!(client.call("connect", json!({})).await.get("connect").is_some());
    let reply = client.call("subscribe", json!({"channel": "news"})).await;
    assert_eq!(reply["error"]["code"], 103, "the namespace says nothing of the anonymous user");

    let insecure = node(&redis, "[access]\ninsecure = true\n").await;
    let mut client = Client::open(insecure.client).await;
    assert!(client.call("connect", json!({})).await.get("connect").is_some());
    client.subscribe("closed:anything").await;
    assert!(client.publish("closed:anything", json!(1)).await.get("error").is_none());
    assert_admitted(&insecure, &token(&json!({"sub": "42", "exp": 1}))).await;
    let refused = Incoming::Closed(3500, "invalid token".to_owned());
    assert_eq!(connect(&insecure, "a.b.c").await, refused);
}
