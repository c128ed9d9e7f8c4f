//! Endpoints that count, as processes of their own.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::Server};

/// Which kind to be; set in children only.
pub const ENV: &str = "WAGGLE_BENCH_SINK";

/// The parent's end. Dropping it ends the process.
pub struct Sink {
    process: Child,
    stdout: BufReader<ChildStdout>,
    pub addr: SocketAddr,
}

impl Sink {
    pub fn start(kind: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(ENV, kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let addr = line.trim().parse().unwrap();
        Self {
            process,
            stdout,
            addr,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The next thing that it says.
    pub fn said(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // End of input ends it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The child's end.
pub fn serve(kind: &OsStr) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .unwrap();
    println!("{}", listener.local_addr().unwrap());
    if kind == "otlp" {
        let gzip = CompressionEncoding::Gzip;
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = Server::builder()
            .add_service(LogsServiceServer::new(Taker).accept_compressed(gzip))
            .add_service(MetricsServiceServer::new(Taker).accept_compressed(gzip));
        runtime.spawn(server.serve_with_incoming(incoming));
    } else {
        runtime.spawn(count_lines(listener));
    }
    let mut end = Vec::new();
    std::io::stdin().read_to_end(&mut end).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(1));
}

/// Says how many lines have come, whenever there were more.
async fn count_lines(listener: TcpListener) {
    use tokio::io::AsyncReadExt as _;
    let mut n = 0_usize;
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(len @ 1..) = stream.read(&mut buffer).await {
            n += buffer[..len].split(|b| *b == b'\n').count() - 1;
            println!("{n}");
        }
    }
}

struct Taker;

#[tonic::async_trait]
impl LogsService for Taker {
    async fn export(
        &self,
        _: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Taker {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
