//! Checks of every kind, agents, outliers, retries, hedged connects, admission.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::authority::Authority;
use support::{Balancer, Upstream, free, raw, request, settings, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// A server that says the same to everybody, a line or an answer, and closes.
struct Parrot {
    address: SocketAddr,
    text: Arc<std::sync::Mutex<String>>,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Parrot {
    /// `listens` if it waits for a question first.
    async fn start(text: &str, listens: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = Arc::new(std::sync::Mutex::new(text.to_owned()));
        let asked: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let (says, hears) = (Arc::clone(&text), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (text, hears) = (says.lock().unwrap().clone(), Arc::clone(&hears));
                tokio::spawn(answer(stream, text, hears, listens));
            }
        });
        Self { address, text, asked, task }
    }

    fn say(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }
}

impl Drop for Parrot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    mut stream: TcpStream,
    text: String,
    asked: Arc<std::sync::Mutex<Vec<String>>>,
    listens: bool,
) {
    let mut question = Vec::new();
    while listens && !question.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut question).await.unwrap_or(0) == 0 {
            return;
        }
    }
    asked.lock().unwrap().push(String::from_utf8_lossy(&question).into_owned());
    // Whoever asked may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_check_opens_a_websocket() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let checks = "[pool.health_check]\ntype = \"websocket\"\npath = \"/ws\"\ninterval = \"50ms\"\ntimeout = \"5s\"\n";
    let text = settings(checks, &[("a", a.address), ("b", b.address)]);
    // At this path there is an answer, but no WebSocket.
    let text = text + "check_path = \"/upload\"\n";
    let balancer = Balancer::start(&text).await;
    balancer.wait_usable("a", true).await;
    until("b to be found out", async || {
        let server = balancer.server("b").await;
        if server["health"] == "down" { Ok(()) } else { Err(server) }
    })
    .await;
}

#[tokio::test]
async fn a_check_asks_where_and_for_what_it_is_told() {
    let a = Upstream::start("a");
    let health = Parrot::start(&http("204 No Content", ""), true).await;
    let checks = format!(
        "[pool.health_check]\ntype = \"http\"\npath = \"/ready\"\nhost = \"chat.example\"\nport = {}\n\
         expect_status = [\"200-299\"]\nexpect_body = \"all is well\"\ninterval = \"50ms\"\ntimeout = \"5s\"\n",
        health.address.port()
    );
    let balancer = Balancer::start(&settings(&checks, &[("a", a.address)])).await;
    let shows = async |health: &str| {
        until(health, async || {
            let server = balancer.server("a").await;
            if server["health"] == health { Ok(()) } else { Err(server) }
        })
        .await;
    };
    shows("down").await;
    health.say(&http("200 OK", "{\"say\": \"all is well\"}"));
    shows("up").await;
    health.say(&http("302 Found", "all is well"));
    shows("down").await;
    let question = health.asked.lock().unwrap()[0].clone();
    assert!(question.starts_with("GET /ready HTTP/1.1\r\nHost: chat.example\r\n"), "{question}");
}

#[tokio::test]
async fn a_node_says_itself_what_it_can_take() {
    for over_http in [false, true] {
        let (a, b) = (Upstream::start("a"), Upstream::start("b"));
        let word = |word: &str| if over_http { http("200 OK", word) } else { format!("{word}\n") };
        let agent = Parrot::start(&word("50%"), over_http).await;
        let kind = if over_http { "http" } else { "tcp" };
        let path = if over_http { "path = \"/agent\"\n" } else { "" };
        let mut text = settings(
            &format!(
                "[pool.agent_check]\ntype = \"{kind}\"\n{path}interval = \"50ms\"\ntimeout = \"5s\"\n"
            ),
            &[("b", b.address), ("a", a.address)],
        );
        writeln!(text, "agent_port = {}", agent.address.port()).unwrap();
        let balancer = Balancer::start(&text).await;
        let shows = async |what: &str, key: &str, value: serde_json::Value| {
            until(what, async || {
                let server = balancer.server("a").await;
                if server[key] == value { Ok(()) } else { Err(server) }
            })
            .await;
        };
        shows("half the weight", "effective_weight", 50.0.into()).await;
        agent.say(&word("drain"));
        shows("a drain", "usable", false.into()).await;
        agent.say(&word("ready 100% maxconn:7"));
        shows("all of it", "effective_weight", 100.0.into()).await;
        shows("a limit", "max_connections", 7.into()).await;
        agent.say(&word("down # disk full"));
        shows("that it is down", "usable", false.into()).await;
        // A word nobody knows changes nothing, and is counted.
        agent.say(&word("splendid"));
        let failed = "balancer_server_agent_checks_total{pool=\"p\",result=\"fail\",server=\"a\"}";
        let before = balancer.metric(failed).await;
        until("it to be counted", async || {
            let count = balancer.metric(failed).await;
            if count > before { Ok(()) } else { Err(count) }
        })
        .await;
        assert_eq!(balancer.server("a").await["usable"], false);
    }
}

