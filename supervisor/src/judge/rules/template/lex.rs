//! From text to words: what stands outside the braces, and the tokens within.

/// A piece of a template's text.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// Outside of braces.
    Text(&'a str),
    /// Within braces: the text as written, for messages, and its tokens.
    Action { source: &'a str, tokens: Vec<Token> },
}

/// A word within braces.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Whether blanks stand before it: `$a .b` are two operands, `$a.b` is one.
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A name without a sign: a function or a keyword.
    Word(String),
    /// `$name`; the empty name is `$` itself.
    Variable(String),
    /// `.name`.
    Field(String),
    /// `.` alone.
    Dot,
    Text(String),
    Integer(i64),
    Float(f64),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
}

/// Takes a text apart. `{{-` and `-}}` eat the blanks around, comments vanish.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once("{{") {
        let unclosed = || format!("expected \"}}}}\" after \"{{{{{}\"", tail.trim_end());
        let (trims_before, inside) = match tail.strip_prefix('-') {
            Some(after) if after.starts_with(char::is_whitespace) => (true, after),
            _ => (false, tail),
        };
        let before = if trims_before { before.trim_end() } else { before };
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let end = if inside.trim_start().starts_with("/*") {
            let end = inside.find("*/").ok_or_else(unclosed)? + 2;
            let close = inside[end..].find("}}").ok_or_else(unclosed)?;
            if !matches!(inside[end..end + close].trim(), "" | "-") {
                return Err(unclosed());
            }
            end + close
        } else {
            let end = close_of(inside).ok_or_else(unclosed)?;
            let source = &inside[..end];
            let source = without_trim(source).unwrap_or(source);
            let tokens =
                tokens(source).map_err(|message| format!("{message} in {{{{{source}}}}}"))?;
            pieces.push(Piece::Action { source, tokens });
            end
        };
        let trims_after = without_trim(&inside[..end]).is_some();
        let after = &inside[end + 2..];
        rest = if trims_after { after.trim_start() } else { after };
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

/// What stands before the ` -` at the end, if it is there.
fn without_trim(inside: &str) -> Option<&str> {
    inside.strip_suffix('-').filter(|text| text.ends_with(char::is_whitespace))
}

/// Where `}}` stands; braces within strings do not count.
fn close_of(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) => quote = (c != open).then_some(open),
            None if text[at..].starts_with("}}") => return Some(at),
            None => quote = matches!(c, '"' | '`').then_some(c),
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        let spaced = trimmed.len() < rest.len() || tokens.is_empty();
        if trimmed.is_empty() {
            return Ok(tokens);
        }
        let (kind, length) = token(trimmed)?;
        tokens.push(Token { kind, spaced });
        rest = &trimmed[length..];
    }
}

/// The token at the start of `text`, which is not empty, and its length in bytes.
fn token(text: &str) -> Result<(TokenKind, usize), String> {
    let first = text.chars().next().unwrap_or(' ');
    let second = text[first.len_utf8()..].chars().next().unwrap_or(' ');
    let name = |from: usize| {
        let end = text[from..].find(|c: char| !(c.is_alphanumeric() || c == '_'));
        end.map_or(text.len(), |end| from + end)
    };
    Ok(match first {
        '|' => (TokenKind::Pipe, 1),
        '(' => (TokenKind::Open, 1),
        ')' => (TokenKind::Close, 1),
        ',' => (TokenKind::Comma, 1),
        ':' if second == '=' => (TokenKind::Declare, 2),
        '=' => (TokenKind::Assign, 1),
        '$' => (TokenKind::Variable(text[1..name(1)].to_owned()), name(1)),
        '.' if second.is_alphabetic() || second == '_' => {
            (TokenKind::Field(text[1..name(1)].to_owned()), name(1))
        }
        '.' if !second.is_ascii_digit() => (TokenKind::Dot, 1),
        '"' | '`' => {
            let (value, length) = string(text, first)?;
            (TokenKind::Text(value), length)
        }
        '\'' => {
            let inner = text[1..].chars().next().ok_or("expected the end of a character")?;
            let length = 2 + inner.len_utf8();
            if inner == '\\'
                || !text[..].is_char_boundary(length)
                || !text[..length].ends_with('\'')
            {
                return Err("expected one character between single quotes".to_owned());
            }
            (TokenKind::Integer(i64::from(u32::from(inner))), length)
        }
        c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => number(text)?,
        c if c.is_alphabetic() || c == '_' => {
            (TokenKind::Word(text[..name(0)].to_owned()), name(0))
        }
        c => return Err(format!("unexpected {c:?}")),
    })
}

