//! What is counted beside the traffic: names and positions.

macro_rules! reasons {
    ($(#[$module:meta])* $vis:vis mod $name:ident { $($(#[$doc:meta])* $reason:ident = $value:literal, $text:literal;)* }) => {
        $(#[$module])*
        $vis mod $name {
            $($(#[$doc])* pub const $reason: u32 = $value;)*
            /// Names, by position, for the exported counter's attribute.
            pub const NAMES: &[&str] = &[$($text),*];
            /// Number of reasons.
            #[allow(clippy::cast_possible_truncation, reason = "a few dozen")]
            pub const COUNT: u32 = NAMES.len() as u32;
            const _: () = {
                let mut expected = 0;
                $(assert!($value == expected); expected += 1;)*
                assert!(expected == COUNT);
            };
        }
    };
}
pub(crate) use reasons;

reasons! {
    /// Positions in the edge's array of counters: what did not simply go to a backend, by reason.
    pub mod reason {
        /// Dropped: a header says more than the frame holds, or less than the protocol needs.
        MALFORMED = 0, "malformed";
        /// Dropped: the source is no client's (0/8, 127/8, 224/3, the VIP itself, a VIP).
        MARTIAN = 1, "martian_source";
        /// Passed on: IPv4 options.
        OPTIONS = 2, "ip_options";
        /// Passed on: a fragment whose first one was not seen.
        FRAGMENT_UNKNOWN = 3, "fragment_unknown";
        /// Dropped: outside of the VIP's client ranges.
        DENIED = 4, "denied";
        /// Dropped or refused: the VIP has no backend.
        NO_BACKEND = 5, "no_backend";
        /// Dropped: a table points outside of another.
        BAD_TABLE = 6, "bad_table";
        /// Dropped: too long for the path; answered with "fragmentation needed", within a budget.
        TOO_BIG = 7, "too_big";
        /// Dropped: no room before the packet.
        NO_HEADROOM = 8, "no_headroom";
        /// A remembered flow had its owner by memory.
        REMEMBERED = 9, "remembered";
        /// A flow on a changed slot was given to its previous owner and remembered.
        ADOPTED = 10, "adopted";
        /// A flow on a changed slot was given to its previous owner and could not be remembered now.
        NOT_ADOPTED = 11, "not_adopted";
        /// A SYN on a changed slot was remembered as half-open.
        HALF_OPEN = 12, "half_open";
        /// A SYN on a changed slot beyond the budget: went to the previous owner, which needs no memory.
        OVER_BUDGET = 13, "syn_over_budget";
        /// A half-open connection became a flow.
        OPENED = 14, "opened";
        /// An ICMP error was sent after its flow.
        ICMP_ERROR = 15, "icmp_error";
        /// A reset was answered.
        RESET_SENT = 16, "reset_sent";
        /// An ICMP message was answered.
        ICMP_SENT = 17, "icmp_sent";
        /// A fragment followed its first one.
        FRAGMENT = 18, "fragment";
    }
}

reasons! {
    /// Positions in a node's array of counters.
    pub mod dsr_reason {
        /// Taken out of its outer headers and handed to a backend.
        DELIVERED = 0, "delivered";
        /// Dropped: no edge of ours sent it.
        NOT_AN_EDGE = 1, "not_an_edge";
        /// Dropped: no such backend here.
        NO_SERVICE = 2, "no_service";
        /// Dropped: a header says more than the packet holds, or less than needed.
        MALFORMED = 3, "malformed";
        /// Dropped: the kernel refused to change the packet.
        FAILED = 4, "failed";
        /// An answer got the VIP as its source.
        ANSWERED = 5, "answered";
        /// An ICMP error was translated.
        ICMP_ERROR = 6, "icmp_error";
        /// A client that had used the VIP dialled the backend itself.
        DIRECT = 7, "direct";
        /// No room to remember a flow: its answers show the backend.
        NOT_REMEMBERED = 8, "not_remembered";
        /// An ICMP error of the backend got the VIP as its source.
        ICMP_ANSWERED = 9, "icmp_answered";
    }
}
