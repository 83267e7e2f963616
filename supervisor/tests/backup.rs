//! Backups of real Redis servers: taken, verified, restored; and everything that can go wrong on the way.

#[path = "../../libs/psync/tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_psync::{Connection, Crc64, Credentials, Endpoint, Reply};
use holdfast_supervisor::act::backup::{
    Backup, BackupError, BackupOptions, BackupStore, Manifest, Phase, RestoreOptions, Role,
    restore, take, verify,
};
use holdfast_telemetry::errors::Chain;
use support::Redis;
use tempfile::TempDir;

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
}

fn store() -> (TempDir, BackupStore) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = BackupStore::new(dir.path(), "main");
    (dir, store)
}

/// No scratch server, so that tests of other things are quick.
fn quick() -> BackupOptions {
    BackupOptions { verify: false, ..BackupOptions::default() }
}

async fn commands(redis: &Redis, database: &str, commands: &[&str]) {
    let mut connection = redis.open().await;
    connection.command(&["SELECT", database]).await.expect("the database exists");
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        connection.command(&words).await.expect("the command succeeds");
    }
}

/// Values of every type, small and large, in two databases; some expire.
async fn fill(redis: &Redis) {
    let small = [
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
    ];
    commands(redis, "0", &small).await;
    commands(redis, "3", &small[..5]).await;
    let large = "for i = 1, 600 do redis.call('RPUSH', 'L', string.rep('x', i)) redis.call('SADD', 'S', 'm' .. i)
        redis.call('ZADD', 'Z', i / 3, 'm' .. i) redis.call('HSET', 'H', 'f' .. i, string.rep('v', i))
        redis.call('XADD', 'X', '*', 'f', string.rep('y', i)) end
        for i = 1, 10000 do redis.call('SET', 'key:' .. i, redis.sha1hex(i)) end
        for i = 1, 500 do redis.call('SET', 'short:' .. i, i, 'EX', 600 + i) end";
    redis.open().await.command(&["EVAL", large, "0"]).await.expect("the script runs");
}

/// One line for each key of all databases: its name, a digest of its type and value, and when it expires.
async fn content(redis: &Redis) -> Vec<String> {
    let mut connection = redis.open().await;
    let mut lines = Vec::new();
    for database in 0..16 {
        connection.command(&["SELECT", &database.to_string()]).await.expect("the database exists");
        let mut keys = texts(connection.command(&["KEYS", "*"]).await.expect("KEYS works"));
        keys.sort();
        for keys in keys.chunks(1000) {
            let mut digest = vec!["DEBUG", "DIGEST-VALUE"];
            digest.extend(keys.iter().map(String::as_str));
            let digests = texts(connection.command(&digest).await.expect("DEBUG works"));
            for (key, digest) in keys.iter().zip(digests) {
                let expires = connection.command(&["PEXPIRETIME", key]).await.expect("it works");
                let expires = expires.integer().expect("a number");
                lines.push(format!("{database} {key} {digest} {expires}"));
            }
        }
    }
    lines
}

fn texts(reply: Reply) -> Vec<String> {
    let Reply::Array(Some(items)) = reply else { panic!("{reply:?}") };
    items.iter().map(|item| item.text().expect("a text")).collect()
}

async fn follow(replica: &Redis, primary: &Redis) {
    replica.run(&format!("REPLICAOF 127.0.0.1 {}", primary.port)).await;
    replica
        .until("it follows", |it| async { it.replication("master_link_status").await == "up" })
        .await;
}

/// Folders and files of unfinished backups.
fn leftovers(dir: &Path) -> Vec<String> {
    let list = Command::new("find")
        .arg(dir)
        .args(["-name", "*.partial*", "-o", "-name", "*.tmp"])
        .output();
    let list = String::from_utf8(list.expect("find is installed").stdout).expect("ASCII");
    list.lines().map(str::to_owned).collect()
}

fn text(error: &BackupError) -> String {
    Chain(error).to_string()
}

