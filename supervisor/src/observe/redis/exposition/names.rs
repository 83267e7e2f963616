//! Fields of `INFO` and the names `redis_exporter` gives them (its metric maps, version 1.62). Fields that it turns into nothing are left out.

/// Numbers that are exposed as they are.
pub(super) const NUMBERS: [(&str, &str); 102] = [
    // Server
    ("uptime_in_seconds", "redis_uptime_in_seconds"),
    ("process_id", "redis_process_id"),
    ("io_threads_active", "redis_io_threads_active"),
    ("hz", "redis_hz"),
    ("configured_hz", "redis_configured_hz"),
    // Clients
    ("connected_clients", "redis_connected_clients"),
    ("blocked_clients", "redis_blocked_clients"),
    ("tracking_clients", "redis_tracking_clients"),
    ("clients_in_timeout_table", "redis_clients_in_timeout_table"),
    ("maxclients", "redis_max_clients"),
    ("client_recent_max_input_buffer", "redis_client_recent_max_input_buffer_bytes"),
    ("client_recent_max_output_buffer", "redis_client_recent_max_output_buffer_bytes"),
    // Memory
    ("allocator_active", "redis_allocator_active_bytes"),
    ("allocator_allocated", "redis_allocator_allocated_bytes"),
    ("allocator_resident", "redis_allocator_resident_bytes"),
    ("allocator_frag_ratio", "redis_allocator_frag_ratio"),
    ("allocator_frag_bytes", "redis_allocator_frag_bytes"),
    ("allocator_rss_ratio", "redis_allocator_rss_ratio"),
    ("allocator_rss_bytes", "redis_allocator_rss_bytes"),
    ("used_memory", "redis_memory_used_bytes"),
    ("used_memory_rss", "redis_memory_used_rss_bytes"),
    ("used_memory_peak", "redis_memory_used_peak_bytes"),
    ("used_memory_lua", "redis_memory_used_lua_bytes"),
    ("used_memory_overhead", "redis_memory_used_overhead_bytes"),
    ("used_memory_startup", "redis_memory_used_startup_bytes"),
    ("used_memory_dataset", "redis_memory_used_dataset_bytes"),
    ("used_memory_scripts", "redis_memory_used_scripts_bytes"),
    ("number_of_cached_scripts", "redis_number_of_cached_scripts"),
    ("maxmemory", "redis_memory_max_bytes"),
    ("mem_fragmentation_ratio", "redis_mem_fragmentation_ratio"),
    ("mem_fragmentation_bytes", "redis_mem_fragmentation_bytes"),
    ("mem_clients_slaves", "redis_mem_clients_slaves"),
    ("mem_clients_normal", "redis_mem_clients_normal"),
    ("mem_not_counted_for_evict", "redis_mem_not_counted_for_eviction_bytes"),
    ("total_system_memory", "redis_total_system_memory_bytes"),
    ("lazyfree_pending_objects", "redis_lazyfree_pending_objects"),
    ("lazyfreed_objects", "redis_lazyfreed_objects"),
    ("active_defrag_running", "redis_active_defrag_running"),
    // Persistence
    ("loading", "redis_loading_dump_file"),
    ("async_loading", "redis_async_loading"),
    ("rdb_changes_since_last_save", "redis_rdb_changes_since_last_save"),
    ("rdb_bgsave_in_progress", "redis_rdb_bgsave_in_progress"),
    ("rdb_last_save_time", "redis_rdb_last_save_timestamp_seconds"),
    ("rdb_last_bgsave_time_sec", "redis_rdb_last_bgsave_duration_sec"),
    ("rdb_current_bgsave_time_sec", "redis_rdb_current_bgsave_duration_sec"),
    ("rdb_saves", "redis_rdb_saves_total"),
    ("rdb_last_cow_size", "redis_rdb_last_cow_size_bytes"),
    ("aof_enabled", "redis_aof_enabled"),
    ("aof_rewrite_in_progress", "redis_aof_rewrite_in_progress"),
    ("aof_rewrite_scheduled", "redis_aof_rewrite_scheduled"),
    ("aof_last_rewrite_time_sec", "redis_aof_last_rewrite_duration_sec"),
    ("aof_current_rewrite_time_sec", "redis_aof_current_rewrite_duration_sec"),
    ("aof_last_cow_size", "redis_aof_last_cow_size_bytes"),
    ("aof_current_size", "redis_aof_current_size_bytes"),
    ("aof_base_size", "redis_aof_base_size_bytes"),
    ("aof_pending_rewrite", "redis_aof_pending_rewrite"),
    ("aof_buffer_length", "redis_aof_buffer_length"),
    ("aof_pending_bio_fsync", "redis_aof_pending_bio_fsync"),
    ("aof_delayed_fsync", "redis_aof_delayed_fsync"),
    ("module_fork_in_progress", "redis_module_fork_in_progress"),
    ("module_fork_last_cow_size", "redis_module_fork_last_cow_size"),
    // Stats
    ("total_connections_received", "redis_connections_received_total"),
    ("total_commands_processed", "redis_commands_processed_total"),
    ("instantaneous_ops_per_sec", "redis_instantaneous_ops_per_sec"),
    ("total_net_input_bytes", "redis_net_input_bytes_total"),
    ("total_net_output_bytes", "redis_net_output_bytes_total"),
    ("total_net_repl_input_bytes", "redis_net_repl_input_bytes_total"),
    ("total_net_repl_output_bytes", "redis_net_repl_output_bytes_total"),
    ("rejected_connections", "redis_rejected_connections_total"),
    ("expired_keys", "redis_expired_keys_total"),
    ("expired_stale_perc", "redis_expired_stale_percentage"),
    ("expired_time_cap_reached_count", "redis_expired_time_cap_reached_total"),
    ("evicted_keys", "redis_evicted_keys_total"),
    ("evicted_clients", "redis_evicted_clients_total"),
    ("keyspace_hits", "redis_keyspace_hits_total"),
    ("keyspace_misses", "redis_keyspace_misses_total"),
    ("pubsub_channels", "redis_pubsub_channels"),
    ("pubsub_patterns", "redis_pubsub_patterns"),
    ("latest_fork_usec", "redis_latest_fork_usec"),
    ("migrate_cached_sockets", "redis_migrate_cached_sockets_total"),
    ("sync_full", "redis_replica_resyncs_full"),
    ("sync_partial_ok", "redis_replica_partial_resync_accepted"),
    ("sync_partial_err", "redis_replica_partial_resync_denied"),
    ("total_error_replies", "redis_total_error_replies"),
    ("unexpected_error_replies", "redis_unexpected_error_replies"),
    ("total_reads_processed", "redis_total_reads_processed"),
    ("total_writes_processed", "redis_total_writes_processed"),
    // Replication
    ("connected_slaves", "redis_connected_slaves"),
    ("master_repl_offset", "redis_master_repl_offset"),
    ("second_repl_offset", "redis_second_repl_offset"),
    ("min_slaves_good_slaves", "redis_min_slaves_good_slaves"),
    ("slave_priority", "redis_slave_priority"),
    ("slave_expires_tracked_keys", "redis_slave_expires_tracked_keys"),
    ("repl_backlog_active", "redis_repl_backlog_is_active"),
    ("repl_backlog_size", "redis_replication_backlog_bytes"),
    ("repl_backlog_first_byte_offset", "redis_repl_backlog_first_byte_offset"),
    ("repl_backlog_histlen", "redis_repl_backlog_history_bytes"),
    // Processor time
    ("used_cpu_sys", "redis_cpu_sys_seconds_total"),
    ("used_cpu_user", "redis_cpu_user_seconds_total"),
    ("used_cpu_sys_children", "redis_cpu_sys_children_seconds_total"),
    ("used_cpu_user_children", "redis_cpu_user_children_seconds_total"),
    ("cluster_enabled", "redis_cluster_enabled"),
];

