//! Members that prove themselves by certificates of an authority of the operator's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use super::*;

/// An authority with its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: pem("CERTIFICATE", certificate.der()), issuer: Issuer::new(params, key) }
    }

    /// Credentials of a member at 127.0.0.1 that trusts this authority, with a certificate of `signer` that expires in `year`.
    fn credentials(&self, signer: &Self, year: i32) -> Credentials {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(2019, 1, 1), date_time_ymd(year, 1, 1));
        let certificate = params.signed_by(&key, &signer.issuer).unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = TlsFiles {
            certificate: write("certificate", &pem("CERTIFICATE", certificate.der())),
            key: write("key", &pem("PRIVATE KEY", &key.serialize_der())),
            authority: write("authority", &self.pem),
        };
        Credentials::new(Some(&files), None).unwrap()
    }
}

/// Long after whoever reads this.
const VALID: i32 = 2100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_one_authority_make_a_group() {
    let authority = Authority::new();
    let member = async |name| Kit::with(name, authority.credentials(&authority, VALID)).await;
    let first = member("a").await;
    first.seat("waits", |seat| *seat == Seat::Outside).await;
    first.group.form().await.unwrap();
    let second = member("b").await;
    second.seat("waits", |seat| *seat == Seat::Outside).await;
    second.group.join(first.address.clone().unwrap()).await.unwrap();
    second.seat("follows", |seat| matches!(seat, Seat::Following { leader: Some(1) })).await;
    // Whoever comes with something else stays outside, and says why at its end.
    let other = Authority::new();
    let strangers = [
        ("of another authority", authority.credentials(&other, VALID)),
        ("that trusts another authority", other.credentials(&other, VALID)),
        ("that has expired", authority.credentials(&authority, 2020)),
        ("that has none", credentials("a secret instead")),
    ];
    for (what, credentials) in strangers {
        let stranger = Kit::with("c", credentials).await;
        stranger.seat("waits", |seat| *seat == Seat::Outside).await;
        let joined = stranger.group.join(first.address.clone().unwrap()).await;
        assert!(joined.is_err(), "one {what} was taken in");
        let error = joined.unwrap_err();
        assert!(matches!(error, MembershipError::Transport(_)), "one {what}: {error:?}");
        assert_eq!(*stranger.group.seat().borrow(), Seat::Outside, "one {what}");
    }
    let names = |kit: &Kit| -> Vec<String> {
        kit.group.members().borrow().all.values().map(|member| member.name.clone()).collect()
    };
    assert_eq!(names(&first), ["a", "b"]);
}
