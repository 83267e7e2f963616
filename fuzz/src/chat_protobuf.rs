//! What a chat client may send: the protobuf form.

use bytes::Bytes;
use holdfast_chatnode::protocol::command::{Request, protobuf};

/// Decodes a frame as the session does.
pub fn run(input: &[u8]) {
    let (mut commands, mut faults) = (0, 0);
    for command in protobuf(Bytes::copy_from_slice(input)) {
        match command {
            Ok(command) => {
                commands += 1;
                let name = command.request.as_ref().map(Request::name);
                assert!(name.is_none_or(|name| !name.is_empty()));
            }
            Err(_) => faults += 1,
        }
    }
    // Every command takes a byte at least, and after a fault nothing is read any more.
    assert!(commands <= input.len() && faults <= 1);
}
