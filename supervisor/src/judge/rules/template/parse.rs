//! From pieces to a tree: what is printed, conditions, loops, definitions. Everything that can be known without an alert is checked
//! here: functions and variables exist, blocks are closed, functions get as many arguments as they take.

use std::collections::BTreeMap;
use std::slice;

use super::functions::{self, Function};
use super::lex::{Piece, Token, TokenKind, pieces};
use super::printf;

/// Blocks and brackets within each other; whoever walks the tree needs the stack for it.
const DEPTH_MAX: usize = 50;

/// Names that exist from the start, as Prometheus declares them.
pub(super) const DECLARED: [&str; 5] = ["", "labels", "externalLabels", "externalURL", "value"];

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    /// Prints the value unless it declares or sets variables.
    Action(Pipeline),
    If {
        condition: Pipeline,
        body: Vec<Self>,
        otherwise: Vec<Self>,
    },
    With {
        value: Pipeline,
        body: Vec<Self>,
        otherwise: Vec<Self>,
    },
    Range {
        list: Pipeline,
        body: Vec<Self>,
        otherwise: Vec<Self>,
    },
    Template {
        name: String,
        value: Option<Pipeline>,
    },
    Break,
    Continue,
}

/// Commands, each but the first with the result of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Variables that take the result; two in a loop.
    pub(super) variables: Vec<String>,
    /// Whether they exist already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug)]
pub(super) enum Command {
    Operand(Operand),
    Call { function: &'static Function, args: Vec<Operand> },
}

#[derive(Debug)]
pub(super) enum Operand {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// `.a.b`; without fields it is `.` itself.
    Dot(Vec<String>),
    Variable(String, Vec<String>),
    Pipeline(Box<Pipeline>, Vec<String>),
}

/// A template's tree and the named templates it defines.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) definitions: BTreeMap<String, Vec<Node>>,
}

pub(super) fn parse(text: &str) -> Result<Tree, String> {
    let pieces = pieces(text)?;
    let mut parser = Parser {
        pieces: pieces.iter(),
        variables: DECLARED.iter().map(|&name| name.to_owned()).collect(),
        definitions: BTreeMap::new(),
        depth: 0,
        loops: 0,
    };
    let (nodes, end) = parser.block()?;
    match end {
        Close::Nothing => Ok(Tree { nodes, definitions: parser.definitions }),
        Close::Block => Err("{{ end }} without a block that it ends".to_owned()),
        Close::Else(_) => Err("{{ else }} without a block that it belongs to".to_owned()),
    }
}

struct Parser<'t, 'p> {
    pieces: slice::Iter<'p, Piece<'t>>,
    /// Variables in force.
    variables: Vec<String>,
    definitions: BTreeMap<String, Vec<Node>>,
    depth: usize,
    /// How many loops are around.
    loops: usize,
}

/// What ended a block.
#[derive(Clone, Copy)]
enum Close<'p> {
    /// The end of the text.
    Nothing,
    /// `{{ end }}`.
    Block,
    /// The tokens after `else`, such as another `if`.
    Else(&'p [Token]),
}