fn part(backup: &Backup, index: usize) -> std::path::PathBuf {
    backup.dir.join(&backup.manifest.parts[index].name)
}

fn rewrite(backup: &Backup, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = backup.manifest.clone();
    change(&mut manifest);
    let json = serde_json::to_vec(&manifest).expect("a manifest is JSON");
    fs::write(backup.dir.join("manifest.json"), json).expect("the manifest is writable");
}

#[tokio::test]
async fn what_is_backed_up_from_a_replica_is_restored_key_by_key() {
    let (primary, replica) = (Redis::start(&[]).await, Redis::start(&[]).await);
    fill(&primary).await;
    follow(&replica, &primary).await;
    let login = Credentials { username: Some("backup".into()), password: "secret".into() };
    for redis in [&primary, &replica] {
        redis
            .run("ACL SETUSER backup on >secret resetkeys -@all +psync +replconf +ping +info")
            .await;
    }
    let sources =
        [&primary, &replica].map(|it| it.endpoint().with_credentials(Some(login.clone())));
    let (dir, store) = store();
    let options = BackupOptions { part_bytes_max: 50_000, ..BackupOptions::default() };
    let backup = take(&store, &sources, &options, at(1), |_| {}).await.unwrap();

    let manifest = &backup.manifest;
    assert_eq!(manifest.source.role, Role::Replica);
    assert_eq!(manifest.source.reason, "replica in step with its primary");
    assert_eq!(manifest.replid, primary.replication("master_replid").await);
    assert_eq!(backup.id, format!("{}/{}", manifest.replid, manifest.offset));
    let databases: Vec<_> =
        manifest.databases.iter().map(|d| (d.index, d.keys, d.expiring)).collect();
    assert_eq!(databases, [(0, 10_515, 501), (3, 5, 1)]);
    assert!(manifest.parts.len() > 3 && manifest.parts.iter().all(|part| part.bytes <= 50_000));
    let verification = backup.verification.clone().unwrap();
    assert!(verification.passed && verification.at == at(1), "{verification:?}");
    assert_eq!(
        (verification.keys, verification.redis_version.as_deref()),
        (10_520, Some("7.0.15"))
    );
    assert_eq!(store.newest_verified().unwrap(), Some(backup.clone()));
    assert_eq!(leftovers(dir.path()), [""; 0]);

    let target = Redis::start(&[]).await;
    let options = RestoreOptions::default();
    let restored =
        restore(&store, &backup.id, &target.endpoint(), &options, &quick(), |_| {}).await.unwrap();
    assert_eq!((restored.keys, restored.keys_now), (10_520, 10_520));
    assert_eq!(target.replication("role").await, "master");
    let (expected, found) = (content(&primary).await, content(&target).await);
    assert_eq!(expected.len(), 10_520);
    assert!(expected == found, "{:?}", expected.iter().zip(&found).find(|(a, b)| a != b));
    assert_eq!(target.run("SET still writable").await, "OK");
}

#[tokio::test]
async fn keys_that_expire_after_the_backup_do_not_fail_it() {
    let redis = Redis::start(&[]).await;
    commands(&redis, "0", &["SET stays 1", "SET goes 1 PX 300"]).await;
    let (_dir, store) = store();
    let backup = take(&store, &[redis.endpoint()], &quick(), at(1), |_| {}).await.unwrap();
    assert_eq!(backup.manifest.source.reason, "there is no replica");
    redis
        .until("the key is gone", |it| async { it.run("EXISTS goes").await == "Integer(0)" })
        .await;
    let verified = verify(&store, &backup.id, &quick(), at(2), |_| {}).await.unwrap();
    assert_eq!(verified.verification.unwrap().keys, 2);
    let target = Redis::start(&[]).await;
    let options = RestoreOptions::default();
    let restored =
        restore(&store, &backup.id, &target.endpoint(), &options, &quick(), |_| {}).await.unwrap();
    assert_eq!(restored.keys, 2);
    assert_eq!(target.run("EXISTS stays goes").await, "Integer(1)");
}

