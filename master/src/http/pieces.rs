//! Large answers, written in pieces by several threads at once.
//!
//! The long lists of an answer are cut; whoever is free takes the next piece, makes its entries one after another and writes them.
//! So an answer takes the time of its bytes divided by the processors that are idle, its entries are never all in memory
//! as values, and what was written is sent without being copied together. The order of entries is that of the list.

use std::{
    convert::Infallible,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use waggle_api::error::{ApiError, ErrorCode};

/// Entries of a piece: some tens of microseconds to some milliseconds of work.
const ENTRIES: usize = 512;
/// Threads for an answer.
const THREADS: usize = 4;

type Failed = serde_json::Error;
type Write<'a> = Box<dyn Fn(&mut Vec<u8>) -> Result<(), Failed> + Send + Sync + 'a>;

enum Piece<'a> {
    Text(Vec<u8>),
    Work(Write<'a>),
}

/// An answer that is being put together.
#[derive(Default)]
pub(super) struct Pieces<'a> {
    all: Vec<Piece<'a>>,
    failed: Option<Failed>,
}

impl<'a> Pieces<'a> {
    /// Begins an object with some fields, at least one; [`Pieces::list`] adds lists to it.
    pub(super) fn open(&mut self, fields: &impl Serialize) {
        match serde_json::to_vec(fields) {
            Ok(mut text) => {
                debug_assert!(text.len() > 2 && text.ends_with(b"}"));
                text.pop();
                self.text(&text);
            }
            Err(e) => self.failed = Some(e),
        }
    }

    /// Ends it.
    pub(super) fn close(&mut self) {
        self.text(b"}");
    }

    /// A field with objects, each put together by `one`.
    pub(super) fn objects<T>(
        &mut self,
        key: &str,
        items: Vec<T>,
        mut one: impl FnMut(&mut Self, T),
    ) {
        self.key(key);
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.text(b",");
            }
            one(self, item);
        }
        self.text(b"]");
    }

    /// A field with a list, of whose entries `one` makes what is written.
    pub(super) fn list<T, U>(&mut self, key: &str, items: &[T], one: fn(T) -> U)
    where
        T: Copy + Send + Sync + 'a,
        U: Serialize + 'a,
    {
        self.key(key);
        for (i, some) in items.chunks(ENTRIES).enumerate() {
            if i > 0 {
                self.text(b",");
            }
            let some = some.to_vec();
            self.all.push(Piece::Work(Box::new(move |out| {
                for (i, item) in some.iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    serde_json::to_writer(&mut *out, &one(*item))?;
                }
                Ok(())
            })));
        }
        self.text(b"]");
    }

    /// Writes all of it.
    pub(super) fn answer(self) -> Response {
        match self.written() {
            Ok(texts) => {
                let len: usize = texts.iter().map(Vec::len).sum();
                let texts = texts
                    .into_iter()
                    .map(|t| Ok::<_, Infallible>(Bytes::from(t)));
                let mut answer = Body::from_stream(futures::stream::iter(texts)).into_response();
                let headers = answer.headers_mut();
                let json = HeaderValue::from_static("application/json");
                headers.insert(header::CONTENT_TYPE, json);
                headers.insert(header::CONTENT_LENGTH, len.into());
                answer
            }
            Err(e) => {
                let why = format!("the answer could not be written: {e}");
                super::respond::Fail::from(ApiError::new(ErrorCode::Internal, why)).into_response()
            }
        }
    }

    /// The texts, one after another.
    fn written(self) -> Result<Vec<Vec<u8>>, Failed> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let is_work = |p: &&Piece<'_>| matches!(p, Piece::Work(_));
        let works = self.all.iter().filter(is_work).count();
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = threads.min(THREADS).min(works);
        // Each place is written once, by whoever took its number.
        let places: Vec<Mutex<Result<Vec<u8>, Failed>>> = self
            .all
            .iter()
            .map(|_| Mutex::new(Ok(Vec::new())))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(piece), Some(place)) = (self.all.get(at), places.get(at)) else {
                    return;
                };
                if let Piece::Work(write) = piece {
                    let mut out = Vec::new();
                    let done = write(&mut out).map(|()| out);
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = done;
                }
            }
        };
        // They inherit the priority of the thread that they are begun by.
        thread::scope(|scope| {
            for _ in 1..threads {
                if thread::Builder::new()
                    .name("waggle-write".to_owned())
                    .spawn_scoped(scope, work)
                    .is_err()
                {
                    break;
                }
            }
            work();
        });
        let places = places.into_iter().zip(self.all);
        places
            .map(|(place, piece)| match piece {
                Piece::Text(text) => Ok(text),
                Piece::Work(_) => place.into_inner().unwrap_or_else(PoisonError::into_inner),
            })
            .collect()
    }

    fn key(&mut self, key: &str) {
        self.text(b",\"");
        self.text(key.as_bytes());
        self.text(b"\":[");
    }

    fn text(&mut self, more: &[u8]) {
        if let Some(Piece::Text(text)) = self.all.last_mut() {
            text.extend_from_slice(more);
        } else {
            self.all.push(Piece::Text(more.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn text(pieces: Pieces<'_>) -> String {
        let texts = pieces.written().unwrap();
        String::from_utf8(texts.concat()).unwrap()
    }

    #[test]
    fn lists_of_any_length_are_whole_and_in_order() {
        for n in [0, 1, ENTRIES, ENTRIES + 1, 10 * ENTRIES + 7] {
            let mut pieces = Pieces::default();
            pieces.open(&json!({"a": 1}));
            pieces.list("of", &(0..n).collect::<Vec<_>>(), |i| json!({ "i": i }));
            pieces.objects("in", vec![2, 3], |pieces, k| {
                pieces.open(&json!({"k": k}));
                pieces.list("l", &vec![k; k], |x| x);
                pieces.close();
            });
            pieces.objects("none", Vec::<u8>::new(), |_, _| {});
            pieces.close();
            let got: Value = serde_json::from_str(&text(pieces)).unwrap();
            let of: Vec<Value> = (0..n).map(|i| json!({ "i": i })).collect();
            let within = json!([{"k": 2, "l": [2, 2]}, {"k": 3, "l": [3, 3, 3]}]);
            assert_eq!(got, json!({"a": 1, "of": of, "in": within, "none": []}));
        }
    }

    #[test]
    fn what_can_not_be_written_is_an_error() {
        struct Never;
        impl Serialize for Never {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("on purpose"))
            }
        }
        let mut pieces = Pieces::default();
        pieces.open(&json!({"a": 1}));
        pieces.list("of", &[1], |_| Never);
        pieces.close();
        assert!(pieces.written().is_err());
        let mut pieces = Pieces::default();
        pieces.open(&Never);
        assert_eq!(pieces.answer().status(), 500);
    }
}