#[tokio::test]
async fn an_agent_is_asked_in_the_tls_of_its_server() {
    let authority = Authority::new();
    authority.sign("a.test");
    let agent = Parrot::start("25%\n", false).await;
    // A listener of the balancer's own gives the agent its TLS.
    let front = free();
    let listener = authority.listener(&["a.test"], "");
    let ca = authority.path("ca.pem");
    let text = |tls: &str| {
        let pool = format!(
            "[pool.tls]\nca = \"{}\"\nserver_name = \"a.test\"\n\
             [pool.agent_check]\ninterval = \"50ms\"\ntimeout = \"5s\"\n{tls}",
            ca.display()
        );
        format!(
            "{}[[pool]]\nname = \"agent\"\n[[pool.server]]\nname = \"agent\"\naddress = \"{}\"\n\
             [[listener]]\nname = \"front\"\nlisten = \"{front}\"\nmode = \"tcp\"\n{}",
            settings(&pool, &[("a", front)]),
            agent.address,
            listener.replacen("\"p\"", "\"agent\"", 1)
        )
    };
    let balancer = Balancer::start(&text("")).await;
    until("the agent to be heard", async || {
        let server = balancer.server("a").await;
        if server["effective_weight"] == 25.0 { Ok(()) } else { Err(server) }
    })
    .await;
    balancer.write(&text("tls = false"));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    let failed = "balancer_server_agent_checks_total{pool=\"p\",result=\"fail\",server=\"a\"}";
    until("a question in the clear to fail", async || {
        let count = balancer.metric(failed).await;
        if count > 0.5 { Ok(()) } else { Err(count) }
    })
    .await;
    balancer.end().await;
}

#[tokio::test]
async fn errors_in_a_row_take_a_server_out_and_say_so() {
    let a = Upstream::start("a");
    let bad = Parrot::start(&http("500 Internal Server Error", "no"), true).await;
    let c = Upstream::start("c");
    let pool = "algorithm = \"round_robin\"\n[pool.outlier_detection]\nconsecutive_5xx = 3\n";
    let servers = [("a", a.address), ("bad", bad.address), ("c", c.address)];
    let balancer = Balancer::start(&settings(pool, &servers)).await;
    let l = balancer.address("l");
    let mut errors = 0;
    for _ in 0..30 {
        errors += usize::from(request(l, "GET", "/", &[], b"").await.status == 500);
    }
    assert_eq!(errors, 3);
    let server = balancer.server("bad").await;
    assert_eq!(server["ejection"]["cause"], "errors", "{server}");
    let left = server["ejection"]["seconds_left"].as_f64().unwrap();
    assert!(left > 0.0 && left <= 30.0, "{left}");
    let ejections = "balancer_server_ejections_total{cause=\"errors\",pool=\"p\",server=\"bad\"}";
    balancer.wait_metric(ejections, 1.0).await;
}

#[tokio::test]
async fn a_server_that_fails_more_than_the_others_is_found_by_comparison() {
    let (a, c) = (Upstream::start("a"), Upstream::start("c"));
    let bad = Parrot::start(&http("500 Internal Server Error", "no"), true).await;
    let pool = "algorithm = \"round_robin\"\n[pool.outlier_detection]\ninterval = \"100ms\"\nconsecutive_5xx = 0\n\
                min_requests = 3\n";
    let servers = [("a", a.address), ("bad", bad.address), ("c", c.address)];
    let balancer = Balancer::start(&settings(pool, &servers)).await;
    let l = balancer.address("l");
    until("the comparison", async || {
        for _ in 0..30 {
            request(l, "GET", "/", &[], b"").await;
        }
        let server = balancer.server("bad").await;
        if server["ejection"]["cause"] == "success_rate" { Ok(()) } else { Err(server) }
    })
    .await;
    assert_eq!(balancer.server("a").await["usable"], true);
    assert_eq!(balancer.server("c").await["usable"], true);
}

#[tokio::test]
async fn what_may_be_asked_again_is_bounded() {
    let (mut a, mut b, c) = (Upstream::start("a"), Upstream::start("b"), Upstream::start("c"));
    let servers = [("a", a.address), ("b", b.address), ("c", c.address)];
    // Failures take nobody out, so that each request finds the dead ones anew.
    let pool = "algorithm = \"round_robin\"\nmax_fails = 0\n[pool.retries]\nbudget = 0.0\nmin_per_second = 0\n";
    let balancer = Balancer::start(&settings(pool, &servers)).await;
    a.kill();
    b.kill();
    let l = balancer.address("l");
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(request(l, "GET", "/", &[], b"").await.status);
    }
    assert_eq!(statuses, [502, 502, 200, 502, 502, 200]);
    balancer.wait_metric("balancer_pool_retries_denied_total{pool=\"p\"}", 4.0).await;
    balancer.wait_metric("balancer_pool_retries_total{pool=\"p\"}", 0.0).await;
}

