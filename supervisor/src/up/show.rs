//! The readable log of a local cluster: what the supervisor records, what arrives by mail and webhook, what happens to the programs.

use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cli::client::{Client, EventQuery};
use crate::cli::{self, print};

/// Wait before the supervisor is asked for its events again after it went away.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// Hands a line to whoever shows them. If a terminal stands still, lines are dropped; the journal has what matters.
pub(super) fn say(news: &mpsc::Sender<String>, line: String) {
    let _dropped = news.try_send(line);
}

/// Shows lines, each with the time, until nobody can send any more.
pub(super) async fn lines(mut news: mpsc::Receiver<String>) {
    while let Some(line) = news.recv().await {
        let now = chrono::Local::now().format("%H:%M:%S");
        // Without a terminal there is nobody to tell.
        let _unseen = writeln!(std::io::stdout().lock(), "{now} {line}");
    }
}

/// Hands on the supervisor's events as lines, without end; a supervisor that is started again continues where the other left off.
pub(super) async fn events(client: Client, news: mpsc::Sender<String>) {
    let color = cli::color();
    let mut last = 0;
    loop {
        let query = EventQuery { since_id: Some(last), ..EventQuery::default() };
        if let Ok(stream) = client.follow(&query).await {
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                last = event.id;
                say(&news, print::event_text(&event, color));
            }
        }
        sleep(RECONNECT_AFTER).await;
    }
}
