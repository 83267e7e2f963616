//! Accounts of the built-in chat: made, logged in to, refreshed, logged out of.

use serde_json::{Value, json};

use crate::kit::{Node, Redis, raw_http};

/// Status and document of a call to `/chat/…`; a token goes with it if there is one.
pub(crate) async fn chat(node: &Node, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let length = body.len();
    let request = format!(
        "POST /chat/{path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (status, answer) = raw_http(node.client, &request).await;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A node with built-in accounts.
pub(crate) async fn node(redis: &Redis) -> Node {
    let address = format!("address = \"{}\"\nconfirm_replicas = 0", redis.address());
    Node::with(&address, "[accounts]\nbuiltin = true\n").await
}

/// Makes an account and returns its token.
pub(crate) async fn register(node: &Node, user: &str) -> String {
    let account = json!({"user": user, "password": "correct horse", "name": user.to_uppercase()});
    let (status, login) = chat(node, "register", "", &account).await;
    assert_eq!(status, 201, "{login}");
    login["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_account_is_made_once_and_opens_for_its_password_only() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let account = json!({"user": "Ada", "password": "correct horse", "name": "Ada L."});
    let (status, login) = chat(&node, "register", "", &account).await;
    assert_eq!((status, &login["user"], &login["name"]), (201, &json!("ada"), &json!("Ada L.")));
    let (status, taken) = chat(&node, "register", "", &account).await;
    assert_eq!((status, &taken["error"]["code"]), (409, &json!(409)));

    let (status, login) =
        chat(&node, "login", "", &json!({"user": "ada", "password": "correct horse"})).await;
    assert_eq!((status, &login["name"]), (200, &json!("Ada L.")));
    let wrong = chat(&node, "login", "", &json!({"user": "ada", "password": "wrong horse"})).await;
    let absent = chat(&node, "login", "", &json!({"user": "bob", "password": "wrong horse"})).await;
    assert_eq!(wrong.0, 401);
    assert_eq!(wrong, absent, "whether an account exists does not show");

    for (user, password) in [("a", "long enough"), ("a b", "long enough"), ("carl", "short")] {
        let account = json!({"user": user, "password": password});
        assert_eq!(chat(&node, "register", "", &account).await.0, 400, "{account}");
    }
    assert_eq!(chat(&node, "register", "", &json!({"user": 1})).await.0, 400);

    // As `curl -d` sends it.
    let request = "POST /chat/register HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 2\r\n\
                   Content-Type: application/x-www-form-urlencoded\r\n\r\n{}";
    let (status, answer) = raw_http(node.client, request).await;
    assert_eq!(status, 400);
    assert!(answer.contains("Content-Type: application/json"), "{answer}");
}

#[tokio::test]
async fn a_login_is_refreshed_until_it_is_ended() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    let token = register(&node, "ada").await;
    let (status, fresh) = chat(&node, "refresh", &token, &json!({})).await;
    assert_eq!((status, &fresh["user"]), (200, &json!("ada")));
    let fresh = fresh["token"].as_str().unwrap();
    assert_eq!(chat(&node, "refresh", "junk", &json!({})).await.0, 401);

    let (_, other) =
        chat(&node, "login", "", &json!({"user": "ada", "password": "correct horse"})).await;
    let other = other["token"].as_str().unwrap();
    assert_eq!(chat(&node, "logout", fresh, &json!({})).await.0, 204);
    for ended in [token.as_str(), fresh] {
        assert_eq!(chat(&node, "refresh", ended, &json!({})).await.0, 401, "all of this login");
    }
    assert_eq!(chat(&node, "refresh", other, &json!({})).await.0, 200, "and no other");
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let redis = Redis::primary().await;
    let node = node(&redis).await;
    register(&node, "ada").await;
    let mut attempts = 0;
    let status = loop {
        let guess = json!({"user": "ada", "password": "wrong horse"});
        let (status, _) = chat(&node, "login", "", &guess).await;
        attempts += 1;
        if status != 401 {
            break status;
        }
    };
    assert_eq!(status, 429);
    // One is earned every six seconds, which a slow machine may take for a few of them.
    assert!((11..40).contains(&attempts), "{attempts} attempts went through");
    let elsewhere = json!({"user": "bob", "password": "wrong horse"});
    assert_eq!(chat(&node, "login", "", &elsewhere).await.0, 401, "others are not affected");
}

#[tokio::test]
async fn without_the_switch_there_are_no_accounts() {
    let redis = Redis::primary().await;
    let address = format!("address = \"{}\"\nconfirm_replicas = 0", redis.address());
    let node = Node::with(&address, "").await;
    let account = json!({"user": "ada", "password": "correct horse"});
    assert_eq!(chat(&node, "register", "", &account).await.0, 404);
}
