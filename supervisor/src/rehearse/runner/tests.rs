use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::config;
use crate::observe::canary::Canary as CanaryTask;
use crate::record::Retention;
use crate::rehearse::conditions::tests::{redis, servers};
use crate::rehearse::victim;

/// A runner with a cluster that is well, but for a canary that has never sent anything.
struct Home {
    dir: tempfile::TempDir,
    config: Config,
    journal: Arc<Journal>,
    drafts: Arc<Mutex<Vec<Draft>>>,
    registry: Registry,
    control: mpsc::Sender<DrillCommand>,
    /// Held so that the parts count as running.
    _senders:
        (watch::Sender<ServersStatus>, watch::Sender<RedisStatus>, watch::Sender<Vec<AlertStatus>>),
    _canary: Option<CanaryTask>,
}

impl Home {
    fn open(change: impl FnOnce(&mut Config)) -> (Self, DrillRunner, watch::Receiver<DrillStatus>) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = victim::tests::config();
        config.drills.report_dir = dir.path().join("drills");
        change(&mut config);
        let journal = Journal::open(&dir.path().join("journal.redb"), Retention::default());
        let journal = Arc::new(journal.unwrap());
        let registry = Registry::new();
        let drafts = Arc::<Mutex<Vec<Draft>>>::default();
        let (kept, written) = (Arc::clone(&drafts), Arc::clone(&journal));
        let sink: Sink = Arc::new(move |draft: Draft| {
            kept.lock().unwrap().push(draft.clone());
            written.append(draft, Utc::now());
        });
        let (canary_task, canary) = match config.canary.clone() {
            Some(settings) => {
                let quiet: Sink = Arc::new(|_| {});
                let (task, handle, status) = CanaryTask::new(settings, &registry, quiet);
                (Some(task), Some((handle, status)))
            }
            None => (None, None),
        };
        let (servers_sender, servers) = watch::channel(servers());
        let (redis_sender, redis) = watch::channel(redis());
        let (alerts_sender, alerts) = watch::channel(Vec::new());
        let (control, commands) = mpsc::channel(4);
        let inputs = DrillInputs {
            config: &config,
            servers,
            redis: vec![redis],
            canary,
            alerts,
            journal: Arc::clone(&journal),
            balancer: None,
            commands,
        };
        let (runner, status) = DrillRunner::new(inputs, &registry, sink);
        let home = Self {
            dir,
            config,
            journal,
            drafts,
            registry,
            control,
            _senders: (servers_sender, redis_sender, alerts_sender),
            _canary: canary_task,
        };
        (home, runner, status)
    }

    fn drafts(&self) -> Vec<String> {
        self.drafts.lock().unwrap().iter().map(|draft| format!("{draft:?}")).collect()
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_230_900, 0).unwrap()
}

#[tokio::test]
async fn a_drill_that_would_prove_nothing_is_refused_with_the_reason() {
    type Change = fn(&mut Config);
    let cases: [(Change, &str, &str); 7] = [
        (|c| c.supervisor.observe_only = true, "chatnode-crash", "supervisor.observe_only is on"),
        (|c| c.canary = None, "chatnode-crash", "the canary is off"),
        (|c| c.nodes.truncate(1), "chatnode-crash", "there is no other chat node"),
        (
            |c| c.nodes[1].pid_file = None,
            "chatnode-crash",
            "the settings name no pid file for chatnode-2",
        ),
        (
            |c| c.redis[0].manager = Manager::None,
            "redis-primary-crash",
            "Redis is not managed by this supervisor",
        ),
        (|c| c.redis.clear(), "redis-primary-crash", "Redis is not managed by this supervisor"),
        (|_| {}, "slow-upstream", "the settings name no [balancer]"),
    ];
    for (change, scenario, expected) in cases {
        let (home, mut runner, _status) = Home::open(change);
        match runner.start(scenario, "ada", now()) {
            Err(ControlError::Refused(text)) => assert!(text.starts_with(expected), "{text}"),
            other => panic!("{expected}: {other:?}"),
        }
        assert!(home.drafts().is_empty());
    }
}

