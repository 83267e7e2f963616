//! `INFO` as Prometheus samples, under the names and labels of `redis_exporter`, so that rules and dashboards written for it work here.
//!
//! Everything comes from the `INFO` that is asked for anyway. What is counted by name (commands, error codes, databases, connected replicas)
//! is bounded: a client can send any word as a command, but only known commands are counted by Redis, and beyond our bounds the rest is
//! left out in the order of the names, so that the same ones stay.

mod names;

use super::Info;
use crate::cluster::Address;
use names::{
    ABOUT, NUMBERS, OF_COMMAND, OF_CONNECTED_REPLICA, OF_DATABASE, OF_ERROR, OF_REPLICA, WORDS,
};

/// A sample: name, labels, value.
pub type Exposed = (&'static str, Vec<(String, String)>, f64);

/// Redis 7 has 240 commands and 130 subcommands; a server that has been sent most of them is being explored, not used.
const COMMANDS_MAX: usize = 200;

/// Redis has 16 databases unless told otherwise.
const DATABASES_MAX: usize = 64;

/// Replicas of one primary; we manage at most 16 servers.
const REPLICAS_MAX: usize = 64;

/// Scripts can make up error codes; Redis itself stops at 128.
const ERRORS_MAX: usize = 32;

/// One server's `INFO`, ready for the store. The store adds `job`, `instance` and `redis`.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisSamples {
    /// Which server.
    pub address: Address,
    /// Whether it answers.
    pub up: bool,
    /// The whole `INFO`, at most about a second old; empty while the server is down.
    pub info: Info,
    /// Time from probe to answer, seconds.
    pub probe_seconds: Option<f64>,
}

impl RedisSamples {
    /// `redis_up` and everything [`exposition`] finds.
    pub fn exposition(&self) -> Vec<Exposed> {
        let mut samples = vec![("redis_up", Vec::new(), f64::from(u8::from(self.up)))];
        if let Some(seconds) = self.probe_seconds.filter(|_| self.up) {
            samples.push(("redis_exporter_last_scrape_duration_seconds", Vec::new(), seconds));
        }
        samples.extend(exposition(&self.info));
        samples
    }
}

/// The samples in an `INFO`. Fields that are missing or not numbers are left out.
pub fn exposition(info: &Info) -> Vec<Exposed> {
    let mut samples = Vec::new();
    if info.contains_key("run_id") {
        samples.push(("redis_instance_info", labels(info, &ABOUT.map(|name| (name, name))), 1.0));
    }
    for (field, name) in NUMBERS {
        samples.extend(number(info, field).map(|value| (name, Vec::new(), value)));
    }
    for (field, good, name) in WORDS {
        if let Some(value) = info.get(field) {
            samples.push((name, Vec::new(), f64::from(u8::from(value == good))));
        }
    }
    of_replica(info, &mut samples);
    let replicas = numbered(info, "slave").take(REPLICAS_MAX);
    for (_, parts) in replicas {
        let whom = [("ip", "slave_ip"), ("port", "slave_port"), ("state", "slave_state")];
        let labels =
            whom.map(|(part, label)| (label.to_owned(), parts.get(part).unwrap_or("").to_owned()));
        parts.expose(&OF_CONNECTED_REPLICA, &labels, &mut samples);
    }
    for (database, parts) in numbered(info, "db").take(DATABASES_MAX) {
        parts.expose(&OF_DATABASE, &[("db".to_owned(), database.to_owned())], &mut samples);
    }
    for (command, parts) in beginning(info, "cmdstat_").take(COMMANDS_MAX) {
        parts.expose(&OF_COMMAND, &[("cmd".to_owned(), command.to_owned())], &mut samples);
    }
    for (error, parts) in beginning(info, "errorstat_").take(ERRORS_MAX) {
        parts.expose(&OF_ERROR, &[("err".to_owned(), error.to_owned())], &mut samples);
    }
    samples
}

/// What only a replica has.
fn of_replica(info: &Info, samples: &mut Vec<Exposed>) {
    if info.get("role").is_none_or(|role| role == "master") {
        return;
    }
    let follows = [("master_host", "master_host"), ("master_port", "master_port")];
    let primary = labels(info, &follows);
    for (field, name) in OF_REPLICA {
        samples.extend(number(info, field).map(|value| (name, primary.clone(), value)));
    }
    if let Some(status) = info.get("master_link_status") {
        samples.push((
            "redis_master_link_up",
            primary.clone(),
            f64::from(u8::from(status == "up")),
        ));
    }
    let [host, port] = follows;
    let about = labels(info, &[host, port, ("slave_read_only", "read_only")]);
    samples.push(("redis_slave_info", about, 1.0));
}

fn number(info: &Info, field: &str) -> Option<f64> {
    info.get(field)?.parse().ok()
}

/// Fields as labels; those that are missing or empty are left out.
fn labels(info: &Info, fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let found = fields.iter().filter_map(|(field, label)| Some((*label, info.get(*field)?)));
    let found = found.filter(|(_, value)| !value.is_empty());
    found.map(|(label, value)| (label.to_owned(), value.clone())).collect()
}

