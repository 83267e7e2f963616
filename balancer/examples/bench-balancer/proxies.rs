//! The three proxies: their settings for the same job, their processes, what these have used.

use std::error::Error;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::backend::Backends;
use super::callgrind::Callgrind;

/// Threads of each proxy.
const THREADS: usize = 2;
/// `/proc/PID/stat` counts in these; the kernel has told user space so for decades, whatever its own timer does.
const TICKS_PER_SECOND: f64 = 100.0;
/// A proxy answers within this time, or has not started.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory has settled when it changes by less than this in half a second.
const SETTLED_BYTES: u64 = 64 * 1024;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    Haproxy,
    Ours,
    Nginx,
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) http: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) tls_bulk: SocketAddr,
    process: Child,
    /// Counts its instructions.
    callgrind: Option<Callgrind>,
}

impl Proxy {
    /// Starts one with its files in `dir`; `counted` if its instructions are to be counted.
    pub(crate) async fn start(
        kind: Kind,
        dir: &Path,
        backends: &Backends,
        counted: bool,
    ) -> Result<Self, Box<dyn Error>> {
        let ports = [free()?, free()?, free()?, free()?, free()?];
        let [http, tcp, https, tls_bulk, _] = ports;
        let certificates = dir;
        let dir = dir.join(format!("{kind:?}"));
        fs::create_dir_all(&dir)?;
        let (file, text) = match kind {
            Kind::Haproxy => ("haproxy.cfg", haproxy(certificates, ports, backends)),
            Kind::Ours => ("balancer.toml", ours(&dir, certificates, ports, backends)),
            Kind::Nginx => ("nginx.conf", nginx(&dir, certificates, ports, backends)),
        };
        let file = dir.join(file);
        fs::write(&file, text)?;
        fs::write(dir.join("token"), "bench")?;
        let callgrind = counted.then(|| Callgrind::new(&dir));
        let mut command = Command::new("setpriv");
        // On TERM nginx's master ends the workers.
        command.args(["--pdeathsig", if kind == Kind::Nginx { "TERM" } else { "KILL" }]);
        command.args(callgrind.iter().flat_map(Callgrind::command));
        match kind {
            Kind::Haproxy => command.args(["haproxy", "-db", "-f"]),
            Kind::Ours => command.arg(own_program()?).arg("--config"),
            Kind::Nginx => command.args(["nginx", "-c"]),
        };
        let log = fs::File::create(dir.join("output"))?;
        command.arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn()?;
        let proxy = Self { kind, http, tcp, https, tls_bulk, process, callgrind };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(http).await.is_err() {
            if Instant::now() > deadline {
                let output = fs::read_to_string(dir.join("output"))?;
                return Err(format!("{kind:?} does not answer: {output}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(proxy)
    }

    /// What it has used so far: CPU time of all its processes in microseconds, or instructions where these are counted.
    pub(crate) fn used(&self) -> Result<f64, Box<dyn Error>> {
        if let Some(callgrind) = &self.callgrind {
            return Ok(callgrind.instructions(self.process.id())? as f64);
        }
        let mut ticks = 0;
        for pid in self.pids()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name, in parentheses, may hold anything; user and system time are the 12th and 13th field after it.
            let (_, fields) = stat.rsplit_once(')').ok_or("no process name in stat")?;
            for field in fields.split_whitespace().skip(11).take(2) {
                ticks += field.parse::<u64>()?;
            }
        }
        Ok(ticks as f64 * 1e6 / TICKS_PER_SECOND)
    }

    /// Memory of its own (not shared with files), once it has stopped to change.
    pub(crate) async fn settled_memory(&self) -> Result<u64, Box<dyn Error>> {
        let mut last = self.memory()?;
        loop {
            sleep(Duration::from_millis(500)).await;
            let now = self.memory()?;
            if now.abs_diff(last) < SETTLED_BYTES {
                return Ok(now);
            }
            last = now;
        }
    }

    fn memory(&self) -> Result<u64, Box<dyn Error>> {
        let mut bytes = 0;
        for pid in self.pids()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no RssAnon")?;
            bytes += kib.trim().parse::<u64>()? * 1_024;
        }
        Ok(bytes)
    }

    /// The process and its children (nginx's workers).
    fn pids(&self) -> Result<Vec<u32>, Box<dyn Error>> {
        let pid = self.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().map(str::parse);
        Ok([Ok(pid)].into_iter().chain(children).collect::<Result<_, _>>()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        // It may have ended already, and then there is nothing to end.
        let _ = Command::new("kill").arg(pid).stderr(Stdio::null()).status();
        let _ = self.process.wait();
    }
}

/// The balancer that was built with this program.
fn own_program() -> io::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let release = here.parent().and_then(Path::parent).unwrap_or(&here);
    Ok(release.join("holdfast-balancer"))
}

fn free() -> io::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, holdfast_ports::take()?).into())
}

