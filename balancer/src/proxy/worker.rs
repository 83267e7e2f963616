//! A worker: one thread with a runtime of its own, on which a connection stays from accept to close.
//!
//! No task moves between threads and no lock is taken per byte: client, server and timers of a connection are on one core, where they
//! wake each other without a system call. Uneven load is met when a connection arrives: a worker that has clearly more than the least
//! loaded one hands it over. Workers are told what to do by bounded channels; they never wait for each other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::accept::Door;
use super::listener::{Listener, Settings};
use super::registry::{Listed, Selection};
use super::session::{Session, TICK};
use super::stream::Stream;
use super::upstream::Idle;
use super::{http, registry, tcp, welcome};
use crate::config::Mode;
use crate::limits::Place;
use crate::metrics::{Close, Metrics, Rejection};
use crate::published::{self, Local};
use crate::sight;

/// Commands that may wait for a worker; beyond it a handed-over connection stays where it is.
const COMMANDS_MAX: usize = 1_024;
/// A worker hands over what comes when it has more than the least loaded one by this number plus a quarter.
const IMBALANCE_MIN: usize = 8;
/// Accepting fails for want of file descriptors; some become free when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept connections here.
    Listen(Arc<Listener>),
    /// Serve a connection that another worker has accepted.
    Serve(Arc<Listener>, std::net::TcpStream, SocketAddr),
    /// End the connections that are bound to this server.
    CloseServer(u64, Close),
    /// List selected connections, at most so many, by ascending number.
    List(Selection, usize, oneshot::Sender<Vec<Listed>>),
    /// Count selected connections.
    Count(Selection, oneshot::Sender<usize>),
    /// Tell selected connections to leave, at most so many, and say how many that were.
    Dismiss(Selection, usize, Close, oneshot::Sender<usize>),
    /// Let connections end after what is in flight.
    Finish,
    /// End every connection now.
    CloseAll(Close),
    /// End the thread.
    Stop,
}

/// A worker as other threads know it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    active: Arc<AtomicUsize>,
}

impl Handle {
    /// A worker's mailbox, and the handle that fills it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, mailbox) = mpsc::channel(COMMANDS_MAX);
        (Self { commands, active: Arc::default() }, mailbox)
    }

    /// Connections it has.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Tells it something. A worker that has ended takes no notice; the process is ending then.
    pub(crate) async fn tell(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("a worker has ended already");
        }
    }
}

/// What the worker's own tasks share.
pub(crate) struct Worker {
    index: usize,
    all: Arc<[Handle]>,
    metrics: Arc<Metrics>,
    clock: Rc<Cell<u32>>,
    sessions: RefCell<HashMap<u64, Rc<Session>>>,
    /// How many there were.
    began: Cell<u64>,
    idle: Rc<Idle>,
    finishing: Cell<bool>,
}

/// Runs worker `index` of `all` on this thread until it is told to stop.
pub(crate) fn run(
    index: usize,
    all: Arc<[Handle]>,
    mailbox: mpsc::Receiver<Command>,
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker {
        index,
        all,
        metrics,
        clock: Rc::default(),
        sessions: RefCell::default(),
        began: Cell::default(),
        idle: Rc::default(),
        finishing: Cell::new(false),
    });
    runtime.block_on(worker.work(mailbox));
    // The connections have ended with the runtime's tasks; their last lines are here.
    sight::flush();
    Ok(())
}

