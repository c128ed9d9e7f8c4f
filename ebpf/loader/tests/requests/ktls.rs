//! TLS in the kernel, with keys that both ends know beforehand: what follows a handshake that a test has made up.

#![allow(
    unsafe_code,
    reason = "setsockopt(2) with structures that nothing wraps"
)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// linux/tls.h
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;
const TLS_1_3: u16 = 0x0304;
const AES_GCM_128: u16 = 51;

/// `tls12_crypto_info_aes_gcm_128`, for 1.3 as well.
#[repr(C)]
struct Keys {
    version: u16,
    cipher: u16,
    iv: [u8; 8],
    key: [u8; 16],
    salt: [u8; 4],
    record: [u8; 8],
}

const KEYS: Keys = Keys {
    version: TLS_1_3,
    cipher: AES_GCM_128,
    iv: [3; 8],
    key: [7; 16],
    salt: [5; 4],
    record: [0; 8],
};

/// Whether this kernel has it; its module is loaded for the question.
pub fn is_there() -> io::Result<bool> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    match set_up(&stream) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// What is sent from now on is encrypted.
pub fn encrypt(stream: &TcpStream) -> io::Result<()> {
    set_up(stream)?;
    option(stream, libc::SOL_TLS, TLS_TX, &KEYS)
}

/// What is read from now on is decrypted.
pub fn decrypt(stream: &TcpStream) -> io::Result<()> {
    set_up(stream)?;
    option(stream, libc::SOL_TLS, TLS_RX, &KEYS)
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    option(stream, libc::SOL_TCP, libc::TCP_ULP, b"tls")
}

fn option<T>(
    stream: &TcpStream,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value is a plain structure of ours of that size.
    match unsafe { libc::setsockopt(stream.as_raw_fd(), level, name, value, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
