//! The demo chat page, embedded in the program by `build.rs`.
//!
//! A binary that was built without it says so instead, in one line: the page needs Node.js to be built, the chat node does not.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// What is said in the page's place.
const ABSENT: &str = "This is a Holdfast chat node, built without the demo chat page: run `make chat-page`, then build it again.\n";

/// The page loads its own files and talks to where it came from, and nothing else.
const SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves the page at `/` and its files beside it.
pub(super) fn router() -> Router {
    routes(FILES)
}

fn routes(files: &'static [(&'static str, &'static [u8])]) -> Router {
    let mut router = Router::new();
    for (name, content) in files {
        let path = if *name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        router = router.route(&path, get(async move || file(name, content)));
    }
    if files.iter().any(|(name, _)| *name == "index.html") {
        router
    } else {
        router.route("/", get(async || ABSENT))
    }
}

fn file(name: &str, content: &'static [u8]) -> Response {
    let kind = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "application/octet-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The names stay the same when the node is updated.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_types_and_the_policy() {
        for (name, kind) in
            [("index.html", "text/html"), ("chat.js", "text/javascript"), ("x", "application/")]
        {
            let answer = file(name, b"");
            assert!(answer.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with(kind));
            assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], SECURITY_POLICY);
        }
    }

    #[test]
    fn with_and_without_the_page_there_is_something_at_the_root() {
        // Two routes at one path would panic.
        let _without = routes(&[]);
        let _with = routes(&[("chat.js", b""), ("index.html", b"")]);
    }
}
