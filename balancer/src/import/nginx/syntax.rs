//! The form of nginx's settings: directives of words, ended by `;` or by a block of directives.

use crate::import::Note;

/// A directive; `block` is empty for one that ends with `;`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive {
    pub line: usize,
    pub words: Vec<String>,
    pub block: Vec<Self>,
}

impl Directive {
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The only argument, or the first.
    pub(super) fn argument(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }
}

/// Blocks within blocks; nginx itself goes five deep.
const DEPTH_MAX: usize = 16;

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Vec<Directive>, Note> {
    let mut tokens = tokens(text)?.into_iter();
    block(&mut tokens, 0, 1)
}

fn block(
    tokens: &mut impl Iterator<Item = (usize, Token)>,
    depth: usize,
    opened: usize,
) -> Result<Vec<Directive>, Note> {
    let mut directives = Vec::new();
    let (mut words, mut begun, mut last) = (Vec::new(), 0, opened);
    let wrong = |line, text: &str| Err(Note { line, text: text.to_owned() });
    while let Some((line, token)) = tokens.next() {
        last = line;
        match token {
            Token::Word(word) => {
                if words.is_empty() {
                    begun = line;
                }
                words.push(word);
            }
            Token::End | Token::Open if words.is_empty() => {
                return wrong(line, "expected a directive before this");
            }
            Token::End => {
                let words = std::mem::take(&mut words);
                directives.push(Directive { line: begun, words, block: Vec::new() });
            }
            Token::Open if depth >= DEPTH_MAX => return wrong(line, "too many blocks in blocks"),
            Token::Open => {
                let words = std::mem::take(&mut words);
                let block = block(tokens, depth + 1, line)?;
                directives.push(Directive { line: begun, words, block });
            }
            Token::Close if depth == 0 => return wrong(line, "this closes nothing"),
            Token::Close if !words.is_empty() => return wrong(line, "expected ; before this"),
            Token::Close => return Ok(directives),
        }
    }
    if depth > 0 || !words.is_empty() {
        return wrong(last, "the file ends in the middle of a directive");
    }
    Ok(directives)
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Note> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' => tokens.push((line, Token::End)),
            '{' => tokens.push((line, Token::Open)),
            '}' => tokens.push((line, Token::Close)),
            quote @ ('"' | '\'') => {
                let begun = line;
                let mut word = String::new();
                loop {
                    match chars.next() {
                        Some('\\') => word.extend(chars.next()),
                        Some(c) if c == quote => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            word.push(c);
                        }
                        None => {
                            let text = "a quotation that does not end".to_owned();
                            return Err(Note { line: begun, text });
                        }
                    }
                }
                tokens.push((begun, Token::Word(word)));
            }
            c => {
                let mut word = String::from(c);
                // A brace within a word is a variable's: ${name}.
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !";".contains(*c)) {
                    if c == '{' && !word.ends_with('$') {
                        tokens.push((line, Token::Word(std::mem::take(&mut word))));
                        tokens.push((line, Token::Open));
                        break;
                    }
                    word.push(c);
                }
                if !word.is_empty() {
                    tokens.push((line, Token::Word(word)));
                }
            }
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_words_and_blocks() {
        let text = "a 1; # remark; {\nb 'x y' \"q\\\"\" {\n  c ${v}d;\n}\ne{f;}\n";
        let read = parse(text).unwrap();
        assert_eq!(read[0].words, ["a", "1"]);
        assert_eq!(
            (read[1].line, &read[1].words[..]),
            (2, &["b", "x y", "q\""].map(String::from)[..])
        );
        assert_eq!((read[1].block[0].line, read[1].block[0].argument()), (3, "${v}d"));
        assert_eq!(read[2].block[0].name(), "f");
    }

    #[test]
    fn what_has_no_form_is_named_by_line() {
        for (text, line) in [
            ("a;\n;", 2),
            ("a {\nb\n}", 3),
            ("}\n", 1),
            ("a {\n b;\n", 2),
            ("a 'b\n", 1),
            ("a b", 1),
            (&"x {".repeat(40), 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }
}
