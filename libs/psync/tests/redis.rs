//! Replication with real Redis servers.

mod support;

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use holdfast_psync::{
    CommandStream, Credentials, Endpoint, Error, Offer, Resumed, ServeError, Snapshot, SyncOptions,
    rdb, serve_snapshot,
};
use support::{PATIENCE, Redis};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Every type of value, in two databases, some of it expiring.
async fn fill(redis: &Redis, keys: usize) {
    let mut connection = redis.open().await;
    for database in ["0", "5"] {
        connection.command(&["SELECT", database]).await.expect("the server obeys");
        for command in [
            "SET text hello",
            "SET number 12345",
            "SET expiring soon EX 3600",
            "RPUSH list a b c",
            "SADD set a b c",
            "SADD integers 1 2 3",
            "ZADD sorted 1.5 a inf b -inf c",
            "HSET hash a 1 b 2",
            "XADD stream 1-1 a b",
            "XADD stream 1-2 c d",
            "XGROUP CREATE stream group 0",
            "XREADGROUP GROUP group consumer COUNT 1 STREAMS stream >",
            "PFADD loglog a b c",
        ] {
            connection
                .command(&command.split(' ').collect::<Vec<_>>())
                .await
                .expect("the server obeys");
        }
        let large = "for i = 1, 600 do redis.call('RPUSH', 'L', string.rep('x', i)) redis.call('SADD', 'S', 'm' .. i)
            redis.call('ZADD', 'Z', i / 3, 'm' .. i) redis.call('HSET', 'H', 'f' .. i, string.rep('v', i))
            redis.call('XADD', 'X', '*', 'f', string.rep('y', i)) end";
        connection.command(&["EVAL", large, "0"]).await.expect("the server obeys");
        let many = "for i = 1, ARGV[1] do redis.call('SET', 'key:' .. i, string.rep(i, 20)) end";
        connection
            .command(&["EVAL", many, "0", &keys.to_string()])
            .await
            .expect("the server obeys");
    }
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    connection.command(&["FUNCTION", "LOAD", library]).await.expect("the server obeys");
}

/// Keys that `fill` makes beside the numbered ones.
const OTHER_KEYS: u64 = 10 + 5;

async fn collect(snapshot: &mut Snapshot) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(snapshot.received(), bytes.len() as u64);
    Ok(bytes)
}

fn signal(pid: u32, name: &str) {
    assert!(
        Command::new("kill")
            .args([name, &pid.to_string()])
            .status()
            .expect("kill is installed")
            .success()
    );
}

#[tokio::test]
async fn a_snapshot_comes_whole_in_both_forms_and_from_a_replica() {
    let streaming = Redis::start(&["--repl-diskless-sync", "yes"]).await;
    let writing = Redis::start(&["--repl-diskless-sync", "no"]).await;
    fill(&streaming, 10_000).await;
    writing.run(&format!("REPLICAOF 127.0.0.1 {}", streaming.port)).await;
    writing
        .until("it follows", |it| async { it.replication("master_link_status").await == "up" })
        .await;
    for (redis, form_has_length) in [(&streaming, false), (&writing, true)] {
        let options = SyncOptions { rdb_only: true, ..SyncOptions::default() };
        let mut snapshot =
            Snapshot::start(&redis.endpoint(), &options).await.expect("the server obeys");
        assert_eq!((snapshot.length.is_some(), snapshot.rdb_only), (form_has_length, true));
        assert_eq!(snapshot.replid, streaming.replication("master_replid").await);
        let bytes = collect(&mut snapshot).await.expect("the server obeys");
        let summary = rdb::inspect(&bytes[..]).expect("the server obeys");
        assert_eq!(summary.counted, rdb::Counted::Exactly);
        let found: Vec<_> =
            summary.databases.iter().map(|d| (d.index, d.keys, d.expiring)).collect();
        assert_eq!(found, [(0, 10_000 + OTHER_KEYS, 1), (5, 10_000 + OTHER_KEYS, 1)]);
        assert_eq!((summary.functions, summary.bytes), (1, bytes.len() as u64));
        assert_eq!(summary.aux["redis-ver"], "7.0.15");
        assert_eq!(summary.aux["repl-offset"], snapshot.offset.to_string());
    }
}

