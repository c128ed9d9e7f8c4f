//! Every return value that the kernel acts on, in one place.

use aya_ebpf::helpers::generated::bpf_set_retval;

/// `cgroup/connect*`, `cgroup/getpeername*`, `cgroup/post_bind*`: go on. The only value that the verifier
/// allows for getpeername.
pub const PROCEED: i32 = 1;
/// `cgroup/connect*`: fail the system call, with EPERM unless another error was set.
const REJECT: i32 = 0;
/// `cgroup_skb`: let the packet pass.
pub const PASS: i32 = 1;
/// `sock_ops`: the kernel ignores all but the reply field, which is left alone.
pub const DONE: u32 = 1;

const ECONNREFUSED: i32 = 111;

/// Fails a connect at once with ECONNREFUSED, as if the backend had answered with a reset.
#[inline(always)]
pub fn refuse() -> i32 {
    // SAFETY: allowed in connect hooks since kernel 5.18; a failure leaves EPERM, which also ends the call.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REJECT
}
