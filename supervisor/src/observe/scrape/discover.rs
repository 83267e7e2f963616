//! Which targets a job has: pure, from its settings and the groups its files list.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use holdfast_series::Labels;
use serde::Deserialize;

use super::DroppedTarget;
use crate::config::ScrapeJob;
use crate::observe::relabel;

/// Targets with labels of their own, as a file lists them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) targets: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

/// The form of a TOML file, which cannot be a list itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    #[serde(default)]
    group: Vec<Group>,
}

/// A target after relabelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) discovered: Labels,
    pub(super) labels: Labels,
    /// `host:port`.
    pub(super) address: String,
    /// With the server name of the job in place of the host, if it has one.
    pub(super) url: String,
}

/// Reads the groups of a file: `.json`, `.yml`, `.yaml` or `.toml`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Group>, String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_str(text).map_err(|error| error.to_string()),
        Some("yml" | "yaml") => serde_norway::from_str(text).map_err(|error| error.to_string()),
        Some("toml") => {
            let read: Result<TomlFile, _> = toml::from_str(text);
            read.map(|file| file.group).map_err(|error| error.to_string())
        }
        _ => Err("expected a file named .json, .yml, .yaml or .toml".to_owned()),
    }
}

/// The targets of `job`, its own and those of `groups`, and those that relabelling dropped.
pub(super) fn targets(job: &ScrapeJob, groups: &[Group]) -> (Vec<Found>, Vec<DroppedTarget>) {
    let own = Group { targets: job.targets.clone(), labels: BTreeMap::new() };
    let (mut found, mut dropped) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for group in std::iter::once(&own).chain(groups) {
        for address in &group.targets {
            let discovered = discovered(job, address, &group.labels);
            match settle(job, &discovered) {
                Some(target) if known.insert(target.labels.clone()) => found.push(target),
                Some(_) => {}
                None => dropped.push(DroppedTarget { job: job.name.clone(), discovered }),
            }
        }
    }
    (found, dropped)
}

/// The labels relabelling begins with; those with two underscores say how the target is reached.
fn discovered(job: &ScrapeJob, address: &str, labels: &BTreeMap<String, String>) -> Labels {
    let mut pairs = vec![
        ("job".to_owned(), job.name.clone()),
        ("__scheme__".to_owned(), job.scheme.clone()),
        ("__metrics_path__".to_owned(), job.path.clone()),
        ("__address__".to_owned(), address.to_owned()),
    ];
    pairs.extend(job.params.iter().map(|(name, value)| (format!("__param_{name}"), value.clone())));
    pairs.extend(job.labels.iter().chain(labels).map(|(n, v)| (n.clone(), v.clone())));
    Labels::from_pairs(pairs)
}

/// After relabelling: `None` if that dropped it or left no address.
fn settle(job: &ScrapeJob, discovered: &Labels) -> Option<Found> {
    let labels = relabel::apply(&job.relabel, discovered.clone())?;
    let scheme = labels.value("__scheme__");
    let port = if scheme == "https" { 443 } else { 80 };
    let address = match labels.get("__address__")? {
        // A port follows the last colon, unless that is within the brackets of an IPv6 address.
        host if host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']')) => {
            host.to_owned()
        }
        host => format!("{host}:{port}"),
    };
    let path = labels.value("__metrics_path__");
    let host = match (&job.tls.server_name, address.rsplit_once(':')) {
        (Some(name), Some((_, port))) => format!("{name}:{port}"),
        _ => address.clone(),
    };
    let mut url = reqwest::Url::parse(&format!("{scheme}://{host}{path}")).ok()?;
    for (name, value) in labels.iter() {
        if let Some(parameter) = name.strip_prefix("__param_") {
            url.query_pairs_mut().append_pair(parameter, value);
        }
    }
    let mut kept = labels.filtered(|name| !name.starts_with("__"));
    if kept.get("instance").is_none() {
        kept = kept.with("instance", &address);
    }
    Some(Found { discovered: discovered.clone(), labels: kept, address, url: url.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::relabel::{Action, Rule, regex};

    fn job() -> ScrapeJob {
        ScrapeJob {
            params: vec![("module".to_owned(), "a b".to_owned())],
            targets: vec!["a:1".to_owned(), "b".to_owned()],
            labels: [("dc".to_owned(), "x".to_owned())].into(),
            ..ScrapeJob::named("node")
        }
    }

    #[test]
    fn a_target_gets_labels_url_and_instance() {
        let (found, dropped) = targets(&job(), &[]);
        assert!(dropped.is_empty());
        assert_eq!(found[0].labels.to_string(), r#"{dc="x", instance="a:1", job="node"}"#);
        assert_eq!(found[0].url, "http://a:1/metrics?module=a+b");
        assert_eq!(
            (found[1].address.as_str(), found[1].labels.value("instance")),
            ("b:80", "b:80")
        );
    }

    #[test]
    fn relabelling_moves_drops_and_names_targets() {
        let rule = |sources: &[&str], action| Rule {
            source_labels: sources.iter().map(|name| (*name).to_owned()).collect(),
            separator: ";".to_owned(),
            action,
        };
        let to = |source, target: &str, replacement: &str| {
            let (target, replacement) = (target.to_owned(), replacement.to_owned());
            rule(&[source], Action::Replace { regex: regex("(.*)").unwrap(), target, replacement })
        };
        let mut job = job();
        job.relabel = vec![
            rule(&["role"], Action::Drop(regex("test").unwrap())),
            to("__address__", "instance", "$1"),
            to("none", "__address__", "proxy:9"),
        ];
        let labels = [("role".to_owned(), "test".to_owned())].into();
        let group = Group { targets: vec!["c:3".to_owned()], labels };
        let (found, dropped) = targets(&job, &[group]);
        assert_eq!((found.len(), dropped.len()), (2, 1));
        assert_eq!(dropped[0].discovered.value("__address__"), "c:3");
        assert_eq!(found[0].url, "http://proxy:9/metrics?module=a+b");
        assert_eq!(found[0].labels.value("instance"), "a:1");
    }

    #[test]
    fn files_in_three_forms_say_the_same() {
        let labels = [("dc".to_owned(), "x".to_owned())].into();
        let expected = vec![Group { targets: vec!["a:1".to_owned()], labels }];
        for (name, text) in [
            ("t.json", r#"[{"targets": ["a:1"], "labels": {"dc": "x"}}]"#),
            ("t.yml", "- targets: ['a:1']\n  labels: {dc: x}\n"),
            ("t.toml", "[[group]]\ntargets = [\"a:1\"]\nlabels = { dc = \"x\" }\n"),
        ] {
            assert_eq!(parse(Path::new(name), text).as_ref(), Ok(&expected), "{name}");
        }
        assert!(parse(Path::new("t.txt"), "").is_err());
        assert!(parse(Path::new("t.json"), "[{\"target\": []}]").is_err());
    }
}
