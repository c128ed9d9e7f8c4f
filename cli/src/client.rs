//! The one HTTP client of the CLI: JSON in, JSON out, errors in the server's words.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri, body::Incoming, header, upgrade::Upgraded,
};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::error::{CliError, usage};

/// Longest answer that is read.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Longest time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in an answer that is read as it comes.
const STREAM_TIMEOUT: Duration = Duration::from_mins(1);
/// The same where data is copied.
const PATIENT_TIMEOUT: Duration = Duration::from_hours(6);
/// Header of the agent's log pages: the offset to ask for next.
const NEXT_OFFSET: &str = "x-waggle-next-offset";
/// Redirects followed: to the leader, and once more if it has just changed.
const MAX_REDIRECTS: usize = 3;

/// A base URL and a connection pool.
pub struct Client {
    base: String,
    timeout: Duration,
    http: Legacy<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: &str) -> Result<Self, CliError> {
        let uri: Uri = base
            .parse()
            .map_err(|e| usage(format!("{base:?} is not a URL: {e}")))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(usage(format!(
                "{base:?} must be of the form http://host:port"
            )));
        }
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            timeout: REQUEST_TIMEOUT,
            http: Legacy::builder(TokioExecutor::new()).build_http(),
        })
    }

    /// The same for requests that take as long as a disk takes.
    #[must_use]
    pub fn patient(self) -> Self {
        self.patient_for(PATIENT_TIMEOUT)
    }

    /// The same for requests that take so long.
    #[must_use]
    pub fn patient_for(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// GET, decoded as JSON.
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        json(&self.request(Method::GET, path, None).await?.bytes)
    }

    /// GET of a page of text: its bytes, and where the next page starts.
    pub async fn get_page(&self, path: &str) -> Result<(Bytes, u64), CliError> {
        let page = self.request(Method::GET, path, None).await?;
        let next = page.next_offset.ok_or_else(|| {
            anyhow!(
                "the answer of {}{path} does not say where it ends",
                self.base
            )
        })?;
        Ok((page.bytes, next))
    }

    /// POST of a JSON text, answer decoded as JSON.
    pub async fn post(&self, path: &str, body: String) -> Result<Value, CliError> {
        json(&self.request(Method::POST, path, Some(body)).await?.bytes)
    }

    /// PUT of a JSON text, answer decoded as JSON.
    pub async fn put(&self, path: &str, body: String) -> Result<Value, CliError> {
        json(&self.request(Method::PUT, path, Some(body)).await?.bytes)
    }

    /// DELETE, answer decoded as JSON.
    pub async fn delete(&self, path: &str) -> Result<Value, CliError> {
        json(&self.request(Method::DELETE, path, None).await?.bytes)
    }

    /// DELETE of what a JSON text names, answer decoded as JSON.
    pub async fn delete_with(&self, path: &str, body: String) -> Result<Value, CliError> {
        json(&self.request(Method::DELETE, path, Some(body)).await?.bytes)
    }

    /// GET of bytes, handed on as they come.
    pub async fn get_stream(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let (url, response) = self.send(Method::GET, path, String::new(), &[]).await?;
        let response = refused(&url, response).await?;
        let mut body = response.into_body();
        loop {
            let frame = tokio::time::timeout(STREAM_TIMEOUT, body.frame())
                .await
                .map_err(|_| anyhow!("{url} sent nothing for {STREAM_TIMEOUT:?}"))?;
            match frame {
                None => return Ok(()),
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        take(bytes)?;
                    }
                }
                Some(Err(e)) => return Err(anyhow!("the answer of {url} broke off: {e}").into()),
            }
        }
    }

    /// GET of server-sent events, from those on that came after the one with this id.
    pub async fn events(&self, path: &str, last: Option<&str>) -> Result<Events, CliError> {
        let mut headers = vec![(header::ACCEPT, "text/event-stream")];
        if let Some(last) = last {
            headers.push((header::HeaderName::from_static("last-event-id"), last));
        }
        let (url, response) = self
            .send(Method::GET, path, String::new(), &headers)
            .await?;
        let response = refused(&url, response).await?;
        Ok(Events {
            url,
            body: response.into_body(),
            held: Vec::new(),
        })
    }

    /// POST that makes another protocol of its connection.
    pub async fn upgrade(
        &self,
        path: &str,
        body: String,
        protocol: &str,
    ) -> Result<Upgraded, CliError> {
        let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, protocol)];
        let (url, response) = self.send(Method::POST, path, body, &headers).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(response).await;
            return Ok(upgraded.with_context(|| format!("{url} broke off"))?);
        }
        let response = refused(&url, response).await?;
        Err(anyhow!(
            "{url} answered {} instead of a session; is that a waggle master or agent?",
            response.status()
        )
        .into())
    }

    /// A request, redirects followed, and the answer without its body.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<(String, Response<Incoming>), CliError> {
        let mut url = format!("{}{path}", self.base);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::builder()
                .method(&method)
                .uri(&url)
                .header(header::CONTENT_TYPE, "application/json");
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let request = request
                .body(Full::from(body.clone()))
                .map_err(|e| usage(format!("{url:?} is not a URL: {e}")))?;
            let response = tokio::time::timeout(REQUEST_TIMEOUT, self.http.request(request))
                .await
                .map_err(|_| anyhow!("{url} did not answer within {REQUEST_TIMEOUT:?}"))?
                .with_context(|| format!("cannot reach {url}"))?;
            let location = response.headers().get(header::LOCATION);
            match location.and_then(|l| l.to_str().ok()) {
                Some(to) if response.status().is_redirection() => url = absolute(to),
                _ => return Ok((url, response)),
            }
        }
        Err(anyhow!("{url} redirects too often; is there a leading master?").into())
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Page, CliError> {
        let mut url = format!("{}{path}", self.base);
        for _ in 0..=MAX_REDIRECTS {
            match self.once(&method, &url, body.clone()).await? {
                Answer::Body(page) => return Ok(page),
                Answer::Redirect(to) => url = to,
            }
        }
        Err(anyhow!("{url} redirects too often; is there a leading master?").into())
    }

    async fn once(
        &self,
        method: &Method,
        url: &str,
        body: Option<String>,
    ) -> Result<Answer, CliError> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|e| usage(format!("{url:?} is not a URL: {e}")))?;
        let response = tokio::time::timeout(self.timeout, self.http.request(request))
            .await
            .map_err(|_| anyhow!("{url} did not answer within {:?}", self.timeout))?
            .with_context(|| {
                format!("cannot reach {url}; is a node running there? (--master, --marathon, --agent or WAGGLE_MASTER, WAGGLE_MARATHON, WAGGLE_AGENT name another address)")
            })?;
        let status = response.status();
        if status.is_redirection() {
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|l| l.to_str().ok());
            let to = location.ok_or_else(|| anyhow!("{url} redirects without a location"))?;
            return Ok(Answer::Redirect(absolute(to)));
        }
        let next_offset = response
            .headers()
            .get(NEXT_OFFSET)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        let bytes = tokio::time::timeout(
            REQUEST_TIMEOUT,
            Limited::new(response.into_body(), MAX_BODY_BYTES).collect(),
        )
        .await
        .map_err(|_| anyhow!("{url} did not finish its answer within {REQUEST_TIMEOUT:?}"))?
        .map_err(|e| anyhow!("the answer of {url} broke off: {e}"))?
        .to_bytes();
        if status.is_success() {
            return Ok(Answer::Body(Page { bytes, next_offset }));
        }
        Err(CliError::Refused {
            status: status.as_u16(),
            message: refusal(status.as_u16(), &bytes),
        })
    }
}

