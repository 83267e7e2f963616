//! The suite over TLS with certificates on both sides, as an ACL user with no more rights than the documentation asks for.

use std::path::Path;
use std::process::{Command, Stdio};

use super::backends::redis;
use super::{World, cases};
use crate::kit::{Process, eventually, free_port};

/// The rights of `docs/chatnode.md`.
const RIGHTS: &str = "~holdfast:* &holdfast:* +@scripting +@pubsub +@stream +@hash +@sortedset +@keyspace +@string +info +wait \
                      +time +client|setname";

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and certificates it signed for a server and a client.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("server.ext"), "subjectAltName=IP:127.0.0.1").unwrap();
    std::fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        dir,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"),
    );
    for name in ["server", "client"] {
        openssl(dir, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_over_tls_as_an_acl_user() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let (port, path) = (free_port(), dir.path().display());
    let config = dir.path().join("redis.conf");
    let text = format!(
        "port 0\ntls-port {port}\nbind 127.0.0.1\nsave \"\"\ndir {path}\ntls-cert-file {path}/server.pem\n\
         tls-key-file {path}/server.key\ntls-ca-cert-file {path}/ca.pem\ntls-auth-clients yes\n\
         user default off\nuser chat on >secret {RIGHTS}\n"
    );
    std::fs::write(&config, text).unwrap();
    let _server = Process::start("redis-server", &[config.display().to_string()]);
    std::fs::write(dir.path().join("password"), "secret\n").unwrap();
    let settings = |tls: &str| {
        format!(
            "address = \"127.0.0.1:{port}\"\nconfirm_replicas = 0\ncommand_timeout = \"10s\"\nusername = \"chat\"\n\
             password_file = \"{path}/password\"\n[redis.tls]\nca_file = \"{path}/ca.pem\"\n{tls}"
        )
    };
    let own = format!("certificate_file = \"{path}/client.pem\"\nkey_file = \"{path}/client.key\"");
    let world = World::start(redis(&settings(&own)));
    eventually("the server", async || world.broker.members("a").await.ok()).await;
    cases::all(&world).await;

    let short = |tls: &str| settings(tls).replace("10s", "300ms");
    for (what, tls) in [
        ("without a certificate of ours", String::new()),
        ("with another name on the server's", format!("{own}\nserver_name = \"elsewhere\"")),
    ] {
        let refused = World::start(redis(&short(&tls)));
        assert!(refused.broker.members("a").await.is_err(), "{what}");
    }
}
