//! Messages as e-mail: plain text and HTML in one, sent over SMTP.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message as Mail, Tokio1Executor};
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::channel::{Attempt, Carrier, Undelivered};
use super::message::{Alert, Message};
use crate::config::{Email as Settings, SmtpTls};

/// One attempt, from connecting to the server's last word.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Attempts after the first: with pauses of 0.5 to 16 s about half a minute, which bridges a restart of the mail server.
const RETRIES_MAX: u32 = 6;

/// Subjects named in the subject line.
const SUBJECTS_SHOWN: usize = 3;

/// Longest subject line; mail programs show less.
const SUBJECT_CHARS_MAX: usize = 150;

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    let templates = [
        ("mail.txt", include_str!("templates/mail.txt")),
        ("mail.html", include_str!("templates/mail.html")),
    ];
    for (name, source) in templates {
        environment.add_template(name, source).expect("the tests load every template");
    }
    environment
});

/// Why e-mail cannot be set up or sent.
#[derive(Debug, thiserror::Error)]
pub enum EmailError {
    /// An address is not one.
    #[error("{address:?} is not a mail address")]
    Address {
        /// What was set.
        address: String,
        /// What is wrong with it.
        #[source]
        source: lettre::address::AddressError,
    },
    /// TLS cannot be used with this server name.
    #[error("set up TLS for {host}")]
    Tls {
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: lettre::transport::smtp::Error,
    },
    /// A template failed.
    #[error("fill in the mail's template")]
    Template(#[source] minijinja::Error),
    /// The mail cannot be put together.
    #[error("put the mail together")]
    Compose(#[source] lettre::error::Error),
    /// The server did not take it.
    #[error("send mail through {server}")]
    Send {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: lettre::transport::smtp::Error,
    },
}

/// Sends mails to a fixed list of people.
pub(super) struct Email {
    server: String,
    from: Mailbox,
    to: Vec<Mailbox>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Email {
    pub(super) fn new(settings: &Settings) -> Result<Self, EmailError> {
        let mailbox = |text: &String| {
            text.parse::<Mailbox>()
                .map_err(|source| EmailError::Address { address: text.clone(), source })
        };
        let host = settings.smtp.host();
        let parameters = || {
            TlsParameters::new(host.to_owned())
                .map_err(|source| EmailError::Tls { host: host.to_owned(), source })
        };
        let tls = match settings.tls {
            SmtpTls::None => Tls::None,
            SmtpTls::Starttls => Tls::Required(parameters()?),
            SmtpTls::Implicit => Tls::Wrapper(parameters()?),
        };
        // "Dangerous" is lettre's word for not choosing TLS by itself; it is chosen here.
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(settings.smtp.port())
            .tls(tls)
            .timeout(Some(TIMEOUT));
        if let Some((user, password)) = &settings.login {
            let password = password.expose().to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Self {
            server: settings.smtp.to_string(),
            from: mailbox(&settings.from)?,
            to: settings.to.iter().map(mailbox).collect::<Result<_, _>>()?,
            transport: builder.build(),
        })
    }

    fn compose(&self, message: &Message) -> Result<Mail, EmailError> {
        let body = bodies(message).map_err(EmailError::Template)?;
        let mut builder = Mail::builder().from(self.from.clone()).subject(subject(message));
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        builder
            .multipart(MultiPart::alternative_plain_html(body.text, body.html))
            .map_err(EmailError::Compose)
    }

    async fn send(&self, message: &Message) -> Result<(), EmailError> {
        let mail = self.compose(message)?;
        let sent = self.transport.send(mail).await;
        sent.map(drop).map_err(|source| EmailError::Send { server: self.server.clone(), source })
    }
}

impl Carrier for Email {
    fn timeout(&self) -> Duration {
        TIMEOUT
    }

    fn retries_max(&self) -> u32 {
        RETRIES_MAX
    }

    fn deliver<'a>(&'a self, message: &'a Message) -> Attempt<'a> {
        Box::pin(async {
            self.send(message).await.map_err(|error| {
                let may_pass = match &error {
                    // What the server refuses for good, or what it does not offer, will not change within a minute.
                    EmailError::Send { source, .. } => {
                        !source.is_permanent() && !source.is_client()
                    }
                    _ => false,
                };
                Undelivered { cause: Box::new(error), may_pass }
            })
        })
    }
}

/// `[FIRING:2] NodeDown (chatnode-1, chatnode-2)`.
fn subject(message: &Message) -> String {
    let head = match (message.firing_count, message.is_repeat) {
        (0, _) => "[RESOLVED]".to_owned(),
        (count, false) => format!("[FIRING:{count}]"),
        (count, true) => format!("[STILL FIRING:{count}]"),
    };
    let is_firing = message.firing_count > 0;
    let about: Vec<&str> = message
        .alerts
        .iter()
        .filter(|alert| alert.is_firing == is_firing)
        .map(|alert| alert.subject.as_str())
        .collect();
    let more = if about.len() > SUBJECTS_SHOWN { ", …" } else { "" };
    let about = about[..about.len().min(SUBJECTS_SHOWN)].join(", ");
    let text = format!("{head} {} ({about}{more})", message.name);
    // Labels come from outside: a line break in one must not begin another header.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT_CHARS_MAX).collect()
}

struct Bodies {
    text: String,
    html: String,
}

/// An alert with its values in words.
#[derive(Serialize)]
struct View<'a> {
    is_firing: bool,
    subject: &'a str,
    severity: &'a str,
    summary: &'a str,
    description: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    since: String,
    until: Option<String>,
    incident: Option<u64>,
    events: Vec<LineView<'a>>,
}

#[derive(Serialize)]
struct LineView<'a> {
    at: String,
    text: &'a str,
    reasons: &'a [String],
}

fn bodies(message: &Message) -> Result<Bodies, minijinja::Error> {
    let alerts: Vec<_> = message.alerts.iter().map(view).collect();
    let values = context! {
        message => Value::from(Serde(message)),
        alerts => Value::from(Serde(&alerts)),
        headline => subject(message),
    };
    let fill = |name: &str| TEMPLATES.get_template(name)?.render(values.clone());
    Ok(Bodies { text: fill("mail.txt")?, html: fill("mail.html")? })
}

fn view(alert: &Alert) -> View<'_> {
    let annotation = |name: &str| alert.annotations.get(name).map_or("", String::as_str);
    let labels = alert.labels.iter().filter(|(name, _)| *name != "alertname");
    View {
        is_firing: alert.is_firing,
        subject: &alert.subject,
        severity: alert.labels.get("severity").map_or("", String::as_str),
        summary: annotation("summary"),
        description: annotation("description"),
        labels: labels.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        since: instant(alert.starts_at),
        until: alert.ends_at.map(instant),
        incident: alert.incident,
        events: alert
            .events
            .iter()
            .map(|line| LineView { at: clock(line.at), text: &line.text, reasons: &line.reasons })
            .collect(),
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tell::message::tests::message;

    #[test]
    fn the_subject_line_says_what_happened_to_whom() {
        let mut message = message();
        assert_eq!(subject(&message), "[FIRING:1] NodeDown (chatnode-1)");
        message.is_repeat = true;
        assert_eq!(subject(&message), "[STILL FIRING:1] NodeDown (chatnode-1)");
        message.alerts[0].subject = "a\r\nBcc: everyone".to_owned();
        assert!(!subject(&message).contains(['\r', '\n']));
        message.alerts[0].subject = "x".repeat(500);
        assert_eq!(subject(&message).chars().count(), SUBJECT_CHARS_MAX);
        message.alerts.remove(0);
        (message.firing_count, message.is_repeat) = (0, false);
        assert_eq!(subject(&message), "[RESOLVED] NodeDown (chatnode-2)");
    }

    #[test]
    fn both_bodies_say_what_was_done_and_where_to_read_on() {
        let body = bodies(&message()).unwrap();
        // Slashes are escaped too, which means the same.
        let html = body.html.replace("&#x2f;", "/");
        for text in [
            "chatnode-1 is down",
            "because it is down",
            "despite one node is out already",
            "http://h.example/runbooks/NodeDown",
            "http://h.example/incidents/1",
            "2027-01-15 08:00:03 UTC",
            "severity",
        ] {
            assert!(body.text.contains(text), "{text} in\n{}", body.text);
            assert!(html.contains(text), "{text} in\n{html}");
        }
        assert!(body.text.contains("Not drained <chatnode-1>"), "{}", body.text);
        assert!(body.html.contains("Not drained &lt;chatnode-1&gt;"), "{}", body.html);
    }

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        let settings = Settings {
            smtp: "127.0.0.1:25".parse().unwrap(),
            tls: SmtpTls::None,
            from: "Holdfast <holdfast@example.org>".to_owned(),
            to: vec!["nobody".to_owned()],
            login: None,
        };
        let error = Email::new(&settings).err().unwrap();
        assert_eq!(error.to_string(), "\"nobody\" is not a mail address");
    }
}
