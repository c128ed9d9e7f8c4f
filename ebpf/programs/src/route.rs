//! What becomes of a connect or a datagram, carried out in its context.

use aya_ebpf::bindings::bpf_sock_addr;
use waggle_ebpf_common::Backend;

use crate::address;
use crate::verdict::{PROCEED, refuse};

/// See the module.
pub enum Route {
    /// As addressed.
    AsIs,
    /// To a backend of the VIP.
    To(*const Backend),
    /// The VIP has no backend.
    Refused,
}

impl Route {
    /// Of an IPv4 socket.
    ///
    /// # Safety
    /// `sa` is the context of a program for IPv4 sockets; a backend is a map value.
    #[inline(always)]
    pub unsafe fn take4(self, sa: *mut bpf_sock_addr) -> i32 {
        match self {
            Self::AsIs => PROCEED,
            Self::To(backend) => {
                // SAFETY: as the caller says.
                unsafe { address::write4(sa, &raw const (*backend).addr, (*backend).port) };
                PROCEED
            }
            Self::Refused => refuse(),
        }
    }

    /// Of an IPv6 or dual-stack socket.
    ///
    /// # Safety
    /// `sa` is the context of a program for IPv6 sockets; a backend is a map value.
    #[inline(always)]
    pub unsafe fn take6(self, sa: *mut bpf_sock_addr) -> i32 {
        match self {
            Self::AsIs => PROCEED,
            Self::To(backend) => {
                // SAFETY: as the caller says.
                unsafe { address::write6(sa, &raw const (*backend).addr, (*backend).port) };
                PROCEED
            }
            Self::Refused => refuse(),
        }
    }
}
