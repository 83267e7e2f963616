//! Go's `printf`, with what makes sense of it for numbers and texts.

use super::humanize;
use super::value::Value;

/// Digits and blanks one value may take.
const SIZE_MAX: usize = 200;

#[derive(Debug)]
enum Part {
    Text(String),
    Verb(Verb),
}

#[derive(Debug, Default)]
struct Verb {
    letter: char,
    left: bool,
    plus: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

fn parse(format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some((before, tail)) = rest.split_once('%') {
        parts.push(Part::Text(before.to_owned()));
        let unknown = || format!("expected %v %s %d %f %e %g %q %t %x or %% in format {format:?}");
        let mut verb = Verb::default();
        let mut chars = tail.char_indices().peekable();
        while let Some((_, flag @ ('-' | '+' | '0' | ' ' | '#'))) = chars.peek().copied() {
            verb.left |= flag == '-';
            verb.plus |= flag == '+';
            verb.zeros |= flag == '0';
            chars.next();
        }
        let mut digits = || {
            let mut number = None;
            while let Some(digit) = chars.peek().and_then(|(_, c)| c.to_digit(10)) {
                number = Some((number.unwrap_or(0) * 10 + digit as usize).min(SIZE_MAX));
                chars.next();
            }
            let dot = chars.next_if(|(_, c)| *c == '.').is_some();
            (number, dot)
        };
        let (width, dot) = digits();
        verb.width = width.unwrap_or(0);
        if dot {
            verb.precision = Some(digits().0.unwrap_or(0));
        }
        let (at, c) = chars.next().ok_or_else(unknown)?;
        verb.letter = c;
        parts.push(match c {
            '%' => Part::Text("%".to_owned()),
            'v' | 's' | 'd' | 'f' | 'F' | 'e' | 'g' | 'q' | 't' | 'x' => Part::Verb(verb),
            _ => return Err(unknown()),
        });
        rest = &tail[at + c.len_utf8()..];
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

/// Refuses a format that asks for more or fewer than `count` values.
pub(super) fn check(format: &str, count: usize) -> Result<(), String> {
    let wanted = parse(format)?.iter().filter(|part| matches!(part, Part::Verb(_))).count();
    if wanted == count {
        return Ok(());
    }
    Err(format!("format {format:?} takes {wanted} values, found {count}"))
}

pub(super) fn print(format: &str, values: &[Value]) -> Result<String, String> {
    let mut values = values.iter();
    let mut out = String::new();
    for part in parse(format)? {
        match part {
            Part::Text(text) => out.push_str(&text),
            Part::Verb(verb) => match values.next() {
                Some(value) => out.push_str(&verb.print(value)),
                None => out.extend(["%!", verb.letter.encode_utf8(&mut [0; 4]), "(MISSING)"]),
            },
        }
    }
    let extra: Vec<_> = values.map(|value| format!("{}={value}", value.kind())).collect();
    if !extra.is_empty() {
        out.extend(["%!(EXTRA ", &extra.join(", "), ")"]);
    }
    Ok(out)
}

impl Verb {
    fn print(&self, value: &Value) -> String {
        let wrong = || format!("%!{}({}={value})", self.letter, value.kind());
        let text = match (self.letter, value) {
            ('v', Value::Float(number)) => self.signed(*number, humanize::plain(*number)),
            ('v' | 'd', Value::Integer(number)) => self.signed(*number as f64, number.to_string()),
            ('v', _) | ('s', Value::Text(_) | Value::Time(_)) => match self.precision {
                Some(precision) => value.to_string().chars().take(precision).collect(),
                None => value.to_string(),
            },
            ('q', Value::Text(text)) => format!("{text:?}"),
            ('x', Value::Integer(number)) => format!("{number:x}"),
            ('t', Value::Bool(value)) => value.to_string(),
            ('f' | 'F' | 'e' | 'g', Value::Float(number)) => {
                self.signed(*number, self.float(*number))
            }
            _ => wrong(),
        };
        self.pad(text, matches!(value, Value::Integer(_) | Value::Float(_)))
    }

    fn float(&self, number: f64) -> String {
        match (self.letter, self.precision) {
            _ if !number.is_finite() => humanize::plain(number),
            ('f' | 'F', precision) => format!("{number:.*}", precision.unwrap_or(6)),
            ('e', precision) => humanize::exponential(number, precision.unwrap_or(6)),
            (_, Some(digits)) => humanize::significant(number, digits),
            (_, None) => humanize::plain(number),
        }
    }

    fn signed(&self, number: f64, text: String) -> String {
        if self.plus && number >= 0.0 && !text.starts_with('+') { format!("+{text}") } else { text }
    }

    fn pad(&self, text: String, is_number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        if missing == 0 {
            return text;
        }
        if self.left {
            return text + &" ".repeat(missing);
        }
        if self.zeros && is_number {
            let at = usize::from(text.starts_with(['-', '+']));
            return format!("{}{}{}", &text[..at], "0".repeat(missing), &text[at..]);
        }
        " ".repeat(missing) + &text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_in_go() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (format, value, expected) in [
            ("%.2f", Value::Float(1.005), "1.00"),
            ("%f", Value::Float(0.5), "0.500000"),
            ("%5.1f|", Value::Float(-2.25), " -2.2|"),
            ("%-6v|", Value::Float(2.5), "2.5   |"),
            ("%+d", Value::Integer(7), "+7"),
            ("%05d", Value::Integer(-42), "-0042"),
            ("%d", Value::Float(3.0), "%!d(float64=3)"),
            ("%f", text("x"), "%!f(string=x)"),
            ("%s", Value::Float(0.5), "%!s(float64=0.5)"),
            ("%8s|", text("ab"), "      ab|"),
            ("%.1s", text("ab"), "a"),
            ("%q", text("a\"b"), "\"a\\\"b\""),
            ("%g", Value::Float(1e21), "1e+21"),
            ("%.3g", Value::Float(1234.0), "1.23e+03"),
            ("%e", Value::Float(1234.5), "1.234500e+03"),
            ("%t", Value::Bool(true), "true"),
            ("%v", Value::Bool(false), "false"),
            ("100%%: %v", Value::Integer(1), "100%: 1"),
            ("%f", Value::Float(f64::INFINITY), "+Inf"),
        ] {
            assert_eq!(print(format, &[value]).unwrap(), expected, "{format}");
        }
        assert_eq!(print("%v", &[]).unwrap(), "%!v(MISSING)");
        assert_eq!(print("x", &[Value::Integer(1)]).unwrap(), "x%!(EXTRA int=1)");
        assert!(print("%z", &[]).is_err());
        assert!(print("%", &[]).is_err());
    }
}
