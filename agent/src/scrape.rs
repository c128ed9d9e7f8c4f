//! Prometheus text of tasks: the ports that a task's labels name are asked at intervals, in the task's own network, and what they
//! answer is handed in under its identity.
//!
//! A page has a bound in bytes, series and time, and every scrape ends in one counted outcome, also one that is not made: the round
//! before is not over (`skipped`), the task has too many ports (`no_room`), scrapes are left off (`shed`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use waggle_telemetry::{Inbox, Sender, Telemetry};
use waggle_telemetry_pipeline::read_scraped;
use waggle_types::TaskPort;

use crate::{
    checks::{Reach, Sockets},
    clock,
    run::blocking,
};

/// Pages that are asked for at once.
const AT_ONCE: usize = 8;
/// How long a scrape may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest page, and most series of it.
const MAX_PAGE: usize = 2 << 20;
const MAX_SERIES: usize = 2000;
/// Ports of one task that are scraped.
const MAX_PORTS: usize = 8;
/// What is understood.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;version=0.0.4";

/// A page of a task.
#[derive(Debug, Clone)]
pub struct Page {
    sender: Arc<Sender>,
    reach: Reach,
    port: u16,
    path: String,
}

/// What there is to ask for.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    /// Within bounds.
    pub pages: Vec<Page>,
    /// How many are not asked for, since their tasks have too many.
    pub beyond: u64,
}

/// Adds the pages of a task, where its labels name any.
pub fn pages(sender: &Arc<Sender>, ports: &[TaskPort], reach: &Reach, all: &mut Pages) {
    let page = |p: &TaskPort| {
        let port = match reach {
            Reach::Node(..) => p.host_port,
            Reach::Inside(_) => p.container_port.unwrap_or(p.host_port),
        };
        Some(Page {
            sender: Arc::clone(sender),
            reach: reach.clone(),
            port: Some(port).filter(|p| *p != 0)?,
            path: p.metrics.clone()?,
        })
    };
    let mut named = ports.iter().filter_map(page);
    all.pages.extend(named.by_ref().take(MAX_PORTS));
    all.beyond += named.count() as u64;
}

/// Scrapes tasks, one round at a time.
#[derive(Clone)]
pub struct Scraper {
    sockets: Arc<Sockets>,
    round: Arc<Semaphore>,
}

impl Default for Scraper {
    fn default() -> Self {
        Self {
            sockets: Arc::default(),
            round: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Scraper {
    /// Whether the last round has ended: the place of the next one.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.round).try_acquire_owned().ok()
    }

    /// Asks for these pages; no more than some at once.
    pub async fn round(self, place: OwnedSemaphorePermit, wanted: Pages, telemetry: Telemetry) {
        telemetry.inbox().scraped("no_room", wanted.beyond);
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut all = JoinSet::new();
        for page in wanted.pages {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let (sockets, telemetry) = (Arc::clone(&self.sockets), telemetry.clone());
            let cpu = telemetry.cpu().clone();
            all.spawn(cpu.wrap(async move {
                let _slot = slot;
                let inbox = telemetry.inbox();
                let outcome = scrape(&page, &sockets, &inbox, &telemetry).await;
                inbox.scraped(outcome, 1);
                if outcome != "ok" {
                    let task_id = &page.sender.labels().task_id;
                    tracing::debug!(%task_id, port = page.port, path = page.path, outcome, "a task's metrics were not all read");
                }
            }));
        }
        while all.join_next().await.is_some() {}
        drop(place);
    }
}

/// One scrape; what it came to.
async fn scrape(
    page: &Page,
    sockets: &Sockets,
    inbox: &Inbox,
    telemetry: &Telemetry,
) -> &'static str {
    let text = match timeout(TIMEOUT, get(page, sockets)).await {
        Ok(Ok(text)) => text,
        Ok(Err(outcome)) => return outcome,
        Err(_) => return "timeout",
    };
    let (sender, inbox) = (Arc::clone(&page.sender), inbox.clone());
    let cpu = telemetry.cpu().clone();
    let work = move || {
        let since = sender.labels().pid_start_ns;
        let read = read_scraped(&text, MAX_SERIES, since);
        if read.metrics.is_empty() && read.malformed > 0 {
            return "invalid";
        }
        let whole = read.malformed == 0 && read.no_room == 0;
        let now_ns = clock::now_ns();
        match inbox.metrics(&sender, "prometheus", read.metrics, now_ns) {
            true if whole => "ok",
            true => "partial",
            false => "refused",
        }
    };
    blocking(move || cpu.run(work)).await
}

async fn get(page: &Page, sockets: &Sockets) -> Result<Bytes, &'static str> {
    let addr = SocketAddr::from((page.reach.ip(), page.port));
    let stream = match page.reach.socket(sockets).await {
        Ok(socket) => page.reach.connect(socket, page.port).await,
        Err(e) => Err(e),
    };
    ask(stream.map_err(|_| "unreachable")?, addr, &page.path).await
}

