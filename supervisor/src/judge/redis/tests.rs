use super::*;

const PRIMARY: u16 = 1;

#[expect(clippy::disallowed_methods, reason = "tests begin at some instant")]
fn start() -> Instant {
    Instant::now()
}

fn address(port: u16) -> Address {
    Address::new("h", port)
}

fn sample(at: Instant, role: RedisRole) -> Sample {
    let is_replica = role == RedisRole::Replica;
    Sample {
        at,
        role,
        run_id: "run".to_owned(),
        replid: "history".to_owned(),
        replid2: None,
        forked_at: None,
        offset: 100,
        link_up: is_replica.then_some(true),
        syncing: false,
        follows: is_replica.then(|| address(PRIMARY)),
        quiet_seconds: Some(0),
        priority: 100,
        loading: false,
        replicas: if is_replica { 0 } else { 2 },
        version: "7.0.15".to_owned(),
    }
}

/// A primary and two replicas that are well, and changes to them.
struct World {
    now: Instant,
    views: Vec<ServerView>,
    lineage: Lineage,
    confirmed: bool,
    alone: bool,
}

impl World {
    fn new() -> Self {
        let past = start();
        let now = past + Duration::from_millis(100);
        let view = |port, role| ServerView {
            link: Link::Open,
            answered_at: Some(now),
            sample: Some(sample(now, role)),
            moved: Some((past, now)),
            ..ServerView::new(address(port), past)
        };
        let views = vec![
            view(PRIMARY, RedisRole::Primary),
            view(2, RedisRole::Replica),
            view(3, RedisRole::Replica),
        ];
        let lineage = Lineage::of(views[0].sample.as_ref().unwrap());
        Self { now, views, lineage, confirmed: true, alone: true }
    }

    fn sample(&mut self, index: usize) -> &mut Sample {
        self.views[index].sample.as_mut().unwrap()
    }

    /// The primary has been silent for this long, and a fresh connection found that.
    fn silent(mut self, milliseconds: u64, fresh: Option<Fresh>) -> Self {
        let since = self.now;
        self.now += Duration::from_millis(milliseconds);
        self.views[0].waiting_since = Some(since);
        self.views[0].fresh = fresh.map(|fresh| (self.now, fresh));
        for index in [1, 2] {
            self.views[index].sample.as_mut().unwrap().at = self.now;
        }
        self
    }

    fn link(mut self, link: Link, milliseconds: u64) -> Self {
        self.views[0].link = link;
        self.views[0].link_since = self.now;
        self.now += Duration::from_millis(milliseconds);
        for index in [1, 2] {
            self.views[index].sample.as_mut().unwrap().at = self.now;
        }
        self
    }

