use super::*;
use crate::cluster::{Address, Managed, RedisRole, RedisState, RedisStatus};
use crate::judge::redis::{Link, Sample, ServerView};

const PRIMARY_ID: &str = "fff9892c6bfbe33f7fb31b42019175a473811ac6";
const REPLICA_ID: &str = "b7b578418b5913780e86c8a4400acdb07af2de6e";
const MY_ID: &str = "475090e2fd82cc845c9e741f3b85abbcea6f07d8";

#[expect(clippy::disallowed_methods, reason = "tests begin at some instant")]
fn now() -> Instant {
    Instant::now()
}

fn view(port: u16, run_id: &str, role: RedisRole, now: Instant) -> ServerView {
    let is_replica = role == RedisRole::Replica;
    ServerView {
        link: Link::Open,
        answered_at: Some(now),
        sample: Some(Sample {
            at: now,
            role,
            run_id: run_id.to_owned(),
            replid: "a".repeat(40),
            replid2: None,
            forked_at: None,
            offset: 582,
            link_up: is_replica.then_some(true),
            syncing: false,
            follows: is_replica.then(|| Address::new("127.0.0.1", 21850)),
            quiet_seconds: None,
            priority: 100,
            loading: false,
            replicas: 1,
            version: "7.0.15".to_owned(),
        }),
        ..ServerView::new(Address::new("127.0.0.1", port), now)
    }
}

fn world(state: RedisState) -> World {
    let now = now();
    let status = RedisStatus {
        name: "mymaster".to_owned(),
        state,
        reason: None,
        primary: Some(Address::new("127.0.0.1", 21850)),
        epoch: 0,
        servers: Vec::new(),
        candidate: Some(Address::new("127.0.0.1", 21851)),
        loss_estimate_bytes: Some(0),
        last_failover: None,
        pause: None,
        switchover: None,
        awaits_approval: false,
        managed: Managed::default(),
        has_majority: true,
        expected_seconds: None,
        wait_safe_replicas: 0,
        restart: None,
    };
    let views = vec![
        view(21850, PRIMARY_ID, RedisRole::Primary, now),
        view(21851, REPLICA_ID, RedisRole::Replica, now),
    ];
    World {
        now,
        topologies: vec![Arc::new(Topology { status, views })],
        down_after: vec![Duration::from_secs(1)],
        my_id: MY_ID.to_owned(),
        started: now,
        port: 26379,
    }
}

fn client(protocol: Protocol) -> Client {
    Client { id: 5, address: "127.0.0.1:1".to_owned(), protocol, name: None }
}

fn outcome(command: &str, protocol: Protocol, state: RedisState) -> Outcome {
    let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
    answer(&words, &mut client(protocol), &world(state))
}

/// The reply as text, with the figures that differ between two runs as `#`.
fn reply(command: &str, protocol: Protocol) -> String {
    let Outcome::Reply(value) = outcome(command, protocol, RedisState::Healthy) else {
        panic!("{command} is not merely answered")
    };
    let mut out = Vec::new();
    value.encode(protocol, &mut out);
    String::from_utf8(out).unwrap().replace("\r\n", " ")
}

const VARIABLE: [&str; 9] = [
    "last-ping-sent",
    "last-ok-ping-reply",
    "last-ping-reply",
    "info-refresh",
    "role-reported-time",
    "num-other-sentinels",
    "failover-timeout",
    "down-after-milliseconds",
    "parallel-syncs",
];

/// A reply of field and value pairs: header, then `name=value`, variable values as `#`.
fn pairs(text: &str) -> Vec<String> {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut shown = Vec::new();
    let mut bulks = Vec::new();
    while let Some(word) = words.next() {
        match word.strip_prefix('$') {
            Some(length) => {
                let bulk = words.next().unwrap();
                assert_eq!(bulk.len().to_string(), length);
                bulks.push(bulk);
            }
            None => shown.push(word.to_owned()),
        }
    }
    for pair in bulks.chunks(2) {
        let value = if VARIABLE.contains(&pair[0]) { "#" } else { pair[1] };
        shown.push(format!("{}={value}", pair[0]));
    }
    shown
}

