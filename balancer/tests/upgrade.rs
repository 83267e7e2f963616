//! A new program in the place of the old, by an operator or a signal: what it is given, and what happens when it cannot serve. What clients
//! notice of one is in `soak.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::program::{Program, Start, wait_ended};
use support::{Upstream, free, request, settings, until};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const CHANGE: &str = "/pools/p/servers/a";
const FAILURES: &str = "balancer_upgrade_failures_total ";

/// A WebSocket through listener `l` that has said hello.
async fn open(program: &Program) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{}/ws", program.listener());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.next().await.unwrap().unwrap();
    socket
}

async fn wait_failures(program: &Program, count: u32) {
    until(&format!("{count} failed upgrades"), async || {
        let metrics = request(program.admin, "GET", "/metrics", &[], b"").await;
        let text = metrics.text().to_owned();
        let seen = text.lines().find_map(|line| line.strip_prefix(FAILURES)).map(str::to_owned);
        if seen == Some(count.to_string()) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_program_that_cannot_serve_changes_nothing() {
    let a = Upstream::start("a");
    let text = settings("", &[("a", a.address)]);
    let mut program = Program::start(&text);
    let mut socket = open(&program).await;
    let (old, mut failures) = (program.process, 0);
    for (broken, script, expected) in [
        (true, None, "there is no pool named"),
        (false, Some("exit 7"), "exit status: 7"),
        (false, Some("exec sleep 600 <&-"), "has ended before it served"),
    ] {
        program.write(&if broken {
            text.replace("pool = \"p\"", "pool = \"q\"")
        } else {
            text.clone()
        });
        program.replace_by(script);
        for by_signal in [false, true] {
            failures += 1;
            if by_signal {
                program.signal(Signal::SIGUSR2);
            } else {
                let (status, answer) = program.api("POST", "/upgrade", "").await;
                assert_eq!(status, 422, "{answer}");
                assert!(answer.to_string().contains(expected), "{answer}");
                assert!(answer["error"].as_str().unwrap().ends_with("; this process serves on"));
            }
            wait_failures(&program, failures).await;
            until("changes to be made again", async || {
                let (status, answer) =
                    program.api("PATCH", CHANGE, &json!({ "weight": failures }).to_string()).await;
                if status == 200 { Ok(()) } else { Err(answer) }
            })
            .await;
        }
        assert!(program.log().contains(expected), "{}", program.log());
    }
    // No program at all.
    program.replace_by(Some(""));
    let rights = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(program.path("program"), rights).unwrap();
    let (status, answer) = program.api("POST", "/upgrade", "").await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("start "), "{answer}");
    let said = program.log().matches("upgrade failed, this process serves on").count();
    assert_eq!(said, 7, "{}", program.log());

    // The same one serves on, and a good one takes over in the end.
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    assert_eq!(program.children(), []);
    program.replace_by(None);
    let (status, answer) = program.api("POST", "/upgrade", "").await;
    assert_eq!(status, 200, "{answer}");
    program.process = Pid::from_raw(answer["process"].as_i64().unwrap().try_into().unwrap());
    assert_ne!(program.process, old);
    assert_eq!(program.server("a").await["weight"], failures);
    wait_failures(&program, 0).await;
    socket.send(Message::text("and now")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("and now"));
    // The old one ends with its last connection.
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    wait_ended(old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_program_that_says_nothing_is_ended_in_time() {
    let a = Upstream::start("a");
    let text = settings("", &[("a", a.address)]);
    let program = Program::start(&text.replace("[drain]", "[drain]\nupgrade_timeout = \"1s\""));
    program.replace_by(Some("exec sleep 600"));
    let (status, answer) = program.api("POST", "/upgrade", "").await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("did not serve within 1s"), "{answer}");
    assert_eq!(program.children(), []);
    assert_eq!(program.api("PATCH", CHANGE, r#"{"weight":7}"#).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_in_the_middle_of_an_upgrade_waits_for_nobody() {
    let a = Upstream::start("a");
    let text = settings("", &[("a", a.address)]);
    // Longer than the test waits for anything.
    let program = Program::start(&text.replace("[drain]", "[drain]\nupgrade_timeout = \"1h\""));
    let pid = program.path("pid");
    program.replace_by(Some(&format!(
        "echo $$ >{0}.new; mv {0}.new {0}; exec sleep 600",
        pid.display()
    )));
    program.signal(Signal::SIGUSR2);
    let new = until("the new process", async || {
        std::fs::read_to_string(&pid).map_err(|error| error.to_string())
    })
    .await;
    // One at a time, and no changes that the new one would not hear of.
    for (method, path, body) in [("POST", "/upgrade", ""), ("PATCH", CHANGE, "{\"weight\":7}")] {
        let (status, answer) = program.api(method, path, body).await;
        assert_eq!(status, 503, "{answer}");
    }
    program.signal(Signal::SIGTERM);
    wait_ended(program.process).await;
    wait_ended(Pid::from_raw(new.trim().parse().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_processes_write_one_journal_one_after_the_other() {
    const CHANGES: u64 = 15;
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let keep = format!(
        "state_dir = \"{}\"\nkeep_changes = true\njournal_max_bytes = 4096\njournal_files = 50\n",
        dir.path().display()
    );
    let program = Program::start(&(keep + &settings("", &[("a", a.address)])));
    // For its sake the old process stays.
    let mut socket = open(&program).await;
    let change = async |weight: u64| {
        let change = json!({ "weight": weight }).to_string();
        assert_eq!(program.api("PATCH", CHANGE, &change).await.0, 200);
    };
    for weight in 0..CHANGES {
        change(weight).await;
    }
    let (status, answer) = program.api("POST", "/upgrade", "").await;
    assert_eq!(status, 200, "{answer}");
    for weight in CHANGES..2 * CHANGES {
        change(weight).await;
    }
    let written = journal(dir.path());
    let weights: Vec<_> =
        written.iter().filter_map(|entry| entry["new"]["weight"].as_u64()).collect();
    assert_eq!(weights, (0..2 * CHANGES).collect::<Vec<_>>());
    let orders = written.iter().filter(|entry| entry["action"] == "upgrade ordered").count();
    assert_eq!((orders, written.len() as u64), (1, 2 * CHANGES + 1));
    let kept: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("changes.json")).unwrap()).unwrap();
    assert_eq!(kept["pools"]["p"]["servers"]["a"]["weight"], 2 * CHANGES - 1);
    // The old one is there and has let go of all that the new one writes.
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    let fds = std::fs::read_dir(format!("/proc/{}/fd", program.process)).unwrap();
    let open = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let held: Vec<_> = open.filter(|file| file.starts_with(dir.path())).collect();
    assert!(held.is_empty(), "{held:?}");
}

/// Every entry of every file of the journal, the first one first; a line that is none fails.
fn journal(dir: &Path) -> Vec<Value> {
    let newest = dir.join("journal.jsonl");
    let numbered = |n: &u32| dir.join(format!("journal.jsonl.{n}"));
    let count = (1..100).take_while(|n| numbered(n).exists()).last().expect("one put aside");
    let mut texts: Vec<_> =
        (1..=count).rev().map(|n| std::fs::read_to_string(numbered(&n)).unwrap()).collect();
    texts.extend(std::fs::read_to_string(newest));
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_process_knows_what_the_old_one_did() {
    let [a, c] = ["a", "c"].map(Upstream::start);
    let servers = [("a", a.address), ("b", free()), ("c", c.address)];
    let program = Program::start(&settings("max_fails = 1\nfail_timeout = \"1h\"", &servers));
    let listener = program.listener();
    until("the server that is not there to be found out", async || {
        assert_eq!(request(listener, "GET", "/", &[], b"").await.status, 200);
        let server = program.server("b").await;
        if server["passive"] == "open" { Ok(()) } else { Err(server) }
    })
    .await;
    let set = async |method, path, body: &str| {
        let (status, answer) = program.api(method, path, body).await;
        assert!(status < 300, "{status} {answer}");
    };
    set("POST", "/bans", r#"{"address":"192.0.2.7","seconds":3600}"#).await;
    let drain = r#"{"state":"drain","reason":"new kernel","drain":{"rate":5,"deadline":"2h"}}"#;
    set("PATCH", "/pools/p/servers/a", drain).await;
    set("PATCH", "/pools/p/servers/c", r#"{"weight":50,"max_connections":7}"#).await;
    set("POST", "/upgrade", "").await;

    let (_, bans) = program.api("GET", "/bans", "").await;
    let ban = &bans["bans"][0];
    assert_eq!((&bans["total"], &ban["address"]), (&json!(1), &json!("192.0.2.7")));
    assert_eq!((&ban["offence"], &ban["times"]), (&json!("operator"), &json!(1)));
    assert!((3_000..3_600).contains(&ban["seconds_left"].as_u64().unwrap()), "{ban}");
    let b = program.server("b").await;
    assert_eq!((&b["passive"], &b["ejection"]["cause"]), (&json!("open"), &json!("failures")));
    assert!(b["ejection"]["seconds_left"].as_f64().unwrap() > 3_000.0, "{b}");
    let a = program.server("a").await;
    assert_eq!((&a["state"], &a["reason"]), (&json!("drain"), &json!("new kernel")));
    assert_eq!((&a["drain"]["rate"], &a["drain"]["left"]), (&json!(5), &json!(0)));
    let c = program.server("c").await;
    assert_eq!((&c["weight"], &c["max_connections"]), (&json!(50), &json!(7)));
    // It goes on as it was told, and can be told otherwise.
    assert_eq!(request(listener, "GET", "/", &[], b"").await.status, 200);
    set("PATCH", "/pools/p/servers/a", r#"{"state":"ready"}"#).await;
    assert_eq!(program.server("a").await["drain"], Value::Null);
    set("DELETE", "/bans/192.0.2.7", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_the_program_replaced_and_says_by_whom() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("[admin.unix]\npath = \"{}\"\n", dir.path().join("socket").display());
    let program = Program::start(&(unix + &settings("", &[("a", a.address)])));
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-balancer"));
        let output = command.args(["upgrade", "--config"]).arg(program.path("balancer.toml"));
        let output = output.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    // It is no child of this process, so what it is called is in its own list.
    let (code, said, complaint) = command();
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    let process = said.strip_prefix("process ").unwrap().strip_suffix(" has taken over\n").unwrap();
    assert_ne!(process, program.process.to_string());
    assert!(Path::new("/proc").join(process).exists());
    wait_ended(program.process).await;
    assert_eq!(program.api("PATCH", CHANGE, r#"{"weight":7}"#).await.0, 200);

    program.replace_by(Some("exit 7"));
    let (code, said, complaint) = command();
    assert_eq!((code, said.as_str()), (Some(1), ""), "{complaint}");
    assert!(complaint.contains("answers 422: the new process has ended"), "{complaint}");
    assert!(complaint.contains("exit status: 7") && complaint.contains("serves on"), "{complaint}");
    assert_eq!(program.server("a").await["weight"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told_what_goes_on() {
    let a = Upstream::start("a");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    let heard = async || {
        let mut message = [0; 1_024];
        let length = tokio::time::timeout(support::DEADLINE, manager.recv(&mut message));
        let length = length.await.expect("a message in time").unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let program = Program::start_as(Start {
        settings: settings("", &[("a", a.address)]),
        environment: vec![("NOTIFY_SOCKET", path.to_str().unwrap().to_owned())],
        ..Start::default()
    });
    assert_eq!(heard().await, "READY=1");
    let mut last = 0_u64;
    let mut reloading = async || {
        let said = heard().await;
        let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(time > last, "{said}");
        last = time;
    };
    for settings_are_good in [true, false] {
        if !settings_are_good {
            program.write("nothing = true");
        }
        program.signal(Signal::SIGHUP);
        reloading().await;
        assert_eq!(heard().await, "READY=1");
    }
    // Settings that are refused are refused to the new process, too.
    assert_eq!(program.api("POST", "/upgrade", "").await.0, 422);
    reloading().await;
    assert_eq!(heard().await, "READY=1");
    program.write(&settings("", &[("a", a.address)]));
    let (status, answer) = program.api("POST", "/upgrade", "").await;
    assert_eq!(status, 200, "{answer}");
    reloading().await;
    // First by the new process, of which nobody knows yet.
    assert_eq!(heard().await, "READY=1");
    assert_eq!(heard().await, format!("READY=1\nMAINPID={}", answer["process"]));
    let process = i32::try_from(answer["process"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(Pid::from_raw(process), Signal::SIGTERM).unwrap();
    assert_eq!(heard().await, "STOPPING=1");
    wait_ended(Pid::from_raw(process)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_may_have_bound_the_address() {
    let a = Upstream::start("a");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // Who has come before the program waits for it.
    let early = tokio::spawn(async move { request(address, "GET", "/early", &[], b"").await });
    let text = settings("", &[("a", a.address)]);
    let listener = "name = \"l\"\nlisten = \"127.0.0.1:0\"";
    let program = Program::start_as(Start {
        settings: text.replace(listener, &listener.replace("127.0.0.1:0", &address.to_string())),
        socket: Some(socket),
        ..Start::default()
    });
    assert_eq!(program.listener(), address);
    assert_eq!(early.await.unwrap().status, 200);
    // The next process has it from this one.
    let (status, answer) = program.api("POST", "/upgrade", "").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(request(address, "GET", "/late", &[], b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_of_a_server_reaches_the_clients_of_old_processes() {
    const SOCKETS: usize = 12;
    let a = Upstream::start("a");
    let program = Program::start(&settings("", &[("a", a.address)]));
    let listener = program.listener();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let url = format!("ws://{listener}/ws");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        socket.next().await.unwrap().unwrap();
        sockets.push(socket);
    }
    // Twice, so that the one in between has to pass the word on.
    let mut old = vec![program.process];
    for _ in 0..2 {
        let (status, answer) = program.api("POST", "/upgrade", "").await;
        assert_eq!(status, 200, "{answer}");
        old.push(Pid::from_raw(answer["process"].as_i64().unwrap().try_into().unwrap()));
    }
    old.pop();
    // At no moment does the server look empty.
    let server = program.server("a").await;
    let count = |key: &str| server[key].as_u64().unwrap();
    let known = [count("active_connections"), count("connections_of_old_process")];
    assert_eq!(known, [SOCKETS as u64; 2], "{server}");
    let (status, answer) = program.api("DELETE", CHANGE, "").await;
    assert_eq!(status, 409, "{answer}");
    let drain = r#"{"state":"drain","drain":{"rate":1000,"deadline":"1h"}}"#;
    assert_eq!(program.api("PATCH", CHANGE, drain).await.0, 200);
    for socket in &mut sockets {
        let told = tokio::time::timeout(support::DEADLINE, socket.next()).await.unwrap();
        let Some(Ok(Message::Close(Some(frame)))) = told else { panic!("{told:?}") };
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1012, "drained"));
        while let Some(Ok(_)) = socket.next().await {}
    }
    until("the server to be empty", async || {
        let server = program.server("a").await;
        let (drain, active) = (&server["drain"], &server["active_connections"]);
        let empty = *active == 0 && drain["left"] == 0 && drain["total"] == SOCKETS;
        if empty { Ok(()) } else { Err(server) }
    })
    .await;
    for process in old {
        wait_ended(process).await;
    }
    // What an earlier drain has done is not counted for the next.
    assert_eq!(program.api("PATCH", CHANGE, r#"{"state":"ready"}"#).await.0, 200);
    let (status, answer) = program.api("PATCH", CHANGE, drain).await;
    assert_eq!((status, &answer["drain"]["total"]), (200, &json!(0)), "{answer}");
    assert_eq!(program.api("DELETE", CHANGE, "").await.0, 204);
}
