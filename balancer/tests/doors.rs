//! The ways into the operator API: tokens and their roles, the unix socket, client certificates; the page that is open to all.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use support::authority::Authority;
use support::{Balancer, DEADLINE, TOKEN, Upstream, request, settings, until};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

const CHANGE: (&str, &str, &str) = ("PATCH", "/pools/p/servers/a", "{\"weight\":7}");
const JOURNAL: (&str, &str, &str) = ("GET", "/journal", "");

/// Asks on a connection of any kind; everything that came back.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    (method, path, body): (&str, &str, &str),
    more: &str,
) -> String {
    let exchange = async {
        let head = format!("{method} /api/v1{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        let rest = format!("{more}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all((head + &rest).as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    timeout(DEADLINE, exchange).await.unwrap()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn a_token_may_do_what_its_role_says() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("screen");
    std::fs::write(&file, "screen-token").unwrap();
    let tokens = |name: &str| {
        let file = file.display();
        let servers = settings("", &[("a", a.address)]);
        format!("[[admin.token]]\nname = \"{name}\"\nfile = \"{file}\"\n{servers}")
    };
    let balancer = Balancer::start(&tokens("screen")).await;
    let screen = [("Authorization", "Bearer screen-token")];
    let (method, path, body) = CHANGE;
    assert_eq!(balancer.api_with("GET", "/pools", &screen, "").await.0, 200);
    let (status, answer) = balancer.api_with(method, path, &screen, body).await;
    assert_eq!(status, 403, "{answer}");
    let (status, _) = balancer.api_with("POST", "/config/validate", &screen, "x = 1").await;
    assert_eq!(status, 422, "trying settings changes nothing");
    assert_eq!(balancer.server("a").await["weight"], 100);
    // A reload reads the tokens again.
    std::fs::write(&file, "other-token").unwrap();
    balancer.write(&tokens("wall"));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    assert_eq!(balancer.api_with("GET", "/pools", &screen, "").await.0, 401);
    let other = [("Authorization", "Bearer other-token")];
    assert_eq!(balancer.api_with("GET", "/pools", &other, "").await.0, 200);
}

#[tokio::test]
async fn users_of_this_machine_come_by_the_socket() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("balancer.sock");
    let table = format!("[admin.unix]\npath = \"{}\"\nmode = \"0640\"\n", path.display());
    let text = table + &settings("", &[("a", a.address)]);
    // One that a former run has left is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let balancer = Balancer::start(&text).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let open = async || UnixStream::connect(&path).await.unwrap();
    assert_eq!(status(&ask(open().await, CHANGE, "").await), "200");
    let journal = ask(open().await, JOURNAL, "").await;
    let user = nix::unistd::getuid();
    assert!(journal.contains(&format!("\"who\":\"user {user}\"")), "{journal}");
    assert!(journal.contains("\"from\":\"unix socket\""), "{journal}");
    // Whoever shows a token is judged by it.
    assert_eq!(status(&ask(open().await, CHANGE, "Authorization: Bearer x\r\n").await), "401");
    assert_eq!(balancer.server("a").await["weight"], 7);
}

#[tokio::test]
async fn a_certificate_is_as_good_as_a_token() {
    let authority = Authority::new();
    for name in ["balancer.test", "ops.test", "other.test"] {
        authority.sign(name);
    }
    let path = |name: &str| authority.path(name).display().to_string();
    let (chain, key) = (path("balancer.test.pem"), path("balancer.test.key"));
    let table = format!(
        "[admin.tls]\nchain = \"{chain}\"\nkey = \"{key}\"\nclient_ca = \"{}\"\n\
         [[admin.tls.client]]\nname = \"ops.test\"\nrole = \"operate\"\n",
        path("ca.pem")
    );
    let a = Upstream::start("a");
    let balancer = Balancer::start(&(table + &settings("", &[("a", a.address)]))).await;
    let open = async |who: Option<&str>| {
        authority.connect(balancer.admin, "balancer.test", who).await.unwrap()
    };
    assert_eq!(status(&ask(open(Some("ops.test")).await, CHANGE, "").await), "200");
    let journal = ask(open(Some("ops.test")).await, JOURNAL, "").await;
    assert!(journal.contains("\"who\":\"ops.test\""), "{journal}");
    // One of the authority that nobody has named, and none at all.
    for who in [Some("other.test"), None] {
        assert_eq!(status(&ask(open(who).await, CHANGE, "").await), "401", "{who:?}");
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_eq!(status(&ask(open(who).await, JOURNAL, &token).await), "200", "{who:?}");
    }
    // One that says nothing keeps nobody out.
    let _silent = tokio::net::TcpStream::connect(balancer.admin).await.unwrap();
    assert_eq!(status(&ask(open(Some("ops.test")).await, CHANGE, "").await), "200");
}

#[tokio::test]
async fn everybody_sees_the_page_and_only_it() {
    let a = Upstream::start("a");
    let balancer = Balancer::start(&settings("", &[("a", a.address)])).await;
    request(balancer.address("l"), "GET", "/", &[], b"").await;
    let page = request(balancer.admin, "GET", "/", &[], b"").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(page.text().contains("<h2>Pool p</h2>") && page.text().contains("<td>a</td>"));
    // Where a server is and why it is drained is for those who are known.
    assert!(!page.text().contains(&a.address.to_string()), "{}", page.text());
    assert_eq!(request(balancer.admin, "GET", "/style.css", &[], b"").await.status, 200);
    assert_eq!(request(balancer.admin, "GET", "/api/v1/stats", &[], b"").await.status, 401);
    until("the request to be counted", async || {
        let (_, stats) = balancer.api("GET", "/stats", "").await;
        let server = &stats["pools"][0]["servers"][0]["responses_total"]["2xx"];
        let listener = &stats["listeners"][0]["requests_total"]["2xx"];
        if *server == 1 && *listener == 1 { Ok(()) } else { Err(stats) }
    })
    .await;
}