/// Server-sent events, as they come.
pub struct Events {
    url: String,
    body: Incoming,
    held: Vec<u8>,
}

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// What to ask with later, where it has one.
    pub id: Option<String>,
    /// What it says.
    pub data: String,
}

impl Events {
    /// The next one; none when the server has ended the answer.
    pub async fn next(&mut self) -> Result<Option<Event>, CliError> {
        loop {
            if let Some(end) = self.held.windows(2).position(|w| w == b"\n\n") {
                let block: Vec<u8> = self.held.drain(..end + 2).collect();
                if let Some(event) = event(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.held.len() > MAX_BODY_BYTES {
                return Err(anyhow!("{} sent an event without end", self.url).into());
            }
            let frame = tokio::time::timeout(STREAM_TIMEOUT, self.body.frame())
                .await
                .map_err(|_| anyhow!("{} sent nothing for {STREAM_TIMEOUT:?}", self.url))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    self.held.extend(frame.data_ref().into_iter().flatten());
                }
                Some(Err(e)) => {
                    return Err(anyhow!("the answer of {} broke off: {e}", self.url).into());
                }
            }
        }
    }
}

/// One block of lines; none where it is a sign of life.
fn event(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines().filter_map(|l| l.strip_prefix(name));
        lines.next().map(|v| v.trim_start().to_owned())
    };
    Some(Event {
        id: field("id:"),
        data: field("data:")?,
    })
}

