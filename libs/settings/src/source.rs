//! A settings file: its text, and where each key stands in it.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml_edit::{Document, Item, TableLike, Value};

use crate::{Fault, Faults, redact};

/// The largest settings file read; a larger one is a mistake (a log, a core file) rather than settings.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A parsed settings file, kept for looking up the lines of keys.
#[derive(Debug)]
pub struct Source {
    /// The file as it was named.
    pub file: PathBuf,
    text: String,
    document: Option<Document<String>>,
}

/// Reads and parses the settings file at `path`.
///
/// # Errors
/// The file cannot be read, is not TOML, or does not fit `T`: unknown key, missing key, wrong type.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Source), Faults> {
    let fail = |message: String| Faults {
        file: path.to_owned(),
        list: vec![Fault { line: None, key: String::new(), message }],
    };
    let text = read_bounded(path, FILE_BYTES_MAX)
        .map_err(|error| fail(format!("cannot read it: {error}")))?;
    parse(path, text)
}

/// The text of a file, which is no more than `bytes_max` long. What is said about a file does not count: a pipe or a device has no size.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
        return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text in UTF-8"))
}

/// Parses `text`, which came from the file at `path`.
///
/// # Errors
/// As [`read`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: String) -> Result<(T, Source), Faults> {
    let source =
        Source { file: path.to_owned(), document: Document::parse(text.clone()).ok(), text };
    match toml::from_str(&source.text) {
        Ok(value) => Ok((value, source)),
        Err(error) => {
            let span = error.span();
            // A file that is no TOML has no keys to look up; of other places than this one the text may be a secret.
            let named = span.clone().filter(|_| error.message() == "duplicate key");
            let named = named.and_then(|span| source.text.get(span)).map(str::to_owned);
            let fault = Fault {
                line: span.as_ref().map(|span| source.line_at(span.start)),
                key: named.or_else(|| span.map(|span| source.key_at(&span))).unwrap_or_default(),
                message: redact(&error.message().replace('\n', " ")).into_owned(),
            };
            Err(Faults { file: source.file, list: vec![fault] })
        }
    }
}

impl Source {
    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line of `key` (such as `pool[0].server[1].address`), or of the innermost table on the way to it that is in the file.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        let mut table: &dyn TableLike = self.document.as_ref()?.as_table();
        let mut line = None;
        for part in key.split('.') {
            let (name, index) = split_index(part);
            let Some((key, item)) = table.get_key_value(name) else { break };
            let mut next = item.as_table_like();
            let mut span = key.span().or_else(|| item.span());
            if let Some(index) = index {
                match item {
                    Item::ArrayOfTables(tables) => {
                        let Some(element) = tables.get(index) else { break };
                        span = element.span();
                        next = Some(element);
                    }
                    Item::Value(Value::Array(values)) => {
                        let Some(element) = values.get(index) else { break };
                        span = element.span();
                        next = element.as_inline_table().map(|table| table as &dyn TableLike);
                    }
                    _ => break,
                }
            }
            line = span.map(|span| self.line_at(span.start)).or(line);
            let Some(next) = next else { break };
            table = next;
        }
        line
    }

    fn line_at(&self, byte: usize) -> usize {
        self.text[..byte.min(self.text.len())].matches('\n').count() + 1
    }

    /// The full key whose name or value covers `span`; empty if there is none.
    fn key_at(&self, span: &Range<usize>) -> String {
        let mut path = String::new();
        if let Some(document) = &self.document {
            descend(document.as_table(), span, &mut path);
        }
        path
    }
}

/// Splits `server[1]` into its name and index.
fn split_index(part: &str) -> (&str, Option<usize>) {
    match part.split_once('[') {
        Some((name, index)) => (name, index.trim_end_matches(']').parse().ok()),
        None => (part, None),
    }
}

fn covers(outer: Option<Range<usize>>, inner: &Range<usize>) -> bool {
    outer.is_some_and(|outer| outer.start <= inner.start && inner.end <= outer.end)
}

