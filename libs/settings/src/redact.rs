//! Text without the passwords that stand in its URLs and addresses (`redis://user:password@host`).
//!
//! Secrets come from files of their own, but who writes settings by habit puts one into a URL, and a fault that quotes the URL, or a page
//! that shows the settings, would tell it. Whatever stands before an `@` goes, unless it is no more than a name: an address for mail is
//! no secret. Rejected: to parse URLs, because what is refused is often none.

use std::borrow::Cow;

/// In the place of what was taken out.
const REDACTED: &str = "<redacted>";
/// Before who one is.
const SCHEME_END: &str = "://";

/// `text` without user and password of any URL or address in it.
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let ends_word = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let words = text.split_inclusive(ends_word);
    Cow::Owned(words.map(redact_word).collect())
}

/// Up to the last `@`: a password may hold one, too.
fn redact_word(word: &str) -> Cow<'_, str> {
    let Some((before, after)) = word.rsplit_once('@') else { return Cow::Borrowed(word) };
    let begin = before.find(SCHEME_END).map(|at| at + SCHEME_END.len());
    if begin.is_none() && !before.contains(':') {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("{}{REDACTED}@{after}", &before[..begin.unwrap_or(0)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_one_is_does_not_show() {
        for (text, expected) in [
            ("redis://user:pw@host:6379/0", "redis://<redacted>@host:6379/0"),
            ("redis://:p/w@d@host", "redis://<redacted>@host"),
            ("https://token@host/x", "https://<redacted>@host/x"),
            ("found \"user:pw@host:6379\", sir", "found \"<redacted>@host:6379\", sir"),
            (
                "url = 'http://u:p@a' # was http://u:p@b",
                "url = 'http://<redacted>@a' # was http://<redacted>@b",
            ),
            ("(amqp://u:p@a)\nnext", "(amqp://<redacted>@a)\nnext"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in ["", "http://host:80/a", "mail me@example.com", "a: b @ c", "user@host", "@"] {
            assert_eq!(redact(text), text);
        }
    }
}