/// A value of the form `a=1,b=2`.
struct Parts<'a>(&'a str);

impl<'a> Parts<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.0.split(',').filter_map(|part| part.split_once('='));
        pairs.find_map(|(key, value)| (key == name).then_some(value))
    }

    fn expose(
        &self,
        parts: &[(&str, &'static str, f64)],
        labels: &[(String, String)],
        samples: &mut Vec<Exposed>,
    ) {
        for (part, name, scale) in parts {
            if let Some(value) = self.get(part).and_then(|value| value.parse::<f64>().ok()) {
                samples.push((name, labels.to_vec(), value * scale));
            }
        }
    }
}

/// Fields whose name is `prefix` and a number, with their whole name.
fn numbered<'a>(info: &'a Info, prefix: &'a str) -> impl Iterator<Item = (&'a str, Parts<'a>)> {
    beginning(info, prefix).filter_map(move |(rest, parts)| {
        let is_number = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        let (name, _) = info.get_key_value(&format!("{prefix}{rest}")).filter(|_| is_number)?;
        Some((name.as_str(), parts))
    })
}

/// Fields whose name begins with `prefix`, with the rest of their name.
fn beginning<'a>(info: &'a Info, prefix: &'a str) -> impl Iterator<Item = (&'a str, Parts<'a>)> {
    let from = info.range(prefix.to_owned()..);
    from.map_while(move |(name, value)| Some((name.strip_prefix(prefix)?, Parts(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let samples = RedisSamples {
            address: Address::new("h", 1),
            up: true,
            info: crate::observe::redis::parse(text),
            probe_seconds: None,
        };
        let text = |(name, labels, value): Exposed| {
            let labels: Vec<_> =
                labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{name}{{{}}} {value}", labels.join(","))
        };
        samples.exposition().into_iter().map(text).collect()
    }

    #[test]
    fn names_are_those_of_the_exporter_and_gaps_stay_gaps() {
        let text = "role:slave\r\nredis_version:7.0.15\r\nrun_id:abc\r\nused_memory:12\r\nmaxmemory:x\r\n\
                    master_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\nslave_read_only:1\r\n\
                    slave_repl_offset:42\r\nrdb_last_bgsave_status:ok\r\naof_last_write_status:err\r\n";
        let primary = "master_host=10.0.0.1,master_port=6379";
        assert_eq!(
            shown(text),
            [
                "redis_up{} 1".to_owned(),
                "redis_instance_info{role=slave,redis_version=7.0.15,run_id=abc} 1".to_owned(),
                "redis_memory_used_bytes{} 12".to_owned(),
                "redis_rdb_last_bgsave_status{} 1".to_owned(),
                "redis_aof_last_write_status{} 0".to_owned(),
                format!("redis_slave_repl_offset{{{primary}}} 42"),
                format!("redis_master_link_up{{{primary}}} 0"),
                format!("redis_slave_info{{{primary},read_only=1}} 1"),
            ]
        );
    }

    #[test]
    fn what_is_counted_by_name_has_labels() {
        let text = "role:master\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=99,lag=1\r\n\
                    slave_expires_tracked_keys:0\r\ndb0:keys=5,expires=2,avg_ttl=1500\r\ndbx:keys=5\r\n\
                    cmdstat_config|get:calls=3,usec=2000000,usec_per_call=1.0,rejected_calls=1,failed_calls=0\r\n\
                    errorstat_ERR:count=4\r\n";
        assert_eq!(
            shown(text),
            [
                "redis_up{} 1",
                "redis_slave_expires_tracked_keys{} 0",
                "redis_connected_slave_offset_bytes{slave_ip=10.0.0.2,slave_port=6379,slave_state=online} 99",
                "redis_connected_slave_lag_seconds{slave_ip=10.0.0.2,slave_port=6379,slave_state=online} 1",
                "redis_db_keys{db=db0} 5",
                "redis_db_keys_expiring{db=db0} 2",
                "redis_db_avg_ttl_seconds{db=db0} 1.5",
                "redis_commands_total{cmd=config|get} 3",
                "redis_commands_duration_seconds_total{cmd=config|get} 2",
                "redis_commands_rejected_calls_total{cmd=config|get} 1",
                "redis_commands_failed_calls_total{cmd=config|get} 0",
                "redis_errors_total{err=ERR} 4",
            ]
        );
    }

    #[test]
    fn what_is_counted_by_name_is_bounded() {
        let lines: Vec<_> = (0..500)
            .map(|n| format!("cmdstat_c{n}:calls=1\r\nerrorstat_E{n}:count=1\r\ndb{n}:keys=1\r\nslave{n}:offset=1\r\n"))
            .collect();
        let shown = shown(&lines.concat());
        let count = |name: &str| shown.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!(count("redis_commands_total"), COMMANDS_MAX);
        assert_eq!(count("redis_errors_total"), ERRORS_MAX);
        assert_eq!(count("redis_db_keys{"), DATABASES_MAX);
        assert_eq!(count("redis_connected_slave_offset_bytes"), REPLICAS_MAX);
    }
}
