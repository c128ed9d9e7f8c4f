//! Traces of requests between tasks, made of bytes that passed by, without a word from the programs.

mod piece;
mod span;

pub use piece::{Direction, Guess, Piece, Role};
pub use span::RequestSpan;
