//! The part of Go's templates that alert annotations use: texts with `{{ … }}` in them.
//!
//! In the braces stands a pipeline: `$value`, `$labels.name` (or `.Value`, `.Labels.name`), a string or a number, through functions:
//! `humanize`, `humanize1024`, `humanizeDuration`, `humanizePercentage`, `printf`, `toUpper`, `toLower`, `title`, `print`. `{{-` and
//! `-}}` eat the blanks around. Everything is checked when a file is loaded, so that an annotation cannot fail in the middle of an
//! incident. Conditions, loops and `query` are refused as unknown.

use std::fmt;

use holdfast_series::Labels;

use super::humanize;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Pipeline(Vec<Command>),
}

/// A step of a pipeline. All but the first get the result of the one before as their last argument.
#[derive(Debug, Clone, PartialEq)]
struct Command {
    function: Option<Function>,
    args: Vec<Operand>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Value,
    Label(String),
    Text(String),
    Number(f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Humanize,
    Humanize1024,
    HumanizeDuration,
    HumanizePercentage,
    Lower,
    Print,
    Printf,
    Title,
    Upper,
}

/// What a pipeline works on.
#[derive(Debug, Clone)]
enum Datum {
    Text(String),
    Number(f64),
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// What was found in which braces, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once("{{") {
            let (inside, after) = split_close(tail)
                .ok_or_else(|| format!("expected \"}}}}\" after \"{{{{{}\"", tail.trim_end()))?;
            let trimmed = inside.strip_prefix('-');
            let (inside, trim_before) = (trimmed.unwrap_or(inside), trimmed.is_some());
            let trimmed = inside.strip_suffix('-');
            let (inside, trim_after) = (trimmed.unwrap_or(inside), trimmed.is_some());
            let before = if trim_before { before.trim_end() } else { before };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let pipeline = parse_pipeline(inside)
                .map_err(|message| format!("{message} in {{{{{inside}}}}}"))?;
            pieces.push(Piece::Pipeline(pipeline));
            rest = if trim_after { after.trim_start() } else { after };
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self { text: text.to_owned(), pieces })
    }

    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it says the same whatever the alert.
    pub fn is_constant(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// Fills in the labels and the value of an alert.
    pub fn expand(&self, labels: &Labels, value: f64) -> String {
        let mut out = String::with_capacity(self.text.len());
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Pipeline(commands) => {
                    out.push_str(&run(commands, labels, value).to_string());
                }
            }
        }
        out
    }
}

/// The text up to `}}` and what follows; braces within strings do not count.
fn split_close(text: &str) -> Option<(&str, &str)> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) => quote = (c != open).then_some(open),
            None if text[at..].starts_with("}}") => return Some((&text[..at], &text[at + 2..])),
            None => quote = matches!(c, '"' | '`').then_some(c),
        }
    }
    None
}

fn parse_pipeline(text: &str) -> Result<Vec<Command>, String> {
    let mut words = Vec::new();
    let mut commands = Vec::new();
    for word in split_words(text)? {
        if word == "|" {
            commands.push(parse_command(&words, commands.is_empty())?);
            words.clear();
        } else {
            words.push(word);
        }
    }
    commands.push(parse_command(&words, commands.is_empty())?);
    Ok(commands)
}

/// Words, strings and bars.
fn split_words(text: &str) -> Result<Vec<&str>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '|' => 1,
            '"' | '`' => {
                let mut escaped = false;
                let close = |(_, c): &(usize, char)| {
                    let closes = *c == first && !escaped;
                    escaped = first == '"' && *c == '\\' && !escaped;
                    closes
                };
                let found = rest.char_indices().skip(1).find(close);
                found.map(|(at, _)| at + 1).ok_or("expected the end of a string")?
            }
            _ => rest.find(|c: char| c.is_whitespace() || c == '|').unwrap_or(rest.len()),
        };
        words.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    Ok(words)
}

fn parse_command(words: &[&str], first: bool) -> Result<Command, String> {
    let Some((head, tail)) = words.split_first() else {
        return Err("expected a value or a function".to_owned());
    };
    let mut args = Vec::new();
    let function = match parse_operand(head)? {
        Some(operand) if first && tail.is_empty() => {
            args.push(operand);
            None
        }
        Some(_) => return Err(format!("expected a function, found {head}")),
        None => Some(parse_function(head)?),
    };
    for word in tail {
        let expected = || format!("expected a value as argument of {head}, found {word}");
        args.push(parse_operand(word)?.ok_or_else(expected)?);
    }
    let count = args.len() + usize::from(!first);
    match function {
        Some(Function::Printf) => check_format(&args, count)?,
        Some(Function::Print) | None => {}
        Some(_) if count == 1 => {}
        Some(_) => return Err(format!("expected one argument of {head}, found {count}")),
    }
    Ok(Command { function, args })
}