#[tokio::test]
async fn one_drill_at_a_time_none_during_an_incident_and_only_known_ones() {
    let (home, mut runner, _status) = Home::open(|_| {});
    let unknown = runner.start("chatnode-fire", "ada", now()).unwrap_err();
    assert_eq!(
        unknown,
        ControlError::NotFound(
            "there is no scenario \"chatnode-fire\"; there are chatnode-crash, redis-primary-crash, slow-upstream"
                .to_owned()
        )
    );
    let draft = Draft::new(Kind::AlertFiring, Severity::Warning, "backup", "backup too old");
    home.journal.append(draft.opens("BackupTooOld"), now());
    let refused = runner.start("chatnode-crash", "ada", now()).unwrap_err();
    assert_eq!(
        refused,
        ControlError::Refused("incident 1 (backup) is open: backup too old".to_owned())
    );
    let draft = Draft::new(Kind::AlertResolved, Severity::Info, "backup", "over");
    home.journal.append(draft.closes("BackupTooOld"), now());

    let id = runner.start("chatnode-crash", "ada", now()).unwrap();
    assert_eq!(id, "20261121T031500Z-chatnode-crash");
    let busy = runner.start("redis-primary-crash", "ben", now()).unwrap_err();
    assert_eq!(busy, ControlError::Busy(format!("drill {id} is running")));
}

#[tokio::test]
async fn an_aborted_drill_strikes_nothing_and_leaves_a_report() {
    let (home, runner, mut status) = Home::open(|_| {});
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(runner.run(shutdown.clone()));
    let (reply, answer) = oneshot::channel();
    let start = crate::control::StartDrill {
        scenario: "redis-primary-crash".to_owned(),
        by: "ada".to_owned(),
        reply,
    };
    home.control.send(DrillCommand::Start(start)).await.unwrap();
    let id = answer.await.unwrap().unwrap();
    status.wait_for(|status| status.phase.as_deref() == Some("steady_state")).await.unwrap();
    for expected in [Ok(()), Err(ControlError::Refused("no drill is running".to_owned()))] {
        let (reply, answer) = oneshot::channel();
        home.control.send(DrillCommand::Abort { by: "ben".to_owned(), reply }).await.unwrap();
        assert_eq!(answer.await.unwrap(), expected);
    }
    let last = status.wait_for(|status| status.verdict.is_some()).await.unwrap().clone();
    assert_eq!((last.run.as_deref(), last.phase.as_deref()), (Some(id.as_str()), Some("finished")));
    assert_eq!(last.verdict.as_deref(), Some("aborted"));
    shutdown.cancel();
    task.await.unwrap();

    let json = std::fs::read(home.dir.path().join(format!("drills/{id}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["failures"], serde_json::json!(["ben aborted it"]));
    assert_eq!(
        (&json["fault"], &json["rto_seconds"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(json["timeline"][0]["kind"], "drill_started");
    let kinds: Vec<_> = home.drafts().iter().map(|draft| draft.contains("DrillFinished")).collect();
    assert_eq!(kinds, [false, true]);
    let text = holdfast_telemetry::metrics::encode(&home.registry);
    let line = "supervisor_drills_total{scenario=\"redis-primary-crash\",verdict=\"aborted\"} 1\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("{scenario=\"chatnode-crash\",verdict=\"fail\"} 0\n"), "{text}");
}

#[tokio::test]
async fn the_end_of_the_supervisor_ends_the_drill() {
    let (home, mut runner, status) = Home::open(|_| {});
    let id = runner.start("chatnode-crash", "ada", now()).unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    runner.run(shutdown).await;
    assert_eq!(status.borrow().verdict.as_deref(), Some("aborted"));
    assert!(home.dir.path().join(format!("drills/{id}.md")).exists());
}

#[tokio::test]
async fn a_scheduled_drill_that_is_refused_is_in_the_journal() {
    let (home, mut runner, _status) = Home::open(|config| {
        config.nodes[1].pid_file = None;
        for cron in ["0 3 * * 6", "30 2 * * *"] {
            let scenario = "chatnode-crash".to_owned();
            config.drills.schedule.push(config::DrillSchedule { scenario, cron: cron.to_owned() });
        }
    });
    for planned in &mut runner.schedule {
        planned.plan(now());
    }
    let (name, at) = runner.next().unwrap();
    assert_eq!(name, "chatnode-crash");
    assert!(at > now() && at <= now() + chrono::Duration::days(1), "{at}");
    runner.start_due(at - chrono::Duration::seconds(1));
    assert!(home.drafts().is_empty());
    runner.start_due(at);
    let drafts = home.drafts();
    assert_eq!(drafts.len(), 1);
    assert!(
        drafts[0].contains("ActionWithheld") && drafts[0].contains("no pid file"),
        "{drafts:?}"
    );
    assert!(runner.next().unwrap().1 > at);
    assert_eq!(home.config.drills.schedule.len(), 2);
}