/// What Redis Sentinel 7.0.15 answers, byte for byte, for the same topology.
#[test]
fn fixed_replies_are_those_of_redis_sentinel() {
    use Protocol::{Resp2, Resp3};
    for (command, protocol, golden) in [
        ("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster", Resp2, "*2 $9 127.0.0.1 $5 21850 "),
        ("SENTINEL GET-MASTER-ADDR-BY-NAME nope", Resp2, "*-1 "),
        ("SENTINEL GET-MASTER-ADDR-BY-NAME nope", Resp3, "_ "),
        ("SENTINEL MASTER nope", Resp2, "-ERR No such master with that name "),
        ("SENTINEL MYID", Resp2, "$40 475090e2fd82cc845c9e741f3b85abbcea6f07d8 "),
        ("ROLE", Resp2, "*2 $8 sentinel *1 $8 mymaster "),
        ("PING", Resp3, "+PONG "),
        ("GET x", Resp2, "-ERR unknown command 'GET', with args beginning with: 'x'  "),
        ("SENTINEL FOO", Resp2, "-ERR unknown subcommand 'FOO'. Try SENTINEL HELP. "),
        ("CLIENT FOO LIB-NAME x", Resp3, "-ERR unknown subcommand 'FOO'. Try CLIENT HELP. "),
        ("SELECT 0", Resp2, "-ERR unknown command 'SELECT', with args beginning with: '0'  "),
        (
            "HELLO 3",
            Resp3,
            "%6 $6 server $5 redis $7 version $6 7.0.15 $5 proto :3 $2 id :5 $4 mode $8 sentinel $7 modules *0 ",
        ),
        // A Sentinel with others says how many; we are one.
        (
            "SENTINEL CKQUORUM mymaster",
            Resp2,
            "+OK 1 usable Sentinels. Quorum and failover authorization can be reached ",
        ),
        ("SENTINEL SENTINELS mymaster", Resp2, "*0 "),
        // Newer than 7.0.15, and asked by every client.
        ("CLIENT SETINFO LIB-NAME x", Resp2, "+OK "),
    ] {
        assert_eq!(reply(command, protocol), golden, "{command}");
    }
}

#[test]
fn a_primary_has_the_fields_of_redis_sentinel() {
    let fields = "name=mymaster ip=127.0.0.1 port=21850 runid=fff9892c6bfbe33f7fb31b42019175a473811ac6 flags=master \
                  link-pending-commands=0 link-refcount=1 last-ping-sent=# last-ok-ping-reply=# last-ping-reply=# \
                  down-after-milliseconds=# info-refresh=# role-reported=master role-reported-time=# config-epoch=0 \
                  num-slaves=1 num-other-sentinels=# quorum=1 failover-timeout=# parallel-syncs=#";
    assert_eq!(
        pairs(&reply("SENTINEL MASTERS", Protocol::Resp2)).join(" "),
        format!("*1 *40 {fields}")
    );
    assert_eq!(
        pairs(&reply("SENTINEL MASTERS", Protocol::Resp3)).join(" "),
        format!("*1 %20 {fields}")
    );
    assert_eq!(
        pairs(&reply("sentinel master mymaster", Protocol::Resp3)).join(" "),
        format!("%20 {fields}")
    );
}

#[test]
fn a_replica_has_the_fields_of_redis_sentinel() {
    let fields = "name=127.0.0.1:21851 ip=127.0.0.1 port=21851 runid=b7b578418b5913780e86c8a4400acdb07af2de6e flags=slave \
                  link-pending-commands=0 link-refcount=1 last-ping-sent=# last-ok-ping-reply=# last-ping-reply=# \
                  down-after-milliseconds=# info-refresh=# role-reported=slave role-reported-time=# master-link-down-time=0 \
                  master-link-status=ok master-host=127.0.0.1 master-port=21850 slave-priority=100 slave-repl-offset=582 \
                  replica-announced=1";
    assert_eq!(
        pairs(&reply("SENTINEL REPLICAS mymaster", Protocol::Resp2)).join(" "),
        format!("*1 *42 {fields}")
    );
    assert_eq!(
        pairs(&reply("SENTINEL SLAVES mymaster", Protocol::Resp3)).join(" "),
        format!("*1 %21 {fields}")
    );
}

#[test]
fn a_primary_that_is_being_replaced_is_flagged_and_cannot_be_again() {
    let Outcome::Reply(value) =
        outcome("SENTINEL MASTER mymaster", Protocol::Resp2, RedisState::Draining)
    else {
        panic!("it is answered")
    };
    let mut out = Vec::new();
    value.encode(Protocol::Resp2, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("s_down,o_down,master,failover_in_progress"), "{text}");
    assert!(text.contains("failover-state\r\n$12\r\nselect_slave"), "{text}");
    let failover = |state| outcome("SENTINEL FAILOVER mymaster", Protocol::Resp2, state);
    assert_eq!(failover(RedisState::Healthy), Outcome::FailOver(0));
    assert_eq!(
        failover(RedisState::Draining),
        Outcome::Reply(Value::error("INPROG Failover already in progress"))
    );
}

#[test]
fn info_has_the_lines_exporters_read() {
    let Outcome::Reply(Value::Bulk(text)) =
        outcome("INFO sentinel", Protocol::Resp2, RedisState::Healthy)
    else {
        panic!("it is a bulk string")
    };
    assert_eq!(
        text,
        "# Sentinel\r\nsentinel_masters:1\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\n\
         sentinel_running_scripts:0\r\nsentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n\
         master0:name=mymaster,status=ok,address=127.0.0.1:21850,slaves=1,sentinels=1\r\n"
    );
}
