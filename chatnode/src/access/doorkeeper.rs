//! The gate in production: tokens, namespace rules, back ends and the chat model, in that order of authority.
//!
//! A token signed by the operator is the operator's word and beats the rules of the namespace; a back end is asked where no token
//! speaks; the rules decide the rest. Insecure mode lets everybody do everything, but a token that is sent is still checked.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{
    Accepted, Admission, ConnectAsk, Decision, Denial, Gate, Grant, PublishAsk, Revocations,
    SubscribeAsk, Term, Who,
};
use crate::model::Chat;
use crate::namespaces::{Asker, Namespaces, Options};
use crate::protocol::{Disconnect, ErrorCode};
use crate::proxy::{self, Proxies, Question};
use crate::tokens::jwks::{Freshness, Jwks};
use crate::tokens::{ConnectionToken, Terms, TokenError, Verifier};

/// What the operator allows beside the namespaces.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Clients without a token, or with one that names no user, may connect.
    pub anonymous: bool,
    /// Everybody may do everything.
    pub insecure: bool,
    /// Users are subscribed to a channel of their own: text before `#user`.
    pub personal_channel: Option<String>,
    /// Back end that is asked about clients without a token; empty: none.
    pub connect_proxy: String,
    /// Back end that is asked to prolong connections it let in; empty: none.
    pub refresh_proxy: String,
    /// Back end that procedures are called on; empty: none.
    pub rpc_proxy: String,
}

/// Decides. Clones share everything.
#[derive(Clone)]
pub struct Doorkeeper {
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// Renews the keys it checks them with.
    pub jwks: Option<Arc<Jwks>>,
    /// Tokens taken back.
    pub revocations: Revocations,
    /// Rules of channels.
    pub namespaces: Namespaces,
    /// Other rules.
    pub rules: Arc<Rules>,
    /// Back ends.
    pub proxies: Arc<Proxies>,
    /// The built-in chat model.
    pub chat: Option<Arc<Chat>>,
}

/// Seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge reads the clock that tokens are checked against"
)]
pub(crate) fn unix_seconds() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(0, |since| since.as_secs())
}

impl Doorkeeper {
    /// Checks a token, with newer keys if it needs them.
    async fn checked<T>(
        &self,
        check: impl Fn(&Verifier) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        match (check(&self.verifier), &self.jwks) {
            (Err(TokenError::UnknownKey), Some(jwks)) => match jwks.renew().await {
                Freshness::Fresh => match check(&self.verifier) {
                    // The newest set has no such key: nobody signed this.
                    Err(TokenError::UnknownKey) => Err(TokenError::Invalid),
                    result => result,
                },
                Freshness::Unknown => check(&self.verifier),
            },
            (result, _) => result,
        }
    }

