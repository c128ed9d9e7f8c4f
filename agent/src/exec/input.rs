//! Input on its way to a command: at most one window of it is held.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;
use waggle_api::exec::FIRST_WINDOW;

/// Most bytes that are handed on at once.
const PART: usize = 16 << 10;

/// Input that has arrived.
#[derive(Debug, Default)]
pub struct Input {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    bytes: VecDeque<u8>,
    ended: bool,
}

/// The client sent more than it was allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMuch;

impl Input {
    /// Takes what the client sent.
    pub fn push(&self, bytes: &[u8]) -> Result<(), TooMuch> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let most = usize::try_from(FIRST_WINDOW).unwrap_or(usize::MAX);
        if held.bytes.len() + bytes.len() > most {
            return Err(TooMuch);
        }
        held.bytes.extend(bytes);
        self.changed.notify_one();
        Ok(())
    }

    /// There is no more.
    pub fn end(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.ended = true;
        self.changed.notify_one();
    }

    /// What is next; `None` at the end.
    pub async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                if !held.bytes.is_empty() {
                    let n = held.bytes.len().min(PART);
                    return Some(held.bytes.drain(..n).collect());
                }
                if held.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_is_bounded_and_ends() {
        let input = Input::default();
        let window = usize::try_from(FIRST_WINDOW).unwrap();
        assert_eq!(input.push(&vec![1; window]), Ok(()));
        assert_eq!(input.push(&[2]), Err(TooMuch));
        assert_eq!(input.next().await.unwrap().len(), PART);
        assert_eq!(input.push(&[2]), Ok(()), "there is room again");
        input.end();
        let mut n = PART;
        while let Some(part) = input.next().await {
            n += part.len();
        }
        assert_eq!(n, window + 1);
    }
}