#[tokio::test]
async fn damage_of_every_kind_fails_verification_and_restore() {
    let redis = Redis::start(&[]).await;
    fill(&redis).await;
    let target = Redis::start(&[]).await;
    let (_dir, store) = store();
    let whole =
        take(&store, &[redis.endpoint()], &BackupOptions::default(), at(1), |_| {}).await.unwrap();
    let good = fs::read(part(&whole, 0)).unwrap();

    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    // As if it had been damaged before it was stored: every hash is right, the content is not.
    let mut raw = zstd::decode_all(&good[..]).unwrap();
    let position =
        raw.windows(40).position(|bytes| bytes.iter().all(u8::is_ascii_hexdigit)).unwrap();
    raw[position] ^= 1;
    let recompressed = zstd::encode_all(&raw[..], 1).unwrap();
    let cases: [(&str, Option<&[u8]>, &str); 5] = [
        ("a flipped bit", Some(&flipped), "part-000.zst"),
        ("a part cut short", Some(&good[..good.len() / 2]), "part-000.zst has"),
        ("a part that is missing", None, "No such file"),
        ("wrong content with right hashes", Some(&recompressed), "checksum"),
        ("another number of keys in the manifest", Some(&good), "other numbers of keys"),
    ];
    for (minute, (name, content, expected)) in (2..).zip(cases) {
        match content {
            Some(content) => fs::write(part(&whole, 0), content).unwrap(),
            None => fs::remove_file(part(&whole, 0)).unwrap(),
        }
        rewrite(&whole, |manifest| match name {
            "wrong content with right hashes" => {
                manifest.parts[0].bytes = recompressed.len() as u64;
                manifest.stored_bytes = recompressed.len() as u64;
                manifest.parts[0].sha256 = sha256(&recompressed);
            }
            "another number of keys in the manifest" => manifest.databases[1].keys += 1,
            _ => {}
        });
        let error = verify(&store, &whole.id, &quick(), at(minute), |_| {}).await.unwrap_err();
        assert!(text(&error).contains(expected), "{name}: {}", text(&error));
        let recorded = store.find(&whole.id).unwrap().verification.unwrap();
        assert_eq!((recorded.at, recorded.passed), (at(minute), false), "{name}");
        assert_eq!(recorded.failure, Some(text(&error)), "{name}");
        assert_eq!(store.newest_verified().unwrap(), None, "{name}");
        let options = RestoreOptions::default();
        let restored =
            restore(&store, &whole.id, &target.endpoint(), &options, &quick(), |_| {}).await;
        assert!(restored.is_err(), "{name}");
        assert_eq!(target.run("DBSIZE").await, "Integer(0)", "{name}");
    }
    // The control of the control: unharmed, it passes.
    fs::write(part(&whole, 0), &good).unwrap();
    rewrite(&whole, |_| {});
    assert!(verify(&store, &whole.id, &quick(), at(9), |_| {}).await.unwrap().verified());
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    format!("{:x}", Sha256::digest(bytes))
}

/// A server that takes long for its snapshot, and what kills it as soon as the first bytes have come.
async fn slow() -> Redis {
    let redis =
        Redis::start(&["--repl-diskless-sync", "yes", "--rdb-key-save-delay", "2000"]).await;
    redis.run("DEBUG POPULATE 20000 k 2000").await;
    redis
}

fn kill_at_first_byte(
    pid: u32,
) -> impl Fn(holdfast_supervisor::act::backup::Progress) + Send + Sync + 'static {
    let killed = AtomicBool::new(false);
    move |progress| {
        if progress.phase == Phase::Snapshot && !killed.swap(true, Ordering::Relaxed) {
            let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            assert!(killed.expect("kill is installed").success());
        }
    }
}

