//! The workspace keeps its own rules: dependencies and lints are declared once, at the root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::fs;

use holdfast_tests::process::workspace;

fn manifest(path: &str) -> toml::Table {
    let text = fs::read_to_string(workspace().join(path)).unwrap();
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn members() -> Vec<String> {
    let root = manifest("Cargo.toml");
    let members = root["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| format!("{}/Cargo.toml", member.as_str().unwrap())).collect()
}

#[test]
fn members_take_dependencies_and_lints_from_the_workspace() {
    for path in members() {
        let member = manifest(&path);
        assert_eq!(member["lints"]["workspace"].as_bool(), Some(true), "{path}: lints");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(section) = member.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, dependency) in section {
                let inherited = dependency.get("workspace").and_then(toml::Value::as_bool);
                assert_eq!(inherited, Some(true), "{path}: {name} is not declared at the root");
            }
        }
    }
}

#[test]
fn every_dependency_of_the_workspace_is_used() {
    let mut used = BTreeSet::new();
    for path in members() {
        let member = manifest(&path);
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let section = member.get(section).and_then(toml::Value::as_table);
            used.extend(section.into_iter().flat_map(|table| table.keys().cloned()));
        }
    }
    let root = manifest("Cargo.toml");
    let declared = root["workspace"]["dependencies"].as_table().unwrap();
    let unused: Vec<_> = declared.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "declared and not used: {unused:?}");
}

#[test]
fn libraries_know_nothing_of_the_programs_and_the_programs_nothing_of_each_other() {
    let programs = ["holdfast-balancer", "holdfast-chatnode", "holdfast-supervisor"];
    for path in members().into_iter().filter(|path| !path.starts_with("tests/")) {
        let member = manifest(&path);
        for program in programs {
            let known = member.get("dependencies").is_some_and(|all| all.get(program).is_some());
            assert!(!known, "{path} depends on {program}");
        }
    }
}