    /// What the kernel says of the primary's process, which last worked this long ago and has been so since.
    fn process(mut self, state: ProcessState, idle_milliseconds: u64) -> Self {
        let worked_at = self.now.checked_sub(Duration::from_millis(idle_milliseconds)).unwrap();
        let looked_at = self.now;
        let since = worked_at;
        self.views[0].process =
            Some(Process { pid: 42, state, since, ticks: 7, looked_at, worked_at });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn judge(&self) -> Judgement {
        let primary = address(PRIMARY);
        judge(
            &self.views,
            &Context {
                now: self.now,
                primary: &primary,
                lineage: Some(&self.lineage),
                confirmed: self.confirmed,
                probe_timeout: Duration::from_millis(500),
                hang_after: Duration::from_secs(1),
                alone: self.alone,
            },
        )
    }
}

fn silent_replicas(world: &mut World) {
    for index in [1, 2] {
        world.sample(index).link_up = Some(false);
    }
}

fn moving_replica(world: &mut World) {
    let before = world.now;
    world.now += Duration::from_millis(50);
    world.views[2].moved = Some((before, world.now));
}

#[expect(clippy::too_many_lines, reason = "a table, a case per entry")]
fn without_answers() -> Vec<(&'static str, World, Verdict)> {
    use Verdict as V;
    let unreachable = || Link::Unreachable("no route".to_owned());
    vec![
        ("all is well", World::new(), V::PrimaryHealthy),
        (
            "connection lost, nothing else known",
            World::new().link(Link::Closed("reset".into()), 0),
            V::PrimarySuspect,
        ),
        ("refused: dead at once", World::new().link(Link::Refused, 0), V::PrimaryDead),
        (
            "refused, replicas have not noticed yet",
            World::new().link(Link::Refused, 100),
            V::PrimaryDead,
        ),
        (
            "refused, replicas still hear it later",
            World::new().link(Link::Refused, 400),
            V::PrimaryUnreachableFromHere,
        ),
        (
            "refused, replicas lost it",
            World::new().link(Link::Refused, 400).with(silent_replicas),
            V::PrimaryDead,
        ),
        ("a probe under way", World::new().silent(300, None), V::PrimaryHealthy),
        ("a probe late", World::new().silent(600, None), V::PrimarySuspect),
        (
            "silent for long, not tried otherwise yet",
            World::new().silent(1500, None),
            V::PrimarySuspect,
        ),
        (
            "silent, host accepts, replicas still",
            World::new().silent(1000, Some(Fresh::Silent)),
            V::PrimaryHung,
        ),
        (
            "silent, host accepts, a replica receives",
            World::new().silent(1500, Some(Fresh::Silent)).with(moving_replica),
            V::PrimaryUnreachableFromHere,
        ),
        (
            "silent, but answers others",
            World::new().silent(1500, Some(Fresh::Answered)),
            V::PrimaryBusy,
        ),
        (
            "silent, then refuses",
            World::new().silent(600, Some(Fresh::Refused)).with(silent_replicas),
            V::PrimaryDead,
        ),
        (
            "silent before it ever answered as primary",
            World::new().silent(1500, Some(Fresh::Silent)).with(|w| w.confirmed = false),
            V::PrimarySuspect,
        ),
        (
            "host gone, stream had been moving",
            World::new().silent(1500, Some(Fresh::Unreachable("no answer".into()))),
            V::PrimaryHung,
        ),
        (
            "path gone, primary idle, replicas linked",
            World::new().silent(1500, Some(Fresh::Unreachable("no answer".into()))).with(|w| {
                for view in &mut w.views {
                    view.moved = None;
                }
            }),
            V::PrimaryUnreachableFromHere,
        ),
        (
            "no connection, replicas lost it too",
            World::new().link(unreachable(), 1500).with(silent_replicas),
            V::PrimaryHung,
        ),
        (
            "cut off together with a replica",
            World::new()
                .link(unreachable(), 1500)
                .with(silent_replicas)
                .with(|w| w.views[2].link = unreachable()),
            V::PrimaryUnreachableFromHere,
        ),
        (
            "the same as one of several, whom the others have to confirm",
            World::new().link(unreachable(), 1500).with(silent_replicas).with(|w| {
                w.views[2].link = unreachable();
                w.alone = false;
            }),
            V::PrimaryHung,
        ),
        ("no connection for a moment", World::new().link(unreachable(), 300), V::PrimarySuspect),
        (
            "no connection, nobody to ask",
            World::new().link(unreachable(), 1500).with(|w| {
                w.views[1].link = Link::Refused;
                w.views[2].link = Link::Refused;
            }),
            V::PrimaryUnreachableFromHere,
        ),
    ]
}

fn with_a_process() -> Vec<(&'static str, World, Verdict)> {
    use Verdict as V;
    let hangs = || World::new().silent(1100, Some(Fresh::Silent)).with(silent_replicas);
    vec![
        (
            "ends, and nothing is late yet",
            World::new().process(ProcessState::Exiting, 0),
            V::PrimaryExiting,
        ),
        ("is gone", World::new().process(ProcessState::Gone, 0), V::PrimaryExiting),
        (
            "is alive and answers",
            World::new().process(ProcessState::Asleep, 900),
            V::PrimaryHealthy,
        ),
        (
            "is stopped, not for long",
            World::new().silent(600, None).process(ProcessState::Stopped, 600),
            V::PrimarySuspect,
        ),
        ("is stopped", hangs().process(ProcessState::Stopped, 1100), V::PrimaryHung),
        (
            "was stopped before it was asked",
            World::new().silent(960, Some(Fresh::Silent)).process(ProcessState::Stopped, 1010),
            V::PrimaryHung,
        ),
        ("waits for its disk", hangs().process(ProcessState::Blocked, 1100), V::PrimaryHung),
        ("waits for a page", hangs().process(ProcessState::Blocked, 10), V::PrimaryBusy),
        (
            "works on something long, as is known before the time is up",
            World::new().silent(600, Some(Fresh::Silent)).process(ProcessState::Runnable, 0),
            V::PrimaryBusy,
        ),
        ("sleeps", hangs().process(ProcessState::Asleep, 1100), V::PrimaryHung),
        ("works on something long", hangs().process(ProcessState::Asleep, 10), V::PrimaryBusy),
        (
            "works on something for ever",
            World::new()
                .silent(30_001, Some(Fresh::Silent))
                .with(silent_replicas)
                .process(ProcessState::Asleep, 10),
            V::PrimaryHung,
        ),
    ]
}

fn with_answers() -> Vec<(&'static str, World, Verdict)> {
    use Verdict as V;
    vec![
        (
            "a long script",
            World::new().with(|w| w.views[0].complaint = Some("BUSY Redis is busy".into())),
            V::PrimaryBusy,
        ),
        (
            "loading as the process it was",
            World::new().with(|w| w.views[0].complaint = Some("LOADING".into())),
            V::PrimaryBusy,
        ),
        (
            "our password is wrong",
            World::new().with(|w| w.views[0].complaint = Some("NOAUTH".into())),
            V::Unknown,
        ),
        (
            "restarted with all its data",
            World::new().with(|w| {
                w.sample(0).run_id = "other".into();
                w.sample(0).replid = "new".into();
                w.sample(0).replid2 = Some("history".into());
            }),
            V::PrimaryHealthy,
        ),
        (
            "restarted with older data",
            World::new().with(|w| {
                w.sample(0).run_id = "other".into();
                w.sample(0).replid = "new".into();
                w.sample(0).replid2 = Some("history".into());
                w.sample(0).offset = 99;
            }),
            V::EmptyRestart,
        ),
        (
            "restarted empty",
            World::new().with(|w| {
                w.sample(0).run_id = "other".into();
                w.sample(0).replid = "new".into();
                w.sample(0).offset = 0;
            }),
            V::EmptyRestart,
        ),
        (
            "restarted and loading",
            World::new().with(|w| {
                w.sample(0).run_id = "other".into();
                w.sample(0).loading = true;
                w.views[0].complaint = Some("LOADING".into());
            }),
            V::EmptyRestart,
        ),
        (
            "restarted empty, and its replicas have copied that",
            World::new().with(|w| {
                for index in 0..3 {
                    w.sample(index).replid = "new".into();
                }
                w.sample(0).run_id = "other".into();
            }),
            V::PrimaryHealthy,
        ),
        (
            "made a replica by somebody",
            World::new().with(|w| w.sample(0).role = RedisRole::Replica),
            V::PrimaryDemoted,
        ),
        (
            "a second primary",
            World::new().with(|w| w.sample(2).role = RedisRole::Primary),
            V::TwoPrimaries,
        ),
        (
            "we were restarted, and a former primary has written on alone",
            World::new().with(|w| {
                w.lineage.run_id = None;
                w.lineage.replid2 = Some("former".into());
                w.sample(0).replid2 = Some("former".into());
                w.sample(2).replid = "former".into();
                w.sample(2).role = RedisRole::Primary;
                w.sample(2).offset += 1000;
            }),
            V::TwoPrimaries,
        ),
        ("no replica", World::new().with(|w| w.sample(0).replicas = 0), V::ReplicationBroken),
        ("not tried yet", World::new().link(Link::Untried, 0), V::Unknown),
    ]
}

#[test]
fn verdicts_follow_the_evidence() {
    let worlds = without_answers().into_iter().chain(with_a_process()).chain(with_answers());
    for (name, world, expected) in worlds {
        let judgement = world.judge();
        assert_eq!(judgement.verdict, expected, "{name}: {:#?}", judgement.reasons);
    }
}

#[test]
fn a_hang_is_explained() {
    let judgement = World::new().silent(1234, Some(Fresh::Silent)).judge();
    let texts: Vec<_> = judgement
        .reasons
        .iter()
        .map(|r| format!("{} {}", if r.favours { '+' } else { '-' }, r.text))
        .collect();
    assert_eq!(
        texts,
        [
            "+ h:1 has been silent for 1234 ms, the limit is 1000 ms",
            "+ its host accepts a fresh connection, it says nothing",
            "+ h:2 has received nothing from it since",
            "+ h:3 has received nothing from it since",
        ]
    );
}

#[test]
fn what_a_replica_received_some_time_ago_says_nothing_of_the_present() {
    // The path from the primary to this replica broke a moment after ours.
    let mut world = World::new()
        .silent(1500, Some(Fresh::Unreachable("no route".to_owned())))
        .with(|world| world.alone = false)
        .with(moving_replica);
    assert_eq!(world.judge().verdict, Verdict::PrimaryUnreachableFromHere);
    world.now += Duration::from_millis(1001);
    assert_eq!(world.judge().verdict, Verdict::PrimaryQuiet, "it may have nothing to send");
}
