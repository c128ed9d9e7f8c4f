//! One attempt of one check.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, OnceLock},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;
use waggle_types::{CheckStatus, HealthCheck, HealthProbe, TaskId, TaskPort};

use super::{
    answer::{Answer, MAX_ANSWER, Scan, answer, scan},
    sockets::Sockets,
    tls,
};
use crate::{shim, traffic::OwnDials};

/// How a task's ports are reached.
#[derive(Debug, Clone)]
pub enum Reach {
    /// By its host ports at this address, as everybody else does; what is opened so is noted.
    Node(Ipv4Addr, Arc<OwnDials>),
    /// By its own ports on loopback, in the network namespace of this process.
    Inside(Arc<OwnedFd>),
}

impl Reach {
    /// The address.
    pub const fn ip(&self) -> Ipv4Addr {
        match self {
            Self::Node(ip, _) => *ip,
            Self::Inside(_) => Ipv4Addr::LOCALHOST,
        }
    }

    /// A socket for [`Reach::connect`].
    pub async fn socket(&self, sockets: &Sockets) -> io::Result<TcpSocket> {
        match self {
            Self::Node(..) => Sockets::of_node(),
            Self::Inside(process) => sockets.of_process(Arc::clone(process)).await,
        }
    }

    /// Opens a connection to a port.
    pub async fn connect(&self, socket: TcpSocket, port: u16) -> io::Result<TcpStream> {
        let addr = SocketAddr::from((self.ip(), port));
        let Self::Node(_, dials) = self else {
            return socket.connect(addr).await;
        };
        let dial = dials.begin();
        match socket.connect(addr).await {
            Ok(stream) => {
                dial.opened(stream.local_addr().map_or(0, |at| at.port()));
                Ok(stream)
            }
            Err(e) => {
                dial.failed();
                Err(e)
            }
        }
    }
}

/// A task that is checked.
#[derive(Debug, Clone)]
pub struct Target {
    /// The task.
    pub task_id: TaskId,
    /// Its directory.
    pub dir: PathBuf,
    /// Its ports.
    pub ports: Vec<TaskPort>,
    /// How they are reached.
    pub reach: Reach,
}

/// A check, made ready once for all of its attempts.
#[derive(Debug)]
pub(super) struct Probe {
    timeout: Duration,
    what: What,
    // What is said where there is no answer.
    unanswered: CheckStatus,
    // The answer's content is read, and for so long waited for.
    keep: Option<Duration>,
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// `Ok`, or what was wrong.
    pub result: Result<(), String>,
    /// What that is in short.
    pub said: CheckStatus,
    /// The answer itself, where it is kept.
    pub answer: Option<Answer>,
}

#[derive(Debug)]
enum What {
    Asked(Question),
    Command { dir: PathBuf, shell: String },
    // It can't pass, and this is why.
    Never(String),
}

/// What a port is asked.
#[derive(Debug)]
enum Question {
    Http {
        to: Endpoint,
        tls: bool,
        path: String,
        request: Vec<u8>,
        statuses: Vec<u16>,
    },
    Tcp(Endpoint),
}

#[derive(Debug)]
struct Endpoint {
    port: u16,
    reach: Reach,
    addr: SocketAddr,
}

/// What attempts share.
#[derive(Default)]
pub(super) struct Tools {
    sockets: Sockets,
    tls: OnceLock<Result<TlsConnector, String>>,
}

impl Probe {
    pub(super) fn new(target: &Target, check: &HealthCheck) -> Self {
        let what = match &check.probe {
            HealthProbe::Http {
                tls,
                statuses,
                path,
                port_index,
                port,
            } => match target.endpoint(*port_index, *port) {
                Ok(to) => What::Asked(Question::Http {
                    request: request(&to.addr, path),
                    to,
                    tls: *tls,
                    path: path.clone(),
                    statuses: statuses.clone(),
                }),
                Err(why) => What::Never(why),
            },
            HealthProbe::Tcp { port_index, port } => match target.endpoint(*port_index, *port) {
                Ok(to) => What::Asked(Question::Tcp(to)),
                Err(why) => What::Never(why),
            },
            HealthProbe::Command { shell } => What::Command {
                dir: target.dir.clone(),
                shell: shell.clone(),
            },
        };
        let timeout = check.timeout.as_duration().max(Duration::from_millis(1));
        Self {
            timeout,
            keep: check.keep_response.then_some(timeout / 4),
            what,
            unanswered: check.probe.unanswered(),
        }
    }

    /// One attempt.
    pub(super) async fn run(&self, tools: &Tools, buffer: &mut Vec<u8>) -> Attempt {
        let question = match &self.what {
            // Its end is waited for there, beyond its time too.
            What::Command { dir, shell } => return command(dir, shell, self.timeout).await,
            What::Never(why) => return self.unanswered(why.clone()),
            What::Asked(question) => question,
        };
        match tokio::time::timeout(self.timeout, self.ask(question, tools, buffer)).await {
            Ok(attempt) => attempt,
            Err(_) => self.unanswered(too_late(self.timeout)),
        }
    }

    fn unanswered(&self, why: String) -> Attempt {
        Attempt {
            result: Err(why),
            said: self.unanswered,
            answer: None,
        }
    }

