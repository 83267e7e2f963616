//! Walks a template's tree and prints it.

use std::collections::BTreeMap;

use super::Surroundings;
use super::parse::{Command, Node, Operand, Pipeline, Tree};
use super::value::Value;

/// Bytes of one text: annotations are a few hundred, and a loop over a query must not fill the memory.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// Templates that call templates.
const CALLS_MAX: usize = 20;

/// What a node tells the loop around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    surroundings: &'a Surroundings<'a>,
    definitions: &'a BTreeMap<String, Vec<Node>>,
    variables: Vec<(String, Value)>,
    out: String,
    calls: usize,
}

pub(super) fn expand(tree: &Tree, surroundings: &Surroundings<'_>) -> Result<String, String> {
    let labels = Value::Labels(surroundings.labels.clone());
    let external_labels = Value::Labels(surroundings.external_labels.clone());
    let external_url = Value::Text(surroundings.external_url.to_owned());
    let value = Value::Float(surroundings.value);
    let dot = Value::Map(BTreeMap::from([
        ("Labels".to_owned(), labels.clone()),
        ("ExternalLabels".to_owned(), external_labels.clone()),
        ("ExternalURL".to_owned(), external_url.clone()),
        ("Value".to_owned(), value.clone()),
    ]));
    let variables = [
        ("", dot.clone()),
        ("labels", labels),
        ("externalLabels", external_labels),
        ("externalURL", external_url),
        ("value", value),
    ];
    let mut run = Run {
        surroundings,
        definitions: &tree.definitions,
        variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        out: String::new(),
        calls: 0,
    };
    run.nodes(&tree.nodes, &dot)?;
    Ok(run.out)
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        let declared = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::On {
                break;
            }
            if self.out.len() > OUT_BYTES_MAX {
                return Err(format!("the text is longer than {OUT_BYTES_MAX} bytes"));
            }
        }
        self.variables.truncate(declared);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        let declared = self.variables.len();
        let flow = match node {
            Node::Text(text) => {
                self.out.push_str(text);
                Flow::On
            }
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&value.to_string());
                }
                // What it declares stays in force for the rest of the block.
                return Ok(Flow::On);
            }
            Node::If { condition, body, otherwise } => {
                let holds = self.pipeline(condition, dot)?.is_true();
                self.nodes(if holds { body } else { otherwise }, dot)?
            }
            Node::With { value, body, otherwise } => {
                let value = self.pipeline(value, dot)?;
                if value.is_true() {
                    self.nodes(body, &value)?
                } else {
                    self.nodes(otherwise, dot)?
                }
            }
            Node::Range { list, body, otherwise } => self.range(list, body, otherwise, dot)?,
            Node::Template { name, value } => {
                let value = match value {
                    Some(pipeline) => self.pipeline(pipeline, dot)?,
                    None => Value::Nil,
                };
                self.template(name, &value)?;
                Flow::On
            }
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        self.variables.truncate(declared);
        Ok(flow)
    }

    fn range(
        &mut self,
        list: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, String> {
        let value = self.value(list, dot)?;
        let text = |text: &str| Value::Text(text.to_owned());
        let numbered = |at: usize| Value::Integer(i64::try_from(at).unwrap_or(i64::MAX));
        let items: Vec<(Value, Value)> = match value {
            Value::List(list) => {
                list.into_iter().enumerate().map(|(at, item)| (numbered(at), item)).collect()
            }
            Value::Labels(labels) => labels.iter().map(|(n, v)| (text(n), text(v))).collect(),
            Value::Map(map) => map.into_iter().map(|(n, v)| (Value::Text(n), v)).collect(),
            Value::Nil => Vec::new(),
            other => return Err(format!("range can't iterate over {other}")),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            let declared = self.variables.len();
            match list.variables.as_slice() {
                [] => {}
                [value] => self.set(value, item.clone(), list.assigns),
                [first, second, ..] => {
                    self.set(first, key, list.assigns);
                    self.set(second, item.clone(), list.assigns);
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(declared);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn template(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let definitions = self.definitions;
        let nodes =
            definitions.get(name).ok_or_else(|| format!("template {name:?} not defined"))?;
        if self.calls == CALLS_MAX {
            return Err(format!("more than {CALLS_MAX} templates call each other"));
        }
        self.calls += 1;
        let outside = std::mem::replace(&mut self.variables, vec![(String::new(), value.clone())]);
        self.nodes(nodes, value)?;
        self.variables = outside;
        self.calls -= 1;
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value, assigns: bool) {
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        match known {
            Some(known) if assigns => known.1 = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    /// The value of a pipeline; sets its variable.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.value(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn value(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut result: Option<Value> = None;
        for command in &pipeline.commands {
            let value = match command {
                Command::Operand(operand) => self.operand(operand, dot)?,
                Command::Call { function, args } => {
                    let mut values = Vec::with_capacity(args.len() + 1);
                    for arg in args {
                        values.push(self.operand(arg, dot)?);
                        // As in Go, what comes after is not looked at.
                        let decided = match function.name {
                            "and" => !values[values.len() - 1].is_true(),
                            "or" => values[values.len() - 1].is_true(),
                            _ => false,
                        };
                        if decided {
                            break;
                        }
                    }
                    values.extend(result.take());
                    let fail = |message| format!("error calling {}: {message}", function.name);
                    if function.name == "tmpl" {
                        self.printed(values).map_err(fail)?
                    } else {
                        (function.call)(self.surroundings, values).map_err(fail)?
                    }
                }
            };
            if matches!(&value, Value::Text(text) if text.len() > OUT_BYTES_MAX) {
                return Err(format!("a text is longer than {OUT_BYTES_MAX} bytes"));
            }
            result = Some(value);
        }
        Ok(result.unwrap_or(Value::Nil))
    }

    /// `tmpl`: what a template prints, as a value.
    fn printed(&mut self, mut args: Vec<Value>) -> Result<Value, String> {
        let value = args.pop().unwrap_or(Value::Nil);
        let name = args.pop().unwrap_or(Value::Nil);
        let before = std::mem::take(&mut self.out);
        self.template(name.text()?, &value)?;
        Ok(Value::Text(std::mem::replace(&mut self.out, before)))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        let follow = |value: Value, fields: &[String]| {
            fields.iter().try_fold(value, |value, name| value.field(name))
        };
        match operand {
            Operand::Nil => Ok(Value::Nil),
            Operand::Bool(value) => Ok(Value::Bool(*value)),
            Operand::Integer(value) => Ok(Value::Integer(*value)),
            Operand::Float(value) => Ok(Value::Float(*value)),
            Operand::Text(text) => Ok(Value::Text(text.clone())),
            Operand::Dot(fields) => follow(dot.clone(), fields),
            Operand::Variable(name, fields) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                // The parser has checked that it exists.
                follow(known.map_or(Value::Nil, |(_, value)| value.clone()), fields)
            }
            Operand::Pipeline(pipeline, fields) => follow(self.value(pipeline, dot)?, fields),
        }
    }
}
