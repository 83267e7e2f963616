//! Daemons of one group, each with a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_ports::take;
pub(crate) use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

/// Longest wait for anything. Generous, as the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const TOKEN: &str = "correct-horse";

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not within {PATIENCE:?}: {what}");
}

/// A member's name in its settings.
pub(crate) fn name(at: usize) -> String {
    format!("supervisor-{}", at + 1)
}

struct Member {
    http: u16,
    group: u16,
    child: Option<Child>,
}

/// Ends with the test, by a signal that gives it no time.
pub(crate) struct Group {
    what: &'static str,
    /// Keys of `[group]`.
    timing: &'static str,
    /// Further settings, by member.
    more: Vec<String>,
    folder: tempfile::TempDir,
    members: Vec<Member>,
    client: reqwest::Client,
}

impl Group {
    /// Formed as an operator forms it.
    pub(crate) async fn of_three(what: &'static str, timing: &'static str) -> Self {
        Self::of_three_with(what, timing, Vec::new()).await
    }

    /// The same, each member with settings of its own at the end of its file.
    pub(crate) async fn of_three_with(
        what: &'static str,
        timing: &'static str,
        more: Vec<String>,
    ) -> Self {
        // Another test of this process may have installed it already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(2))
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut group = Self { what, timing, more, folder, members: Vec::new(), client };
        group.add().await;
        let formed = group.insist(0, &["group", "init"]).await;
        assert_eq!(formed["state"], "leading", "{formed}");
        group.grow().await;
        group.grow().await;
        group
    }

    /// One more member.
    pub(crate) async fn grow(&mut self) {
        self.add().await;
        let newest = self.members.len() - 1;
        let address = self.address(0);
        self.insist(newest, &["group", "join", &address]).await;
        until("it votes", async || {
            let status = self.status(newest).await.unwrap_or_default();
            let members = status["members"].as_array().cloned().unwrap_or_default();
            members.iter().any(|it| it["is_self"] == true && it["votes"] == true)
        })
        .await;
    }

    async fn add(&mut self) {
        let at = self.members.len();
        let member = Member { http: take().unwrap(), group: take().unwrap(), child: None };
        let folder = self.folder(at);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("token"), TOKEN).unwrap();
        std::fs::write(folder.join("secret"), "a secret of the group").unwrap();
        let settings = format!(
            "[supervisor]\nname = \"{}\"\nlisten = \"127.0.0.1:{}\"\ntoken_file = \"token\"\n\
             state_dir = \"state\"\n[group]\nlisten = \"127.0.0.1:{}\"\nsecret_file = \"secret\"\n{}\n{}",
            name(at),
            member.http,
            member.group,
            self.timing,
            self.more.get(at).map_or("", String::as_str)
        );
        std::fs::write(folder.join("supervisor.toml"), settings).unwrap();
        self.members.push(member);
        self.start(at).await;
    }

    /// Starts it, again or for the first time.
    pub(crate) async fn start(&mut self, at: usize) {
        let child = self.spawn(at);
        self.members[at].child = Some(child);
        until("the supervisor is ready", async || {
            let url = format!("http://127.0.0.1:{}/-/ready", self.members[at].http);
            let ready = self.client.get(url).send().await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    fn spawn(&self, at: usize) -> Child {
        let log = std::fs::File::create(self.folder(at).join("log")).unwrap();
        // A child that dies with the test, even when that is killed.
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_holdfast"), "supervise", "--config"])
            .arg(self.folder(at).join("supervisor.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// It ends by itself; what it said.
    pub(crate) async fn refuses_to_start(&self, at: usize) -> String {
        let mut child = self.spawn(at);
        let mut ended = None;
        until("it ends by itself", async || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        assert!(!ended.unwrap().success());
        std::fs::read_to_string(self.folder(at).join("log")).unwrap()
    }

    pub(crate) fn folder(&self, at: usize) -> PathBuf {
        let folder: &Path = self.folder.path();
        folder.join(name(at))
    }

    pub(crate) fn address(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.members[at].group)
    }

    pub(crate) fn signal(&self, at: usize, signal: Signal) {
        let pid = self.members[at].child.as_ref().unwrap().id();
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self, at: usize) {
        let mut child = self.members[at].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs a command of the command line at a member; its JSON, or what it complained of.
    pub(crate) async fn run(&self, at: usize, words: &[&str]) -> Result<Value, String> {
        let token = self.folder(at).join("token");
        let server = format!("http://127.0.0.1:{}", self.members[at].http);
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let done = tokio::task::spawn_blocking(move || {
            Command::new(env!("CARGO_BIN_EXE_holdfast"))
                .args(["--json", "--server", &server, "--token-file"])
                .arg(token)
                .args(words)
                .output()
                .unwrap()
        });
        let output = done.await.unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap());
        }
        Err(String::from_utf8(output.stderr).unwrap())
    }

    /// The same, again and again while the group is just settling who leads.
    pub(crate) async fn insist(&self, at: usize, words: &[&str]) -> Value {
        let mut answer = None;
        until(&format!("{words:?} is done"), async || match self.run(at, words).await {
            Ok(value) => {
                answer = Some(value);
                true
            }
            Err(why) => {
                let settling = ["lead", "majority", "of a group already", "just coming or going"];
                assert!(settling.iter().any(|word| why.contains(word)), "{words:?}: {why}");
                // Joined already, as far as the asker could not be told.
                answer = Some(Value::Null);
                why.contains("of a group already")
            }
        })
        .await;
        answer.unwrap()
    }

    pub(crate) async fn page(&self, at: usize, path: &str) -> String {
        let mut page = None;
        until("a page is answered", async || {
            page = self.try_page(at, path).await;
            page.is_some()
        })
        .await;
        page.unwrap()
    }

    /// `None` if the member does not answer now.
    pub(crate) async fn try_page(&self, at: usize, path: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.members[at].http);
        self.client.get(url).send().await.ok()?.text().await.ok()
    }

    /// What a member says of the group; `None` if it does not answer.
    pub(crate) async fn status(&self, at: usize) -> Option<Value> {
        self.members[at].child.as_ref()?;
        let url = format!("http://127.0.0.1:{}/operator/v1/group", self.members[at].http);
        self.client.get(url).send().await.ok()?.json().await.ok()
    }

    pub(crate) async fn silences(&self, at: usize) -> Vec<u64> {
        let text = self.page(at, "/operator/v1/silences").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let silences = answer["silences"].as_array().unwrap();
        silences.iter().map(|silence| silence["id"].as_u64().unwrap()).collect()
    }

    /// Waits until a member leads.
    pub(crate) async fn leader(&self) -> usize {
        self.leader_besides(usize::MAX).await
    }

    /// Waits until a member other than `not` leads, which is not asked.
    pub(crate) async fn leader_besides(&self, not: usize) -> usize {
        let mut found = None;
        until(&format!("{}: a member leads", self.what), async || {
            for at in (0..self.members.len()).filter(|at| *at != not) {
                let seat = match &self.members[at].child {
                    // Cheaper than asking for the whole status, which asks the other members.
                    Some(_) => self.seat(at).await,
                    None => None,
                };
                if seat.as_deref() == Some("leading") {
                    found = Some(at);
                }
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn seat(&self, at: usize) -> Option<String> {
        let text = self.try_page(at, "/metrics").await?;
        let line = text
            .lines()
            .find(|line| line.starts_with("supervisor_group_state{") && line.ends_with("} 1"))?;
        Some(line.split('"').nth(1)?.to_owned())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by itself, then there is nothing to kill.
                let _ended = child.kill();
                child.wait().unwrap();
            }
        }
    }
}