impl Worker {
    async fn work(self: Rc<Self>, mut mailbox: mpsc::Receiver<Command>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look_over(),
                command = mailbox.recv() => match command {
                    None | Some(Command::Stop) => return,
                    Some(command) => self.obey(command),
                },
            }
        }
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Listen(listener) => {
                tokio::task::spawn_local(Rc::clone(self).accept(listener));
            }
            Command::Serve(listener, stream, peer) => match TcpStream::from_std(stream) {
                Ok(stream) => self.serve(listener, stream, peer),
                Err(error) => tracing::debug!(%error, "cannot take a connection over"),
            },
            Command::CloseServer(server, close) => {
                self.idle.forget(server);
                self.each_session(|session| {
                    if session.server() == server {
                        session.stop(close);
                    }
                });
            }
            // Whoever asked may have lost patience.
            Command::List(selection, max, reply) => {
                let _ = reply.send(selection.list(&self.sessions.borrow(), max));
            }
            Command::Count(selection, reply) => {
                let _ = reply.send(selection.count(&self.sessions.borrow()));
            }
            Command::Dismiss(selection, max, cause, reply) => {
                let _ = reply.send(selection.dismiss(&self.sessions.borrow(), max, cause));
            }
            Command::Finish => {
                self.finishing.set(true);
                self.each_session(Session::finish);
            }
            Command::CloseAll(close) => self.each_session(|session| session.stop(close)),
            // Handled by the loop.
            Command::Stop => {}
        }
    }

    fn each_session(&self, act: impl Fn(&Session)) {
        self.sessions.borrow().values().for_each(|session| act(session));
    }

    /// Ends what is overdue.
    fn look_over(&self) {
        self.clock.set(self.clock.get() + 1);
        sight::flush();
        // Settings are looked up once per listener, not once per session.
        let mut known: Option<(*const Listener, Rc<Local<Settings>>)> = None;
        for session in self.sessions.borrow().values() {
            let listener = Arc::as_ptr(&session.listener);
            if known.as_ref().is_none_or(|(pointer, _)| *pointer != listener) {
                known = Some((listener, session.listener.local_settings()));
            }
            if let Some((_, settings)) = &known {
                session.look_over(&settings.config);
            }
        }
        self.idle.tidy();
        // What was replaced, a key of a certificate among it, goes also where no request comes.
        published::forget();
    }

    async fn accept(self: Rc<Self>, listener: Arc<Listener>) {
        let door = match listener.socket().and_then(Door::new) {
            Ok(door) => door,
            // The program ended, or a reload dropped the listener, before this worker came to it.
            Err(_) if listener.is_closed() => return,
            Err(error) => {
                listener.metrics.accept_failures.inc();
                return tracing::error!(address = %listener.address(), %error, "cannot listen");
            }
        };
        // Waited for once: all workers share what keeps who waits.
        let mut closed = pin!(listener.closed());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closed => return,
                accepted = door.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.place(&listener, stream, peer),
                Err(error) => {
                    listener.metrics.accept_failures.inc();
                    tracing::warn!(address = %listener.address(), %error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a new connection here or where there is clearly less to do.
    fn place(self: &Rc<Self>, listener: &Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
        listener.metrics.connections.inc();
        let limit = i64::from(listener.local_settings().config.connections_max);
        if listener.metrics.active.get() >= limit {
            listener.metrics.reject(Rejection::ConnectionLimit);
            return;
        }
        let mine = self.all[self.index].active();
        let least = self.all.iter().min_by_key(|worker| worker.active());
        if let Some(least) = least
            && mine > least.active() + least.active() / 4 + IMBALANCE_MIN
            && let Ok(place) = least.commands.try_reserve()
        {
            match stream.into_std() {
                Ok(stream) => place.send(Command::Serve(Arc::clone(listener), stream, peer)),
                Err(error) => tracing::debug!(%error, "cannot hand a connection over"),
            }
            return;
        }
        self.serve(Arc::clone(listener), stream, peer);
    }

    fn serve(self: &Rc<Self>, listener: Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
        let settings = listener.local_settings();
        let mut place = None;
        // Behind a PROXY header the client is not known yet.
        if !settings.config.proxy_protocol {
            match settings.protection.admit(peer.ip()) {
                Ok(taken) => place = taken,
                Err(reason) => {
                    listener.metrics.reject(reason);
                    let clear = settings.config.tls.is_none();
                    if clear && settings.config.mode == Mode::Http {
                        http::turn_away(stream, reason);
                    }
                    return;
                }
            }
        }
        let mut guard = SessionGuard::new(Rc::clone(self), listener, peer);
        guard.occupy(place);
        let idle = Rc::clone(&self.idle);
        if settings.has_preface() {
            tokio::task::spawn_local(welcome::serve(guard, idle, stream, peer));
            return;
        }
        match settings.config.mode {
            Mode::Http => {
                tokio::task::spawn_local(http::serve(
                    guard,
                    idle,
                    Stream::from(stream).into(),
                    peer,
                ));
            }
            Mode::Tcp => {
                tokio::task::spawn_local(tcp::serve(guard, stream.into(), peer));
            }
        }
    }
}

/// A session's place in its worker's list and in the figures, given back when it is dropped.
pub(crate) struct SessionGuard {
    worker: Rc<Worker>,
    session: Rc<Session>,
    number: u64,
    /// One of many on its connection, which is counted.
    is_stream: bool,
    /// The client's count of connections, where it is kept.
    place: Option<Box<Place>>,
}

impl SessionGuard {
    fn new(worker: Rc<Worker>, listener: Arc<Listener>, peer: SocketAddr) -> Self {
        listener.metrics.active.inc();
        worker.all[worker.index].active.fetch_add(1, Ordering::Relaxed);
        Self::register(worker, listener, peer, false)
    }

    /// A session for a stream of this one's connection, in the list like any other.
    pub(crate) fn stream(&self, peer: SocketAddr) -> Self {
        Self::register(Rc::clone(&self.worker), Arc::clone(&self.session.listener), peer, true)
    }

    fn register(
        worker: Rc<Worker>,
        listener: Arc<Listener>,
        peer: SocketAddr,
        is_stream: bool,
    ) -> Self {
        let session = Rc::new(Session::new(listener, Rc::clone(&worker.clock), peer));
        if worker.finishing.get() {
            session.finish();
        }
        let number = registry::number(worker.began.get(), worker.index);
        worker.began.set(worker.began.get() + 1);
        worker.sessions.borrow_mut().insert(number, Rc::clone(&session));
        Self { worker, session, number, is_stream, place: None }
    }

    /// Counts it among its client's connections until it ends.
    pub(crate) fn occupy(&mut self, place: Option<Box<Place>>) {
        self.place = place;
    }

    pub(crate) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Counts why it ended.
    pub(crate) fn end(self, close: Close) {
        if !self.is_stream {
            self.session.listener.metrics.close(close);
            self.session.end_draft(Some(close));
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.worker.metrics.panics.inc();
            tracing::error!("a connection's task panicked");
        }
        self.worker.sessions.borrow_mut().remove(&self.number);
        if self.is_stream {
            return;
        }
        self.session.listener.metrics.active.dec();
        self.worker.all[self.worker.index].active.fetch_sub(1, Ordering::Relaxed);
    }
}
