//! What leaders did, told to the members that were not: so that any of them can explain it later.

use std::sync::Arc;
use std::time::Duration;

use super::handle::Group;
use super::ledger::MemberId;
use super::transport::{Reply, Request, TransportError};
use crate::record::Deeds;

/// A member has this long to read its journal.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);

impl Group {
    /// What another member did as the leader, after the event `after` of its journal. `None` if it has no address or keeps nothing.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn deeds_of(
        &self,
        member: MemberId,
        after: u64,
    ) -> Result<Option<Deeds>, TransportError> {
        let members = Arc::clone(&self.inner.members.borrow());
        let address = members.all.get(&member).and_then(|member| member.address.clone());
        let from = self.inner.running().map(|running| running.identity);
        let (Some(address), Some(from)) = (address, from) else { return Ok(None) };
        let (target, request) = ((address, Some(member)), Request::Deeds { after });
        match self.inner.peers.ask(Some(from), &target, request, ASK_TIMEOUT, |_| {}).await? {
            Reply::Deeds(deeds) => Ok(Some(deeds)),
            _ => Ok(None),
        }
    }

    /// Our own, for another member.
    pub(super) async fn own_deeds(&self, after: u64) -> Reply {
        let Some(deeds) = self.inner.settings.deeds.clone() else {
            return Reply::Failed("nothing is kept here".to_owned());
        };
        match tokio::task::spawn_blocking(move || deeds(after)).await {
            Ok(deeds) => Reply::Deeds(deeds),
            Err(error) => Reply::Failed(error.to_string()),
        }
    }
}
