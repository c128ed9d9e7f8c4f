//! Histogram buckets. Pure, so that the loader's tests compile it for the host, too.

use waggle_ebpf_common::HIST_BUCKETS;

/// `floor(log2(v))`, at most the last bucket. Without the loop or table that `leading_zeros` becomes on a
/// target that has no such instruction.
#[inline(always)]
pub fn log2_bucket(micros: u64) -> usize {
    // Everything beyond the last bucket's lower bound is alike; this also bounds the value for the verifier.
    const CAP: u64 = 1 << (HIST_BUCKETS - 1);
    let mut rest = if micros > CAP { CAP } else { micros };
    let mut bucket = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        bucket += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        bucket += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        bucket += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        bucket += 2;
    }
    if rest >= 1 << 1 {
        bucket += 1;
    }
    // Never true (CAP is 2^23), but the verifier can't know.
    if bucket >= HIST_BUCKETS {
        HIST_BUCKETS - 1
    } else {
        bucket
    }
}
