use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_telemetry::metrics;
use redb::backends::FileBackend;
use redb::{Builder, StorageBackend};

use super::*;
use crate::record::event::{Kind, Severity};
use crate::record::store::Opener;

const PATIENCE: Duration = Duration::from_secs(30);

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn draft(kind: Kind, severity: Severity, subject: &str) -> Draft {
    Draft::new(kind, severity, subject, format!("{} of {subject}", kind.name()))
}

fn firing(subject: &str) -> Draft {
    draft(Kind::AlertFiring, Severity::Critical, subject).opens("NodeDown").because("up is 0")
}

fn resolved(subject: &str) -> Draft {
    draft(Kind::AlertResolved, Severity::Info, subject).closes("NodeDown")
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

struct Home {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        Self { _dir: dir, path }
    }

    fn open(&self) -> Journal {
        Journal::open(&self.path, Retention::default()).unwrap()
    }
}

#[test]
fn events_and_incidents_survive_a_restart() {
    let home = Home::new();
    let journal = home.open();
    let opened = journal.append(firing("node-1"), at(0));
    assert_eq!((opened.id, opened.incident), (1, Some(1)));
    let event = journal.append(draft(Kind::ActionTaken, Severity::Warning, "node-1"), at(1));
    assert_eq!((event.id, event.incident), (2, Some(1)));
    drop(journal);

    let journal = home.open();
    assert_eq!(journal.event(1), Some(opened));
    assert_eq!(journal.incidents(true, 10).len(), 1);
    let end = journal.append(resolved("node-1"), at(2));
    assert_eq!((end.id, end.incident), (3, Some(1)));
    let incident = journal.incident(1).unwrap();
    assert_eq!((incident.closed, incident.events), (Some(at(2)), 3));
    assert_eq!(journal.append(firing("node-2"), at(3)).incident, Some(2));
    assert!(journal.flush(PATIENCE));
    assert_eq!(journal.incident(1), Some(incident));
    let listed: Vec<_> = journal.incidents(false, 10).iter().map(|i| i.id).collect();
    assert_eq!(listed, [2, 1]);
}

#[test]
fn what_was_open_at_the_last_stop_is_closed_unless_it_is_seen_again() {
    let home = Home::new();
    let journal = home.open();
    journal.append(firing("node-1"), at(0));
    journal.append(firing("node-2"), at(0));
    drop(journal);

    let journal = home.open();
    journal.append(firing("node-2"), at(5));
    journal.close_unconfirmed(Utc::now(), at(9));
    let open: Vec<_> = journal.incidents(true, 10).into_iter().map(|i| i.subject).collect();
    assert_eq!(open, ["node-2"]);
    assert_eq!(journal.incident(1).unwrap().closed, Some(at(9)));
}

#[test]
fn filters_choose_and_page_whether_written_or_not() {
    let home = Home::new();
    let journal = home.open();
    for second in 0..10 {
        let subject = if second % 2 == 0 { "node-1" } else { "node-2" };
        let draft = if second == 4 {
            firing("node-1")
        } else {
            draft(Kind::Circuit, Severity::Info, subject)
        };
        journal.append(draft, at(second));
    }
    let cases: Vec<(Filter, Vec<u64>)> = vec![
        (Filter { limit: 3, ..Filter::default() }, vec![8, 9, 10]),
        (Filter { limit: 3, before_id: Some(8), ..Filter::default() }, vec![5, 6, 7]),
        (Filter { limit: 3, since_id: Some(2), ..Filter::default() }, vec![3, 4, 5]),
        (Filter { since_id: Some(3), before_id: Some(6), ..Filter::default() }, vec![4, 5]),
        (Filter { since_id: Some(6), before_id: Some(3), ..Filter::default() }, vec![]),
        (Filter { kind: Some(Kind::AlertFiring), ..Filter::default() }, vec![5]),
        (Filter { severity_min: Some(Severity::Warning), ..Filter::default() }, vec![5]),
        (Filter { subject: Some("node-2".into()), ..Filter::default() }, vec![2, 4, 6, 8, 10]),
        (Filter { incident: Some(1), ..Filter::default() }, vec![5, 7, 9]),
        (Filter { incident: Some(1), limit: 2, ..Filter::default() }, vec![7, 9]),
        (Filter { incident: Some(1), since_id: Some(5), ..Filter::default() }, vec![7, 9]),
        (Filter { limit: 0, ..Filter::default() }, vec![]),
    ];
    for round in ["pending or written", "written"] {
        for (filter, expected) in &cases {
            assert_eq!(ids(&journal.events(filter)), *expected, "{round}: {filter:?}");
        }
        assert!(journal.flush(PATIENCE));
    }
}

