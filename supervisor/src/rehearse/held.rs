//! A fault that is in: in a process of this host, or in the balancer on the way to a server.
//!
//! Both end by themselves if the drill cannot end them: a process goes on when its fault is dropped, and the balancer knows a lease, so
//! that a supervisor that dies in the middle of a drill leaves nothing behind.

use std::time::Duration;

use tokio::time::Instant;

use super::faults::{FaultError, Injected};
use crate::act::upstreams::{HoldfastBalancer, UpstreamError};

/// Why a fault could not be taken out.
#[derive(Debug, thiserror::Error)]
pub(super) enum UndoError {
    #[error(transparent)]
    Process(#[from] FaultError),
    #[error(transparent)]
    Balancer(#[from] UpstreamError),
}

/// A fault that is in.
#[derive(Debug)]
pub(super) enum Held {
    Process(Injected),
    /// At the balancer.
    Way {
        balancer: HoldfastBalancer,
        fault: u64,
        /// When its lease is over.
        until: Instant,
        is_over: bool,
    },
}

impl Held {
    /// A delay of what begins at `server`, for as long as `lease`.
    pub(super) async fn delay(
        balancer: &HoldfastBalancer,
        server: &str,
        delay: Duration,
        lease: Duration,
        reason: &str,
    ) -> Result<Self, UpstreamError> {
        let fault = balancer.delay(server, delay, lease, reason).await?;
        let until = Instant::now() + lease;
        Ok(Self::Way { balancer: balancer.clone(), fault, until, is_over: false })
    }

    /// The process it is in, if it is in one.
    pub(super) fn pid(&self) -> Option<i32> {
        match self {
            Self::Process(injected) => Some(injected.process().pid()),
            Self::Way { .. } => None,
        }
    }

    /// Whether it has passed: another process has taken the place of the one that was killed, or the balancer knows of it no more.
    pub(super) async fn is_over(&mut self) -> bool {
        match self {
            Self::Process(injected) => injected.is_replaced(),
            Self::Way { balancer, fault, until, is_over } => {
                if !*is_over && Instant::now() >= *until {
                    match balancer.faults().await {
                        Ok(faults) => *is_over = !faults.contains(fault),
                        // Not known is not over; the next look asks again.
                        Err(error) => {
                            let error = holdfast_telemetry::errors::Chain(&error);
                            tracing::debug!(%error, "cannot ask whether a fault is over");
                        }
                    }
                }
                *is_over
            }
        }
    }

    /// Takes it out. Does nothing the second time, and nothing if it is over.
    pub(super) async fn undo(&mut self) -> Result<(), UndoError> {
        match self {
            Self::Process(injected) => injected.undo()?,
            Self::Way { is_over: true, .. } => {}
            Self::Way { balancer, fault, is_over, .. } => {
                balancer.end_fault(*fault).await?;
                *is_over = true;
            }
        }
        Ok(())
    }
}