/// A port on which connections are never made: its queue is full and nobody accepts.
async fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut full = Vec::new();
    // Until one gets no answer; a SYN that was lost by chance is repeated after a second.
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(1_500), TcpStream::connect(address)).await
    {
        full.push(stream);
    }
    (address, listener, full)
}

#[tokio::test]
async fn a_slow_connection_gets_a_rival() {
    let (hole, _listener, _full) = black_hole().await;
    let b = Upstream::start("b");
    let pool = "algorithm = \"round_robin\"\nconnect_timeout = \"30s\"\n[pool.retries]\nhedge_connect = \"100ms\"\n";
    let balancer = Balancer::start(&settings(pool, &[("hole", hole), ("b", b.address)])).await;
    let answer = request(balancer.address("l"), "GET", "/", &[], b"").await;
    assert!(answer.status == 200 && answer.text().contains("\"server\":\"b\""), "{answer:?}");
    balancer.wait_metric("balancer_pool_hedges_total{pool=\"p\",used=\"second\"}", 1.0).await;
    until("the loser to be let go", async || {
        let server = balancer.server("hole").await;
        let free = server["passive"] == "closed" && server["active_connections"] == 0;
        if free { Ok(()) } else { Err(server) }
    })
    .await;
}

/// Opens a WebSocket and says which status it got; the connection is given back open.
async fn handshake(address: SocketAddr) -> (u16, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await.unwrap() == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.starts_with("HTTP/1.1 "), "{text}");
    if text.starts_with("HTTP/1.1 503") {
        assert!(text.to_lowercase().contains("\r\nretry-after: "), "{text}");
    }
    (text[9..12].parse().unwrap(), stream)
}

#[tokio::test]
async fn a_storm_is_let_in_at_the_rate_a_server_can_take() {
    let a = Upstream::start("a");
    // Nobody waits: what comes too fast is told to come again.
    let balancer =
        Balancer::start(&settings("server_max_rate = 1\nqueue_max = 0", &[("a", a.address)])).await;
    let l = balancer.address("l");
    let storm: Vec<_> = (0..40).map(|_| tokio::spawn(handshake(l))).collect();
    let mut open = 0;
    for client in storm {
        let (status, _stream) = client.await.unwrap();
        assert!(status == 101 || status == 503, "{status}");
        open += usize::from(status == 101);
    }
    // One at once and one more per second, however long this machine took.
    assert!((1..40).contains(&open), "{open}");
    // Requests that open nothing are no storm.
    assert_eq!(request(l, "GET", "/", &[], b"").await.status, 200);
    balancer.write(&settings("server_max_rate = 20\nqueue_timeout = \"30s\"", &[("a", a.address)]));
    assert_eq!(balancer.api("POST", "/reload", "").await.0, 200);
    // With a line to wait in, all come in, at the rate: 29 of 30 wait for a twentieth of a second each.
    let begun = tokio::time::Instant::now();
    let patient: Vec<_> = (0..30).map(|_| tokio::spawn(handshake(l))).collect();
    for client in patient {
        assert_eq!(client.await.unwrap().0, 101);
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_server_may_have_fewer_connections_than_the_others() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let text = settings("", &[("b", b.address), ("a", a.address)]) + "max_connections = 1\n";
    let balancer = Balancer::start(&text).await;
    let l = balancer.address("l");
    let mut open = Vec::new();
    for _ in 0..6 {
        let (status, stream) = handshake(l).await;
        assert_eq!(status, 101);
        open.push(stream);
    }
    assert_eq!(balancer.server("a").await["active_connections"], 1);
    assert_eq!(balancer.server("b").await["active_connections"], 5);
    balancer.write(&text.replace("max_connections = 1", "max_connections = 4"));
    let (_, answer) = balancer.api("POST", "/reload", "").await;
    assert!(answer.to_string().contains("other limits or checks"), "{answer}");
    for _ in 0..4 {
        open.push(handshake(l).await.1);
    }
    assert_eq!(balancer.server("a").await["active_connections"], 4);
}

#[tokio::test]
async fn admission_counts_tcp_connections_as_well() {
    let talkative = Parrot::start("hello", false).await;
    let text = settings("server_max_rate = 1\nqueue_max = 0", &[("a", talkative.address)])
        .replace("pool = \"p\"", "pool = \"p\"\nmode = \"tcp\"");
    let balancer = Balancer::start(&text).await;
    let l = balancer.address("l");
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                if raw(l, b"").await == b"hello" {
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let served = served.load(Ordering::SeqCst);
    assert!((1..20).contains(&served), "{served}");
}