#[test]
fn retention_drops_the_oldest_but_no_open_incident() {
    let home = Home::new();
    let retention = Retention { events_max: 4, incidents_max: 2 };
    let journal = Journal::open(&home.path, retention).unwrap();
    journal.append(firing("node-0"), at(0));
    for second in 1..=4 {
        journal.append(firing("node-1"), at(second));
        journal.append(resolved("node-1"), at(second));
    }
    assert!(journal.flush(PATIENCE));
    assert_eq!(ids(&journal.events(&Filter::default())), [6, 7, 8, 9]);
    assert_eq!(journal.event(1), None);
    let of_first = Filter { incident: Some(1), ..Filter::default() };
    assert!(journal.events(&of_first).is_empty());
    let listed: Vec<_> = journal.incidents(false, 10).iter().map(|i| i.id).collect();
    assert_eq!(listed, [5, 1]);
}

#[test]
fn listeners_hear_every_event_in_order() {
    let home = Home::new();
    let journal = home.open();
    journal.append(firing("before"), at(0));
    let mut heard = journal.subscribe();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for second in 0..50 {
                    journal.append(draft(Kind::Circuit, Severity::Info, "node-1"), at(second));
                }
            });
        }
    });
    let heard: Vec<_> = (0..200).map(|_| heard.try_recv().unwrap().id).collect();
    assert_eq!(heard, (2..=201).collect::<Vec<_>>());
}

#[test]
fn a_damaged_file_is_moved_aside_and_said_so() {
    let home = Home::new();
    for content in [b"this is not a journal".repeat(1000), vec![0; 10_000], b"redb".to_vec()] {
        std::fs::write(&home.path, &content).unwrap();
        let journal = home.open();
        let events = journal.events(&Filter::default());
        assert_eq!(events.len(), 1, "{} bytes", content.len());
        assert!(events[0].message.contains(".damaged-"), "{}", events[0].message);
        assert_eq!(events[0].reasons.len(), 1);
        drop(journal);
        let damaged = std::fs::read_dir(home.path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().contains(".damaged-"))
            .unwrap();
        assert_eq!(std::fs::read(&damaged).unwrap(), content);
        std::fs::remove_file(damaged).unwrap();
        std::fs::remove_file(&home.path).unwrap();
    }
}

#[test]
fn damage_anywhere_in_the_file_never_keeps_the_supervisor_from_starting() {
    let home = Home::new();
    let journal = home.open();
    for second in 0..200 {
        journal.append(firing(&format!("node-{}", second % 7)), at(second));
    }
    drop(journal);
    let whole = std::fs::read(&home.path).unwrap();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let mut content = whole.clone();
        if round % 3 == 0 {
            content.truncate(random.usize(..content.len()));
        } else {
            let start = random.usize(..content.len() - 64);
            random.fill(&mut content[start..start + 64]);
        }
        std::fs::write(&home.path, &content).unwrap();
        let journal = home.open();
        let event = journal.append(firing("node-1"), at(999));
        assert!(journal.flush(PATIENCE), "seed {seed} round {round}");
        assert_eq!(journal.event(event.id), Some(event), "seed {seed} round {round}");
    }
}

#[test]
fn a_file_held_by_another_is_an_error_and_stays_where_it_is() {
    let home = Home::new();
    let first = home.open();
    first.append(firing("node-1"), at(0));
    let error = Journal::open(&home.path, Retention::default()).unwrap_err();
    assert!(Chain(&error).to_string().contains("cannot open the journal"), "{}", Chain(&error));
    assert!(home.path.exists());
    let error = Journal::open(Path::new("/nonexistent/journal.redb"), Retention::default());
    assert!(matches!(error, Err(JournalError::Open { .. })));
}

