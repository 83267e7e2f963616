//! Tokens of chat clients: nothing that is not signed may be accepted.

use holdfast_chatnode::tokens::Verifier;
use holdfast_settings::Secret;

/// A time, in seconds since 1970.
const NOW: u64 = 1_700_000_000;

/// Checks the input as a token. The secret is not among the seeds, so nothing may pass.
pub fn run(input: &[u8]) {
    let Ok(token) = std::str::from_utf8(input) else { return };
    let verifier = Verifier::hmac(&Secret::new("a secret that no input knows"));
    assert!(verifier.connection(token, NOW).is_err(), "a token that nobody signed was accepted");
    assert!(verifier.subscription(token, NOW).is_err(), "a token that nobody signed was accepted");
}
