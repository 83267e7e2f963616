//! An error with its causes in one line.
//!
//! Our errors name what was attempted and leave the cause to `source()`, so printing only the outermost loses why. Some errors of
//! other crates repeat their source in their own text; such a cause is not printed twice.

use std::error::Error;
use std::fmt;

/// Causes followed at most; a longer chain is a loop or not worth reading.
const CAUSES_MAX: usize = 16;

/// Prints an error and its causes as `a: b: c`.
///
/// ```
/// # use holdfast_telemetry::errors::Chain;
/// let error = std::io::Error::other("disk on fire");
/// assert_eq!(Chain(&error).to_string(), "disk on fire");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let causes = std::iter::successors(self.0.source(), |error| (*error).source());
        for cause in causes.take(CAUSES_MAX) {
            let text = cause.to_string();
            if last.ends_with(&text) {
                continue;
            }
            write!(f, ": {text}")?;
            last = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    fn chain(texts: &[&'static str]) -> Link {
        let (text, rest) = texts.split_first().unwrap();
        let source = (!rest.is_empty()).then(|| Box::new(chain(rest)));
        Link { text, source }
    }

    #[test]
    fn prints_every_cause_once() {
        let cases: [(&[&'static str], &str); 4] = [
            (&["alone"], "alone"),
            (&["a", "b", "c"], "a: b: c"),
            (&["cannot read x: gone", "gone"], "cannot read x: gone"),
            (&["cannot read x: gone", "gone", "deeper"], "cannot read x: gone: deeper"),
        ];
        for (texts, expected) in cases {
            assert_eq!(Chain(&chain(texts)).to_string(), expected);
        }
    }

    #[test]
    fn a_chain_is_cut_at_its_bound() {
        let texts: Vec<&'static str> =
            (0..40).map(|i| if i % 2 == 0 { "x" } else { "y" }).collect();
        let printed = Chain(&chain(&texts)).to_string();
        assert_eq!(printed.split(": ").count(), CAUSES_MAX + 1);
    }
}
