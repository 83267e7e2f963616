//! Are the commands that documents tell people to type commands that there are?
//!
//! A runbook is read at night by somebody who trusts it. Every `holdfast …` in the documents is given to the parser of the command line;
//! what stands for something (`<server>`, `ID`) is put in its place, and what is left out is no fault: prose names commands alone.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::Cli;

/// What documents write where the reader puts something of theirs, and something that fits.
const STAND_INS: [(&str, &str); 10] = [
    ("<command>", "status"),
    ("COMMAND", "status"),
    ("<server>", "chatnode-1"),
    ("<weight>", "50"),
    ("<scenario>", "chatnode-crash"),
    ("<name>", "main"),
    ("<host:port>", "127.0.0.1:1"),
    ("NAME", "chatnode-crash"),
    ("ID", "17"),
    ("FILE", "a.toml"),
];

fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The commands of a text: lines of code blocks, and code within lines.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.contains('`')).map(str::trim);
    let pieces = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let all = lines.chain(pieces).flat_map(|code| code.split([';', '|', '>', '&']));
    all.filter_map(|code| {
        let code = code.split(" #").next().unwrap_or_default().trim();
        let code = code.strip_prefix("target/debug/").unwrap_or(code);
        code.starts_with("holdfast ").then(|| code.to_owned())
    })
    .collect()
}

/// Splits as a shell would that knows double quotes only.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('"').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn every_command_in_the_documents_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files =
        vec![root.join("README.md"), root.join("README.zh-CN.md"), root.join("deploy/README.md")];
    markdown(&root.join("docs"), &mut files);
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in files {
        let mut text = fs::read_to_string(&file).unwrap();
        for (stand_in, value) in STAND_INS {
            text = text.replace(stand_in, value);
        }
        for command in commands(&text) {
            seen += 1;
            let Err(error) = Cli::try_parse_from(words(&command)) else { continue };
            let is_left_out = matches!(
                error.kind(),
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
            );
            if !is_left_out {
                wrong.push(format!("{}: {command}: {error}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 100, "only {seen} commands were found");
}