/// Numbers of a replica, with whom it follows.
pub(super) const OF_REPLICA: [(&str, &str); 3] = [
    ("slave_repl_offset", "redis_slave_repl_offset"),
    ("master_last_io_seconds_ago", "redis_master_last_io_seconds_ago"),
    ("master_sync_in_progress", "redis_master_sync_in_progress"),
];

/// Words that are exposed as 1 for good and 0 for anything else.
pub(super) const WORDS: [(&str, &str, &str); 3] = [
    ("rdb_last_bgsave_status", "ok", "redis_rdb_last_bgsave_status"),
    ("aof_last_bgrewrite_status", "ok", "redis_aof_last_bgrewrite_status"),
    ("aof_last_write_status", "ok", "redis_aof_last_write_status"),
];

/// Labels of `redis_instance_info`.
pub(super) const ABOUT: [&str; 11] = [
    "role",
    "redis_version",
    "redis_build_id",
    "redis_mode",
    "os",
    "maxmemory_policy",
    "tcp_port",
    "run_id",
    "process_id",
    "master_replid",
    "valkey_version",
];

/// Parts of `db0:keys=1,expires=2,avg_ttl=3`, and what brings them to base units.
pub(super) const OF_DATABASE: [(&str, &str, f64); 3] = [
    ("keys", "redis_db_keys", 1.0),
    ("expires", "redis_db_keys_expiring", 1.0),
    ("avg_ttl", "redis_db_avg_ttl_seconds", 1e-3),
];

/// Parts of `slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0`.
pub(super) const OF_CONNECTED_REPLICA: [(&str, &str, f64); 2] = [
    ("offset", "redis_connected_slave_offset_bytes", 1.0),
    ("lag", "redis_connected_slave_lag_seconds", 1.0),
];

/// Parts of `cmdstat_get:calls=21,usec=175,usec_per_call=8.33,rejected_calls=0,failed_calls=0`.
pub(super) const OF_COMMAND: [(&str, &str, f64); 4] = [
    ("calls", "redis_commands_total", 1.0),
    ("usec", "redis_commands_duration_seconds_total", 1e-6),
    ("rejected_calls", "redis_commands_rejected_calls_total", 1.0),
    ("failed_calls", "redis_commands_failed_calls_total", 1.0),
];

/// The one part of `errorstat_ERR:count=4`.
pub(super) const OF_ERROR: [(&str, &str, f64); 1] = [("count", "redis_errors_total", 1.0)];