    async fn admit(self, ask: ConnectAsk) -> Result<Admission, Denial> {
        let rules = &self.rules;
        if ask.token.is_empty() {
            if !rules.connect_proxy.is_empty() {
                return self.admit_by_proxy(ask).await;
            }
            if !rules.anonymous && !rules.insecure {
                return Err(Disconnect::BAD_REQUEST.into());
            }
            return self.welcome(ask, ConnectionToken::default(), None, Term::default());
        }
        let now = unix_seconds();
        let token = self.checked(|verifier| verifier.connection(&ask.token, now)).await;
        let token = token.map_err(|error| match error {
            TokenError::Expired => Denial::from(ErrorCode::TOKEN_EXPIRED),
            TokenError::UnknownKey => ErrorCode::INTERNAL.into(),
            TokenError::Invalid => Disconnect::INVALID_TOKEN.into(),
        })?;
        if self.revocations.covers(&token.user, token.id.as_deref(), token.issued_at, now) {
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        if token.user.is_empty() && !rules.anonymous && !rules.insecure {
            return Err(Disconnect::PERMISSION_DENIED.into());
        }
        let term = Term { ends_at: token.ends_at, by_server: false };
        self.welcome(ask, token, None, term)
    }

    async fn admit_by_proxy(self, ask: ConnectAsk) -> Result<Admission, Denial> {
        let question =
            Question { name: &ask.name, version: &ask.version, ..Question::of(&ask.origin) };
        let question = question.with_data(ask.data.as_ref());
        let name = &self.rules.connect_proxy;
        let answer: proxy::ConnectAnswer = self.proxies.ask(name, &ask.origin, &question).await?;
        let data = proxy::payload(answer.data, answer.b64data)?;
        let mut subscriptions: Vec<_> = answer
            .channels
            .into_iter()
            .filter(|channel| !answer.subs.contains_key(channel))
            .map(|channel| (channel, Terms::default()))
            .collect();
        for (channel, terms) in answer.subs {
            subscriptions.push((channel, terms.read().map_err(|_| ErrorCode::INTERNAL)?));
        }
        let by_server = !self.rules.refresh_proxy.is_empty();
        let token = ConnectionToken {
            user: answer.user,
            info: proxy::payload(answer.info, answer.b64info)?,
            meta: answer.meta.map(|meta| Bytes::copy_from_slice(meta.get().as_bytes())),
            subscriptions,
            ..ConnectionToken::default()
        };
        let ends_at = answer.expire_at.filter(|end| *end > 0);
        self.welcome(ask, token, data, Term { ends_at, by_server })
    }

    /// Lets somebody in whose identity is settled.
    fn welcome(
        &self,
        ask: ConnectAsk,
        token: ConnectionToken,
        data: Option<Bytes>,
        term: Term,
    ) -> Result<Admission, Denial> {
        let mut wanted = token.subscriptions;
        let personal = self.rules.personal_channel.as_ref().filter(|_| !token.user.is_empty());
        let personal = personal.map(|prefix| format!("{prefix}#{}", token.user));
        if let Some(personal) = personal
            && !wanted.iter().any(|(channel, _)| *channel == personal)
        {
            wanted.push((personal, Terms::default()));
        }
        let mut subscriptions = Vec::with_capacity(wanted.len());
        for (channel, terms) in wanted {
            // Operator and back end named it; if it cannot be, the mistake is on our side.
            let options = self.namespaces.of(&channel).map_err(|_| Disconnect::SERVER_ERROR)?;
            subscriptions.push((channel, grant(options, terms, Term::default())));
        }
        let who = Who {
            origin: ask.origin,
            user: token.user.into(),
            meta: token.meta,
            token_id: token.id.map(Into::into),
            issued_at: token.issued_at,
            insecure: self.rules.insecure,
        };
        Ok(Admission { who: Arc::new(who), info: token.info, data, term, subscriptions })
    }

    async fn prolong(self, who: Arc<Who>, token: String) -> Result<Term, Denial> {
        if token.is_empty() {
            let question = Question { user: Some(&who.user), ..Question::of(&who.origin) };
            let question = question.with_meta(who.meta.as_ref());
            let name = &self.rules.refresh_proxy;
            let answer: proxy::RefreshAnswer =
                self.proxies.ask(name, &who.origin, &question).await?;
            return prolonged(&answer, Disconnect::EXPIRED.into());
        }
        let now = unix_seconds();
        match self.checked(|verifier| verifier.connection(&token, now)).await {
            Ok(token)
                if *token.user == *who.user
                    && !self.revocations.covers(
                        &token.user,
                        token.id.as_deref(),
                        token.issued_at,
                        now,
                    ) =>
            {
                Ok(Term { ends_at: token.ends_at, by_server: false })
            }
            Err(TokenError::Expired) => Err(Disconnect::EXPIRED.into()),
            Err(TokenError::UnknownKey) => Err(ErrorCode::INTERNAL.into()),
            Ok(_) | Err(TokenError::Invalid) => Err(Disconnect::INVALID_TOKEN.into()),
        }
    }

    async fn grant(self, who: Arc<Who>, ask: SubscribeAsk) -> Result<Grant, Denial> {
        let options = self.namespaces.of(&ask.channel)?;
        if !ask.token.is_empty() {
            let (terms, term) = self.subscription_token(&who, &ask.channel, &ask.token).await?;
            return Ok(grant(options, terms, term));
        }
        let plain = |options| Ok(grant(options, Terms::default(), Term::default()));
        if who.insecure {
            return plain(options);
        }
        if ask.channel.starts_with('$') {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        if let Some(chat) = &self.chat
            && let Some(may) = chat.may_subscribe(&who.user, &ask.channel).await
        {
            return if may? { plain(options) } else { Err(ErrorCode::PERMISSION_DENIED.into()) };
        }
        let limited = ask.channel.contains('#');
        if !limited && !options.subscribe_proxy.is_empty() {
            let question = Question {
                user: Some(&who.user),
                channel: &ask.channel,
                ..Question::of(&who.origin)
            };
            let question = question.with_data(ask.data.as_ref()).with_meta(who.meta.as_ref());
            let answer: proxy::SubscribeAnswer =
                self.proxies.ask(&options.subscribe_proxy, &who.origin, &question).await?;
            let ends_at = answer.expire_at.filter(|end| *end > 0);
            let term = Term { ends_at, by_server: !options.sub_refresh_proxy.is_empty() };
            let terms = answer.terms().map_err(|_| ErrorCode::INTERNAL)?;
            return Ok(grant(options, terms, term));
        }
        if options.may_subscribe(&ask.channel, &who.user) {
            return plain(options);
        }
        Err(ErrorCode::PERMISSION_DENIED.into())
    }

    async fn subscription_token(
        &self,
        who: &Who,
        channel: &str,
        token: &str,
    ) -> Result<(Terms, Term), Denial> {
        let now = unix_seconds();
        let token = self.checked(|verifier| verifier.subscription(token, now)).await;
        let token = token.map_err(|error| {
            Denial::from(match error {
                TokenError::Expired => ErrorCode::TOKEN_EXPIRED,
                TokenError::UnknownKey => ErrorCode::INTERNAL,
                TokenError::Invalid => ErrorCode::PERMISSION_DENIED,
            })
        })?;
        let for_another = token.client.is_some_and(|client| *client != *who.origin.client);
        if *token.user != *who.user || token.channel != channel || for_another {
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        if self.revocations.covers(&token.user, token.id.as_deref(), token.issued_at, now) {
            return Err(ErrorCode::PERMISSION_DENIED.into());
        }
        if token.ends_at.is_some_and(|end| end <= now) {
            return Err(ErrorCode::EXPIRED.into());
        }
        Ok((token.terms, Term { ends_at: token.ends_at, by_server: false }))
    }

    async fn prolong_subscription(
        self,
        who: Arc<Who>,
        channel: String,
        token: String,
    ) -> Result<Term, Denial> {
        if !token.is_empty() {
            return self.subscription_token(&who, &channel, &token).await.map(|(_, term)| term);
        }
        let options = self.namespaces.of(&channel)?;
        if options.sub_refresh_proxy.is_empty() {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        let question =
            Question { user: Some(&who.user), channel: &channel, ..Question::of(&who.origin) };
        let question = question.with_meta(who.meta.as_ref());
        let answer: proxy::RefreshAnswer =
            self.proxies.ask(&options.sub_refresh_proxy, &who.origin, &question).await?;
        prolonged(&answer, ErrorCode::EXPIRED.into())
    }

    async fn accept(self, who: Arc<Who>, ask: PublishAsk) -> Result<Accepted, Denial> {
        let options = self.namespaces.of(&ask.channel)?;
        let asker = Asker { user: &who.user, subscribed: ask.subscribed };
        if options.publish_proxy.is_empty() || who.insecure {
            if !who.insecure && !options.may_publish(asker) {
                return Err(ErrorCode::PERMISSION_DENIED.into());
            }
            return Ok(Accepted { options, data: ask.data, skip_history: false });
        }
        let question =
            Question { user: Some(&who.user), channel: &ask.channel, ..Question::of(&who.origin) };
        let question = question.with_data(Some(&ask.data)).with_meta(who.meta.as_ref());
        let answer: proxy::PublishAnswer =
            self.proxies.ask(&options.publish_proxy, &who.origin, &question).await?;
        let skip_history = answer.skip_history;
        let data = proxy::payload(answer.data, answer.b64data)?.unwrap_or(ask.data);
        Ok(Accepted { options, data, skip_history })
    }

    async fn call(
        self,
        who: Arc<Who>,
        method: String,
        data: Option<Bytes>,
    ) -> Result<Bytes, Denial> {
        if let Some(chat) = &self.chat
            && let Some(answer) = chat.call(&who, &method, data.as_ref()).await
        {
            return answer;
        }
        if self.rules.rpc_proxy.is_empty() {
            let offers_any = self.chat.is_some();
            let error =
                if offers_any { ErrorCode::METHOD_NOT_FOUND } else { ErrorCode::NOT_AVAILABLE };
            return Err(error.into());
        }
        let question =
            Question { user: Some(&who.user), method: &method, ..Question::of(&who.origin) };
        let question = question.with_data(data.as_ref()).with_meta(who.meta.as_ref());
        let answer: proxy::RpcAnswer =
            self.proxies.ask(&self.rules.rpc_proxy, &who.origin, &question).await?;
        Ok(proxy::payload(answer.data, answer.b64data)?.unwrap_or_else(|| "null".into()))
    }
}

fn prolonged(answer: &proxy::RefreshAnswer, expired: Denial) -> Result<Term, Denial> {
    if answer.expired {
        return Err(expired);
    }
    Ok(Term { ends_at: answer.expire_at.filter(|end| *end > 0), by_server: true })
}

/// Terms on top of the rules of a namespace.
pub(crate) fn grant(options: Arc<Options>, terms: Terms, term: Term) -> Grant {
    let Terms { info, data, overrides } = terms;
    let options = if overrides.is_empty() { options } else { Arc::new(overrides.apply(&options)) };
    Grant { options, info, data, term }
}

impl Gate for Doorkeeper {
    fn connect(&self, ask: ConnectAsk) -> Decision<Admission> {
        self.clone().admit(ask).boxed()
    }

    fn refresh(&self, who: &Arc<Who>, token: String) -> Decision<Term> {
        self.clone().prolong(Arc::clone(who), token).boxed()
    }

    fn subscribe(&self, who: &Arc<Who>, ask: SubscribeAsk) -> Decision<Grant> {
        self.clone().grant(Arc::clone(who), ask).boxed()
    }

    fn sub_refresh(&self, who: &Arc<Who>, channel: String, token: String) -> Decision<Term> {
        self.clone().prolong_subscription(Arc::clone(who), channel, token).boxed()
    }

    fn publish(&self, who: &Arc<Who>, ask: PublishAsk) -> Decision<Accepted> {
        self.clone().accept(Arc::clone(who), ask).boxed()
    }

    fn rpc(&self, who: &Arc<Who>, method: String, data: Option<Bytes>) -> Decision<Bytes> {
        self.clone().call(Arc::clone(who), method, data).boxed()
    }
}