impl<'p> Parser<'_, 'p> {
    /// Nodes up to what ends the block.
    fn block(&mut self) -> Result<(Vec<Node>, Close<'p>), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("blocks are nested deeper than {DEPTH_MAX} levels"));
        }
        let mut nodes = Vec::new();
        let end = loop {
            let Some(piece) = self.pieces.next() else { break Close::Nothing };
            let (source, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text((*text).to_owned()));
                    continue;
                }
                Piece::Action { source, tokens } => (source, tokens.as_slice()),
            };
            let place = |message: String| format!("{message} in {{{{{source}}}}}");
            match keyword(tokens) {
                Some(("end", [])) => break Close::Block,
                Some(("else", rest)) => break Close::Else(rest),
                Some(("define", rest)) => self.define(rest).map_err(place)?,
                Some((word, rest)) => nodes.push(self.statement(word, rest, &place)?),
                None => nodes.push(Node::Action(self.pipeline(tokens, false).map_err(place)?)),
            }
        };
        self.depth -= 1;
        Ok((nodes, end))
    }

    fn statement(
        &mut self,
        word: &str,
        rest: &'p [Token],
        place: &dyn Fn(String) -> String,
    ) -> Result<Node, String> {
        let declared = self.variables.len();
        let node = match word {
            "break" | "continue" if self.loops == 0 || !rest.is_empty() => {
                return Err(place(format!("{word} outside of a range")));
            }
            "break" => Node::Break,
            "continue" => Node::Continue,
            "template" => self.template(rest).map_err(place)?,
            "if" | "with" | "range" => {
                let pipeline = self.pipeline(rest, word == "range").map_err(place)?;
                self.loops += usize::from(word == "range");
                let (body, end) = self.block()?;
                self.loops -= usize::from(word == "range");
                let otherwise = self.otherwise(end, word, place)?;
                match word {
                    "if" => Node::If { condition: pipeline, body, otherwise },
                    "with" => Node::With { value: pipeline, body, otherwise },
                    _ => Node::Range { list: pipeline, body, otherwise },
                }
            }
            word => return Err(place(format!("unexpected {word}"))),
        };
        self.variables.truncate(declared);
        Ok(node)
    }

    /// What follows `else`, up to the end of the block.
    fn otherwise(
        &mut self,
        end: Close<'p>,
        word: &str,
        place: &dyn Fn(String) -> String,
    ) -> Result<Vec<Node>, String> {
        let rest = match end {
            Close::Block => return Ok(Vec::new()),
            Close::Nothing => return Err(place(format!("expected {{{{ end }}}} of {word}"))),
            Close::Else(rest) => rest,
        };
        if let Some((next @ ("if" | "with"), rest)) = keyword(rest) {
            // One `end` ends both.
            return Ok(vec![self.statement(next, rest, place)?]);
        }
        if !rest.is_empty() {
            return Err(place("unexpected words after else".to_owned()));
        }
        match self.block()? {
            (nodes, Close::Block) => Ok(nodes),
            (_, Close::Else(_)) => {
                Err(place(format!("expected {{{{ end }}}} of {word}, found else")))
            }
            (_, Close::Nothing) => Err(place(format!("expected {{{{ end }}}} of {word}"))),
        }
    }

    fn define(&mut self, tokens: &[Token]) -> Result<(), String> {
        let [Token { kind: TokenKind::Text(name), .. }] = tokens else {
            return Err("expected a name in quotes after define".to_owned());
        };
        // A definition sees nothing but what it is given.
        let outside = std::mem::replace(&mut self.variables, vec![String::new()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, end) = self.block()?;
        self.variables = outside;
        self.loops = loops;
        if !matches!(end, Close::Block) {
            return Err("expected {{ end }} of define".to_owned());
        }
        self.definitions.insert(name.clone(), nodes);
        Ok(())
    }

    fn template(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let Some((Token { kind: TokenKind::Text(name), .. }, rest)) = tokens.split_first() else {
            return Err("expected a name in quotes after template".to_owned());
        };
        let value = if rest.is_empty() { None } else { Some(self.pipeline(rest, false)?) };
        Ok(Node::Template { name: name.clone(), value })
    }

    fn pipeline(&mut self, tokens: &[Token], is_loop: bool) -> Result<Pipeline, String> {
        let (variables, assigns, tokens) = self.declaration(tokens, is_loop)?;
        let mut commands = Vec::new();
        let mut words = Words { tokens, parser: self };
        loop {
            let command = words.command(commands.is_empty())?;
            commands.push(command);
            match words.tokens.split_first() {
                None => break,
                Some((Token { kind: TokenKind::Pipe, .. }, rest)) => words.tokens = rest,
                Some(_) => return Err("unexpected )".to_owned()),
            }
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { variables, assigns, commands })
    }

    /// The variables before `:=` or `=`, whether they are there already, and the tokens after.
    fn declaration<'a>(
        &self,
        tokens: &'a [Token],
        is_loop: bool,
    ) -> Result<(Vec<String>, bool, &'a [Token]), String> {
        let sign = |token: &Token| matches!(token.kind, TokenKind::Declare | TokenKind::Assign);
        let Some(at) = tokens.iter().position(sign) else { return Ok((Vec::new(), false, tokens)) };
        let names = match &tokens[..at] {
            [Token { kind: TokenKind::Variable(name), .. }] => vec![name.clone()],
            [
                Token { kind: TokenKind::Variable(first), .. },
                Token { kind: TokenKind::Comma, .. },
                Token { kind: TokenKind::Variable(second), .. },
            ] if is_loop => vec![first.clone(), second.clone()],
            _ => return Err("expected a variable before := or =".to_owned()),
        };
        let assigns = tokens[at].kind == TokenKind::Assign;
        if let Some(unknown) = names.iter().find(|name| assigns && !self.variables.contains(name)) {
            return Err(format!("undefined variable \"${unknown}\""));
        }
        Ok((names, assigns, &tokens[at + 1..]))
    }
}

