//! The connection to an endpoint: gRPC or HTTP, plain or with TLS.

mod http;
mod json;
mod tls;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use tonic::{
    Request, Status,
    codec::CompressionEncoding,
    metadata::{MetadataKey, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{Destination, Protocol, TelemetryError};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// A way to speak to an endpoint. Connects when first used, and again by itself.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    Grpc {
        channel: Channel,
        headers: MetadataMap,
    },
    Http(Box<http::HttpLink>),
}

/// What a request is answered with: rejected items, and words.
pub(crate) type Answer = Result<(i64, String), Status>;

impl Link {
    /// Reads the files that are named; nothing is connected. Also says what is wrong without being an error.
    pub(crate) fn open(to: &Destination) -> Result<(Self, Option<String>), TelemetryError> {
        let bad = |source| TelemetryError::BadEndpoint {
            url: to.url.clone(),
            source,
        };
        // Without a scheme every export would fail later and silently.
        if !to.url.starts_with("http://") && !to.url.starts_with("https://") {
            return Err(bad(None));
        }
        if to.protocol != Protocol::Grpc {
            let (link, doubt) = http::HttpLink::open(to)?;
            return Ok((Self::Http(Box::new(link)), doubt));
        }
        let mut endpoint = Endpoint::from_shared(to.url.clone()).map_err(|e| bad(Some(e)))?;
        let mut doubt = None;
        if to.url.starts_with("https://") {
            let tls;
            (tls, doubt) = tls::of_grpc(to)?;
            endpoint = endpoint.tls_config(tls).map_err(|e| bad(Some(e)))?;
        }
        let mut headers = MetadataMap::new();
        for (name, value) in &to.headers {
            let parsed = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes())
                .ok()
                .zip(MetadataValue::try_from(value.as_str()).ok());
            let (key, value) =
                parsed.ok_or_else(|| TelemetryError::BadHeader { name: name.clone() })?;
            headers.insert(key, value);
        }
        let channel = endpoint
            .connect_timeout(CONNECT)
            .keep_alive_while_idle(false)
            .connect_lazy();
        Ok((Self::Grpc { channel, headers }, doubt))
    }
}

/// A request that an endpoint takes.
pub(crate) trait Sendable:
    prost::Message + serde::Serialize + Default + Clone + Send + 'static
{
    /// Sends it, and reads the answer.
    fn send(self, link: &Link) -> impl Future<Output = Answer> + Send;
}

macro_rules! sendable {
    ($request:ident, $client:ident, $path:literal, $rejected:ident) => {
        impl Sendable for $request {
            async fn send(self, link: &Link) -> Answer {
                let answer = match link {
                    Link::Grpc { channel, headers } => {
                        let mut request = Request::new(self);
                        *request.metadata_mut() = headers.clone();
                        $client::new(channel.clone())
                            .send_compressed(CompressionEncoding::Gzip)
                            .export(request)
                            .await?
                            .into_inner()
                    }
                    Link::Http(http) => http.post($path, &self).await?,
                };
                Ok(answer
                    .partial_success
                    .map_or_else(Default::default, |p| (p.$rejected, p.error_message)))
            }
        }
    };
}
sendable!(
    ExportLogsServiceRequest,
    LogsServiceClient,
    "/v1/logs",
    rejected_log_records
);
sendable!(
    ExportTraceServiceRequest,
    TraceServiceClient,
    "/v1/traces",
    rejected_spans
);
sendable!(
    ExportMetricsServiceRequest,
    MetricsServiceClient,
    "/v1/metrics",
    rejected_data_points
);
