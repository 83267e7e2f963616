//! The API described for tools: `GET /api/openapi.json`.

use axum::Json;
use serde_json::{Value, json};

/// Names and types of fields.
type Fields = &'static [(&'static str, &'static str)];

/// Body of each method: name, and its fields with their types; `*` marks those that must be there.
const METHODS: [(&str, &str, Fields); 16] = [
    ("publish", "Publishes to a channel", PUBLISH),
    ("broadcast", "Publishes the same to several channels", BROADCAST),
    (
        "subscribe",
        "Subscribes a user's connections to a channel",
        &[
            ("user*", "string"),
            ("channel*", "string"),
            ("client", "string"),
            ("session", "string"),
            ("info", "object"),
            ("b64info", "string"),
            ("data", "object"),
            ("b64data", "string"),
            ("expire_at", "integer"),
            ("recover_since", "object"),
            ("override", "object"),
        ],
    ),
    (
        "unsubscribe",
        "Ends subscriptions of a user's connections",
        &[("user*", "string"), ("channel*", "string"), ("client", "string"), ("session", "string")],
    ),
    (
        "disconnect",
        "Closes a user's connections",
        &[
            ("user*", "string"),
            ("client", "string"),
            ("session", "string"),
            ("whitelist", "array"),
            ("disconnect", "object"),
        ],
    ),
    (
        "refresh",
        "Gives a user's connections another end",
        &[
            ("user*", "string"),
            ("client", "string"),
            ("session", "string"),
            ("expired", "boolean"),
            ("expire_at", "integer"),
            ("info", "object"),
        ],
    ),
    ("presence", "Who is in a channel", &[("channel*", "string")]),
    ("presence_stats", "How many are in a channel", &[("channel*", "string")]),
    (
        "history",
        "Publications of a channel",
        &[
            ("channel*", "string"),
            ("limit", "integer"),
            ("since", "object"),
            ("reverse", "boolean"),
        ],
    ),
    ("history_remove", "Forgets publications of a channel", &[("channel*", "string")]),
    ("channels", "Channels with subscribers", &[("pattern", "string")]),
    ("info", "The nodes that are alive", &[]),
    ("rpc", "Calls a procedure; none are offered", &[("method*", "string"), ("params", "object")]),
    ("batch", "Several methods at once", &[("commands*", "array"), ("parallel", "boolean")]),
    (
        "revoke_token",
        "Takes a token back by its id (jti)",
        &[("uid*", "string"), ("expire_at", "integer")],
    ),
    (
        "invalidate_user_tokens",
        "Takes a user's tokens back that were issued before a moment",
        &[("user*", "string"), ("issued_before", "integer"), ("expire_at", "integer")],
    ),
];

const PUBLISH: Fields = &[
    ("channel*", "string"),
    ("data", "object"),
    ("b64data", "string"),
    ("skip_history", "boolean"),
    ("tags", "object"),
    ("idempotency_key", "string"),
    ("delta", "boolean"),
    ("version", "integer"),
    ("version_epoch", "string"),
];

const BROADCAST: Fields = &[
    ("channels*", "array"),
    ("data", "object"),
    ("b64data", "string"),
    ("skip_history", "boolean"),
    ("tags", "object"),
    ("idempotency_key", "string"),
    ("delta", "boolean"),
    ("version", "integer"),
    ("version_epoch", "string"),
];

fn schema(fields: Fields) -> Value {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for (field, kind) in fields {
        let name = field.trim_end_matches('*');
        if name.len() < field.len() {
            required.push(name);
        }
        let kind = match *kind {
            "array" => json!({"type": "array", "items": {}}),
            // Payloads are any JSON.
            "object" if matches!(name, "data" | "info" | "params") => json!({}),
            kind => json!({"type": kind}),
        };
        properties.insert(name.to_owned(), kind);
    }
    json!({"type": "object", "properties": properties, "required": required})
}

/// The document.
pub(super) async fn document() -> Json<Value> {
    let paths = METHODS.iter().map(|(name, summary, fields)| {
        let content = json!({"application/json": {"schema": schema(fields)}});
        let answer =
            json!({"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}});
        let operation = json!({"post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": true, "content": content},
            "responses": {
                "200": {"description": "A result or an error", "content": answer},
                "400": {"description": "The body is not JSON"},
                "401": {"description": "No key, or a wrong one"},
            },
        }});
        (format!("/api/{name}"), operation)
    });
    Json(json!({
        "openapi": "3.1.0",
        "info": {"title": "Holdfast chat node", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths.collect::<serde_json::Map<_, _>>(),
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
            "schemas": {"Answer": {"type": "object", "properties": {
                "result": {"type": "object"},
                "error": {"type": "object", "required": ["code", "message"], "properties": {
                    "code": {"type": "integer"}, "message": {"type": "string"},
                }},
            }}},
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::methods::Method;

    #[test]
    fn every_method_is_described() {
        let described: Vec<_> = METHODS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(described, Method::NAMES);
    }
}
