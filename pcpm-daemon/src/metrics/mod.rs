//! What monitoring reads: an HTTP listener on a loopback address or a Unix socket, off unless configured, that answers
//! `GET /metrics` with `OpenMetrics` text.

mod exposition;

use std::{
    convert::Infallible, fmt, net::SocketAddr, path::PathBuf, rc::Rc, str::FromStr, sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::Gid;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};

use crate::{engine::Shared, locks::LockHistory, unix_socket::UnixSocket};

/// Longest path of a Unix socket: `sun_path` without the final zero.
const SOCKET_PATH_BYTES: usize = 107;
/// Connections at once. Monitoring needs one.
const CONNECTIONS: usize = 16;
/// How long one may last: a scraper that keeps its connection opens another one.
const LONGEST_CONNECTION: Duration = Duration::from_mins(5);
/// How long the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: file descriptors that ran out do not come back at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Where monitoring asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `ADDRESS:PORT` or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_path = path.starts_with('/') && path.len() <= SOCKET_PATH_BYTES;
            return if is_path {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!(
                    "'{path}' is no absolute path of at most {SOCKET_PATH_BYTES} bytes"
                ))
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            format!("'{text}' is neither a loopback address with a port nor unix:PATH")
        })?;
        if address.port() == 0 {
            return Err(format!("'{text}' has no port that could be asked"));
        }
        if !address.ip().is_loopback() {
            return Err(format!(
                "'{text}' can be reached from outside, and nothing here asks who calls: take a loopback \
                 address, and a proxy that does"
            ));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listens from the moment it exists.
#[derive(Debug)]
pub(crate) enum Metrics {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

/// What answers are made of.
struct Sources {
    engine: Shared,
    locks: Arc<LockHistory>,
    room: Semaphore,
}

impl Metrics {
    /// Listens at `endpoint`; `group` may connect to it where it is a Unix socket.
    pub(crate) async fn bind(endpoint: &Endpoint, group: Option<Gid>) -> anyhow::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let bound = TcpListener::bind(address).await;
                let listener = bound.with_context(|| format!("listen at {address} for metrics"))?;
                Ok(Self::Tcp(listener))
            }
            Endpoint::Unix(path) => UnixSocket::bind(path, group).map(Self::Unix),
        }
    }

    /// Answers for ever. Must run inside a `LocalSet`.
    pub(crate) async fn serve(self, engine: Shared, locks: Arc<LockHistory>) {
        let sources = Rc::new(Sources {
            engine,
            locks,
            room: Semaphore::new(CONNECTIONS),
        });
        loop {
            let accepted = match &self {
                Self::Tcp(listener) => {
                    let accepted = listener.accept().await;
                    accepted.map(|(stream, _)| answer(stream, &sources))
                }
                Self::Unix(socket) => {
                    let accepted = socket.listener.accept().await;
                    accepted.map(|(stream, _)| answer(stream, &sources))
                }
            };
            if let Err(error) = accepted {
                tracing::warn!("accept a connection for metrics: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers what comes over `stream`, in a task of its own; too many at once are turned away.
fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, sources: &Rc<Sources>) {
    let sources = sources.clone();
    tokio::task::spawn_local(async move {
        let Ok(_place) = sources.room.try_acquire() else {
            return;
        };
        let reply = service_fn(|request| {
            let reply = respond(&request, &sources);
            async { Ok::<_, Infallible>(reply) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .serve_connection(TokioIo::new(stream), reply);
        // Who asked and went away, or asked for nonsense, was told so.
        let _ended = tokio::time::timeout(LONGEST_CONNECTION, served).await;
    });
}

fn respond(request: &Request<Incoming>, sources: &Sources) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "GET /metrics\n");
        refusal.headers_mut().insert(ALLOW, HEAD_AND_GET);
        return refusal;
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n");
    }
    let measurements = sources.engine.borrow().measurements();
    match exposition::text(measurements, &sources.locks) {
        Ok(text) => {
            let (text, kind) = if wants_classic(request) {
                (exposition::classic(&text), CLASSIC)
            } else {
                (text, OPEN_METRICS)
            };
            let mut response = Response::new(Full::from(text));
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// Whether who asks takes plain text and does not know better.
fn wants_classic(request: &Request<Incoming>) -> bool {
    let accepts = |kind: &str| {
        let mut all = request.headers().get_all(ACCEPT).iter();
        all.any(|value| value.to_str().is_ok_and(|value| value.contains(kind)))
    };
    accepts("text/plain") && !accepts("application/openmetrics-text")
}

const CLASSIC: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const HEAD_AND_GET: HeaderValue = HeaderValue::from_static("GET, HEAD");

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}
