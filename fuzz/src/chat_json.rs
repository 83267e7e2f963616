//! What a chat client may send: the JSON form.

use holdfast_chatnode::protocol::command::{Request, json};

/// Decodes a frame as the session does.
pub fn run(input: &[u8]) {
    for command in json(input).flatten() {
        // A request has a name of the closed set that metrics know.
        let name = command.request.as_ref().map(Request::name);
        assert!(name.is_none_or(|name| !name.is_empty()));
    }
}
