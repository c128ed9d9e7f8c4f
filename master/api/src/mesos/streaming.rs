//! Requests and answers that are streams of records: how the headers of Mesos's agent say it.
//!
//! A stream is `application/recordio`, and what is in its records is said by another header: `Message-Content-Type` of a
//! request, `Message-Accept` for an answer. Clients that know of no streams take JSON, and get its records.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::media::{Media, MediaError};

/// As in `Content-Type`.
pub const RECORDIO: &str = "application/recordio";
/// What is in the records of a request, or of an answer.
pub const MESSAGE_CONTENT_TYPE: HeaderName = HeaderName::from_static("message-content-type");
/// What may be in the records of an answer.
pub const MESSAGE_ACCEPT: HeaderName = HeaderName::from_static("message-accept");

/// Why a request is refused for its headers, in Mesos's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Of the body.
    #[error("{}", match .0 {
        MediaError::Unsupported => format!("Expecting 'Content-Type' of application/json or application/x-protobuf or {RECORDIO}"),
        other => other.to_string(),
    })]
    Media(#[from] MediaError),
    /// A stream of what?
    #[error("Expecting 'Message-Content-Type' to be set for streaming requests")]
    NoMessages,
    /// A stream of something else.
    #[error("Expecting 'Message-Content-Type' of application/json or application/x-protobuf")]
    Messages,
    /// There is no stream.
    #[error("Expecting 'Message-Content-Type' to be not set for non-streaming requests")]
    NoStream,
    /// No answer is taken.
    #[error("Expecting 'Accept' to allow application/json or application/x-protobuf or {RECORDIO}")]
    Accept,
    /// No answer's records are taken.
    #[error("Expecting 'Message-Accept' to allow application/json or application/x-protobuf")]
    MessageAccept,
    /// Records of an answer that has none.
    #[error("Expecting 'Message-Accept' to be not set for non-streaming responses")]
    NoStreamAccepted,
}

impl StreamError {
    /// What such a request is answered with.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Media(e) => e.status(),
            Self::NoMessages => StatusCode::BAD_REQUEST,
            Self::Messages | Self::NoStream => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Accept | Self::MessageAccept | Self::NoStreamAccepted => {
                StatusCode::NOT_ACCEPTABLE
            }
        }
    }
}

/// How messages come, or are to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// How each is written.
    pub media: Media,
    /// Whether they are records of a declared stream.
    pub stream: bool,
}

impl Form {
    /// Of a request's body.
    pub fn of_body(headers: &HeaderMap) -> Result<Self, StreamError> {
        let within = headers.get(MESSAGE_CONTENT_TYPE);
        if is_recordio(headers.get(header::CONTENT_TYPE)) {
            let within = within.ok_or(StreamError::NoMessages)?;
            let only = HeaderMap::from_iter([(header::CONTENT_TYPE, within.clone())]);
            let media = Media::of_body(&only).map_err(|_| StreamError::Messages)?;
            return Ok(Self {
                media,
                stream: true,
            });
        }
        let media = Media::of_body(headers)?;
        if within.is_some() {
            return Err(StreamError::NoStream);
        }
        Ok(Self {
            media,
            stream: false,
        })
    }

    /// Of its answer: JSON before protobuf, and a stream where neither is taken.
    pub fn accepted(headers: &HeaderMap) -> Result<Self, StreamError> {
        if let Some(media) = Media::accepted(headers) {
            if headers.contains_key(MESSAGE_ACCEPT) {
                return Err(StreamError::NoStreamAccepted);
            }
            return Ok(Self {
                media,
                stream: false,
            });
        }
        let mut ranges = headers.get_all(header::ACCEPT).iter();
        let takes = ranges.any(|v| v.to_str().is_ok_and(names_recordio));
        if !takes {
            return Err(StreamError::Accept);
        }
        let within = headers.get_all(MESSAGE_ACCEPT).iter();
        let within: HeaderMap = within.map(|v| (header::ACCEPT, v.clone())).collect();
        let media = Media::accepted(&within).ok_or(StreamError::MessageAccept)?;
        Ok(Self {
            media,
            stream: true,
        })
    }

    /// The headers of an answer that is a stream of records, declared or not.
    pub fn headers(self) -> HeaderMap {
        let media = HeaderValue::from_static(self.media.name());
        let mut out = HeaderMap::new();
        if self.stream {
            let kind = HeaderValue::from_static(RECORDIO);
            out.insert(header::CONTENT_TYPE, kind);
            out.insert(MESSAGE_CONTENT_TYPE, media);
        } else {
            out.insert(header::CONTENT_TYPE, media);
        }
        out
    }
}

fn is_recordio(value: Option<&HeaderValue>) -> bool {
    let text = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let bare = text.split(';').next().unwrap_or_default().trim();
    bare.eq_ignore_ascii_case(RECORDIO)
}

fn names_recordio(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';');
        let name = parts.next().unwrap_or_default().trim();
        let refused = parts.any(|p| p.replace(' ', "") == "q=0");
        name.eq_ignore_ascii_case(RECORDIO) && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn bodies_are_one_message_or_a_stream_of_them() {
        let of = |pairs: &[(&str, &str)]| Form::of_body(&with(pairs));
        let form = |media, stream| Ok(Form { media, stream });
        let json = ("content-type", "application/json; charset=utf-8");
        let stream = ("content-type", "application/recordio");
        let within = ("message-content-type", "application/x-protobuf");
        assert_eq!(of(&[json]), form(Media::Json, false));
        assert_eq!(of(&[stream, within]), form(Media::Protobuf, true));
        for (pairs, status, starts) in [
            (&[][..], 400, "Expecting 'Content-Type' to be present"),
            (&[stream], 400, "Expecting 'Message-Content-Type' to be set"),
            (
                &[stream, ("message-content-type", "text/plain")],
                415,
                "Expecting 'Message-Content-Type' of",
            ),
            (
                &[json, within],
                415,
                "Expecting 'Message-Content-Type' to be not set",
            ),
            (
                &[("content-type", "text/plain")],
                415,
                "Expecting 'Content-Type' of application/json or application/x-protobuf or application/recordio",
            ),
        ] {
            let e = of(pairs).unwrap_err();
            assert_eq!(e.status().as_u16(), status, "{pairs:?}");
            assert!(e.to_string().starts_with(starts), "{e}");
        }
    }

    #[test]
    fn answers_are_streams_where_clients_say_so() {
        let of = |pairs: &[(&str, &str)]| Form::accepted(&with(pairs));
        let form = |media, stream| Ok(Form { media, stream });
        let stream = ("accept", "application/recordio");
        assert_eq!(of(&[]), form(Media::Json, false));
        assert_eq!(of(&[stream]), form(Media::Json, true));
        assert_eq!(
            of(&[stream, ("message-accept", "application/x-protobuf")]),
            form(Media::Protobuf, true)
        );
        for (pairs, starts) in [
            (&[("accept", "text/plain")][..], "Expecting 'Accept'"),
            (
                &[stream, ("message-accept", "text/plain")],
                "Expecting 'Message-Accept' to allow",
            ),
            (
                &[
                    ("accept", "application/json"),
                    ("message-accept", "application/json"),
                ],
                "Expecting 'Message-Accept' to be not set",
            ),
        ] {
            let e = of(pairs).unwrap_err();
            assert_eq!(e.status().as_u16(), 406, "{pairs:?}");
            assert!(e.to_string().starts_with(starts), "{e}");
        }
        let headers = of(&[stream]).unwrap().headers();
        assert_eq!(headers["content-type"], RECORDIO);
        assert_eq!(headers["message-content-type"], "application/json");
    }
}
