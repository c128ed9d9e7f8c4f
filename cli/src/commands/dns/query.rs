//! `waggle dns query`: one question to one resolver, over UDP and, if truncated, TCP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType as Rr},
    serialize::binary::{BinDecodable, BinEncodable},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::super::{print, print_json};
use crate::{
    args::RecordType,
    config,
    error::{CliError, usage},
};

/// How long to wait for each answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks, and prints what was said.
pub async fn run(
    name: &str,
    record_type: RecordType,
    server: &str,
    json: bool,
) -> Result<(), CliError> {
    let server = config::address("server", server, 53)?;
    let question = Name::from_utf8(name).map_err(|e| usage(format!("name: {name:?}: {e}")))?;
    let mut query = Query::query(question, wire_type(record_type));
    query.name.set_fqdn(true);
    let started = Instant::now();
    let answer = ask(server, query).await?;
    let took = started.elapsed();
    if json {
        print_as_json(&answer)?;
    } else {
        print_as_text(&answer, server, took)?;
    }
    match answer.response_code {
        ResponseCode::NoError => Ok(()),
        code => Err(anyhow!("{name}: {code}").into()),
    }
}

async fn ask(server: SocketAddr, query: Query) -> anyhow::Result<Message> {
    let mut message = Message::new(query_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query);
    let request = message.to_bytes().context("cannot encode the question")?;
    let answer = over_udp(server, &request).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    over_tcp(server, &request).await
}

/// Any id will do: the socket is connected and used once.
fn query_id() -> u16 {
    u16::try_from(std::process::id() & 0xffff).unwrap_or(1)
}

async fn over_udp(server: SocketAddr, request: &[u8]) -> anyhow::Result<Message> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket
        .connect(server)
        .await
        .with_context(|| format!("cannot reach {server}"))?;
    socket
        .send(request)
        .await
        .with_context(|| format!("cannot reach {server}"))?;
    let mut buffer = vec![0; 4096];
    let n = timeout(TIMEOUT, socket.recv(&mut buffer))
        .await
        .map_err(|_| anyhow!("{server} did not answer within {TIMEOUT:?}"))?
        .with_context(|| format!("no resolver answers at {server}"))?;
    Message::from_bytes(&buffer[..n]).context("the answer is not DNS")
}

async fn over_tcp(server: SocketAddr, request: &[u8]) -> anyhow::Result<Message> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_u16(u16::try_from(request.len())?).await?;
        stream.write_all(request).await?;
        let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut buffer).await?;
        anyhow::Ok(Message::from_bytes(&buffer)?)
    };
    timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| anyhow!("{server} did not answer over TCP within {TIMEOUT:?}"))?
        .with_context(|| format!("no answer over TCP from {server}"))
}

fn wire_type(t: RecordType) -> Rr {
    match t {
        RecordType::A => Rr::A,
        RecordType::Aaaa => Rr::AAAA,
        RecordType::Srv => Rr::SRV,
        RecordType::Soa => Rr::SOA,
        RecordType::Ns => Rr::NS,
        RecordType::Txt => Rr::TXT,
        RecordType::Ptr => Rr::PTR,
    }
}

fn print_as_text(answer: &Message, server: SocketAddr, took: Duration) -> Result<(), CliError> {
    let mut out = String::new();
    for (title, records) in [("", &answer.answers), ("additional: ", &answer.additionals)] {
        for r in records {
            out.push_str(&format!(
                "{title}{} {} {} {}\n",
                r.name,
                r.ttl,
                r.record_type(),
                r.data
            ));
        }
    }
    let code = answer.response_code;
    let n = answer.answers.len();
    out.push_str(&format!(
        "{code}, {n} records from {server} in {:.1} ms\n",
        took.as_secs_f64() * 1e3
    ));
    print(&out)
}

fn print_as_json(answer: &Message) -> Result<(), CliError> {
    let records = |rs: &[hickory_proto::rr::Record]| -> Vec<serde_json::Value> {
        rs.iter()
            .map(|r| {
                let (name, kind) = (r.name.to_string(), r.record_type().to_string());
                json!({"name": name, "ttl": r.ttl, "type": kind, "data": r.data.to_string()})
            })
            .collect()
    };
    print_json(&json!({
        "code": answer.response_code.to_string(),
        "answers": records(&answer.answers),
        "additionals": records(&answer.additionals),
    }))
}
