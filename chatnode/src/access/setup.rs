//! Puts the gate together from the settings, with what belongs to it: key set, revocations, back ends, chat model, server API.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use holdfast_telemetry::Registry;
use jsonwebtoken::{DecodingKey, EncodingKey};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Doorkeeper, Revocations};
use crate::api::{self, Control, Locals};
use crate::broker::Broker;
use crate::broker::bus::Bus;
use crate::config;
use crate::connections::Connections;
use crate::hub::Hub;
use crate::model::{self, Chat};
use crate::namespaces::Namespaces;
use crate::proxy::Proxies;
use crate::reload::Reload;
use crate::tokens::jwks::Jwks;
use crate::tokens::{Keys, Verifier};

/// What the rest of the node is given.
pub struct Entrance {
    /// Decides.
    pub gate: Doorkeeper,
    /// Reads the rules of channels again.
    pub reload: Arc<Reload>,
    /// Routes for clients and whoever logs in.
    pub client_routes: Router,
    /// Routes for back ends and operators.
    pub admin_routes: Router,
}

/// The node that the gate is for.
pub struct Surroundings<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// Its settings.
    pub file: PathBuf,
    /// Where everything is kept.
    pub broker: Arc<dyn Broker>,
    /// The way to the other nodes.
    pub bus: Bus,
    /// Connections of this node.
    pub connections: Arc<Connections>,
    /// Which of them follow what.
    pub hub: Arc<Hub>,
    /// Figures.
    pub registry: &'a Registry,
    /// Tasks of the node.
    pub tasks: &'a TaskTracker,
    /// Ends them.
    pub shutdown: &'a CancellationToken,
}

/// Why the gate cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up HTTPS for key sets and back ends")]
pub struct SetupError(#[source] reqwest::Error);

/// Puts it together.
///
/// # Errors
/// The system has no certificates to check HTTPS servers by.
pub fn start(
    config: config::Permissions,
    around: Surroundings<'_>,
) -> Result<Entrance, SetupError> {
    let Surroundings { name, file, broker, bus, connections, hub, registry, tasks, shutdown } =
        around;
    let config::Permissions {
        tokens,
        rules,
        proxies,
        api_keys,
        api_for_clients,
        accounts,
        namespaces,
    } = config;
    if rules.insecure {
        warn!("insecure mode: everybody may connect without a token and do everything");
    } else if rules.anonymous {
        warn!("clients may connect without a token, as the anonymous user");
    }
    // Another part of the process, or another node in it, may have installed it before: that one does.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    // Addresses are the operator's own; a proxy of the environment is not meant for them.
    let http = reqwest::Client::builder().no_proxy().build().map_err(SetupError)?;
    let jwks = tokens.jwks.map(|location| Arc::new(Jwks::new(location, http.clone(), registry)));
    if let Some(jwks) = &jwks {
        tasks.spawn(Arc::clone(jwks).run(tokens.jwks_refresh, shutdown.clone()));
    }
    let secret = tokens.secret.as_ref().map(|secret| secret.expose().as_bytes());
    let keys = Keys {
        secret: secret.map(DecodingKey::from_secret),
        // The settings were checked: each is a key.
        public: tokens
            .public_keys
            .iter()
            .filter_map(|pem| Keys::public_from_pem(pem).ok())
            .collect(),
        set: jwks.as_ref().map(|jwks| Arc::clone(jwks.keys())),
    };
    let verifier = Arc::new(Verifier {
        keys,
        audience: tokens.audience,
        issuer: tokens.issuer,
        ignore_expiry: rules.insecure,
    });
    let namespaces = Namespaces::new(namespaces);
    let reload = Arc::new(Reload::new(file, namespaces.clone(), registry));
    tasks.spawn(Arc::clone(&reload).run(shutdown.clone()));
    let revocations = Revocations::new(Arc::clone(&broker));
    let locals = Locals { connections, hub, namespaces: namespaces.clone() };
    let control = Control::start(bus, name, locals, revocations.clone());
    let watched = control.clone();
    tasks.spawn(revocations.clone().run(shutdown.clone(), move || watched.close_revoked()));

    let chat = accounts.zip(secret).map(|(settings, secret)| {
        Arc::new(Chat::new(model::Parts {
            settings,
            broker: Arc::clone(&broker),
            namespaces: namespaces.clone(),
            control: control.clone(),
            revocations: revocations.clone(),
            signer: EncodingKey::from_secret(secret),
            verifier: Arc::clone(&verifier),
        }))
    });
    let (mut client_routes, mut admin_routes) = (Router::new(), Router::new());
    if let Some(chat) = &chat {
        client_routes = client_routes.merge(model::http::router(Arc::clone(chat)));
    }
    if !api_keys.is_empty() {
        let (namespaces, revocations) = (namespaces.clone(), revocations.clone());
        let routes = api::router(
            api::Parts { broker, namespaces, control, revocations },
            api_keys,
            registry,
        );
        if api_for_clients {
            client_routes = client_routes.merge(routes.clone());
        }
        admin_routes = admin_routes.merge(routes);
    }
    let gate = Doorkeeper {
        verifier,
        jwks,
        revocations,
        namespaces,
        rules: Arc::new(rules),
        proxies: Arc::new(Proxies::new(proxies, http, registry)),
        chat,
    };
    Ok(Entrance { gate, reload, client_routes, admin_routes })
}
