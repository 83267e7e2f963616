//! The functions that templates may call: Go's own and those that Prometheus adds.

use std::cmp::Ordering;

use holdfast_promql::parse_duration;

use super::value::Value;
use super::{Surroundings, humanize, printf};

/// Bytes of a compiled pattern; a rule file must not fill the memory.
const PATTERN_BYTES_MAX: usize = 1 << 20;

type Call = fn(&Surroundings<'_>, Vec<Value>) -> Result<Value, String>;

/// A function: its name, how many arguments it takes, and what it does.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    least: usize,
    most: usize,
    pub(super) call: Call,
}

impl Function {
    pub(super) fn check_count(&self, count: usize) -> Result<(), String> {
        if (self.least..=self.most).contains(&count) {
            return Ok(());
        }
        let number = |n: usize| match n {
            0 => "no arguments".to_owned(),
            1 => "one argument".to_owned(),
            n => format!("{n} arguments"),
        };
        let expected = match (self.least, self.most) {
            (least, most) if least == most => number(least),
            (least, MANY) => format!("at least {}", number(least)),
            (least, most) => format!("{least} to {}", number(most)),
        };
        Err(format!("expected {expected} of {}, found {count}", self.name))
    }
}

const MANY: usize = usize::MAX;

const fn function(name: &'static str, least: usize, most: usize, call: Call) -> Function {
    Function { name, least, most, call }
}

/// The function of that name. `tmpl` is found here and carried out where templates are expanded.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

static FUNCTIONS: &[Function] = &[
    function("and", 1, MANY, |_, args| Ok(choose(args, false))),
    function("or", 1, MANY, |_, args| Ok(choose(args, true))),
    function("not", 1, 1, |_, args| Ok(Value::Bool(!args[0].is_true()))),
    function("eq", 2, MANY, |_, args| {
        let (first, others) = (&args[0], &args[1..]);
        others
            .iter()
            .try_fold(false, |found, other| Ok(found || equal(first, other)?))
            .map(Value::Bool)
    }),
    function("ne", 2, 2, |_, args| equal(&args[0], &args[1]).map(|same| Value::Bool(!same))),
    function("lt", 2, 2, |_, args| compare(&args, Ordering::is_lt)),
    function("le", 2, 2, |_, args| compare(&args, Ordering::is_le)),
    function("gt", 2, 2, |_, args| compare(&args, Ordering::is_gt)),
    function("ge", 2, 2, |_, args| compare(&args, Ordering::is_ge)),
    function("len", 1, 1, |_, args| length(&args[0])),
    function("index", 2, MANY, |_, args| {
        let mut args = args.into_iter();
        let list = args.next().unwrap_or(Value::Nil);
        args.try_fold(list, |list, at| index(&list, &at))
    }),
    function("print", 0, MANY, |_, args| Ok(Value::Text(print(&args)))),
    function("println", 0, MANY, |_, args| {
        let words: Vec<_> = args.iter().map(ToString::to_string).collect();
        Ok(Value::Text(words.join(" ") + "\n"))
    }),
    function("printf", 1, MANY, |_, args| {
        printf::print(args[0].text()?, &args[1..]).map(Value::Text)
    }),
    function("urlquery", 0, MANY, |_, args| Ok(Value::Text(escape(&print(&args))))),
    function("urlQueryEscape", 1, 1, |_, args| Ok(Value::Text(escape(args[0].text()?)))),
    function("query", 1, 1, |surroundings, args| {
        let found = (surroundings.query)(args[0].text()?)?;
        Ok(Value::List(found.into_iter().map(Value::Sample).collect()))
    }),
    function("first", 1, 1, |_, args| {
        let list = only(args).list()?;
        list.into_iter()
            .next()
            .ok_or_else(|| "first() called on vector with no elements".to_owned())
    }),
    function("label", 2, 2, |_, args| {
        Ok(Value::Text(args[1].sample()?.labels.value(args[0].text()?).to_owned()))
    }),
    function("value", 1, 1, |_, args| Ok(Value::Float(args[0].sample()?.value))),
    function("strvalue", 1, 1, |_, args| {
        Ok(Value::Text(args[0].sample()?.labels.value("__value__").to_owned()))
    }),
    function("sortByLabel", 2, 2, |_, mut args| {
        let mut list = args.remove(1).list()?;
        let name = args[0].text()?;
        let label = |value: &Value| value.sample().map_or("", |s| s.labels.value(name)).to_owned();
        list.sort_by(|a, b| natural_order(&label(a), &label(b)));
        Ok(Value::List(list))
    }),
    function("args", 0, MANY, |_, args| {
        let named = args.into_iter().enumerate().map(|(at, value)| (format!("arg{at}"), value));
        Ok(Value::Map(named.collect()))
    }),
    function("tmpl", 2, 2, |_, _| Err("tmpl is carried out by whoever expands".to_owned())),
    function("humanize", 1, 1, |_, args| with_number(&args, humanize::humanize)),
    function("humanize1024", 1, 1, |_, args| with_number(&args, humanize::humanize_1024)),
    function("humanizeDuration", 1, 1, |_, args| with_number(&args, humanize::humanize_duration)),
    function("humanizePercentage", 1, 1, |_, args| {
        with_number(&args, humanize::humanize_percentage)
    }),
    function("humanizeTimestamp", 1, 1, |_, args| with_number(&args, humanize::humanize_timestamp)),
    function("toTime", 1, 1, |_, args| {
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and prints as it is")]
        let ms = (args[0].number()? * 1000.0).round() as i64;
        Ok(Value::Time(ms))
    }),
    function("now", 0, 0, |surroundings, _| Ok(Value::Float(surroundings.now_ms as f64 / 1000.0))),
    function("parseDuration", 1, 1, |_, args| {
        Ok(Value::Float(parse_duration(args[0].text()?)? as f64 / 1000.0))
    }),
    function("match", 2, 2, |_, args| {
        Ok(Value::Bool(pattern(args[0].text()?)?.is_match(args[1].text()?)))
    }),
    function("reReplaceAll", 3, 3, |_, args| {
        let replaced = pattern(args[0].text()?)?.replace_all(args[2].text()?, args[1].text()?);
        Ok(Value::Text(replaced.into_owned()))
    }),
    function("title", 1, 1, |_, args| Ok(Value::Text(title(args[0].text()?)))),
    function("toUpper", 1, 1, |_, args| Ok(Value::Text(args[0].text()?.to_uppercase()))),
    function("toLower", 1, 1, |_, args| Ok(Value::Text(args[0].text()?.to_lowercase()))),
    function("safeHtml", 1, 1, |_, args| Ok(Value::Text(args[0].text()?.to_owned()))),
    function("graphLink", 1, 1, |_, args| Ok(graph_link(args[0].text()?, 0))),
    function("tableLink", 1, 1, |_, args| Ok(graph_link(args[0].text()?, 1))),
    function("stripPort", 1, 1, |_, args| Ok(Value::Text(strip_port(args[0].text()?).to_owned()))),
    function("stripDomain", 1, 1, |_, args| Ok(Value::Text(strip_domain(args[0].text()?)))),
    function("externalURL", 0, 0, |surroundings, _| {
        Ok(Value::Text(surroundings.external_url.to_owned()))
    }),
    function("pathPrefix", 0, 0, |surroundings, _| {
        let url = surroundings.external_url;
        let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        Ok(Value::Text(path.map_or_else(String::new, |(_, path)| format!("/{path}"))))
    }),
];

