//! A server of tokens, as Docker's registry wants them: who shows the password gets one that the registry trusts
//! (distribution specification, "Token Authentication").

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::SigningKey as _;
use serde_json::{Value, json};

use super::{PASSWORD, USER};

const SERVICE: &str = "waggle-registry";
const ISSUER: &str = "waggle-tokens";

/// Runs until it is dropped.
pub struct TokenServer {
    addr: SocketAddr,
    certificate: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Signer {
    key: rcgen::KeyPair,
    certificate: Vec<u8>,
}

impl TokenServer {
    /// Starts one; the certificate of its key is kept in `dir`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![ISSUER.to_owned()])?;
        let certificate = dir.join("token.crt");
        std::fs::write(&certificate, made.cert.pem())?;
        let signer = Signer {
            key: made.signing_key,
            certificate: made.cert.der().to_vec(),
        };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let _ = signer.answer(stream);
            }
        });
        Ok(Self {
            addr,
            certificate,
            stop,
            thread: Some(thread),
        })
    }

    /// What the registry's configuration says about it.
    pub fn auth(&self) -> Value {
        json!({ "token": {
            "realm": format!("http://{}/token", self.addr),
            "service": SERVICE, "issuer": ISSUER, "rootcertbundle": self.certificate,
        }})
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Signer {
    fn answer(&self, stream: TcpStream) -> anyhow::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut authorized = false;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            let wanted = STANDARD.encode(format!("{USER}:{PASSWORD}"));
            let header = line.trim().split_once(": ").unwrap_or_default();
            authorized |= header.0.eq_ignore_ascii_case("authorization")
                && header.1 == format!("Basic {wanted}");
        }
        let (status, body) = if authorized {
            let url = first.split(' ').nth(1).unwrap_or_default();
            ("200 OK", json!({ "token": self.token(url)? }))
        } else {
            ("401 Unauthorized", json!({ "details": "wrong password" }))
        };
        let body = body.to_string();
        write!(
            reader.get_mut(),
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }

    /// A JSON web token for the scope that a URL asks for: `repository:NAME:pull`.
    fn token(&self, url: &str) -> anyhow::Result<String> {
        let scope = url
            .split(['?', '&'])
            .find_map(|p| p.strip_prefix("scope="))
            .unwrap_or_default()
            .replace("%3A", ":")
            .replace("%2F", "/");
        let mut parts = scope.split(':');
        let (kind, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({
            "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)],
        });
        let claims = json!({
            "iss": ISSUER, "sub": USER, "aud": SERVICE, "jti": now.to_string(),
            "iat": now - 60, "nbf": now - 60, "exp": now + 600,
            "access": [{ "type": kind, "name": name, "actions": ["pull"] }],
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = fixed(&self.key.sign(signed.as_bytes())?);
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The two numbers of an ECDSA signature in 32 bytes each, from ASN.1 (RFC 7518, section 3.4).
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // SEQUENCE, length, then twice INTEGER, length, number.
    let mut rest = der.get(2..).unwrap_or_default();
    for _ in 0..2 {
        let len = usize::from(rest.get(1).copied().unwrap_or_default());
        let number = rest.get(2..2 + len).unwrap_or_default();
        let number = &number[number.len().saturating_sub(32)..];
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend(number);
        rest = rest.get(2 + len..).unwrap_or_default();
    }
    out
}