fn parse_function(name: &str) -> Result<Function, String> {
    Ok(match name {
        "humanize" => Function::Humanize,
        "humanize1024" => Function::Humanize1024,
        "humanizeDuration" => Function::HumanizeDuration,
        "humanizePercentage" => Function::HumanizePercentage,
        "print" => Function::Print,
        "printf" => Function::Printf,
        "title" => Function::Title,
        "toLower" => Function::Lower,
        "toUpper" => Function::Upper,
        _ => return Err(format!("function {name:?} is not known")),
    })
}

/// A value, if the word is one and no function's name.
fn parse_operand(word: &str) -> Result<Option<Operand>, String> {
    if word == "$value" || word == ".Value" {
        return Ok(Some(Operand::Value));
    }
    for prefix in ["$labels.", ".Labels."] {
        if let Some(name) = word.strip_prefix(prefix) {
            if !holdfast_series::is_label_name(name) {
                return Err(format!("{name:?} is not a label name"));
            }
            return Ok(Some(Operand::Label(name.to_owned())));
        }
    }
    if let Some(text) = word.strip_prefix('`') {
        return Ok(Some(Operand::Text(text.trim_end_matches('`').to_owned())));
    }
    if word.starts_with('"') {
        let inner = &word[1..word.len() - 1];
        let text = inner.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\");
        return Ok(Some(Operand::Text(text)));
    }
    if word.starts_with(['$', '.']) {
        return Err(format!("expected $value or $labels.<name>, found {word}"));
    }
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        let number = word.parse().map_err(|_| format!("expected a number, found {word}"))?;
        return Ok(Some(Operand::Number(number)));
    }
    Ok(None)
}

/// The format of `printf` must be a string that asks for as many values as there are.
fn check_format(args: &[Operand], count: usize) -> Result<(), String> {
    let Some(Operand::Text(format)) = args.first() else {
        return Err("expected a format in quotes as first argument of printf".to_owned());
    };
    let verbs = parse_format(format)?;
    let wanted = verbs.iter().filter(|part| matches!(part, FormatPart::Verb { .. })).count();
    if wanted != count - 1 {
        return Err(format!("format {format:?} takes {wanted} values, found {}", count - 1));
    }
    Ok(())
}

enum FormatPart {
    Text(String),
    Verb { verb: char, precision: Option<usize> },
}

fn parse_format(format: &str) -> Result<Vec<FormatPart>, String> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some((before, tail)) = rest.split_once('%') {
        parts.push(FormatPart::Text(before.to_owned()));
        let end = tail.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(tail.len());
        let (size, tail) = tail.split_at(end);
        let unknown = || format!("expected %s %v %d %f %g %q or %% in format {format:?}");
        let verb = tail.chars().next().ok_or_else(unknown)?;
        let precision = match size.strip_prefix('.') {
            _ if size.is_empty() => None,
            Some(digits) => Some(digits.parse().ok().filter(|d| *d <= 20).ok_or_else(unknown)?),
            None => return Err(unknown()),
        };
        parts.push(match verb {
            '%' => FormatPart::Text("%".to_owned()),
            's' | 'v' | 'd' | 'f' | 'g' | 'q' => FormatPart::Verb { verb, precision },
            _ => return Err(unknown()),
        });
        rest = &tail[verb.len_utf8()..];
    }
    parts.push(FormatPart::Text(rest.to_owned()));
    Ok(parts)
}

fn run(commands: &[Command], labels: &Labels, value: f64) -> Datum {
    let mut result: Option<Datum> = None;
    for command in commands {
        let operand = |operand: &Operand| match operand {
            Operand::Value => Datum::Number(value),
            Operand::Label(name) => Datum::Text(labels.value(name).to_owned()),
            Operand::Text(text) => Datum::Text(text.clone()),
            Operand::Number(number) => Datum::Number(*number),
        };
        let args = command.args.iter().map(operand).chain(result.take()).collect();
        result = Some(call(command.function, args));
    }
    result.unwrap_or(Datum::Text(String::new()))
}

fn call(function: Option<Function>, args: Vec<Datum>) -> Datum {
    let all = |args: &[Datum]| args.iter().map(ToString::to_string).collect::<String>();
    let number = |change: fn(f64) -> String| match args.first() {
        Some(Datum::Number(number)) => change(*number),
        // A label may hold a number as text, such as `le`.
        Some(Datum::Text(text)) => text.parse().map_or_else(|_| text.clone(), change),
        None => String::new(),
    };
    Datum::Text(match function {
        None => match args.into_iter().next() {
            Some(datum) => return datum,
            None => String::new(),
        },
        Some(Function::Humanize) => number(humanize::humanize),
        Some(Function::Humanize1024) => number(humanize::humanize_1024),
        Some(Function::HumanizeDuration) => number(humanize::humanize_duration),
        Some(Function::HumanizePercentage) => number(humanize::humanize_percentage),
        Some(Function::Lower) => all(&args).to_lowercase(),
        Some(Function::Upper) => all(&args).to_uppercase(),
        Some(Function::Title) => title(&all(&args)),
        Some(Function::Print) => all(&args),
        Some(Function::Printf) => print_format(&args),
    })
}

