//! What reasons mean and what would help. The kernel's are those of `skb_drop_reason` (include/net/dropreason-core.h), in small
//! letters; a reason that is not here is told as such.

type Words = (&'static str, &'static str);

/// How a connection ended.
pub fn verdict(verdict: &str) -> Words {
    match verdict {
        "no_backend" => (
            "the VIP had no backend that may take connections",
            "see why with `waggle vip list` and `waggle explain app`: none runs, none is ready, or all are being drained",
        ),
        "refused" => (
            "the other end refused it: nobody listens at its port",
            "see whether it listens at the port that it was given ($PORT0), and give it a health or readiness check",
        ),
        "failed" => (
            "no answer, no way there, or it was given up while it opened",
            "see whether the other node is reachable and no policy or firewall drops it; a queue of connections may be full",
        ),
        "reset" => (
            "the other end broke it off",
            "see the other end's output around that time: it may have ended, or closed with data unread",
        ),
        _ => UNKNOWN,
    }
}

/// Why the kernel dropped a packet.
pub fn kernel(reason: &str) -> Words {
    match reason {
        "no_socket" => (
            "nobody listens at the port, or the connection is gone already",
            "see whether the client has an old address or port, or the server has ended",
        ),
        "tcp_overwindow"
        | "tcp_old_data"
        | "tcp_old_ack"
        | "tcp_old_sequence"
        | "tcp_invalid_sequence"
        | "tcp_invalid_ack_sequence"
        | "tcp_ofo_drop"
        | "tcp_too_old_ack"
        | "tcp_rfc7323_paws"
        | "tcp_invalid_end_sequence"
        | "tcp_rfc7323_paws_ack"
        | "tcp_rfc7323_tsecr"
        | "tcp_rfc7323_tw_paws"
        | "tcp_ack_unsent_data"
        | "tcp_ofomerge" => (
            "a segment lies outside of the receiver's window: late, sent twice, or forged",
            "harmless if rare; else look for a path that delays or repeats packets",
        ),
        "tcp_listen_overflow" => (
            "the queue of connections that wait for accept is full",
            "accept faster or from more threads, listen with a larger backlog, raise net.core.somaxconn, or run more instances",
        ),
        "socket_rcvbuff"
        | "proto_mem"
        | "tcp_ofo_queue_prune"
        | "socket_backlog"
        | "tcp_zerowindow" => (
            "the task reads too slowly: the room for what came is full",
            "read faster, or raise SO_RCVBUF (UDP) or net.ipv4.tcp_rmem (TCP)",
        ),
        "socket_close" | "tcp_close" | "tcp_reset" | "tcp_abort_on_data" | "tcp_fastopen" => (
            "the connection was being closed or reset while more came",
            "usual at the end of connections; many of them mean a peer that goes on sending",
        ),
        "netfilter_drop" | "bpf_cgroup_egress" | "socket_filter" | "tc_ingress" | "tc_egress"
        | "xdp" | "xfrm_policy" | "security_hook" => (
            "a rule dropped it: a firewall (netfilter), a program at the interface (network policies are one), or a socket's filter",
            "see `waggle policy test` for ours, `nft list ruleset` for the node's",
        ),
        "ip_outnoroutes" | "neigh_createfail" | "neigh_hh_fillfail" | "ip_localnet"
        | "ipv6disabled" | "ip_innoroutes" | "neigh_failed" | "neigh_queuefull" | "neigh_dead"
        | "ip_inaddrerrors" | "ip_rpfilter" | "ip_invalid_source" | "ip_local_source"
        | "ip_invalid_dest" => (
            "there is no way to the address, or it is not one that is taken from there",
            "see `ip route get ADDRESS` in the task's network and whether the next hop answers ARP; rp_filter may be strict",
        ),
        "full_ring" | "qdisc_drop" | "cpu_backlog" | "queue_purge" | "qdisc_overlimit"
        | "qdisc_congested" | "fq_band_limit" | "fq_flow_limit" | "fq_horizon_limit"
        | "cake_flood" | "pfmemalloc" | "dev_ready" | "nomem" => (
            "a queue was full or was emptied: more came than the device, a CPU or memory could take",
            "see the device's and the CPU's load; spread the service over more nodes",
        ),
        "pkt_too_big" | "pkt_too_small" | "ip_inhdr" | "ip_csum" | "tcp_csum" | "udp_csum"
        | "icmp_csum" | "hdr_trunc" | "skb_csum" | "skb_gso_seg" | "skb_ucopy_fault"
        | "dup_frag" | "tcp_flags" | "tcp_invalid_syn" | "ipv6_bad_exthdr"
        | "frag_reasm_timeout" | "frag_too_far" => (
            "the packet was damaged, cut off, too large for the path, or a part of it did not come",
            "see whether the MTU is the same on the path, and the device's error counters",
        ),
        "unhandled_proto"
        | "invalid_proto"
        | "otherhost"
        | "unicast_in_l2_multicast"
        | "ip_noproto" => (
            "it was not for this node or for a protocol that it speaks",
            "usual on shared networks",
        ),
        "not_specified" => (
            "the kernel gives no reason there",
            "usual for packets that are given up with their socket or device",
        ),
        _ => UNKNOWN,
    }
}

