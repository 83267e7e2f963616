//! The rule files of `alerts/`, carried along so that a local cluster has them wherever the program is run.

macro_rules! rule_files {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each.
        pub(super) const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../alerts/", $name)))),*];
    };
}

rule_files![
    "backup.yml",
    "balancer.yml",
    "canary.yml",
    "circuits.yml",
    "nodes.yml",
    "redis-sentinel.yml",
    "redis.yml",
    "supervisor.yml"
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rule_files_are_carried_along() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../alerts");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.rsplit_once('.').is_some_and(|(_, extension)| extension == "yml"))
            .collect();
        names.sort();
        let carried: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, carried);
    }
}
