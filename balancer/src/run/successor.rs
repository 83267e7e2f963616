//! Who follows this process: started when a signal or an operator asks for it, and given what it needs.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use holdfast_telemetry::errors::Chain;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::admin::doors::Keeper;
use crate::control::{Balancer, UpgradeOrder};
use crate::handover::{self, Program, TakenOver, UpgradeError, service};

/// An order that waits while another is carried out is refused, not queued.
const ORDERS_MAX: usize = 1;

/// How another process is started in place of this one.
pub(super) struct Successor {
    program: Option<Program>,
    /// The operator API's sockets.
    doors: Vec<(String, OwnedFd)>,
    timeout: Duration,
    orders: mpsc::Receiver<UpgradeOrder>,
}

impl Successor {
    /// Also where orders for it go.
    pub(super) fn new(
        program: Option<Program>,
        doors: Vec<(String, OwnedFd)>,
        timeout: Duration,
    ) -> (Self, mpsc::Sender<UpgradeOrder>) {
        let (order, orders) = mpsc::channel(ORDERS_MAX);
        (Self { program, doors, timeout, orders }, order)
    }

    /// Returns the process that has taken over; one that does not get so far changes nothing.
    pub(super) async fn take_over_on(
        mut self,
        balancer: &Balancer,
        doors: &Keeper,
        mut signals: Signal,
    ) -> TakenOver {
        loop {
            let order = tokio::select! {
                _ = signals.recv() => {
                    balancer.note_upgrade("SIGUSR2");
                    None
                }
                Some(order) = self.orders.recv() => Some(order),
            };
            service::notify_reloading();
            balancer.make_way().await;
            let (taken_over, answer) = match self.take_over(balancer).await {
                Ok(taken_over) => {
                    // Who hears that it has been done shall reach the new process.
                    doors.close().await;
                    let process = taken_over.process;
                    (Some(taken_over), Ok(process))
                }
                Err(error) => {
                    stay(balancer, &error);
                    (None, Err(error))
                }
            };
            if let Some(order) = order {
                // Whoever asked may have lost patience.
                let _ = order.send(answer);
            }
            if let Some(taken_over) = taken_over {
                return taken_over;
            }
        }
    }

    async fn take_over(&self, balancer: &Balancer) -> Result<TakenOver, UpgradeError> {
        let program = self.program.clone().ok_or(UpgradeError::NoProgram)?;
        tracing::info!(file = %program.file.display(), "starting a process to take over");
        let mut sockets = balancer.sockets().map_err(UpgradeError::Send)?;
        for (purpose, socket) in &self.doors {
            let socket = socket.try_clone().map_err(UpgradeError::Send)?;
            sockets.push((purpose.clone(), socket));
        }
        handover::upgrade(program, sockets, balancer.state(), self.timeout).await
    }
}

/// Goes on, because of `error`.
fn stay(balancer: &Balancer, error: &UpgradeError) {
    balancer.stay();
    balancer.metrics().upgrade_failures.inc();
    let reasons = match error {
        UpgradeError::Refused { reasons } => reasons.as_slice(),
        _ => &[],
    };
    tracing::error!(error = %Chain(error), ?reasons, "upgrade failed, this process serves on");
    service::notify("READY=1");
}

/// The operator API's sockets once more, for the process that follows.
pub(super) fn doors(
    tcp: &TcpListener,
    unix: Option<&UnixListener>,
) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut doors = vec![(handover::ADMIN.to_owned(), tcp.try_clone()?.into())];
    if let Some(unix) = unix {
        doors.push((handover::ADMIN_UNIX.to_owned(), unix.try_clone()?.into()));
    }
    Ok(doors)
}