fn only(args: Vec<Value>) -> Value {
    args.into_iter().next().unwrap_or(Value::Nil)
}

/// The first value that is true or false as asked, or the last one.
fn choose(args: Vec<Value>, wanted: bool) -> Value {
    let mut last = Value::Nil;
    for arg in args {
        last = arg;
        if last.is_true() == wanted {
            break;
        }
    }
    last
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => {
            Ok(a.total_cmp(b).is_eq() || (*a == 0.0 && *b == 0.0))
        }
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Nil, other) | (other, Value::Nil) => Ok(*other == Value::Nil),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn compare(args: &[Value], wanted: fn(Ordering) -> bool) -> Result<Value, String> {
    let order = match (&args[0], &args[1]) {
        (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
        // NaN is neither smaller nor larger.
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => return Err("incompatible types for comparison".to_owned()),
    };
    Ok(Value::Bool(order.is_some_and(wanted)))
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Labels(labels) => labels.len(),
        Value::Map(map) => map.len(),
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Integer(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(list: &Value, at: &Value) -> Result<Value, String> {
    match (list, at) {
        (Value::List(items), Value::Integer(at)) => {
            let item = usize::try_from(*at).ok().and_then(|at| items.get(at));
            item.cloned().ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Labels(_) | Value::Map(_), Value::Text(name)) => list.field(name),
        _ => Err(format!("can't index item of type {} with {}", list.kind(), at.kind())),
    }
}

/// As Go's `Sprint`: blanks between values of which neither is a text.
fn print(args: &[Value]) -> String {
    let mut out = String::new();
    let mut before_is_text = true;
    for arg in args {
        let is_text = matches!(arg, Value::Text(_));
        if !is_text && !before_is_text {
            out.push(' ');
        }
        out.push_str(&arg.to_string());
        before_is_text = is_text;
    }
    out
}

fn escape(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn graph_link(expression: &str, tab: u8) -> Value {
    Value::Text(format!("/graph?g0.expr={}&g0.tab={tab}", escape(expression)))
}

fn with_number(args: &[Value], change: fn(f64) -> String) -> Result<Value, String> {
    Ok(Value::Text(change(args[0].number()?)))
}

fn pattern(text: &str) -> Result<regex::Regex, String> {
    let built = regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|error| format!("pattern {text:?}: {error}"))
}

/// The first letter of each word large; letters, digits and `_` are what words are made of.
fn title(text: &str) -> String {
    let mut start = true;
    let change = |c: char| {
        let at_start = start;
        start = if c.is_ascii() { !(c.is_alphanumeric() || c == '_') } else { c.is_whitespace() };
        if at_start { c.to_uppercase().collect::<String>() } else { c.to_string() }
    };
    text.chars().map(change).collect()
}

fn strip_port(host: &str) -> &str {
    let numeric = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((name, port)) if numeric(port) && (!name.contains(':') || name.ends_with(']')) => {
            name.trim_start_matches('[').trim_end_matches(']')
        }
        _ => host,
    }
}

fn strip_domain(host: &str) -> String {
    let name = strip_port(host);
    if name.parse::<std::net::IpAddr>().is_ok() {
        return host.to_owned();
    }
    let port = &host[name.len().min(host.len())..];
    format!("{}{port}", name.split('.').next().unwrap_or(name))
}

/// Runs of digits compare as numbers.
fn natural_order(a: &str, b: &str) -> Ordering {
    let run = |text: &str| {
        let digits = text.starts_with(|c: char| c.is_ascii_digit());
        text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len())
    };
    let (mut a, mut b) = (a, b);
    while !a.is_empty() && !b.is_empty() {
        let ((left, rest_a), (right, rest_b)) = (a.split_at(run(a)), b.split_at(run(b)));
        let order = match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            _ => left.cmp(right),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.len().cmp(&b.len())
}
