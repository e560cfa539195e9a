//! Figures for a collector: counters of the `metrics` facade, and gauges that are taken at the
//! moment at which somebody asks for them, in the Prometheus text format over plain HTTP.
//!
//! Off unless configured, and on the loopback interface unless the operator says otherwise: the
//! figures name no workload, but how many there are is nobody else's business.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::{self, Table};
use crate::lifecycle::Shutdown;

/// The path that is served.
const PATH: &str = "/metrics";
/// What the answer says it is.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Connections at once; a collector needs one.
const CONNECTIONS: usize = 32;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(5);
/// After an accept that failed, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The `[metrics]` table of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `listen`: where to answer; nowhere by default.
    pub listen: Option<SocketAddr>,
}

impl Settings {
    /// Reads the table; what is absent has its default.
    pub fn read(table: &Table<'_>) -> Self {
        Self {
            listen: table.optional("listen", config::socket_address()),
        }
    }

    /// What an operator should know about the settings; `None` when there is nothing to say.
    pub fn warning(self) -> Option<String> {
        let address = self.listen.filter(|address| !address.ip().is_loopback())?;
        Some(format!(
            "metrics.listen is {address}: whoever reaches that port reads the figures, without TLS; \
             127.0.0.1 keeps them on this machine"
        ))
    }
}

/// A gauge as it stands at the moment of the scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: &'static str,
    /// A label and its value, where there is one. Values come from closed sets only.
    pub label: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A gauge without labels.
    pub fn new(name: &'static str, value: f64) -> Self {
        Self {
            name,
            label: None,
            value,
        }
    }

    /// A count.
    pub fn count(name: &'static str, count: usize) -> Self {
        Self::new(name, f64::from(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// The same gauge under a label.
    #[must_use]
    pub fn with(self, label: &'static str, value: &'static str) -> Self {
        Self {
            label: Some((label, value)),
            ..self
        }
    }
}

/// The gauges of a program, taken when somebody asks.
pub type Gauges = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Sample>> + Send>> + Send + Sync>;

/// Why the figures cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; set metrics.listen to a free address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another part of the process counts already.
    #[error("another recorder of metrics was installed in this process")]
    OtherRecorder,
}

/// The listener, ready to answer.
pub struct Exporter {
    address: SocketAddr,
    /// None while another process has the address.
    listener: Option<TcpListener>,
    counters: PrometheusHandle,
    gauges: Gauges,
}

impl Exporter {
    /// Binds `address` and begins to count.
    pub async fn bind(address: SocketAddr, gauges: Gauges) -> Result<Self, MetricsError> {
        let counters = recorder()?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| MetricsError::Bind { address, source })?;
        Ok(Self {
            address: listener.local_addr().unwrap_or(address),
            listener: Some(listener),
            counters,
            gauges,
        })
    }

    /// Begins to count, and binds `address` when the process before has left it.
    pub fn succeed(address: SocketAddr, gauges: Gauges) -> Result<Self, MetricsError> {
        Ok(Self {
            address,
            listener: None,
            counters: recorder()?,
            gauges,
        })
    }

    /// The address that is, or will be, bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the shutdown begins.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), MetricsError> {
        let listener = if let Some(listener) = self.listener {
            listener
        } else {
            tokio::select! {
                bound = bind_when_free(self.address) => bound?,
                _reason = shutdown.begun() => return Ok(()),
            }
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let answer = Answer {
            counters: self.counters,
            gauges: self.gauges,
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _reason = shutdown.begun() => return Ok(()),
            };
            let stream = match accepted {
                Ok((stream, _client)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // More than a collector needs is not waited for: the connection is closed.
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let answer = answer.clone();
            tokio::spawn(async move {
                let served = tokio::time::timeout(CONNECTION_TIMEOUT, serve(stream, answer)).await;
                if let Ok(Err(error)) = served {
                    tracing::debug!(%error, "a connection for metrics ended");
                }
                drop(place);
            });
        }
    }
}

async fn bind_when_free(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Err(source) => return Err(MetricsError::Bind { address, source }),
        }
    }
}

/// The recorder of the process, installed by whoever comes first.
fn recorder() -> Result<PrometheusHandle, MetricsError> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .clone()
        .ok_or(MetricsError::OtherRecorder)
}

async fn serve(stream: TcpStream, answer: Answer) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer.to(&request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[derive(Clone)]
struct Answer {
    counters: PrometheusHandle,
    gauges: Gauges,
}

impl Answer {
    async fn to<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, format!("only {PATH} is here\n"));
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        let mut text = self.counters.render();
        write_samples(&mut text, &(self.gauges)().await);
        plain(StatusCode::OK, text)
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(CONTENT_TYPE),
    );
    response
}

/// Writes gauges in the text format; the samples of one name follow each other.
fn write_samples(text: &mut String, samples: &[Sample]) {
    let mut last = "";
    for Sample { name, label, value } in samples {
        // Writing to a string does not fail.
        if *name != last {
            let _written = writeln!(text, "# TYPE {name} gauge");
            last = name;
        }
        let _written = match label {
            Some((key, word)) => writeln!(text, "{name}{{{key}=\"{word}\"}} {value}"),
            None => writeln!(text, "{name} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::Document;
    use crate::lifecycle::Reason;

    fn settings(text: &str) -> Settings {
        let doc = Document::parse("t", text).unwrap();
        let settings = Settings::read(&doc.root().table("metrics"));
        doc.finish(|| Some(settings)).unwrap()
    }

    #[test]
    fn off_unless_configured_and_open_doors_are_warned_of() {
        assert_eq!(settings("").listen, None);
        let loopback = settings("[metrics]\nlisten = \"127.0.0.1:9988\"");
        assert_eq!(loopback.warning(), None);
        let open = settings("[metrics]\nlisten = \"0.0.0.0:9988\"");
        assert!(open.warning().unwrap().contains("0.0.0.0:9988"));
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn counters_and_gauges_are_in_one_answer() {
        let gauges: Gauges = Arc::new(|| {
            Box::pin(async {
                vec![
                    Sample::new("muster_test_left", 1.5).with("kind", "a"),
                    Sample::new("muster_test_left", 2.0).with("kind", "b"),
                ]
            })
        });
        let exporter = Exporter::bind(([127, 0, 0, 1], 0).into(), gauges)
            .await
            .unwrap();
        let address = exporter.address();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(exporter.run(shutdown.clone()));
        metrics::counter!("muster_test_total", "reason" => "x").increment(3);
        let answer = ask(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(CONTENT_TYPE), "{answer}");
        assert!(
            answer.contains("muster_test_total{reason=\"x\"} 3"),
            "{answer}"
        );
        assert!(
            answer.contains("muster_test_left{kind=\"a\"} 1.5"),
            "{answer}"
        );
        let heads = answer.matches("# TYPE muster_test_left gauge").count();
        assert_eq!(heads, 1, "{answer}");
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
        assert!(
            ask(address, "POST /metrics")
                .await
                .starts_with("HTTP/1.1 405")
        );
        shutdown.begin(Reason::Asked);
        task.await.unwrap().unwrap();
    }
}