/// A disk that can be full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    fn refuse(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.refuse()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.refuse()?;
        self.file.write(offset, data)
    }
}

#[test]
fn a_full_disk_delays_events_and_loses_none() {
    let home = Home::new();
    let is_full = Arc::new(AtomicBool::new(false));
    let (path, full) = (home.path.clone(), Arc::clone(&is_full));
    let opener: Opener = Box::new(move || {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = FileBackend::new(file.map_err(redb::StorageError::Io)?)?;
        Builder::new().create_with_backend(Disk { file, is_full: Arc::clone(&full) })
    });
    let place = Place { path: home.path.clone(), opener };
    let found = place.open_or_begin().unwrap();
    let journal = Journal::start(found.database, found.left, place, Retention::default()).unwrap();
    let registry = Registry::new();
    journal.register(&registry);
    let mut heard = journal.subscribe();
    journal.append(firing("node-1"), at(0));
    assert!(journal.flush(PATIENCE));

    is_full.store(true, Ordering::SeqCst);
    journal.append(draft(Kind::ActionTaken, Severity::Info, "node-1"), at(1));
    let failures = || journal.shared.metrics.write_failures.get();
    // Each look lasts as long as the flush waits in vain.
    let failed = (0..150).any(|_| !journal.flush(Duration::from_millis(200)) && failures() > 0);
    assert!(failed, "no attempt to write was made");
    journal.append(resolved("node-1"), at(2));
    assert!((1..=3).all(|id| heard.try_recv().unwrap().id == id));
    assert!(journal.event(3).is_some());
    assert_eq!(journal.incident(1).unwrap().closed, Some(at(2)));
    let text = metrics::encode(&registry);
    assert!(!text.contains("supervisor_journal_write_failures_total 0"), "{text}");
    assert!(text.contains("supervisor_journal_events_total{kind=\"alert_firing\"} 1"), "{text}");
    assert!(text.contains("supervisor_incidents_open 0"), "{text}");

    is_full.store(false, Ordering::SeqCst);
    assert!(journal.flush(PATIENCE));
    assert_eq!(ids(&journal.events(&Filter::default())), [1, 2, 3]);
    drop(journal);
    assert_eq!(ids(&home.open().events(&Filter::default())), [1, 2, 3]);
}

#[test]
fn a_file_that_is_taken_away_is_missed_and_begun_anew() {
    let home = Home::new();
    let journal = home.open();
    journal.append(firing("node-1"), at(0));
    assert!(journal.flush(PATIENCE));
    std::fs::remove_file(&home.path).unwrap();
    journal.append(resolved("node-1"), at(1));
    assert!(journal.flush(PATIENCE));
    assert!(journal.shared.metrics.write_failures.get() > 0, "it was noticed");
    assert!(home.path.exists());
    drop(journal);
    assert_eq!(ids(&home.open().events(&Filter::default())), [2]);
}

#[test]
fn the_ring_is_bounded_while_the_disk_refuses() {
    let home = Home::new();
    let opener: Opener =
        Box::new(|| Err(redb::StorageError::Io(io::ErrorKind::StorageFull.into()).into()));
    let (database, left) = {
        let path = home.path.clone();
        let opener: Opener = Box::new(move || store::open_file(&path));
        store::open(&opener).unwrap()
    };
    let place = Place { path: home.path.clone(), opener };
    let journal = Journal::start(database, left, place, Retention::default()).unwrap();
    *journal.shared.database.write().unwrap() = None;
    let extra = 10;
    for second in 0..(PENDING_MAX + extra) {
        journal.append(
            draft(Kind::Circuit, Severity::Info, "node-1"),
            at(i64::try_from(second).unwrap()),
        );
    }
    assert_eq!(journal.shared.lock().pending.len(), PENDING_MAX);
    assert_eq!(journal.shared.metrics.dropped.get(), extra as u64);
    // Nothing can be written any more; dropping it would wait for that in vain.
    journal.shared.lock().pending.clear();
}