/// HTTP, TCP, both again in TLS, and the operator API.
type Ports = [SocketAddr; 5];

fn haproxy(
    certificates: &Path,
    [http, tcp, https, tls_bulk, _]: Ports,
    backends: &Backends,
) -> String {
    let (web, bulk) = (backends.http, backends.bulk);
    let pem = certificates.join("both.pem");
    let pem = pem.display();
    format!(
        "global
    nbthread {THREADS}
    maxconn 9000
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    http-reuse always
    option http-keep-alive
frontend web
    bind {http}
    bind {https} ssl crt {pem}
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Real-IP %[src]
    default_backend web
backend web
    balance leastconn
    server a {web}
listen bulk
    mode tcp
    bind {tcp}
    bind {tls_bulk} ssl crt {pem}
    server a {bulk}
"
    )
}

fn nginx(
    dir: &Path,
    certificates: &Path,
    [http, tcp, https, tls_bulk, _]: Ports,
    backends: &Backends,
) -> String {
    let certificates = certificates.display();
    let (web, bulk, dir) = (backends.http, backends.bulk, dir.display());
    format!(
        "daemon off;
user root;
worker_processes {THREADS};
worker_rlimit_nofile 20000;
error_log {dir}/error.log crit;
pid {dir}/nginx.pid;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    keepalive_requests 100000000;
    tcp_nodelay on;
    ssl_certificate {certificates}/cert.pem;
    ssl_certificate_key {certificates}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    upstream web {{ least_conn; server {web}; keepalive 64; keepalive_requests 100000000; }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen {http} backlog=4096;
        listen {https} ssl backlog=4096;
        location / {{
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_read_timeout 1h;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto http;
            proxy_set_header X-Forwarded-Host $host;
            proxy_set_header X-Real-IP $remote_addr;
        }}
    }}
}}
stream {{
    ssl_certificate {certificates}/cert.pem;
    ssl_certificate_key {certificates}/key.pem;
    server {{ listen {tcp}; listen {tls_bulk} ssl; proxy_pass {bulk}; }}
}}
"
    )
}

fn ours(
    dir: &Path,
    certificates: &Path,
    [http, tcp, https, tls_bulk, admin]: Ports,
    backends: &Backends,
) -> String {
    let (web, bulk, dir) = (backends.http, backends.bulk, dir.display());
    let certificates = certificates.display();
    let tls = format!(
        "[[listener.tls.certificate]]\nchain = \"{certificates}/cert.pem\"\nkey = \"{certificates}/key.pem\""
    );
    format!(
        "[admin]
listen = \"{admin}\"
token_file = \"{dir}/token\"
[workers]
count = {THREADS}
[[listener]]
name = \"web\"
listen = \"{http}\"
pool = \"web\"
[[listener]]
name = \"bulk\"
listen = \"{tcp}\"
mode = \"tcp\"
pool = \"bulk\"
[[listener]]
name = \"https\"
listen = \"{https}\"
pool = \"web\"
[listener.tls]
{tls}
[[listener]]
name = \"tls-bulk\"
listen = \"{tls_bulk}\"
mode = \"tcp\"
pool = \"bulk\"
[listener.tls]
{tls}
[[pool]]
name = \"web\"
[[pool.server]]
name = \"a\"
address = \"{web}\"
[[pool]]
name = \"bulk\"
[[pool.server]]
name = \"a\"
address = \"{bulk}\"
"
    )
}
