//! The two ways in which Mesos's messages are written, and how a request says which.

use http::{HeaderMap, StatusCode, header};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::json;
use crate::codec::{MAX_DECODED, Shaped, decoded_size};

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Mesos's JSON.
    Json,
    /// Protobuf.
    Protobuf,
}

/// Why a body is no message, in Mesos's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// Nothing says how it is written.
    #[error("Expecting 'Content-Type' to be present")]
    Missing,
    /// It is written in another way.
    #[error("Expecting 'Content-Type' of {JSON} or {PROTOBUF}")]
    Unsupported,
    /// It is no such message.
    #[error("Failed to parse body into Call: {0}")]
    Malformed(String),
}

impl MediaError {
    /// What such a request is answered with.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

impl Media {
    /// As in `Content-Type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Protobuf => PROTOBUF,
        }
    }

    /// How the body of a request is written.
    pub fn of_body(headers: &HeaderMap) -> Result<Self, MediaError> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            return Err(MediaError::Missing);
        };
        let text = value.to_str().unwrap_or_default();
        let bare = text.split(';').next().unwrap_or_default().trim();
        match bare.to_ascii_lowercase().as_str() {
            JSON => Ok(Self::Json),
            PROTOBUF => Ok(Self::Protobuf),
            _ => Err(MediaError::Unsupported),
        }
    }

    /// How an answer may be written; JSON when both are fine, none when neither is.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(header::ACCEPT).iter().peekable();
        if all.peek().is_none() {
            return Some(Self::Json);
        }
        let text: Vec<String> = all
            .filter_map(|v| v.to_str().ok())
            .map(str::to_ascii_lowercase)
            .collect();
        let ranges: Vec<&str> = text
            .iter()
            .flat_map(|t| t.split(','))
            .filter(|r| !r.replace(' ', "").ends_with(";q=0"))
            .filter_map(|r| r.split(';').next())
            .map(str::trim)
            .collect();
        let takes = |name: &str| {
            let any = |r: &&str| *r == name || *r == "*/*" || *r == "application/*";
            ranges.iter().any(any)
        };
        if takes(JSON) {
            Some(Self::Json)
        } else {
            takes(PROTOBUF).then_some(Self::Protobuf)
        }
    }

    /// Reads a message; one that would take too much memory is refused before.
    pub fn read<M>(self, body: &[u8]) -> Result<M, MediaError>
    where
        M: Message + Default + Shaped + DeserializeOwned,
    {
        let wrong = MediaError::Malformed;
        match self {
            Self::Json => json::read(body).map_err(|e| wrong(e.to_string())),
            Self::Protobuf => {
                if decoded_size(body, M::shape(), MAX_DECODED) > MAX_DECODED {
                    return Err(wrong("it holds too much".to_owned()));
                }
                M::decode(body).map_err(|e| wrong(e.to_string()))
            }
        }
    }

    /// Writes a message.
    pub fn write<M: Message + Serialize>(self, message: &M) -> Vec<u8> {
        match self {
            Self::Json => json::write(message),
            Self::Protobuf => message.encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn answers_are_what_the_client_takes() {
        let accepted = |v| Media::accepted(&with(header::ACCEPT, v));
        assert_eq!(Media::accepted(&HeaderMap::new()), Some(Media::Json));
        for json in ["application/json", "*/*", "text/html, application/*;q=0.5"] {
            assert_eq!(accepted(json), Some(Media::Json), "{json}");
        }
        assert_eq!(accepted("application/x-protobuf"), Some(Media::Protobuf));
        assert_eq!(accepted("text/plain"), None);
        assert_eq!(accepted("application/json;q=0"), None);
    }

    #[test]
    fn bodies_say_what_they_are() {
        let of = |v| Media::of_body(&with(header::CONTENT_TYPE, v));
        assert_eq!(of("application/json; charset=utf-8").unwrap(), Media::Json);
        assert_eq!(of("application/x-protobuf").unwrap(), Media::Protobuf);
        assert_eq!(
            of("text/plain").unwrap_err().status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        assert_eq!(
            Media::of_body(&HeaderMap::new()).unwrap_err().status(),
            StatusCode::BAD_REQUEST
        );
    }
}