fn number(text: &str) -> Result<(TokenKind, usize), String> {
    let mut previous = ' ';
    let ends = |c: char| {
        let sign = matches!(c, '+' | '-') && matches!(previous, ' ' | 'e' | 'E' | 'p' | 'P');
        previous = c;
        !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || sign)
    };
    let end = text.find(ends).unwrap_or(text.len());
    let word = text[..end].replace('_', "");
    let hexadecimal = |digits: &str| i64::from_str_radix(digits, 16).ok();
    let integer = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => hexadecimal(digits),
        None => word.parse().ok(),
    };
    let kind = match integer {
        Some(value) => TokenKind::Integer(value),
        None => match word.parse::<f64>() {
            Ok(value) if value.is_finite() => TokenKind::Float(value),
            _ => return Err(format!("expected a number, found {}", &text[..end])),
        },
    };
    Ok((kind, end))
}

/// The value of the string at the start of `text` and its length in bytes.
fn string(text: &str, quote: char) -> Result<(String, usize), String> {
    let unclosed = || "expected the end of a string".to_owned();
    if quote == '`' {
        let end = text[1..].find('`').ok_or_else(unclosed)?;
        return Ok((text[1..=end].to_owned(), end + 2));
    }
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, at + 1)),
            '\\' => {
                let (_, escaped) = chars.next().ok_or_else(unclosed)?;
                value.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '\\' | '"' | '\'' => escaped,
                    'u' | 'x' => {
                        let count = if escaped == 'u' { 4 } else { 2 };
                        let digits: String =
                            chars.by_ref().take(count).map(|(_, digit)| digit).collect();
                        let code = u32::from_str_radix(&digits, 16).ok();
                        let known = code.and_then(char::from_u32);
                        known.ok_or_else(|| format!("unknown escape \\{escaped}{digits}"))?
                    }
                    other => return Err(format!("unknown escape \\{other} in a string")),
                });
            }
            c => value.push(c),
        }
    }
    Err(unclosed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind> {
        tokens(text).unwrap().into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn tokens_are_told_apart() {
        use TokenKind::{Assign, Close, Declare, Dot, Field, Float, Integer, Open, Pipe, Text};
        let word = |text: &str| TokenKind::Word(text.to_owned());
        let variable = |text: &str| TokenKind::Variable(text.to_owned());
        assert_eq!(
            kinds("range $i, $x := query \"up\" | first"),
            [
                word("range"),
                variable("i"),
                TokenKind::Comma,
                variable("x"),
                Declare,
                word("query"),
                Text("up".to_owned()),
                Pipe,
                word("first"),
            ]
        );
        assert_eq!(
            kinds("($x.Labels.a) . = 1.5e-3 -7 0x1F 'a' `\\n`"),
            [
                Open,
                variable("x"),
                Field("Labels".to_owned()),
                Field("a".to_owned()),
                Close,
                Dot,
                Assign,
                Float(0.0015),
                Integer(-7),
                Integer(31),
                Integer(97),
                Text("\\n".to_owned()),
            ]
        );
        assert_eq!(kinds(r#""a\"\n\u0041\x42""#), [Text("a\"\nAB".to_owned())]);
    }

    #[test]
    fn blanks_are_eaten_only_where_asked() {
        let texts = |text| -> Vec<String> {
            let pieces = pieces(text).unwrap();
            let text = |piece| match piece {
                Piece::Text(text) => text.to_owned(),
                Piece::Action { source, .. } => format!("<{}>", source.trim()),
            };
            pieces.into_iter().map(text).collect()
        };
        assert_eq!(texts("a {{- 1 -}} b"), ["a", "<1>", "b"]);
        assert_eq!(texts("a {{-1}} b"), ["a ", "<-1>", " b"]);
        assert_eq!(texts("a {{/* note }} */}} b"), ["a ", " b"]);
        assert_eq!(texts("a {{- /* note */ -}} b"), ["a", "b"]);
        assert_eq!(texts("{{ \"}}\" }}"), ["<\"}}\">"]);
    }
}
