use std::time::Duration;

use super::super::group::Sentinel;
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
    let topology =
        Topology { status, views, hang_after: Duration::from_secs(1), is_planned: false };
    let info = [("redis_version", "7.0.15"), ("role", "slave")];
    let samples = RedisSamples {
        address: Address::new("127.0.0.1", 21851),
        up: true,
        info: info.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        probe_seconds: None,
    };
    World {
        now,
        all: vec![Monitored {
            index: 0,
            topology: Arc::new(topology),
            samples: watch::channel(vec![samples]).1,
            login: None,
            is_removed: false,
        }],
        sentinels: Sentinels::default(),
        login: None,
        my_id: MY_ID.to_owned(),
        started: now,
        port: 26379,
        clients: 1,
    }
}

fn client(protocol: Protocol) -> Client {
    Client {
        id: 5,
        address: "127.0.0.1:1".to_owned(),
        ip: Some([127, 0, 0, 1].into()),
        protocol,
        name: None,
        is_known: false,
    }
}

fn outcome(command: &str, protocol: Protocol, state: RedisState) -> Outcome {
    outcome_in(command, &mut client(protocol), &world(state))
}

fn outcome_in(command: &str, client: &mut Client, world: &World) -> Outcome {
    let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
    answer(&words, client, world)
}

/// The reply as text.
fn reply(command: &str, protocol: Protocol) -> String {
    reply_in(command, &mut client(protocol), &world(RedisState::Healthy))
}

fn reply_in(command: &str, client: &mut Client, world: &World) -> String {
    let Outcome::Reply(value) = outcome_in(command, client, world) else {
        panic!("{command} is not merely answered")
    };
    let mut out = Vec::new();
    value.encode(client.protocol, &mut out);
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
        ("SENTINEL PENDING-SCRIPTS", Resp2, "*0 "),
        ("SENTINEL FLUSHCONFIG", Resp2, "+OK "),
        (
            "SENTINEL INFO-CACHE nope mymaster",
            Resp3,
            "*2 $8 mymaster *1 *2 :0 $34 redis_version:7.0.15 role:slave  ",
        ),
        ("SENTINEL CONFIG GET resolve-*", Resp3, "%1 $17 resolve-hostnames $3 yes "),
        ("SENTINEL IS-MASTER-DOWN-BY-ADDR 127.0.0.1 21850 0 *", Resp2, "*3 :0 $1 * :0 "),
        ("PUBLISH __sentinel__:hello x", Resp2, ":1 "),
        ("PUBLISH x y", Resp2, "-ERR Only HELLO messages are accepted by Sentinel instances. "),
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
    assert_eq!(failover(RedisState::Healthy), Outcome::Change(Change::FailOver(0)));
    assert_eq!(
        failover(RedisState::Draining),
        Outcome::Reply(Value::error("INPROG Failover already in progress"))
    );
}

