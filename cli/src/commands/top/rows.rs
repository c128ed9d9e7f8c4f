//! Services as rows, in the order that is asked for. Pure.

use std::cmp::Ordering;

use waggle_api::native::{ServiceFiguresView, TopView};

use crate::{
    args::SortBy,
    commands::map::rate,
    show::{bytes, micros},
    table::Table,
};

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Ends it.
    Quit,
    /// Sorts anew.
    Sort(SortBy),
}

/// A byte that was typed; Ctrl-C and Ctrl-D are bytes, too.
pub fn key(byte: u8) -> Option<Key> {
    Some(match byte {
        b'q' | b'Q' | 3 | 4 => Key::Quit,
        b'c' => Key::Sort(SortBy::Cpu),
        b'm' => Key::Sort(SortBy::Memory),
        b'a' => Key::Sort(SortBy::Accepts),
        b'e' => Key::Sort(SortBy::Errors),
        b'l' => Key::Sort(SortBy::Latency),
        b'n' => Key::Sort(SortBy::Name),
        _ => return None,
    })
}

/// The most first; those that are alike by name.
pub fn sort(services: &mut [ServiceFiguresView], by: SortBy) {
    let most = |s: &ServiceFiguresView| match by {
        SortBy::Cpu => s.cpus,
        SortBy::Memory => s.memory_bytes as f64,
        SortBy::Accepts => s.accepts_per_s + s.connects_per_s,
        SortBy::Errors => s.failures_per_s,
        SortBy::Latency => s.connect_us.quantile(0.5).unwrap_or(0) as f64,
        SortBy::Name => 0.0,
    };
    services.sort_by(|a, b| {
        let order = most(b).partial_cmp(&most(a)).unwrap_or(Ordering::Equal);
        order.then_with(|| a.service.cmp(&b.service))
    });
}

/// The first so many, and how many are not shown.
pub fn table(top: &TopView, limit: usize) -> String {
    let mut table = Table::new(&[
        "service",
        "state",
        "tasks",
        "cpu",
        "memory",
        "in/s",
        "out/s",
        "err/s",
        "open",
        "connect p50",
        "p99",
        "rtt p50",
        "sent/s",
        "received/s",
        "drops",
    ]);
    for s in top.services.iter().take(limit) {
        table.row(row(s));
    }
    let mut out = table.render();
    let n_more = top.services.len().saturating_sub(limit) as u64 + top.left_out;
    if n_more > 0 {
        out.push_str(&format!("and {n_more} more\n"));
    }
    out
}

fn row(s: &ServiceFiguresView) -> Vec<String> {
    let us = |q: Option<u64>| q.map(micros).unwrap_or_default();
    let tasks = match s.wanted {
        Some(wanted) => format!("{}/{wanted}", s.running),
        None => s.running.to_string(),
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes to be read by people"
    )]
    let whole = |rate: f64| bytes(rate as u64);
    // Of what nobody has measured nothing is known; a zero would say something.
    let measured = |text: String| if s.measured > 0 { text } else { String::new() };
    vec![
        s.service.clone(),
        s.state.clone(),
        tasks,
        measured(format!(
            "{:.2}/{}",
            s.cpus,
            (s.cpus_held * 100.0).round() / 100.0
        )),
        measured(format!(
            "{}/{}",
            bytes(s.memory_bytes),
            bytes(s.memory_held_bytes)
        )),
        measured(rate(s.accepts_per_s)),
        measured(rate(s.connects_per_s)),
        measured(rate(s.failures_per_s)),
        measured(s.open.to_string()),
        us(s.connect_us.quantile(0.5)),
        us(s.connect_us.quantile(0.99)),
        us(s.rtt_us.quantile(0.5)),
        measured(whole(s.tx_per_s)),
        measured(whole(s.rx_per_s)),
        measured(s.drops.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use waggle_api::native::Spread;

    use super::*;

    fn service(name: &str, cpus: f64, memory_bytes: u64) -> ServiceFiguresView {
        ServiceFiguresView {
            service: name.to_owned(),
            state: "running".to_owned(),
            wanted: Some(2),
            running: 2,
            measured: 2,
            cpus,
            cpus_held: 0.4,
            memory_bytes,
            memory_held_bytes: 64_000_000,
            accepts_per_s: 12.34,
            connect_us: Spread::of(&[0, 0, 0, 0, 0, 0, 9]),
            tx_per_s: 2500.0,
            ..ServiceFiguresView::default()
        }
    }

    fn top() -> TopView {
        let waits = ServiceFiguresView {
            service: "/new".to_owned(),
            state: "waiting".to_owned(),
            wanted: Some(1),
            ..ServiceFiguresView::default()
        };
        TopView {
            services: vec![
                service("/web", 0.25, 1_000_000),
                waits,
                service("/db", 0.5, 500),
            ],
            left_out: 0,
            silent: Vec::new(),
        }
    }

    #[test]
    fn rows_come_in_the_order_that_is_asked_for() {
        let mut top = top();
        let mut names = |by| {
            sort(&mut top.services, by);
            let names = top.services.iter().map(|s| s.service.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(SortBy::Cpu), ["/db", "/web", "/new"]);
        assert_eq!(names(SortBy::Memory), ["/web", "/db", "/new"]);
        assert_eq!(names(SortBy::Name), ["/db", "/new", "/web"]);
        assert_eq!(names(SortBy::Latency), ["/db", "/web", "/new"]);
    }

    #[test]
    fn what_is_not_measured_is_not_zero() {
        let mut top = top();
        sort(&mut top.services, SortBy::Memory);
        assert_eq!(
            table(&top, 10),
            "\
SERVICE  STATE    TASKS  CPU       MEMORY          IN/S  OUT/S  ERR/S  OPEN  CONNECT P50  P99     RTT P50  SENT/S  RECEIVED/S  DROPS
/web     running  2/2    0.25/0.4  1.0 MB/64.0 MB  12.3  0      0      0     96 us        127 us  -        2.5 kB  0 B         0
/db      running  2/2    0.50/0.4  500 B/64.0 MB   12.3  0      0      0     96 us        127 us  -        2.5 kB  0 B         0
/new     waiting  0/1    -         -               -     -      -      -     -            -       -        -       -           -
"
        );
        let short = table(&top, 1);
        assert!(
            short.ends_with("and 2 more\n") && short.lines().count() == 3,
            "{short}"
        );
    }

    #[test]
    fn keys_sort_and_end_it() {
        assert_eq!(key(b'q'), Some(Key::Quit));
        assert_eq!(key(3), Some(Key::Quit));
        assert_eq!(key(b'e'), Some(Key::Sort(SortBy::Errors)));
        assert_eq!(key(b'x'), None);
    }
}
