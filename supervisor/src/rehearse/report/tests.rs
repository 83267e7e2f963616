use super::*;

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_795_230_900_000 + millis).unwrap()
}

fn expectation(what: &str, expected: &str, measured: &str, is_met: bool) -> Expectation {
    Expectation {
        what: what.to_owned(),
        expected: expected.to_owned(),
        measured: Some(measured.to_owned()),
        is_met: Some(is_met),
    }
}

fn report() -> Report {
    Report {
        run: "20261121T031500Z-redis-primary-crash".to_owned(),
        scenario: "redis-primary-crash".to_owned(),
        hypothesis: "A replica takes over".to_owned(),
        by: "ada".to_owned(),
        verdict: Verdict::Fail,
        started_at: at(0),
        finished_at: at(14_000),
        fault: Some(FaultRecord {
            after_ms: 3_100,
            action: "killed".to_owned(),
            program: "redis-server".to_owned(),
            target: "127.0.0.1:7001".to_owned(),
            pid: Some(4711),
        }),
        rto_seconds: Some(1.25),
        rto_limit_seconds: 1.0,
        rpo_messages: Some(0),
        rpo_limit_messages: 0,
        first_ack_seconds: Some(1.24),
        recovery_seconds: Some(8.0),
        recovery_limit_seconds: 60.0,
        availability_ratio: Some(0.75),
        messages_sent: Some(80),
        messages_acked: Some(60),
        expectations: vec![
            expectation(
                "longest time without an acknowledged message (RTO)",
                "1 s",
                "1.25 s",
                false,
            ),
            expectation("acknowledged messages lost (RPO)", "0", "0", true),
        ],
        failures: vec!["no message was acknowledged for 1.25 s; the limit is 1 s".to_owned()],
        timeline: vec![Moment {
            after_ms: 3_240,
            kind: "redis_verdict".to_owned(),
            severity: "critical".to_owned(),
            subject: "redis/main".to_owned(),
            message: "primary 127.0.0.1:7001 is down".to_owned(),
            reasons: vec![
                Reason { favours: true, text: "its port refuses\nconnections".to_owned() },
                Reason { favours: false, text: "seen by *one* probe".to_owned() },
            ],
        }],
        versions: Versions { holdfast: "0.1.0".to_owned(), redis: vec!["7.0.15".to_owned()] },
    }
}

#[test]
fn people_read_this() {
    let expected = "\
# Drill redis-primary-crash: fail

A replica takes over.

- run: `20261121T031500Z-redis-primary-crash`, asked for by ada
- from 2026-11-21T03:15:00Z to 2026-11-21T03:15:14Z
- fault: killed redis-server 127.0.0.1:7001 (process 4711) at +3100 ms
- canary from the fault to the recovery: 60 of 80 messages acknowledged (75.00 %)
- first message after the fault acknowledged after 1.240 s
- versions: Holdfast 0.1.0, Redis 7.0.15

## Expectations

| expectation | limit | measured | met |
|---|---|---|---|
| longest time without an acknowledged message (RTO) | 1 s | 1.25 s | **no** |
| acknowledged messages lost (RPO) | 0 | 0 | yes |

## Failures

- no message was acknowledged for 1.25 s; the limit is 1 s

## Timeline

- `+3240 ms` redis/main: primary 127.0.0.1:7001 is down (redis_verdict)
  - because: its port refuses connections
  - despite: seen by \\*one\\* probe
";
    assert_eq!(report().markdown(), expected);
}

#[test]
fn an_aborted_run_says_why_and_that_nothing_was_struck() {
    let aborted = Report {
        verdict: Verdict::Aborted,
        fault: None,
        messages_sent: None,
        first_ack_seconds: None,
        failures: vec!["ada wanted it".to_owned()],
        ..report()
    };
    let text = aborted.markdown();
    assert!(text.contains("- fault: none, nothing was struck\n- versions"), "{text}");
    assert!(text.contains("## Why it was aborted\n\n- ada wanted it\n"), "{text}");
}

#[test]
fn programs_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let report_dir = dir.path().join("drills");
    report().write(&report_dir).unwrap();
    let json = fs::read(report_dir.join("20261121T031500Z-redis-primary-crash.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    for (pointer, value) in [
        ("/run", serde_json::json!("20261121T031500Z-redis-primary-crash")),
        ("/verdict", serde_json::json!("fail")),
        ("/started_at", serde_json::json!("2026-11-21T03:15:00Z")),
        ("/rto_seconds", serde_json::json!(1.25)),
        ("/rto_limit_seconds", serde_json::json!(1.0)),
        ("/rpo_messages", serde_json::json!(0)),
        ("/rpo_limit_messages", serde_json::json!(0)),
        ("/timeline/0/after_ms", serde_json::json!(3240)),
        ("/timeline/0/reasons/1/favours", serde_json::json!(false)),
        ("/expectations/0/is_met", serde_json::json!(false)),
    ] {
        assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
    }
    let mut names: Vec<_> = fs::read_dir(&report_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["20261121T031500Z-redis-primary-crash.json", "20261121T031500Z-redis-primary-crash.md"]
    );
}

#[test]
fn the_oldest_runs_go_first_and_nothing_else_goes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["20260101T000000Z-a", "20260201T000000Z-a", "20260301T000000Z-b", "notes"] {
        for extension in ["md", "json"] {
            fs::write(dir.path().join(format!("{name}.{extension}")), "{}").unwrap();
        }
    }
    prune(dir.path(), 2).unwrap();
    let exists = |name: &str| dir.path().join(name).exists();
    assert!(!exists("20260101T000000Z-a.json") && !exists("20260101T000000Z-a.md"));
    assert!(exists("20260201T000000Z-a.json") && exists("20260301T000000Z-b.md"));
    assert!(exists("notes.json"));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = report().write(&file.path().join("drills")).unwrap_err();
    let expected = format!("write the drill report {}/drills", file.path().display());
    assert_eq!(error.to_string(), expected);
}