/// Appends to `path` the key below `table` that covers `span`; true if there is one.
fn descend(table: &dyn TableLike, span: &Range<usize>, path: &mut String) -> bool {
    for (name, item) in table.iter() {
        let before = path.len();
        if before > 0 {
            path.push('.');
        }
        path.push_str(name);
        let key_span = table.get_key_value(name).and_then(|(key, _)| key.span());
        if covers(key_span, span) {
            return true;
        }
        let found = match item {
            Item::ArrayOfTables(tables) => tables
                .iter()
                .enumerate()
                .any(|(i, t)| indexed(path, i, |path| descend(t, span, path))),
            Item::Value(Value::Array(values)) => values.iter().enumerate().any(|(i, value)| {
                covers(value.span(), span)
                    && indexed(path, i, |path| {
                        if let Some(table) = value.as_inline_table() {
                            descend(table, span, path);
                        }
                        true
                    })
            }),
            item => item.as_table_like().is_some_and(|inner| descend(inner, span, path)),
        };
        if found || (covers(item.span(), span) && !item.is_array_of_tables()) {
            return true;
        }
        path.truncate(before);
    }
    false
}

/// Runs `inner` with `[index]` appended to `path`, which is taken off again if it finds nothing.
fn indexed(path: &mut String, index: usize, inner: impl FnOnce(&mut String) -> bool) -> bool {
    let before = path.len();
    path.extend(["[", &index.to_string(), "]"]);
    let found = inner(path);
    if !found {
        path.truncate(before);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::time::Duration;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        listen: String,
        #[serde(default)]
        pool: Vec<Pool>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pool {
        #[serde(with = "crate::duration")]
        timeout: Duration,
        #[serde(default)]
        servers: Vec<String>,
    }

    fn fault(text: &str) -> String {
        parse::<File>(Path::new("a.toml"), text.to_owned()).unwrap_err().to_string()
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let text = fault("listen = \"x\"\n\n[[pool]]\ntimeout = \"1s\"\ntimeuot = \"2s\"\n");
        assert!(text.starts_with("a.toml:5: pool[0].timeuot: unknown field `timeuot`"), "{text}");
    }

    #[test]
    fn wrong_values_are_named_with_their_line() {
        let text = fault("listen = \"x\"\n[[pool]]\ntimeout = \"1s\"\n[[pool]]\ntimeout = \"5\"\n");
        assert!(text.starts_with("a.toml:5: pool[1].timeout: \"5\" is not a duration"), "{text}");
        let text = fault("listen = 5\n");
        assert!(text.starts_with("a.toml:1: listen: invalid type"), "{text}");
    }

    #[test]
    fn no_fault_tells_a_password() {
        let url = "redis://user:secret@host";
        let text = fault(&format!("listen = \"x\"\n[[pool]]\ntimeout = \"{url}\"\n"));
        assert!(text.contains("<redacted>@host") && !text.contains("secret"), "{text}");
        let (_, source) = parse::<File>(Path::new("a.toml"), "listen = \"x\"".to_owned()).unwrap();
        let mut faults = Faults::new("a.toml");
        faults.add(&source, "listen", format!("expected host:port, found {url:?}"));
        let text = faults.to_string();
        assert!(text.contains("<redacted>@host") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn missing_keys_and_bad_syntax_are_named() {
        assert!(fault("").contains("missing field `listen`"));
        let text = fault("listen = \"x\"\nfoo = = 3\n");
        assert!(text.starts_with("a.toml:2: "), "{text}");
        let text = fault("listen = \"x\"\nlisten = \"y\"\n");
        assert_eq!(text, "a.toml:2: listen: duplicate key");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let text = read::<File>(Path::new("does-not-exist.toml")).unwrap_err().to_string();
        assert!(text.starts_with("does-not-exist.toml: cannot read it: "), "{text}");
    }

    #[test]
    fn checks_of_the_program_get_their_lines() {
        let text =
            "listen = \"x\"\n[[pool]]\ntimeout = \"1s\"\nservers = [\n  \"a\",\n  \"b\",\n]\n";
        let (file, source) = parse::<File>(Path::new("a.toml"), text.to_owned()).unwrap();
        assert_eq!((file.listen.as_str(), file.pool[0].servers.len()), ("x", 2));
        assert_eq!(file.pool[0].timeout, Duration::from_secs(1));
        let mut faults = Faults::new("a.toml");
        faults.add(&source, "pool[0].servers[1]", "expected host:port, found \"b\"");
        faults.add(&source, "pool[0].absent", "expected it");
        faults.add(&source, "listen", "expected host:port, found \"x\"");
        assert_eq!(
            faults.finish(()).unwrap_err().to_string(),
            "a.toml:6: pool[0].servers[1]: expected host:port, found \"b\"\n\
             a.toml:2: pool[0].absent: expected it\n\
             a.toml:1: listen: expected host:port, found \"x\""
        );
    }
}
