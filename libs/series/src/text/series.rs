//! Name and labels as they stand before the value: `name{label="value"}`, or with names in quotes `{"name", "label"="value"}`.

use std::borrow::Cow;

use crate::METRIC_NAME;

/// Most labels of a sample.
pub const LABELS_MAX: usize = 64;

/// A label as written, its name and value with the escapes resolved.
pub type RawLabel<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Where name and labels end.
pub(super) fn end(line: &str) -> Result<usize, String> {
    let bytes = line.as_bytes();
    let name_end = name_end(bytes, true);
    let at = name_end + blanks(&bytes[name_end..]);
    if bytes.get(at) != Some(&b'{') {
        if name_end == 0 {
            return Err(format!("expected a metric name, found {:?}", first_word(line)));
        }
        return if name_end < bytes.len() && at == name_end {
            Err(format!("expected a blank or '{{' after {:?}", &line[..name_end]))
        } else {
            Ok(name_end)
        };
    }
    let fail = || format!("expected '}}' to end the labels of {:?}", &line[..name_end]);
    labels_end(bytes, at).ok_or_else(fail)
}

/// Behind the brace that closes the labels opened at `open`.
pub(super) fn labels_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'}', bytes.get(at..)?)?;
        if bytes[at] == b'}' {
            return Some(at + 1);
        }
        at += 1;
        loop {
            at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
            if bytes[at] == b'"' {
                break;
            }
            at += 2;
        }
        at += 1;
    }
}

fn name_end(bytes: &[u8], colons: bool) -> usize {
    let belongs = |(at, byte): (usize, &u8)| {
        let digit = byte.is_ascii_digit() && at > 0;
        byte.is_ascii_alphabetic() || *byte == b'_' || digit || (colons && *byte == b':')
    };
    bytes.iter().enumerate().take_while(|entry| belongs(*entry)).count()
}

pub(super) fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

fn first_word(text: &str) -> &str {
    text.split_ascii_whitespace().next().unwrap_or("")
}

/// The labels of `series`, in the order of the text; the metric's name first, as `__name__`.
pub(super) fn labels(series: &str) -> Result<Vec<RawLabel<'_>>, String> {
    let (name, body) = match series.find('{') {
        Some(brace) => (series[..brace].trim_end(), &series[brace + 1..]),
        None => (series, "}"),
    };
    let mut labels: Vec<RawLabel<'_>> = Vec::new();
    if !name.is_empty() {
        labels.push((METRIC_NAME.into(), name.into()));
    }
    pairs(body, series, &mut labels)?;
    let position = labels.iter().position(|(name, _)| name == METRIC_NAME);
    match position {
        Some(position) => labels.swap(0, position),
        None => return Err("expected a metric name before '{'".to_owned()),
    }
    Ok(labels)
}

/// Adds the pairs of `body`, which ends in `}`; a name in quotes alone is the metric's. `within` is for messages.
pub(super) fn pairs<'a>(
    body: &'a str,
    within: &str,
    labels: &mut Vec<RawLabel<'a>>,
) -> Result<(), String> {
    let mut rest = body.trim_start();
    while rest != "}" {
        let (label, tail) = if let Some(quoted) = rest.strip_prefix('"') {
            unquote(quoted).ok_or_else(|| format!("expected '\"' to end a name in {within:?}"))?
        } else {
            let (label, tail) = rest.split_at(name_end(rest.as_bytes(), false));
            if label.is_empty() {
                return Err(format!("expected a label name or '}}' in {within:?}"));
            }
            (label.into(), tail)
        };
        let quoted = rest.starts_with('"');
        let tail = tail.trim_start();
        let (label, value, tail) = if quoted && !tail.starts_with('=') {
            (METRIC_NAME.into(), label, tail)
        } else {
            let tail = tail.strip_prefix('=');
            let tail = tail.ok_or_else(|| format!("expected '=' after label {label:?}"))?;
            let tail = tail.trim_start().strip_prefix('"');
            let tail = tail.ok_or_else(|| format!("expected a quoted value of label {label:?}"))?;
            let (value, tail) = unquote(tail)
                .ok_or_else(|| format!("expected '\"' to end the value of label {label:?}"))?;
            (label, value, tail)
        };
        if labels.iter().any(|(known, _)| *known == label) {
            return Err(format!("label {label:?} comes twice"));
        }
        if labels.len() >= LABELS_MAX {
            return Err(format!("more than {LABELS_MAX} labels"));
        }
        rest = tail.trim_start();
        match rest.strip_prefix(',') {
            Some(tail) => rest = tail.trim_start(),
            None if rest == "}" => {}
            None => return Err(format!("expected ',' or '}}' after label {label:?}")),
        }
        labels.push((label, value));
    }
    Ok(())
}

/// The value up to the closing quote and what follows it. Unknown escapes stay as they are, as in Prometheus.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let plain = memchr::memchr2(b'"', b'\\', text.as_bytes())?;
    if text.as_bytes()[plain] == b'"' {
        return Some((Cow::Borrowed(&text[..plain]), &text[plain + 1..]));
    }
    let mut value = text[..plain].to_owned();
    let mut chars = text[plain..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), &text[plain + at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}
