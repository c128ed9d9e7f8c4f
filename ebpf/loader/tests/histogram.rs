//! The kernel programs' bucket function, compiled for the host.

#[path = "../../programs/src/histogram.rs"]
mod histogram;

use histogram::log2_bucket;
use waggle_ebpf::common::HIST_BUCKETS;

#[test]
fn buckets_are_powers_of_two_with_open_ends() {
    let last = HIST_BUCKETS - 1;
    assert_eq!(log2_bucket(0), 0);
    for bucket in 0..64_usize {
        let lower = 1_u64 << bucket;
        let expected = bucket.min(last);
        assert_eq!(log2_bucket(lower), expected, "{lower}");
        assert_eq!(
            log2_bucket(lower + (lower - 1)),
            expected,
            "{}",
            lower + (lower - 1)
        );
    }
    assert_eq!(log2_bucket(u64::MAX), last);
}
