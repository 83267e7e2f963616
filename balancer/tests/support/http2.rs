//! A client that speaks HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{DEADLINE, settings};

/// Settings whose listener speaks HTTP/2.
pub(crate) fn http2(pool: &str, servers: &[(&str, SocketAddr)]) -> String {
    settings(pool, servers).replacen("pool = \"p\"", "pool = \"p\"\nhttp2 = true", 1)
}

/// A client's connection; the task ends with how it ended.
pub(crate) struct Client {
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) ended: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &Builder::new()).await
    }

    pub(crate) async fn connect_with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        Self { sender, ended: tokio::spawn(connection) }
    }

    /// Sends a head, and a body if it is to follow.
    pub(crate) async fn send(
        &self,
        request: Request<()>,
        ended: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let ready = timeout(DEADLINE, self.sender.clone().ready()).await.unwrap();
        ready?.send_request(request, ended)
    }

    pub(crate) async fn ask(
        &self,
        request: Request<()>,
    ) -> Result<(Response<()>, Vec<u8>), h2::Error> {
        let (response, _) = self.send(request, true).await?;
        answer(response).await.map(|(response, body, _)| (response, body))
    }
}

/// All of a response.
pub(crate) async fn answer(
    response: ResponseFuture,
) -> Result<(Response<()>, Vec<u8>, Option<HeaderMap>), h2::Error> {
    let read = async {
        let (head, mut body) = response.await?.into_parts();
        let content = read(&mut body).await?;
        let trailers = body.trailers().await?;
        Ok((Response::from_parts(head, ()), content, trailers))
    };
    timeout(DEADLINE, read).await.expect("an answer in time")
}

pub(crate) async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut content = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        content.extend_from_slice(&data);
    }
    Ok(content)
}

pub(crate) fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://a.test{path}"))
}

pub(crate) fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap()
}