#[tokio::test]
async fn commands_follow_a_snapshot_and_resume_from_an_offset() {
    let redis = Redis::start(&[]).await;
    redis.run("SET before 1").await;
    let mut snapshot = Snapshot::start(&redis.endpoint(), &SyncOptions::default())
        .await
        .expect("the server obeys");
    assert!(rdb::inspect(&collect(&mut snapshot).await.expect("the server obeys")[..]).is_ok());
    let (replid, start) = (snapshot.replid.clone(), snapshot.offset);
    let mut stream = snapshot.into_commands().expect("the server obeys");
    for value in 0..100 {
        redis.run(&format!("SET after {value}")).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let command = stream.next().await.expect("the server obeys");
        if command.is("set") {
            seen.push((command.offset, command.arguments[2].clone()));
        }
    }
    assert_eq!(stream.offset().to_string(), redis.replication("master_repl_offset").await);
    stream.acknowledge(stream.offset()).await.expect("the server obeys");
    assert_eq!(redis.run("WAIT 1 2000").await, "Integer(1)");

    // From the middle, as salvage does it.
    let (middle, _) = seen[49];
    let options = SyncOptions::default();
    let resumed = CommandStream::resume(&redis.endpoint(), &options, &replid, middle)
        .await
        .expect("the server obeys");
    let Resumed::Continued(mut stream) = resumed else { panic!("{resumed:?}") };
    assert_eq!((stream.replid(), stream.offset()), (replid.as_str(), middle));
    for (offset, value) in &seen[50..] {
        let mut command = stream.next().await.expect("the server obeys");
        while !command.is("SET") {
            command = stream.next().await.expect("the server obeys");
        }
        assert_eq!((command.offset, &command.arguments[2]), (*offset, value));
    }

    let unknown = "0".repeat(40);
    let resumed = CommandStream::resume(&redis.endpoint(), &options, &unknown, start)
        .await
        .expect("the server obeys");
    assert!(matches!(resumed, Resumed::SnapshotNeeded { replid: found, .. } if found == replid));
}

#[tokio::test]
async fn a_source_that_dies_or_stalls_is_an_error() {
    // 2 ms for each key, 40 s in all: the transfer lasts until we end it.
    let slow = ["--repl-diskless-sync", "yes", "--rdb-key-save-delay", "2000"];
    for (name, patience) in [("-KILL", 60_000), ("-STOP", 5_000)] {
        let redis = Redis::start(&slow).await;
        redis.run("DEBUG POPULATE 20000 k 2000").await;
        let stall_timeout = Duration::from_millis(patience);
        let options = SyncOptions { rdb_only: true, stall_timeout, ..SyncOptions::default() };
        let mut snapshot =
            Snapshot::start(&redis.endpoint(), &options).await.expect("the server obeys");
        assert!(snapshot.next_chunk().await.expect("the server obeys").is_some());
        signal(redis.pid, name);
        let error = collect_rest(&mut snapshot).await.unwrap_err();
        match name {
            "-KILL" => assert!(matches!(error, Error::Closed { .. } | Error::Io { .. }), "{error}"),
            _ => assert!(matches!(error, Error::TimedOut { .. }), "{error}"),
        }
        assert!(error.to_string().contains("transfer of the snapshot"), "{error}");
    }
}