/// Why a policy dropped a packet.
pub fn policy(verdict: &str) -> Words {
    match verdict {
        "denied_egress" => (
            "no rule lets the task send it",
            "ask `waggle policy test` which policy says so, and add a rule if it should pass",
        ),
        "denied_ingress" => (
            "no rule lets the task be sent it",
            "ask `waggle policy test` which policy says so, and add a rule if it should pass",
        ),
        "no_state" => (
            "policies don't know the task yet, or it did not fit into the tables",
            "passes by itself while a task starts; if it stays, see `waggle node show` for parts that were not applied",
        ),
        "no_flow" => (
            "an answer to nothing that was allowed, or to a flow that was silent for too long",
            "let idle connections send keep-alives",
        ),
        "no_fragment" => (
            "a fragment whose first one was not seen, or was not allowed",
            "send datagrams that fit the MTU",
        ),
        "malformed" => (
            "a header is shorter than its protocol needs",
            "see who sends it: no stack does that by itself",
        ),
        _ => UNKNOWN,
    }
}

/// The same with a word whose policies they are.
pub fn denial(verdict: &str, observer: &str, reason: &str) -> Words {
    match (verdict, reason, observer) {
        ("audited", ..) => (
            "it passed; a policy in audit mode would drop it",
            "add a rule before the policy is put in force, if it should pass",
        ),
        (_, "no_rule", "source") => policy("denied_egress"),
        (_, "no_rule", _) => policy("denied_ingress"),
        (_, reason, _) => policy(reason),
    }
}

/// What the tasks do to themselves.
pub fn own(what: &str) -> Words {
    match what {
        "sent again" => (
            "no acknowledgement came in time: the path loses packets, or the peer is slow",
            "see `waggle map --service` for which edge has long round trips, and the nodes' packet drops",
        ),
        "ended for memory" => (
            "a process of the task was ended, its cgroup was out of memory",
            "raise mem, or make it need less",
        ),
        "of output left out of logs" => (
            "the task writes more than its rate of lines; its files have them all the same",
            "write less, raise its rate, or label it WAGGLE_LOG_POLICY=block to make it wait",
        ),
        _ => UNKNOWN,
    }
}

const UNKNOWN: Words = (
    "a reason of this kernel that has no words here",
    "its name is that of the kernel's list of drop reasons",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_words_is_told_as_such() {
        assert_eq!(kernel("new_in_kernel_9"), UNKNOWN);
        assert_ne!(kernel("no_socket"), UNKNOWN);
        for verdict in ["no_backend", "refused", "failed", "reset"] {
            assert_ne!(super::verdict(verdict), UNKNOWN, "{verdict}");
        }
    }
}
