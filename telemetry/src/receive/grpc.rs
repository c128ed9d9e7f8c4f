//! The three services of OTLP over gRPC.

use std::sync::Arc;

use axum::Router;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, service::Routes};

use super::{Inbox, MAX_REQUEST, Refusal, Sender, Taken};

pub(super) fn routes(inbox: &Inbox) -> Router {
    macro_rules! service {
        ($server:ident) => {
            $server::new(inbox.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(MAX_REQUEST)
        };
    }
    Routes::new(service!(LogsServiceServer))
        .add_service(service!(TraceServiceServer))
        .add_service(service!(MetricsServiceServer))
        .into_axum_router()
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let words = refusal.words();
        match refusal {
            Refusal::Stranger => Self::permission_denied(words),
            Refusal::Rate => Self::unavailable(words),
            Refusal::Large => Self::resource_exhausted(words),
            Refusal::Invalid => Self::invalid_argument(words),
        }
    }
}

/// The partial success of an answer, where there is something to say.
pub(super) trait Answer: prost::Message + Default {
    fn of(taken: Taken) -> Self;
}

macro_rules! answer {
    ($response:ident, $partial:ident, $rejected:ident) => {
        impl Answer for $response {
            fn of(taken: Taken) -> Self {
                let partial_success = (taken != Taken::default()).then(|| $partial {
                    $rejected: taken.rejected,
                    error_message: taken.words(),
                });
                Self { partial_success }
            }
        }
    };
}
answer!(
    ExportLogsServiceResponse,
    ExportLogsPartialSuccess,
    rejected_log_records
);
answer!(
    ExportTraceServiceResponse,
    ExportTracePartialSuccess,
    rejected_spans
);
answer!(
    ExportMetricsServiceResponse,
    ExportMetricsPartialSuccess,
    rejected_data_points
);

macro_rules! export {
    ($service:ident, $request:ident, $response:ident) => {
        #[tonic::async_trait]
        impl $service for Inbox {
            async fn export(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let sender = request.extensions().get::<Arc<Sender>>().cloned();
                let taken = self.take(sender.as_ref(), request.into_inner())?;
                Ok(Response::new($response::of(taken)))
            }
        }
    };
}
export!(
    LogsService,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse
);
export!(
    TraceService,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse
);
export!(
    MetricsService,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse
);