    async fn ask(&self, question: &Question, tools: &Tools, buffer: &mut Vec<u8>) -> Attempt {
        match question {
            Question::Http {
                to,
                tls,
                path,
                request,
                statuses,
            } => match get(to, *tls, (request, self.keep), tools, buffer).await {
                Ok(s) => Attempt {
                    result: if passes(statuses, s) {
                        Ok(())
                    } else {
                        Err(format!("GET {}{path}: status {s}", to.addr))
                    },
                    said: CheckStatus::Http { status: Some(s) },
                    answer: self.keep.map(|_| answer(buffer, s).0),
                },
                Err(Failed::ToConnect(why)) => self.unanswered(why),
                Err(Failed::ToGet(why)) => self.unanswered(format!("GET {}{path}: {why}", to.addr)),
            },
            Question::Tcp(to) => {
                let result = to.connect(tools).await.map(drop);
                Attempt {
                    said: CheckStatus::Tcp {
                        connected: Some(result.is_ok()),
                    },
                    result,
                    answer: None,
                }
            }
        }
    }
}

/// Why there is no answer.
enum Failed {
    ToConnect(String),
    ToGet(String),
}

async fn get(
    to: &Endpoint,
    tls: bool,
    (request, keep): (&[u8], Option<Duration>),
    tools: &Tools,
    buffer: &mut Vec<u8>,
) -> Result<u16, Failed> {
    let stream = to.connect(tools).await.map_err(Failed::ToConnect)?;
    let status = if tls {
        let secured = to.secure(tools, stream).await.map_err(Failed::ToConnect)?;
        status(secured, request, keep, buffer).await
    } else {
        status(stream, request, keep, buffer).await
    };
    status.map_err(Failed::ToGet)
}

impl Target {
    fn endpoint(&self, idx: usize, fixed: Option<u16>) -> Result<Endpoint, String> {
        let port = match (fixed, self.ports.get(idx), &self.reach) {
            (Some(port), _, _) => port,
            (None, Some(p), Reach::Node(..)) => p.host_port,
            (None, Some(p), Reach::Inside(_)) => p.container_port.unwrap_or(p.host_port),
            (None, None, _) => return Err(format!("portIndex: the task has no port {idx}")),
        };
        Ok(Endpoint {
            port,
            reach: self.reach.clone(),
            addr: SocketAddr::from((self.reach.ip(), port)),
        })
    }
}

impl Endpoint {
    async fn connect(&self, tools: &Tools) -> Result<TcpStream, String> {
        let socket = self.reach.socket(&tools.sockets).await;
        let socket = socket.map_err(|e| format!("failed to make a socket: {e}"))?;
        let opened = self.reach.connect(socket, self.port).await;
        opened.map_err(|e| format!("connect to {}: {e}", self.addr))
    }

    async fn secure(
        &self,
        tools: &Tools,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let connector = tools.tls.get_or_init(tls::connector).as_ref();
        let name = ServerName::IpAddress(self.addr.ip().into());
        connector
            .map_err(Clone::clone)?
            .connect(name, stream)
            .await
            .map_err(|e| format!("tls with {}: {e}", self.addr))
    }
}

fn request(addr: &SocketAddr, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: waggle-health-check\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
    .into_bytes()
}

fn passes(statuses: &[u16], status: u16) -> bool {
    if statuses.is_empty() {
        (200..400).contains(&status)
    } else {
        statuses.contains(&status)
    }
}

/// Asks, and reads until the answer's status is there; where the answer is kept, also what follows, for so long.
async fn status(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
    keep: Option<Duration>,
    buffer: &mut Vec<u8>,
) -> Result<u16, String> {
    stream.write_all(request).await.map_err(|e| e.to_string())?;
    buffer.clear();
    buffer.reserve(MAX_ANSWER / 4);
    loop {
        match stream.read_buf(buffer).await {
            Ok(0) => return Err("closed without an answer".to_owned()),
            Ok(_) => {}
            Err(e) => return Err(e.to_string()),
        }
        match scan(buffer) {
            Scan::Status(status) => {
                if let Some(wait) = keep {
                    // The status is what counts: what is there by then must do.
                    let _ = tokio::time::timeout(wait, rest(&mut stream, status, buffer)).await;
                }
                return Ok(status);
            }
            Scan::Bad => return Err("the answer is not HTTP/1".to_owned()),
            Scan::More if buffer.len() >= MAX_ANSWER => {
                return Err(format!("no status within {MAX_ANSWER} bytes"));
            }
            Scan::More => {}
        }
    }
}

/// Reads as much of an answer as is told.
async fn rest(stream: &mut (impl AsyncRead + Unpin), status: u16, buffer: &mut Vec<u8>) {
    while buffer.len() < MAX_ANSWER && answer(buffer, status).1 {
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn too_late(timeout: Duration) -> String {
    format!("no answer within {} ms", timeout.as_millis())
}

/// Runs where the task runs: its namespaces, root, cgroups, environment and user.
async fn command(dir: &std::path::Path, shell: &str, timeout: Duration) -> Attempt {
    let none = CheckStatus::Command { exit_code: None };
    match end_of(dir, shell, timeout).await {
        Ok(status) => Attempt {
            result: if status.success() {
                Ok(())
            } else {
                Err(format!("command ended with {status}"))
            },
            said: CheckStatus::Command {
                exit_code: status.code(),
            },
            answer: None,
        },
        Err(why) => Attempt {
            result: Err(why),
            said: none,
            answer: None,
        },
    }
}

async fn end_of(
    dir: &std::path::Path,
    shell: &str,
    timeout: Duration,
) -> Result<std::process::ExitStatus, String> {
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", shell])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shim::enter_task(&mut command, dir, shim::Entering::default())?;
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("failed to start the check's command: {e}"))?;
    let group = child.id().and_then(|p| i32::try_from(p).ok());
    if let Ok(status) = tokio::time::timeout(timeout, child.wait()).await {
        status.map_err(|e| format!("failed to wait for the check's command: {e}"))
    } else {
        // It leads its session and is not reaped yet, so the group is its own.
        if let Some(group) = group {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = child.wait().await;
        Err(too_late(timeout))
    }
}