async fn ask(stream: TcpStream, addr: SocketAddr, path: &str) -> Result<Bytes, &'static str> {
    let request = Request::get(path)
        .header(header::HOST, addr.to_string())
        .header(header::USER_AGENT, "waggle-scrape")
        .header(header::ACCEPT, ACCEPT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| "invalid")?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| "unreachable")?;
    let exchange = async {
        let answer = client.send_request(request).await.map_err(|_| "invalid")?;
        if answer.status() != StatusCode::OK {
            return Err("status");
        }
        let body = Limited::new(answer.into_body(), MAX_PAGE).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|e| {
            if e.is::<LengthLimitError>() {
                "too_large"
            } else {
                "unreachable"
            }
        })
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    // The connection does the work of the exchange, and may be done first.
    tokio::select! {
        done = &mut exchange => done,
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::{Router, routing::get};
    use tokio::net::TcpListener;
    use waggle_types::Balance;

    use super::*;

    async fn asked(router: Router, path: &str) -> Result<Bytes, &'static str> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let stream = TcpStream::connect(addr).await.unwrap();
        let answer = ask(stream, addr, path).await;
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_page_is_read_within_its_bounds() {
        let router = Router::new()
            .route("/metrics", get(async || "a 1\n"))
            .route("/long", get(async || "x".repeat(MAX_PAGE + 1)));
        let page = asked(router.clone(), "/metrics").await;
        assert_eq!(page.as_deref(), Ok(&b"a 1\n"[..]));
        assert_eq!(asked(router.clone(), "/long").await, Err("too_large"));
        assert_eq!(asked(router, "/other").await, Err("status"));
    }

    #[tokio::test]
    async fn ports_beyond_the_bound_are_counted() {
        let port = |n: u16| TaskPort {
            name: None,
            host_port: n,
            container_port: None,
            protocols: Vec::new(),
            vips: Vec::new(),
            balance: Balance::default(),
            metrics: Some("/metrics".to_owned()),
        };
        let ports: Vec<TaskPort> = (0..12).map(port).collect();
        let sender = Arc::new(Sender::new(crate::statsd::tests::labels()));
        let mut all = Pages::default();
        let reach = Reach::Node(Ipv4Addr::LOCALHOST, Arc::default());
        pages(&sender, &ports, &reach, &mut all);
        // One has no port at all.
        assert_eq!((all.pages.len(), all.beyond), (MAX_PORTS, 3));
        all.pages.clear();
        let (scraper, telemetry) = (Scraper::default(), Telemetry::disabled());
        let place = scraper.place().unwrap();
        assert!(scraper.place().is_none());
        scraper.clone().round(place, all, telemetry.clone()).await;
        assert!(scraper.place().is_some());
        let page = telemetry.prometheus_text();
        let counted = page.lines().find(|l| {
            l.starts_with("waggle_telemetry_scrapes_total{") && l.contains("\"no_room\"")
        });
        assert!(counted.is_some_and(|l| l.ends_with(" 3")), "{page}");
    }

    #[tokio::test]
    async fn what_speaks_no_http_is_invalid() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let said = b"SSH-2.0-x\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, said).await
        });
        let stream = TcpStream::connect(addr).await.unwrap();
        assert_eq!(ask(stream, addr, "/").await, Err("invalid"));
    }
}
