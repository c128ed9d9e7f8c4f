//! Programs whose requests are traced: asynchronous ones, whose requests go from thread to thread, and callers that say afterwards
//! what they asked.
//!
//! `waggle-traced relay PORT HOST:PORT`: a server on all threads of a runtime. `GET /front/N` waits, asks `GET /back/N` of the other,
//! waits and answers N; beside that it asks `GET /own/K` by itself.
//! `waggle-traced back PORT`: answers N to any path that ends with it.
//! `waggle-traced ask HOST:PORT --connections N --per-second N`: `GET /front/N` for one N after the other, over so many connections
//! that stay, until its standard input ends; how many were answered right, and how many were not.
//! `waggle-traced grpc-serve PORT`: a gRPC server, OpenTelemetry's trace service: a request without spans is taken, one with some is
//! `NOT_FOUND`.
//! `waggle-traced grpc-call HOST:PORT`: calls it over one connection, each in turn, ten times a second; a line for each answer.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Of one answer.
const LIMIT: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 16_384;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(&args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waggle-traced: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["relay", port, next] => relay(listen(port).await?, next).await,
        ["back", port] => back(listen(port).await?).await,
        [
            "ask",
            to,
            "--connections",
            connections,
            "--per-second",
            rate,
        ] => ask(to, connections.parse()?, rate.parse()?).await,
        ["grpc-serve", port] => grpc_serve(listen(port).await?).await,
        ["grpc-call", to] => grpc_call(to).await,
        _ => bail!("usage: waggle-traced relay|back|ask|grpc-serve|grpc-call ..."),
    }
}

async fn listen(port: &str) -> anyhow::Result<TcpListener> {
    let port: u16 = port.parse().context("the port")?;
    Ok(TcpListener::bind(("0.0.0.0", port)).await?)
}

/// Connections to one place, that stay.
#[derive(Debug)]
struct Caller {
    to: String,
    idle: Mutex<Vec<TcpStream>>,
}

impl Caller {
    fn new(to: &str) -> Arc<Self> {
        Arc::new(Self {
            to: to.to_owned(),
            idle: Mutex::default(),
        })
    }

    /// What is answered: the body, if the status is 200.
    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let idle = self.idle.lock().await.pop();
        let mut stream = if let Some(stream) = idle {
            stream
        } else {
            let stream = TcpStream::connect(&self.to).await?;
            stream.set_nodelay(true)?;
            stream
        };
        let said = timeout(LIMIT, talk(&mut stream, &self.to, path)).await??;
        self.idle.lock().await.push(stream);
        Ok(said)
    }
}

async fn talk(stream: &mut TcpStream, host: &str, path: &str) -> anyhow::Result<String> {
    let ask = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut came = Vec::new();
    let (head, begins) = loop {
        if let Some(end) = came.windows(4).position(|w| w == b"\r\n\r\n") {
            break (String::from_utf8(came[..end].to_vec())?, end + 4);
        }
        ensure!(came.len() < MAX_HEAD, "the head has no end");
        ensure!(stream.read_buf(&mut came).await? > 0, "closed");
    };
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse::<usize>().ok())?
    });
    let ends = begins + length.context("no content-length")?;
    while came.len() < ends {
        ensure!(stream.read_buf(&mut came).await? > 0, "closed");
    }
    Ok(String::from_utf8(came[begins..].to_vec())?)
}

/// Up to 8 ms, another one for each number.
async fn wait(n: u64) {
    sleep(Duration::from_micros(n.wrapping_mul(2_654_435_761) % 8000)).await;
}

async fn relay(listener: TcpListener, next: &str) -> anyhow::Result<()> {
    let next = Caller::new(next);
    let own = Arc::clone(&next);
    tokio::spawn(async move {
        let mut every = interval(Duration::from_millis(20));
        for n in 0_u64.. {
            every.tick().await;
            if let Err(error) = own.get(&format!("/own/{n}")).await {
                eprintln!("/own/{n}: {error:#}");
            }
        }
    });
    let front = async |State(next): State<Arc<Caller>>, Path(n): Path<u64>| {
        wait(n).await;
        let said = next.get(&format!("/back/{n}")).await;
        wait(n + 1).await;
        said.map_err(|e| (StatusCode::BAD_GATEWAY, format!("{e:#}")))
    };
    let router = axum::Router::new()
        .route("/front/{n}", get(front))
        .with_state(next);
    Ok(axum::serve(listener, router).await?)
}

async fn back(listener: TcpListener) -> anyhow::Result<()> {
    let answer = async |Path((_, n)): Path<(String, u64)>| {
        wait(n).await;
        n.to_string()
    };
    let router = axum::Router::new().route("/{what}/{n}", get(answer));
    Ok(axum::serve(listener, router).await?)
}

async fn ask(to: &str, connections: usize, per_second: u64) -> anyhow::Result<()> {
    let to = Caller::new(to);
    let (tx, rx) = async_channel(connections);
    let (right, wrong) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (to, rx) = (Arc::clone(&to), Arc::clone(&rx));
        let (right, wrong) = (Arc::clone(&right), Arc::clone(&wrong));
        askers.spawn(async move {
            loop {
                let Some(n) = rx.lock().await.recv().await else {
                    return;
                };
                let said = to.get(&format!("/front/{n}")).await;
                let is_right = said.as_ref().is_ok_and(|said| *said == n.to_string());
                if !is_right {
                    eprintln!("/front/{n}: {said:?}");
                }
                let counted = if is_right { &right } else { &wrong };
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut every = interval(Duration::from_nanos(1_000_000_000 / per_second.max(1)));
    let mut input = tokio::task::spawn_blocking(|| {
        // Its end, however it comes.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    });
    for n in 0_u64.. {
        tokio::select! {
            _ = &mut input => break,
            _ = every.tick() => {}
        }
        tx.send(n).await.context("nobody asks")?;
    }
    drop(tx);
    askers.join_all().await;
    println!(
        "{} right, {} wrong",
        right.load(Ordering::Relaxed),
        wrong.load(Ordering::Relaxed)
    );
    Ok(())
}

type Numbers = Arc<Mutex<tokio::sync::mpsc::Receiver<u64>>>;

fn async_channel(room: usize) -> (tokio::sync::mpsc::Sender<u64>, Numbers) {
    let (tx, rx) = tokio::sync::mpsc::channel(room.max(1));
    (tx, Arc::new(Mutex::new(rx)))
}

#[derive(Debug)]
struct Takes;

#[tonic::async_trait]
impl TraceService for Takes {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if request.into_inner().resource_spans.is_empty() {
            Ok(Response::new(ExportTraceServiceResponse::default()))
        } else {
            Err(Status::not_found("there are some"))
        }
    }
}

async fn grpc_serve(listener: TcpListener) -> anyhow::Result<()> {
    let service = TraceServiceServer::new(Takes);
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    Ok(server.serve_with_incoming(incoming).await?)
}

async fn grpc_call(to: &str) -> anyhow::Result<()> {
    let endpoint = tonic::transport::Endpoint::new(format!("http://{to}"))?;
    let mut client = TraceServiceClient::new(endpoint.timeout(LIMIT).connect_lazy());
    let mut every = interval(Duration::from_millis(100));
    for n in 0_u64.. {
        every.tick().await;
        let resource_spans = if n % 2 == 0 {
            Vec::new()
        } else {
            vec![ResourceSpans::default()]
        };
        match client
            .export(ExportTraceServiceRequest { resource_spans })
            .await
        {
            Ok(_) => println!("ok"),
            Err(status) => println!("{:?}", status.code()),
        }
    }
    Ok(())
}