fn title(text: &str) -> String {
    let mut start = true;
    let change = |c: char| {
        let upper = std::mem::replace(&mut start, c.is_whitespace()) && c.is_alphabetic();
        if upper { c.to_uppercase().collect::<String>() } else { c.to_string() }
    };
    text.chars().map(change).collect()
}

fn print_format(args: &[Datum]) -> String {
    let Some((format, values)) = args.split_first() else { return String::new() };
    // The format was checked when the template was parsed.
    let parts = parse_format(&format.to_string()).unwrap_or_default();
    let mut values = values.iter();
    let mut out = String::new();
    for part in parts {
        match part {
            FormatPart::Text(text) => out.push_str(&text),
            FormatPart::Verb { verb, precision } => {
                if let Some(value) = values.next() {
                    out.push_str(&print_verb(verb, precision, value));
                }
            }
        }
    }
    out
}

fn print_verb(verb: char, precision: Option<usize>, datum: &Datum) -> String {
    let number = match datum {
        Datum::Number(number) => Some(*number),
        Datum::Text(text) => text.parse().ok(),
    };
    match (verb, number) {
        ('d', Some(number)) => format!("{:.0}", number.trunc()),
        ('f', Some(number)) if number.is_finite() => format!("{number:.*}", precision.unwrap_or(6)),
        ('g', Some(number)) => match precision {
            Some(digits) => humanize::significant(number, digits),
            None => humanize::plain(number),
        },
        ('q', _) => format!("{:?}", datum.to_string()),
        _ => datum.to_string(),
    }
}

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => f.write_str(&humanize::plain(*number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> String {
        let labels = Labels::from_pairs([("server", "node-1"), ("le", "0.5")]);
        Template::parse(text).map_or_else(
            |error| format!("fault: {error}"),
            |template| template.expand(&labels, 0.123_456),
        )
    }

    #[test]
    fn labels_and_values_are_filled_in() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("{{ $labels.server }} is down", "node-1 is down"),
            ("{{$labels.server}}{{.Labels.nothing}}!", "node-1!"),
            ("a {{- $value -}} b", "a0.123456b"),
            ("{{ $value | humanizePercentage }}", "12.35%"),
            ("{{ humanizePercentage $value }}", "12.35%"),
            ("{{ .Value | printf \"%.2f\" }}s", "0.12s"),
            ("{{ printf \"%.1f%% of %s\" $value $labels.server }}", "0.1% of node-1"),
            ("{{ $value | printf `%s: %g` $labels.server }}", "node-1: 0.123456"),
            ("{{ $labels.le | humanizeDuration }}", "500ms"),
            ("{{ $value | humanize | toUpper }}", "123.5M"),
            ("{{ \"}} | x\" }}", "}} | x"),
            ("{{ $labels.server | title | printf \"%q\" }}", "\"Node-1\""),
            ("{{ 1500 | humanize }}", "1.5k"),
            ("{{ printf \"%d\" 12 }}", "12"),
        ] {
            assert_eq!(expand(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (text, expected) in [
            ("{{ $value", "expected \"}}\" after \"{{ $value\""),
            ("{{ }}", "expected a value or a function in {{ }}"),
            ("{{ $value | }}", "expected a value or a function in {{ $value | }}"),
            (
                "{{ humanise $value }}",
                "function \"humanise\" is not known in {{ humanise $value }}",
            ),
            ("{{ if $value }}x{{ end }}", "function \"if\" is not known in {{ if $value }}"),
            ("{{ $foo }}", "expected $value or $labels.<name>, found $foo in {{ $foo }}"),
            ("{{ $labels.a-b }}", "\"a-b\" is not a label name in {{ $labels.a-b }}"),
            ("{{ humanize }}", "expected one argument of humanize, found 0 in {{ humanize }}"),
            (
                "{{ printf $value }}",
                "expected a format in quotes as first argument of printf in {{ printf $value }}",
            ),
            ("{{ printf \"%f\" }}", "format \"%f\" takes 1 values, found 0 in {{ printf \"%f\" }}"),
            (
                "{{ printf \"%z\" 1 }}",
                "expected %s %v %d %f %g %q or %% in format \"%z\" in {{ printf \"%z\" 1 }}",
            ),
            (
                "{{ $value | $labels.x }}",
                "expected a function, found $labels.x in {{ $value | $labels.x }}",
            ),
            ("{{ \"x }}", "expected \"}}\" after \"{{ \"x }}\""),
        ] {
            assert_eq!(expand(text), format!("fault: {expected}"), "{text}");
        }
    }
}
