//! Targets from a real DNS server (dnsmasq), which changes its mind.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::support::supervisor::Supervisor;
use crate::support::{bound_to_us, free_port, until};
use crate::target::Target;
use crate::value;

/// A dnsmasq that knows what the test tells it and nothing else.
struct Dns {
    port: u16,
    child: Child,
}

impl Dns {
    fn start(port: u16, records: &[String]) -> Self {
        let child = bound_to_us("/usr/sbin/dnsmasq")
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"])
            .args(["--no-poll", "--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="])
            .args(["--local=/test/", "--user="])
            .arg(format!("--port={port}"))
            .args(records)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { port, child }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It may have ended by itself, then there is nothing to kill.
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_list_targets_and_keep_them_while_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::start("text/plain", b"here 1\n".to_vec()).await;
    let port = target.address.rsplit_once(':').unwrap().1.to_owned();
    let host = "--host-record=localhost.test,127.0.0.1".to_owned();
    // Sixty services do not fit into a datagram, so the answer comes over TCP.
    let service =
        |count: u32| (0..count).map(|at| format!("--srv-host=_m._tcp.test,127.0.0.1,{port},{at}"));
    let records: Vec<String> = service(60).chain([host.clone()]).collect();
    let dns = Dns::start(free_port(), &records);
    let server = dns.port;
    let settings = format!(
        "[[scrape.job]]\nname = \"service\"\n\
         dns_sd = [{{ names = [\"_m._tcp.test\"], server = \"127.0.0.1:{server}\", refresh = \"5s\" }}]\n\
         relabel_configs = [{{ source_labels = [\"__meta_dns_name\"], target_label = \"name\" }}]\n\
         [[scrape.job]]\nname = \"host\"\n\
         dns_sd = [{{ names = [\"localhost.test\"], type = \"A\", port = {port}, server = \"127.0.0.1:{server}\", refresh = \"5s\" }}]\n"
    );
    let supervisor = Supervisor::start(folder.path(), &settings).await;
    let is = async |query: &str, expected: Option<&str>| {
        until(query, async || value(&supervisor.base, query).await == expected.map(|v| json!(v)))
            .await;
    };
    is("here{job=\"service\", name=\"_m._tcp.test\"}", Some("1")).await;
    is(&format!("here{{job=\"host\", instance=\"127.0.0.1:{port}\"}}"), Some("1")).await;

    drop(dns);
    until("the silence is told", async || {
        let log = std::fs::read_to_string(folder.path().join("supervisor.log")).unwrap();
        log.contains("targets stay as DNS listed them last")
    })
    .await;
    is("up{job=\"service\"}", Some("1")).await;

    // The service is gone, and a server says so.
    let _dns = Dns::start(server, &[host]);
    is("up{job=\"service\"}", None).await;
    is("up{job=\"host\"}", Some("1")).await;
}