/// The word that a statement begins with, and the rest. A function is no statement.
fn keyword(tokens: &[Token]) -> Option<(&str, &[Token])> {
    let (first, rest) = tokens.split_first()?;
    match &first.kind {
        TokenKind::Word(word) => match word.as_str() {
            "if" | "else" | "end" | "range" | "with" | "define" | "template" | "break"
            | "continue" | "block" => Some((word, rest)),
            _ => None,
        },
        _ => None,
    }
}

struct Words<'a, 'r, 't, 'p> {
    tokens: &'a [Token],
    parser: &'r mut Parser<'t, 'p>,
}

impl Words<'_, '_, '_, '_> {
    fn next_is_end(&self) -> bool {
        let end = |token: &Token| matches!(token.kind, TokenKind::Pipe | TokenKind::Close);
        self.tokens.first().is_none_or(end)
    }

    fn command(&mut self, is_first: bool) -> Result<Command, String> {
        if self.next_is_end() {
            return Err("expected a value or a function".to_owned());
        }
        let head = self.tokens[0].kind.clone();
        let function = match &head {
            TokenKind::Word(name) if !matches!(name.as_str(), "true" | "false" | "nil") => Some(
                functions::find(name).ok_or_else(|| format!("function {name:?} is not known"))?,
            ),
            _ => None,
        };
        let Some(function) = function else {
            let operand = self.operand()?;
            if !is_first || !self.next_is_end() {
                let text = "expected a function before the arguments and after a bar";
                return Err(text.to_owned());
            }
            return Ok(Command::Operand(operand));
        };
        self.tokens = &self.tokens[1..];
        let mut args = Vec::new();
        while !self.next_is_end() {
            args.push(self.operand()?);
        }
        let count = args.len() + usize::from(!is_first);
        function.check_count(count)?;
        if let (true, Some(Operand::Text(format))) = (function.name == "printf", args.first()) {
            printf::check(format, count - 1)?;
        }
        Ok(Command::Call { function, args })
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err("expected a value".to_owned());
        };
        self.tokens = rest;
        Ok(match &token.kind {
            TokenKind::Text(text) => Operand::Text(text.clone()),
            TokenKind::Integer(value) => Operand::Integer(*value),
            TokenKind::Float(value) => Operand::Float(*value),
            TokenKind::Dot => Operand::Dot(Vec::new()),
            TokenKind::Field(name) => {
                let mut fields = vec![name.clone()];
                fields.extend(self.fields());
                Operand::Dot(fields)
            }
            TokenKind::Variable(name) => {
                if !self.parser.variables.contains(name) {
                    return Err(format!("undefined variable \"${name}\""));
                }
                Operand::Variable(name.clone(), self.fields())
            }
            TokenKind::Open => self.brackets()?,
            TokenKind::Word(word) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                name => {
                    let function = functions::find(name)
                        .ok_or_else(|| format!("function {name:?} is not known"))?;
                    function.check_count(0)?;
                    let command = Command::Call { function, args: Vec::new() };
                    let commands = vec![command];
                    let pipeline = Pipeline { variables: Vec::new(), assigns: false, commands };
                    Operand::Pipeline(Box::new(pipeline), Vec::new())
                }
            },
            _ => return Err("expected a value".to_owned()),
        })
    }

    /// `.a.b` right behind.
    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some((Token { kind: TokenKind::Field(name), spaced: false }, rest)) =
            self.tokens.split_first()
        {
            fields.push(name.clone());
            self.tokens = rest;
        }
        fields
    }

    /// What stands between brackets, the opening one being read already.
    fn brackets(&mut self) -> Result<Operand, String> {
        let mut depth = 1;
        let close = self.tokens.iter().position(|token| {
            match token.kind {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let close = close.ok_or("unclosed (")?;
        self.parser.depth += 1;
        if self.parser.depth > DEPTH_MAX {
            return Err(format!("brackets are nested deeper than {DEPTH_MAX} levels"));
        }
        let pipeline = self.parser.pipeline(&self.tokens[..close], false)?;
        self.parser.depth -= 1;
        self.tokens = &self.tokens[close + 1..];
        Ok(Operand::Pipeline(Box::new(pipeline), self.fields()))
    }
}
