//! What a server's agent says, asked again and again; [`crate::pool::agent`] knows the words.
//!
//! An agent that does not answer changes nothing: what it said last stays, the failure is counted.

use tokio::time::{sleep, timeout};

use super::probe::{self, ProbeError};
use crate::config::{Address, AgentRules, CheckPlace, TcpRules};
use crate::pool::Pool;
use crate::pool::agent::{ANSWER_BYTES_MAX, NoWord, Word};
use crate::pool::server::Server;
use crate::proxy::upstream;
use crate::tls::ClientTls;

#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Ask(#[from] ProbeError),
    #[error(transparent)]
    Word(#[from] NoWord),
}

/// Asks for as long as the pool wants it.
pub(super) async fn listen(pool: &Pool, server: &Server) {
    loop {
        let of_pool = pool.rules();
        let Some(rules) = &of_pool.agent else {
            sleep(super::REST).await;
            continue;
        };
        let place = server.record().check.clone();
        let tls = of_pool.tls.as_ref().filter(|_| rules.tls);
        match timeout(rules.timeout, ask(rules, &place, server.address(), tls)).await {
            Ok(Ok(word)) => {
                server.metrics.agent_answers.inc();
                pool.handle_agent(server, &word);
            }
            outcome => {
                server.metrics.agent_failures.inc();
                let error = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".to_owned(),
                };
                tracing::debug!(pool = %pool.name(), server = %server.name(), error, "agent not heard");
            }
        }
        sleep(super::spread(rules.interval, super::JITTER)).await;
    }
}

async fn ask(
    rules: &AgentRules,
    place: &CheckPlace,
    address: &Address,
    tls: Option<&ClientTls>,
) -> Result<Word, AgentError> {
    let at = place.agent_port.or(rules.port).map(|port| address.with_port(port));
    let at = at.as_ref().unwrap_or(address);
    let mut stream = upstream::establish(at, &TcpRules::default(), tls, None, None)
        .await
        .map_err(ProbeError::Connect)?;
    let answer = if let Some(path) = &rules.path {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: holdfast-balancer\r\nConnection: close\r\n\r\n"
        );
        probe::ask(&mut stream, &request).await?;
        probe::read_body(&mut stream, ANSWER_BYTES_MAX).await?
    } else {
        let mut answer = Vec::new();
        probe::read_line(&mut stream, &mut answer, ANSWER_BYTES_MAX).await?;
        answer
    };
    Ok(Word::read(&answer)?)
}
