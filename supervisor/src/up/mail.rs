//! The mail server of a local cluster: takes every mail, keeps it as a file and shows its subject. It delivers nothing.
//!
//! The part of SMTP (RFC 5321) a sending program needs: EHLO/HELO, MAIL, RCPT, DATA, RSET, NOOP, QUIT; no extensions.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::show;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;

/// Longest command or line of a mail.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// Largest mail taken.
const MAIL_BYTES_MAX: usize = 1024 * 1024;

/// Mails kept in one run; later ones are refused as a full disk would.
const MAILS_MAX: usize = 1000;

/// Longest silence of a sender.
const SILENCE_MAX: Duration = Duration::from_mins(1);

struct Mailbox {
    folder: PathBuf,
    count: AtomicUsize,
    news: mpsc::Sender<String>,
}

/// Receives mail on `listener`, without end, into `folder` as `0001.eml`, `0002.eml`, …
pub(super) async fn receive(listener: TcpListener, folder: PathBuf, news: mpsc::Sender<String>) {
    let mailbox = Arc::new(Mailbox { folder, count: AtomicUsize::new(0), news });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let mailbox = Arc::clone(&mailbox);
                connections.spawn(async move {
                    // A sender that breaks off has not sent anything.
                    let _broken = serve(stream, &mailbox).await;
                    drop(slot);
                });
            }
            // Out of file descriptors, most likely: others may be closed by then.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, mailbox: &Mailbox) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    writer.write_all(b"220 holdfast mail sink\r\n").await?;
    let mut receivers = 0_usize;
    loop {
        let Some(line) = next_line(&mut reader).await? else { return Ok(()) };
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" | "HELO" | "MAIL" | "RSET" => {
                receivers = 0;
                "250 ok"
            }
            "RCPT" => {
                receivers += 1;
                "250 ok"
            }
            "NOOP" => "250 ok",
            "DATA" if receivers == 0 => "503 no receiver yet",
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await?;
                let Some(mail) = data(&mut reader).await? else { return Ok(()) };
                receivers = 0;
                match mail {
                    Ok(mail) => mailbox.keep(&mail),
                    Err(TooLarge) => "552 too large",
                }
            }
            "QUIT" => {
                writer.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 not known here",
        };
        writer.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

/// A line with its end; `None` when the sender is gone, silent for too long, or sends lines without end.
async fn next_line(
    reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = async { (&mut *reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await };
    match timeout(SILENCE_MAX, read).await {
        Ok(read) => read?,
        Err(_) => return Ok(None),
    };
    Ok(line.ends_with(b"\n").then_some(line))
}

struct TooLarge;

/// A mail up to the line with a single dot, which is read to its end even when it is too large.
async fn data(
    reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
) -> std::io::Result<Option<Result<Vec<u8>, TooLarge>>> {
    let mut mail = Vec::new();
    let mut too_large = false;
    loop {
        let Some(line) = next_line(reader).await? else { return Ok(None) };
        let line = match line.as_slice() {
            b".\r\n" | b".\n" => break,
            // The sender doubles a leading dot.
            [b'.', rest @ ..] => rest,
            line => line,
        };
        too_large |= mail.len() + line.len() > MAIL_BYTES_MAX;
        if !too_large {
            mail.extend_from_slice(line);
        }
    }
    Ok(Some(if too_large { Err(TooLarge) } else { Ok(mail) }))
}

impl Mailbox {
    /// Keeps a mail; the answer for its sender.
    fn keep(&self, mail: &[u8]) -> &'static str {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if number > MAILS_MAX {
            return "452 no more room";
        }
        let name = format!("{number:04}.eml");
        if std::fs::write(self.folder.join(&name), mail).is_err() {
            return "452 cannot be written";
        }
        show::say(&self.news, format!("mail     {} (mail/{name})", header(mail, "subject")));
        "250 kept"
    }
}

/// A header's value, continuation lines included; empty if there is none.
fn header(mail: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(mail);
    let mut value: Option<String> = None;
    for line in text.lines().take_while(|line| !line.is_empty()) {
        match &mut value {
            Some(value) if line.starts_with([' ', '\t']) => {
                value.push(' ');
                value.push_str(line.trim());
            }
            Some(_) => break,
            None => {
                let found =
                    line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name));
                value = found.map(|(_, value)| value.trim().to_owned());
            }
        }
    }
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

    #[tokio::test]
    async fn a_mail_is_kept_as_it_was_sent_and_its_subject_shown() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (news, mut shown) = mpsc::channel(10);
        let sink = tokio::spawn(receive(listener, dir.path().to_owned(), news));
        let mail = Message::builder()
            .from("Holdfast <holdfast@example.org>".parse().unwrap())
            .to("ops@example.org".parse().unwrap())
            .subject("[firing] NodeDown chatnode-1")
            .body(".first\n..second\n".to_owned())
            .unwrap();
        let smtp =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(port).build();
        smtp.send(mail).await.unwrap();
        let line = shown.recv().await.unwrap();
        assert_eq!(line, "mail     [firing] NodeDown chatnode-1 (mail/0001.eml)");
        let kept = std::fs::read_to_string(dir.path().join("0001.eml")).unwrap();
        assert!(kept.trim_end().ends_with("\r\n.first\r\n..second"), "{kept}");
        sink.abort();
    }

    #[test]
    fn headers_may_be_folded() {
        let mail = b"To: a@b\r\nSubject: one\r\n two\r\nDate: x\r\n\r\nSubject: no\r\n";
        assert_eq!(header(mail, "subject"), "one two");
        assert_eq!(header(mail, "cc"), "");
    }
}