#[tokio::test]
async fn a_source_killed_in_the_middle_leaves_nothing_behind() {
    let redis = slow().await;
    let (dir, store) = store();
    let sources = [redis.endpoint()];
    let error =
        take(&store, &sources, &quick(), at(1), kill_at_first_byte(redis.pid)).await.unwrap_err();
    assert!(matches!(error, BackupError::NoSource(_)), "{error:?}");
    assert!(error.to_string().contains("during the transfer of the snapshot"), "{error}");
    assert_eq!(store.newest().unwrap(), None);
    assert_eq!(leftovers(dir.path()), [""; 0]);
    let error = take(&store, &sources, &quick(), at(2), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("cannot connect to 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_replica_killed_in_the_middle_is_replaced_by_the_primary() {
    let (primary, replica) = (Redis::start(&[]).await, slow().await);
    commands(&primary, "0", &["DEBUG POPULATE 20000 k 2000"]).await;
    follow(&replica, &primary).await;
    let (_dir, store) = store();
    let sources = [primary.endpoint(), replica.endpoint()];
    let progress = kill_at_first_byte(replica.pid);
    let backup = take(&store, &sources, &quick(), at(1), progress).await.unwrap();
    assert_eq!((backup.manifest.source.role, backup.manifest.keys()), (Role::Primary, 20_000));
    let reason = &backup.manifest.source.reason;
    assert!(
        reason.starts_with("no replica could be used; failed before: the backup from"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_target_is_not_overwritten_by_accident() {
    let (redis, target) = (Redis::start(&[]).await, Redis::start(&[]).await);
    commands(&redis, "0", &["SET a backup"]).await;
    commands(&target, "7", &["SET b target"]).await;
    let (_dir, store) = store();
    let id = take(&store, &[redis.endpoint()], &quick(), at(1), |_| {}).await.unwrap().id;
    let options = RestoreOptions::default();
    let run = |endpoint: Endpoint, options: RestoreOptions| {
        let (store, id) = (store.clone(), id.clone());
        async move { restore(&store, &id, &endpoint, &options, &quick(), |_| {}).await }
    };
    let error = run(target.endpoint(), options.clone()).await.unwrap_err();
    assert!(error.to_string().contains("it has 1 keys; empty it first, or overwrite"), "{error}");
    assert_eq!(content(&target).await.len(), 1);

    let replica = Redis::start(&[]).await;
    follow(&replica, &redis).await;
    let error = run(replica.endpoint(), options).await.unwrap_err();
    assert!(error.to_string().contains("it follows 127.0.0.1:"), "{error}");

    let overwrite = RestoreOptions { overwrite: true, ..RestoreOptions::default() };
    assert_eq!(run(target.endpoint(), overwrite.clone()).await.unwrap().keys, 1);
    assert_eq!(content(&target).await, content(&redis).await);
    run(replica.endpoint(), overwrite).await.unwrap();
    assert_eq!(replica.replication("role").await, "master");
}

#[tokio::test]
async fn a_target_that_cannot_load_gets_its_role_and_data_back() {
    let (redis, target) = (Redis::start(&[]).await, Redis::start(&[]).await);
    commands(&redis, "0", &["SET a 1"]).await;
    let (_dir, store) = store();
    let backup = take(&store, &[redis.endpoint()], &quick(), at(1), |_| {}).await.unwrap();
    // An RDB file of a version far ahead, whole in itself.
    let mut raw = b"REDIS0099\xff".to_vec();
    let mut crc = Crc64::new();
    crc.update(&raw);
    raw.extend_from_slice(&crc.value().to_le_bytes());
    let stored = zstd::encode_all(&raw[..], 1).unwrap();
    fs::write(part(&backup, 0), &stored).unwrap();
    rewrite(&backup, |manifest| {
        manifest.parts[0].bytes = stored.len() as u64;
        manifest.parts[0].sha256 = sha256(&stored);
        manifest.stored_bytes = stored.len() as u64;
        manifest.raw_bytes = raw.len() as u64;
        manifest.rdb_checksum = Some(format!("{:016x}", crc.value()));
        manifest.databases.clear();
    });
    follow(&target, &redis).await;
    let options = RestoreOptions { overwrite: true, ..RestoreOptions::default() };
    let result = restore(&store, &backup.id, &target.endpoint(), &options, &quick(), |_| {}).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BackupError::NotLoaded { .. }), "{}", text(&error));
    target
        .until("it follows again", |it| async {
            it.replication("master_link_status").await == "up"
        })
        .await;
    assert_eq!(target.replication("master_port").await, redis.port.to_string());
    assert_eq!(target.run("GET a").await, "1");

    let error = verify(&store, &backup.id, &quick(), at(2), |_| {}).await.unwrap_err();
    assert!(matches!(error, BackupError::NotLoaded { .. }), "{}", text(&error));
}

#[tokio::test]
async fn an_emptied_source_is_flagged_and_freezes_retention() {
    let redis = Redis::start(&[]).await;
    commands(&redis, "0", &["SET a 1", "SET b 1"]).await;
    let (_dir, store) = store();
    let sources = [redis.endpoint()];
    let good = take(&store, &sources, &quick(), at(1), |_| {}).await.unwrap();
    redis.run("FLUSHALL").await;
    for minute in [2, 3] {
        let empty = take(&store, &sources, &quick(), at(minute), |_| {}).await.unwrap();
        let reason = empty.manifest.suspicious.unwrap();
        assert!(reason.contains("has no keys, the backup before"), "{reason}");
        assert!(reason.contains(&good.id), "{reason}");
    }
    assert!(store.prune(1).unwrap().frozen.is_some());
    assert_eq!(store.list().unwrap().backups.len(), 3);
    let options = BackupOptions { accept_empty: true, ..quick() };
    let accepted = take(&store, &sources, &options, at(4), |_| {}).await.unwrap();
    assert_eq!(accepted.manifest.suspicious, None);
    assert!(store.prune(1).unwrap().frozen.is_none());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_and_servers_that_cannot_be_reached_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let redis = Redis::start(&[]).await;
    let nowhere = BackupStore::new(&file, "main");
    let error = take(&nowhere, &[redis.endpoint()], &quick(), at(1), |_| {}).await.unwrap_err();
    assert!(text(&error).contains("file/main: Not a directory"), "{}", text(&error));

    let (_dir, store) = store();
    let error = take(&store, &[], &quick(), at(1), |_| {}).await.unwrap_err();
    assert!(matches!(error, BackupError::NoSource(_)), "{error}");
    let (target, options) = (redis.endpoint(), RestoreOptions::default());
    let result = restore(&store, "nothing", &target, &options, &quick(), |_| {}).await;
    assert!(matches!(result, Err(BackupError::NotFound { .. })));
    assert!(Connection::open(&redis.endpoint()).await.is_ok());
}

#[tokio::test]
async fn there_is_one_backup_at_a_time_and_leftovers_of_a_crash_go() {
    let redis = slow().await;
    let (dir, store) = store();
    let crashed = dir.path().join("main").join("a".repeat(40)).join("base/5.partial");
    fs::create_dir_all(&crashed).unwrap();
    fs::write(crashed.join("part-000.zst"), "half").unwrap();
    let sources = [redis.endpoint()];
    let options = quick();
    let (begun, first_byte) = tokio::sync::watch::channel(false);
    let first = take(&store, &sources, &options, at(1), move |progress| {
        begun.send_replace(progress.phase == Phase::Snapshot);
    });
    let second = async {
        let mut first_byte = first_byte;
        first_byte.wait_for(|begun| *begun).await.unwrap();
        assert!(!crashed.exists());
        take(&store, &sources, &options, at(2), |_| {}).await
    };
    tokio::select! {
        _ = first => panic!("it takes 40 s"),
        error = second => assert!(matches!(error, Err(BackupError::Busy(_)))),
    }
}
