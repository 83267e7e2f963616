//! Where the primary is now.
//!
//! One task keeps a [`watch`] of the primary's address. With a fixed address it never changes. With Sentinel-compatible endpoints the
//! task listens to `+switch-master` at one of them and asks again whenever a connection to the primary fails, and once a second
//! besides, since an event can be missed. When the endpoint itself is gone it turns to the next one; the last known address stays,
//! because clients must not lose a working primary for the loss of its supervisor.
//!
//! What is announced is a claim; whoever connects checks by the server's own word that it is a primary.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connection::{Connection, ConnectionError, auth};
use super::resp::Value;
use crate::config::{Access, Primary};
use holdfast_telemetry::errors::Chain;

/// An endpoint answers from memory; one that does not within this time is given up for the next.
const ENDPOINT_TIMEOUT: Duration = Duration::from_millis(500);

/// Time between questions while nothing happens.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Shortest time between two questions: connections fail by the dozen when the primary dies.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Pause before the next endpoint is tried.
const NEXT_ENDPOINT_AFTER: Duration = Duration::from_millis(100);

const EVENT: &str = "+switch-master";

/// The task's half.
pub(super) struct Discovery {
    primary: Primary,
    access: Access,
    address: watch::Sender<Option<String>>,
    suspect: Arc<Notify>,
}

/// The users' half: the address, and a bell to ring when it does not work.
#[derive(Clone)]
pub(super) struct Whereabouts {
    pub(super) address: watch::Receiver<Option<String>>,
    pub(super) suspect: Arc<Notify>,
}

impl Discovery {
    pub(super) fn new(primary: Primary, access: Access) -> (Self, Whereabouts) {
        let known = match &primary {
            Primary::Fixed(address) => Some(address.clone()),
            Primary::Sentinels { .. } => None,
        };
        let (sender, receiver) = watch::channel(known);
        let suspect = Arc::new(Notify::new());
        let whereabouts = Whereabouts { address: receiver, suspect: Arc::clone(&suspect) };
        (Self { primary, access, address: sender, suspect }, whereabouts)
    }

    /// Keeps the address up to date until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let Primary::Sentinels { endpoints, name } = &self.primary else {
            return shutdown.cancelled().await;
        };
        let mut reported = false;
        for endpoint in endpoints.iter().cycle() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Err(error) = self.listen(endpoint, name, &mut reported) => {
                    if !std::mem::replace(&mut reported, true) {
                        warn!(endpoint, error = %Chain(&error), "primary discovery interrupted");
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(NEXT_ENDPOINT_AFTER) => {}
            }
        }
    }

    /// Stays with one endpoint until it fails.
    async fn listen(
        &self,
        endpoint: &str,
        name: &str,
        reported: &mut bool,
    ) -> Result<std::convert::Infallible, ConnectionError> {
        let mut events = self.open(endpoint).await?;
        events.ask(&[&["SUBSCRIBE", EVENT]], ENDPOINT_TIMEOUT).await?;
        let mut questions = self.open(endpoint).await?;
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.read() => {
                    if let Some(address) = switched(&event?, name) {
                        self.announce(&address);
                        continue;
                    }
                }
                () = self.suspect.notified() => sleep(ASK_AGAIN_AFTER).await,
                _ = ticks.tick() => {}
            }
            let question = ["SENTINEL", "get-master-addr-by-name", name];
            let replies = questions.ask(&[&question], ENDPOINT_TIMEOUT).await?;
            if let Some(address) = replies.first().and_then(address) {
                *reported = false;
                self.announce(&address);
            } else {
                debug!(endpoint, name, "the endpoint knows no primary of this name");
            }
        }
    }

    async fn open(&self, endpoint: &str) -> Result<Connection, ConnectionError> {
        let tls = self.access.tls.as_ref();
        let mut connection = Connection::open(endpoint, tls, ENDPOINT_TIMEOUT).await?;
        if let Some(auth) = auth(&self.access) {
            connection.ask(&[&auth], ENDPOINT_TIMEOUT).await?;
        }
        Ok(connection)
    }

    fn announce(&self, address: &str) {
        let changed = self.address.send_if_modified(|known| {
            let changed = known.as_deref() != Some(address);
            if changed {
                *known = Some(address.to_owned());
            }
            changed
        });
        if changed {
            info!(address, "primary found");
        }
    }
}

/// The address in a reply to `SENTINEL get-master-addr-by-name`.
fn address(reply: &Value) -> Option<String> {
    let [host, port] = reply.array()? else { return None };
    join(host.text()?, port.text()?)
}

/// The new address in a `+switch-master` message about `name`.
fn switched(message: &Value, name: &str) -> Option<String> {
    let [kind, _, payload] = message.array()? else { return None };
    let payload = payload.text().filter(|_| kind.text() == Some("message"))?;
    let mut words = payload.split(' ');
    let mut next = || words.next();
    let [subject, _, _, host, port] = [next()?, next()?, next()?, next()?, next()?];
    if subject == name { join(host, port) } else { None }
}

fn join(host: &str, port: &str) -> Option<String> {
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::super::resp;
    use super::*;
    use bytes::BytesMut;

    fn array(words: &[&str]) -> Value {
        let mut bytes = BytesMut::new();
        resp::encode(&mut bytes, words);
        resp::decode(&mut bytes).unwrap().unwrap()
    }

    #[test]
    fn addresses_are_read_from_replies_and_events() {
        assert_eq!(address(&array(&["10.0.0.1", "6379"])).as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(address(&array(&["::1", "6379"])).as_deref(), Some("[::1]:6379"));
        assert_eq!(address(&array(&["10.0.0.1", "0"])), None);
        assert_eq!(address(&Value::Null), None);
        let event = array(&["message", EVENT, "main 10.0.0.1 6379 10.0.0.2 6380"]);
        assert_eq!(switched(&event, "main").as_deref(), Some("10.0.0.2:6380"));
        assert_eq!(switched(&event, "other"), None);
        assert_eq!(switched(&array(&["message", EVENT, "main 10.0.0.1"]), "main"), None);
        assert_eq!(switched(&array(&["subscribe", EVENT, "1"]), "1"), None);
    }
}