/// The answer, unless it is a refusal.
async fn refused(url: &str, response: Response<Incoming>) -> Result<Response<Incoming>, CliError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect();
    let bytes = tokio::time::timeout(REQUEST_TIMEOUT, body)
        .await
        .map_err(|_| anyhow!("{url} did not finish its answer within {REQUEST_TIMEOUT:?}"))?
        .map_err(|e| anyhow!("the answer of {url} broke off: {e}"))?
        .to_bytes();
    Err(CliError::Refused {
        status: status.as_u16(),
        message: refusal(status.as_u16(), &bytes),
    })
}

/// An answer's body, and where the next page starts if it says so.
struct Page {
    bytes: Bytes,
    next_offset: Option<u64>,
}

enum Answer {
    Body(Page),
    Redirect(String),
}

/// Mesos redirects scheme-relative: `//host:port/path`.
fn absolute(location: &str) -> String {
    if location.starts_with("//") {
        format!("http:{location}")
    } else {
        location.to_owned()
    }
}

fn json(bytes: &Bytes) -> Result<Value, CliError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_slice(bytes).context("the answer is not JSON")?)
}

/// `{"message","details"}` as one text; anything else as it is. Details say more than the message
/// only when there are several.
fn refusal(status: u16, bytes: &Bytes) -> String {
    let Ok(v) = serde_json::from_slice::<Value>(bytes) else {
        return format!("HTTP {status}: {}", String::from_utf8_lossy(bytes).trim());
    };
    let mut details = Vec::new();
    for detail in v["details"].as_array().into_iter().flatten() {
        let path = detail["path"]
            .as_str()
            .unwrap_or_default()
            .trim_start_matches('/');
        let errors = detail["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        details.extend(errors.map(|e| {
            if e.starts_with(path) {
                e.to_owned()
            } else {
                format!("{path}: {e}")
            }
        }));
        details.extend(detail.as_str().map(str::to_owned));
        // Waggle's own refusals: what, and why.
        let object = detail["object"].as_str().unwrap_or_default();
        details.extend(detail["message"].as_str().map(|m| {
            if m.contains(object) {
                m.to_owned()
            } else {
                format!("{object}: {m}")
            }
        }));
    }
    if details.len() > 1 {
        return format!("refused\n  {}", details.join("\n  "));
    }
    v["message"].as_str().unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_well() {
        let one = br#"{"message":"cpus: must not be negative, is -1","details":[{"path":"/cpus","errors":["cpus: must not be negative, is -1"]}]}"#;
        assert_eq!(
            refusal(422, &Bytes::from_static(one)),
            "cpus: must not be negative, is -1"
        );
        let two = br#"{"message":"2 errors","details":[{"path":"/cpus","errors":["must not be negative"]},{"path":"/cmd","errors":["cmd: must be a string"]}]}"#;
        assert_eq!(
            refusal(422, &Bytes::from_static(two)),
            "refused\n  cpus: must not be negative\n  cmd: must be a string"
        );
        let typed = br#"{"message":"n1: not free (and 1 more, see details)","details":[{"code":"not_free","object":"n1","message":"not free"},{"code":"unknown_agent","object":"n2","message":"no agent n2"}]}"#;
        assert_eq!(
            refusal(409, &Bytes::from_static(typed)),
            "refused\n  n1: not free\n  no agent n2"
        );
        assert_eq!(
            refusal(502, &Bytes::from_static(b"oops\n")),
            "HTTP 502: oops"
        );
    }

    #[test]
    fn events_are_read() {
        let read = |text| event(text).map(|e| (e.id, e.data));
        let data = "{\"a\":1}".to_owned();
        assert_eq!(read(":\n\n"), None);
        assert_eq!(read("data: {\"a\":1}\n\n"), Some((None, data.clone())));
        assert_eq!(
            read("id: 1.5\nevent: gap\ndata: {\"a\":1}\n\n"),
            Some((Some("1.5".to_owned()), data))
        );
    }

    #[test]
    fn bases_are_checked() {
        for bad in ["", "127.0.0.1:80", "https://x", "http://"] {
            assert_eq!(
                Client::new(bad).map(|_| ()).unwrap_err().exit_code(),
                2,
                "{bad}"
            );
        }
    }
}
