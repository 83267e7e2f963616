//! `INFO` as Prometheus samples, under the names of `redis_exporter`, so that rules and dashboards written for it work here.

use super::Info;
use crate::cluster::Address;

/// A sample: name, labels, value.
pub type Exposed = (&'static str, Vec<(String, String)>, f64);

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

/// Numbers that are exposed as they are.
const NUMBERS: [(&str, &str); 50] = [
    ("uptime_in_seconds", "redis_uptime_in_seconds"),
    ("process_id", "redis_process_id"),
    ("connected_clients", "redis_connected_clients"),
    ("blocked_clients", "redis_blocked_clients"),
    ("maxclients", "redis_max_clients"),
    ("client_recent_max_input_buffer", "redis_client_recent_max_input_buffer_bytes"),
    ("client_recent_max_output_buffer", "redis_client_recent_max_output_buffer_bytes"),
    ("used_memory", "redis_memory_used_bytes"),
    ("used_memory_rss", "redis_memory_used_rss_bytes"),
    ("used_memory_peak", "redis_memory_used_peak_bytes"),
    ("used_memory_dataset", "redis_memory_used_dataset_bytes"),
    ("used_memory_overhead", "redis_memory_used_overhead_bytes"),
    ("maxmemory", "redis_memory_max_bytes"),
    ("mem_fragmentation_ratio", "redis_mem_fragmentation_ratio"),
    ("loading", "redis_loading_dump_file"),
    ("rdb_changes_since_last_save", "redis_rdb_changes_since_last_save"),
    ("rdb_bgsave_in_progress", "redis_rdb_bgsave_in_progress"),
    ("rdb_last_save_time", "redis_rdb_last_save_timestamp_seconds"),
    ("rdb_last_bgsave_time_sec", "redis_rdb_last_bgsave_duration_sec"),
    ("aof_enabled", "redis_aof_enabled"),
    ("aof_rewrite_in_progress", "redis_aof_rewrite_in_progress"),
    ("aof_last_rewrite_time_sec", "redis_aof_last_rewrite_duration_sec"),
    ("latest_fork_usec", "redis_latest_fork_usec"),
    ("total_connections_received", "redis_connections_received_total"),
    ("total_commands_processed", "redis_commands_processed_total"),
    ("instantaneous_ops_per_sec", "redis_instantaneous_ops_per_sec"),
    ("total_net_input_bytes", "redis_net_input_bytes_total"),
    ("total_net_output_bytes", "redis_net_output_bytes_total"),
    ("rejected_connections", "redis_rejected_connections_total"),
    ("expired_keys", "redis_expired_keys_total"),
    ("evicted_keys", "redis_evicted_keys_total"),
    ("keyspace_hits", "redis_keyspace_hits_total"),
    ("keyspace_misses", "redis_keyspace_misses_total"),
    ("pubsub_channels", "redis_pubsub_channels"),
    ("pubsub_patterns", "redis_pubsub_patterns"),
    ("sync_full", "redis_replica_resyncs_full"),
    ("sync_partial_ok", "redis_replica_partial_resync_accepted"),
    ("sync_partial_err", "redis_replica_partial_resync_denied"),
    ("total_error_replies", "redis_total_error_replies"),
    ("connected_slaves", "redis_connected_slaves"),
    ("master_repl_offset", "redis_master_repl_offset"),
    ("slave_repl_offset", "redis_slave_repl_offset"),
    ("slave_priority", "redis_slave_priority"),
    ("slave_read_only", "redis_slave_info_read_only"),
    ("master_last_io_seconds_ago", "redis_master_last_io_seconds_ago"),
    ("master_sync_in_progress", "redis_master_sync_in_progress"),
    ("second_repl_offset", "redis_second_repl_offset"),
    ("repl_backlog_size", "redis_replication_backlog_bytes"),
    ("used_cpu_sys", "redis_cpu_sys_seconds_total"),
    ("used_cpu_user", "redis_cpu_user_seconds_total"),
];

/// Words that are exposed as 1 for good and 0 for anything else.
const WORDS: [(&str, &str, &str); 4] = [
    ("rdb_last_bgsave_status", "ok", "redis_rdb_last_bgsave_status"),
    ("aof_last_bgrewrite_status", "ok", "redis_aof_last_bgrewrite_status"),
    ("aof_last_write_status", "ok", "redis_aof_last_write_status"),
    ("master_link_status", "up", "redis_master_link_up"),
];

/// The samples in an `INFO`. Fields that are missing or not numbers are left out.
pub fn exposition(info: &Info) -> Vec<Exposed> {
    let mut samples = Vec::new();
    let get = |name: &str| info.get(name).cloned();
    if let (Some(role), Some(version), Some(run_id)) =
        (get("role"), get("redis_version"), get("run_id"))
    {
        let labels = [("role", role), ("redis_version", version), ("run_id", run_id)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value)).to_vec();
        samples.push(("redis_instance_info", labels, 1.0));
    }
    for (field, name) in NUMBERS {
        if let Some(value) = info.get(field).and_then(|value| value.parse::<f64>().ok()) {
            samples.push((name, Vec::new(), value));
        }
    }
    for (field, good, name) in WORDS {
        if let Some(value) = info.get(field) {
            samples.push((name, Vec::new(), f64::from(u8::from(value == good))));
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_exporter_and_gaps_stay_gaps() {
        let text = "role:slave\r\nredis_version:7.0.15\r\nrun_id:abc\r\nused_memory:12\r\nmaxmemory:x\r\n\
                    master_link_status:down\r\nslave_repl_offset:42\r\nrdb_last_bgsave_status:ok\r\n";
        let samples = RedisSamples {
            address: Address::new("h", 1),
            up: true,
            info: crate::observe::redis::parse(text),
            probe_seconds: None,
        };
        let shown: Vec<_> = samples
            .exposition()
            .into_iter()
            .map(|(name, labels, value)| format!("{name} {} {value}", labels.len()))
            .collect();
        assert_eq!(
            shown,
            [
                "redis_up 0 1",
                "redis_instance_info 3 1",
                "redis_memory_used_bytes 0 12",
                "redis_slave_repl_offset 0 42",
                "redis_rdb_last_bgsave_status 0 1",
                "redis_master_link_up 0 0",
            ]
        );
    }
}