/// A client that meets `s_down` waits, some of them for a second, and nothing is wrong with that primary.
#[test]
fn a_primary_that_is_replaced_as_planned_is_not_flagged_as_down() {
    let mut world = world(RedisState::Draining);
    Arc::make_mut(&mut world.all[0].topology).is_planned = true;
    let text = reply_in("SENTINEL MASTER mymaster", &mut client(Protocol::Resp2), &world);
    assert!(text.contains(" master,failover_in_progress "), "{text}");
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

fn login() -> Arc<Login> {
    let password = holdfast_settings::Secret::new("s3cret");
    Arc::new(Login { username: None, password })
}

#[test]
fn with_a_password_nothing_is_said_before_it() {
    let world = World { login: Some(login()), ..world(RedisState::Healthy) };
    let mut client = client(Protocol::Resp2);
    for command in ["PING", "SENTINEL MASTERS", "GET x"] {
        let answer = reply_in(command, &mut client, &world);
        assert_eq!(answer, "-NOAUTH Authentication required. ", "{command}");
    }
    assert!(reply_in("HELLO 3", &mut client, &world).starts_with("-NOAUTH HELLO must be called"));
    for command in ["AUTH wrong", "AUTH chat s3cret", "HELLO 3 AUTH default wrong"] {
        assert_eq!(outcome_in(command, &mut client, &world), Outcome::WrongPassword, "{command}");
        assert_eq!(client.protocol, Protocol::Resp2);
    }
    assert_eq!(reply_in("AUTH s3cret", &mut client, &world), "+OK ");
    assert_eq!(reply_in("PING", &mut client, &world), "+PONG ");
    let mut other = self::client(Protocol::Resp2);
    assert!(reply_in("HELLO 3 AUTH default s3cret", &mut other, &world).starts_with("%6 "));
}

#[test]
fn changes_are_told_from_mistakes() {
    use Outcome::Change as Do;
    let seconds = Duration::from_secs;
    for (command, expected) in [
        ("SENTINEL FAILOVER mymaster COORDINATED", Do(Change::FailOver(0))),
        ("SENTINEL REMOVE mymaster", Do(Change::Remove(0))),
        ("SENTINEL RESET my*", Do(Change::Reset(vec![0]))),
        ("SENTINEL RESET other*", Do(Change::Reset(vec![]))),
        (
            "SENTINEL SET mymaster down-after-milliseconds 2000 quorum 2",
            Do(Change::Set {
                index: 0,
                hang_after: Some(seconds(2)),
                without_effect: vec!["quorum 2".to_owned()],
            }),
        ),
    ] {
        assert_eq!(outcome(command, Protocol::Resp2, RedisState::Healthy), expected, "{command}");
    }
    for (command, expected) in [
        ("SENTINEL SET nope quorum 2", "-ERR No such master with that name "),
        ("SENTINEL SET mymaster", "-ERR wrong number of arguments for 'sentinel|set' command "),
        (
            "SENTINEL SET mymaster quorum 2 quorum",
            "-ERR Unknown option or number of arguments for SENTINEL SET 'quorum' ",
        ),
        ("SENTINEL SET mymaster quorum x", "-ERR Invalid argument 'x' for SENTINEL SET 'quorum' "),
        (
            "SENTINEL SET mymaster colour red",
            "-ERR Unknown option or number of arguments for SENTINEL SET 'colour' ",
        ),
        ("SENTINEL MONITOR mymaster 127.0.0.1 21850 1", "-ERR Duplicate master name. "),
        ("SENTINEL MONITOR mymaster 127.0.0.1 21850 0", "-ERR Quorum must be 1 or greater. "),
        ("SENTINEL MONITOR mymaster 127.0.0.1 0 1", "-ERR Invalid port number. "),
        ("SENTINEL REMOVE nope", "-ERR No such master with that name "),
    ] {
        assert_eq!(reply(command, Protocol::Resp2), expected, "{command}");
    }
    for (command, beginning) in [
        ("SENTINEL MONITOR other 127.0.0.1 1 1", "-ERR no Redis \"other\" in the settings file"),
        (
            "SENTINEL SET mymaster notification-script /bin/x",
            "-ERR Reconfiguration of scripts path is denied",
        ),
        ("SENTINEL SET mymaster auth-pass x", "-ERR auth-pass is set in the settings file"),
        ("SENTINEL CONFIG SET announce-ip x", "-ERR parameters are set in the settings file"),
        ("SENTINEL SIMULATE-FAILURE crash-after-election", "-ERR failures are not simulated here"),
        ("SENTINEL DEBUG info-period 1", "-ERR time constants are not set here"),
    ] {
        let answer = reply(command, Protocol::Resp2);
        assert!(answer.starts_with(beginning), "{command}: {answer}");
    }
}

#[test]
fn strangers_may_ask_and_fail_over_but_not_change_settings() {
    let world = world(RedisState::Healthy);
    let mut stranger = Client { ip: Some([10, 0, 0, 7].into()), ..client(Protocol::Resp2) };
    for command in [
        "SENTINEL SET mymaster quorum 2",
        "SENTINEL REMOVE mymaster",
        "SENTINEL MONITOR a 127.0.0.1 1 1",
        "SENTINEL RESET *",
        "SENTINEL CONFIG SET a b",
    ] {
        let answer = reply_in(command, &mut stranger, &world);
        assert!(answer.starts_with("-NOPERM "), "{command}: {answer}");
    }
    let failover = outcome_in("SENTINEL FAILOVER mymaster", &mut stranger, &world);
    assert_eq!(failover, Outcome::Change(Change::FailOver(0)));
    let locked = World { login: Some(login()), ..world };
    assert_eq!(reply_in("AUTH s3cret", &mut stranger, &locked), "+OK ");
    let reset = outcome_in("SENTINEL RESET *", &mut stranger, &locked);
    assert_eq!(reset, Outcome::Change(Change::Reset(vec![0])));
}

#[test]
fn one_that_was_removed_is_not_told_of_until_it_is_monitored_again() {
    let mut world = world(RedisState::Healthy);
    world.all[0].is_removed = true;
    let mut client = client(Protocol::Resp2);
    for (command, expected) in [
        ("SENTINEL GET-MASTER-ADDR-BY-NAME mymaster", "*-1 "),
        ("SENTINEL MASTERS", "*0 "),
        ("SENTINEL FAILOVER mymaster", "-ERR No such master with that name "),
        ("ROLE", "*2 $8 sentinel *0 "),
    ] {
        assert_eq!(reply_in(command, &mut client, &world), expected, "{command}");
    }
    let elsewhere = reply_in("SENTINEL MONITOR mymaster 127.0.0.1 21851 2", &mut client, &world);
    assert!(
        elsewhere.starts_with("-ERR the primary of mymaster is 127.0.0.1:21850"),
        "{elsewhere}"
    );
    let back = outcome_in("SENTINEL MONITOR mymaster 127.0.0.1 21850 2", &mut client, &world);
    assert_eq!(back, Outcome::Change(Change::Monitor(0)));
}

#[test]
fn other_supervisors_are_shown_as_sentinels() {
    let mut world = world(RedisState::Healthy);
    let other = |name: &str, port, is_down| Sentinel {
        name: name.to_owned(),
        address: Address::new("127.0.0.1", port),
        heard: Some(world.now),
        is_down,
    };
    let others = vec![other("b", 21861, false), other("c", 21862, true)];
    world.sentinels = Sentinels { others, heard: 1, voters: 3, has_majority: true, leader: None };
    let mut client = client(Protocol::Resp2);
    let text = reply_in("SENTINEL SENTINELS mymaster", &mut client, &world);
    let id = |name| super::super::group::id_of(name);
    let (b, c) = (id("b"), id("c"));
    let expected = format!(
        "*2 *28 *30 name={b} ip=127.0.0.1 port=21861 runid={b} flags=sentinel link-pending-commands=0 link-refcount=1 \
         last-ping-sent=# last-ok-ping-reply=# last-ping-reply=# down-after-milliseconds=# last-hello-message=0 \
         voted-leader=? voted-leader-epoch=0 name={c} ip=127.0.0.1 port=21862 runid={c} \
         flags=s_down,sentinel,disconnected link-pending-commands=0 link-refcount=1 last-ping-sent=# \
         last-ok-ping-reply=# last-ping-reply=# s-down-time=0 down-after-milliseconds=# last-hello-message=0 \
         voted-leader=? voted-leader-epoch=0"
    );
    assert_eq!(pairs(&text).join(" "), expected);
    let quorum = reply_in("SENTINEL CKQUORUM mymaster", &mut client, &world);
    assert!(quorum.starts_with("+OK 2 usable Sentinels."), "{quorum}");
    world.sentinels.heard = 0;
    world.sentinels.has_majority = false;
    for command in ["SENTINEL CKQUORUM mymaster", "SENTINEL FAILOVER mymaster"] {
        assert_eq!(
            reply_in(command, &mut client, &world),
            "-NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master. \
             Not enough available Sentinels to reach the majority and authorize a failover "
        );
    }
}