async fn collect_rest(snapshot: &mut Snapshot) -> Result<(), Error> {
    while snapshot.next_chunk().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn a_user_with_few_rights_is_enough_and_wrong_ones_are_refused() {
    let redis = Redis::start(&[]).await;
    redis.run("ACL SETUSER backup on >secret resetkeys -@all +psync +replconf +ping +info").await;
    redis.run("ACL SETUSER default on resetpass >other").await;
    let login = |password: &str| Credentials {
        username: Some("backup".to_owned()),
        password: password.to_owned(),
    };
    let with = |credentials| redis.endpoint().with_credentials(credentials);
    let options = SyncOptions { rdb_only: true, ..SyncOptions::default() };
    let mut snapshot =
        Snapshot::start(&with(Some(login("secret"))), &options).await.expect("the server obeys");
    collect(&mut snapshot).await.expect("the server obeys");
    let refused = |endpoint: Endpoint| async move {
        let error = Snapshot::start(&endpoint, &SyncOptions::default()).await.unwrap_err();
        assert!(!error.to_string().contains("wrong"), "{error}");
        let Error::Refused { command, reply, .. } = error else { panic!("{error}") };
        (command, reply)
    };
    assert!(refused(with(Some(login("wrong")))).await.1.starts_with("WRONGPASS"));
    assert!(refused(with(None)).await.1.starts_with("NOAUTH"));
}

fn offer(length: u64) -> Offer {
    Offer {
        replid: "a".repeat(40),
        offset: 7,
        length,
        allowed: Some([127, 0, 0, 1].into()),
        secure: None,
        accept_timeout: PATIENCE,
        stall_timeout: PATIENCE,
    }
}

/// Chunks of `bytes`, as `serve_snapshot` takes them.
fn chunks(bytes: &[u8]) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(bytes.len() / 1000 + 1);
    for chunk in bytes.chunks(1000) {
        sender.try_send(Ok(Bytes::copy_from_slice(chunk))).expect("room for every chunk");
    }
    receiver
}

#[tokio::test]
async fn a_served_snapshot_is_the_same_data() {
    let source = Redis::start(&[]).await;
    fill(&source, 10_000).await;
    let options = SyncOptions { rdb_only: true, ..SyncOptions::default() };
    let mut snapshot =
        Snapshot::start(&source.endpoint(), &options).await.expect("the server obeys");
    let bytes = collect(&mut snapshot).await.expect("the server obeys");
    for load in ["disabled", "on-empty-db"] {
        let target =
            Redis::start(&["--repl-diskless-load", load, "--masterauth", "whatever"]).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the server obeys");
        let port = listener.local_addr().expect("the server obeys").port();
        target.run(&format!("REPLICAOF 127.0.0.1 {port}")).await;
        let mut sent = 0;
        let offer = offer(bytes.len() as u64);
        let mut served = serve_snapshot(&listener, &offer, &mut chunks(&bytes), |now| sent = now)
            .await
            .expect("the server obeys");
        assert_eq!(sent, bytes.len() as u64);
        target
            .until("it is up", |it| async { it.replication("master_link_status").await == "up" })
            .await;
        assert_eq!(target.replication("slave_repl_offset").await, "7");
        target.run("REPLICAOF NO ONE").await;
        tokio::time::timeout(PATIENCE, served.ended()).await.expect("the server obeys");
        assert_eq!(target.run("DEBUG DIGEST").await, source.run("DEBUG DIGEST").await);
    }
}

#[tokio::test]
async fn a_broken_payload_leaves_the_replica_as_it_was() {
    let target = Redis::start(&[]).await;
    target.run("SET mine 1").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the server obeys");
    let port = listener.local_addr().expect("the server obeys").port();
    target.run(&format!("REPLICAOF 127.0.0.1 {port}")).await;
    let result = serve_snapshot(&listener, &offer(5000), &mut chunks(&[0; 3000]), |_| {}).await;
    assert!(
        matches!(result, Err(ServeError::WrongLength { found: 3000, length: 5000 })),
        "{result:?}"
    );
    target.run("REPLICAOF NO ONE").await;
    assert_eq!(target.run("GET mine").await, "1");
}

#[tokio::test]
async fn nobody_else_gets_the_payload() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the server obeys");
    let address = listener.local_addr().expect("the server obeys");
    let offer = Offer {
        allowed: Some([127, 0, 0, 2].into()),
        accept_timeout: Duration::from_millis(300),
        ..offer(3)
    };
    let mut payload = chunks(b"abc");
    let endpoint = Endpoint::new(address.to_string().parse().expect("the server obeys"));
    let options = SyncOptions::default();
    let visit = Snapshot::start(&endpoint, &options);
    let (served, visited) =
        tokio::join!(serve_snapshot(&listener, &offer, &mut payload, |_| {}), visit);
    assert!(matches!(served, Err(ServeError::NobodyCame(_))), "{served:?}");
    assert!(visited.is_err());
}
