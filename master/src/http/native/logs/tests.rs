//! Merging, and asking agents that break off.

use std::sync::Mutex;

use axum::{Router, extract::RawQuery, routing::get};
use waggle_api::logs::LineView;
use waggle_types::ServiceId;

use super::*;

fn line(task: &str, time_us: u64, offset: u64) -> LogEvent {
    LogEvent::Line(LineView {
        time_us,
        task: task.into(),
        node: "n".into(),
        stream: "stdout".into(),
        offset,
        next: offset + 10,
        uid: String::new(),
        line: format!("{task} {offset}"),
        partial: false,
    })
}

fn ended(task: &str) -> LogEvent {
    LogEvent::Ended { ended: task.into() }
}

fn merged(query: &LogQuery) -> Merged {
    let id = ServiceId::new("/web").unwrap();
    Merged::new(Picked::Service(id), "/web", query)
}

/// A task whose events are put by hand.
fn by_hand(merged: &mut Merged, task: &str) -> mpsc::Sender<LogEvent> {
    let (to, events) = mpsc::channel(MAX_ON_WAY);
    merged.merge.join(task.to_owned());
    let source = Source {
        events,
        over: false,
        _pull: AbortOnDropHandle::new(tokio::spawn(async {})),
    };
    merged.sources.insert(task.to_owned(), source);
    to
}

fn told(merged: &mut Merged) -> Vec<LogEvent> {
    merged.take();
    let (text, _) = merged.write(LogForm::Json);
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[tokio::test]
async fn tasks_are_told_in_order_and_leave_when_they_have_ended() {
    let follow = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut all = merged(&follow);
    let (a, b) = (by_hand(&mut all, "a"), by_hand(&mut all, "b"));
    a.send(line("a", 10, 0)).await.unwrap();
    a.send(line("a", 30, 10)).await.unwrap();
    assert_eq!(told(&mut all), [], "b may still have something earlier");
    b.send(line("b", 20, 0)).await.unwrap();
    assert_eq!(told(&mut all), [line("a", 10, 0), line("b", 20, 0)]);
    b.send(LogEvent::Upto { upto_us: 40 }).await.unwrap();
    assert_eq!(told(&mut all), [line("a", 30, 10)]);
    assert_eq!(all.cursor.place("a", "stdout"), Some(20));
    assert_eq!(all.cursor.place("b", "stdout"), Some(10));
    assert_eq!(all.cursor.floor_us, 30);
    b.send(line("b", 50, 10)).await.unwrap();
    b.send(ended("b")).await.unwrap();
    a.send(LogEvent::Upto { upto_us: 60 }).await.unwrap();
    assert_eq!(told(&mut all), [line("b", 50, 10), ended("b")]);
    // The master may go on listing it for a while: it is not begun again.
    assert!(all.done.contains("b") && !all.sources.contains_key("b"));
    drop(a);
    assert_eq!(told(&mut all), [ended("a")]);
}

#[tokio::test]
async fn a_limit_is_kept_and_a_task_that_waits_for_others_is_read_no_further() {
    let query = LogQuery {
        limit: Some(2),
        ..LogQuery::default()
    };
    let mut all = merged(&query);
    let a = by_hand(&mut all, "a");
    let _b = by_hand(&mut all, "b");
    for i in 0..200 {
        let _ = a.try_send(line("a", i, i * 10));
        all.take();
    }
    assert_eq!(all.merge.held(&"a".to_owned()), MAX_HELD);
    all.merge.leave(&"b".to_owned());
    let (text, over) = all.write(LogForm::Json);
    assert_eq!((text.lines().count(), over), (2, true));
}

/// An agent that breaks off after two lines, and once more; what it was asked.
async fn agent(asked: Arc<Mutex<Vec<String>>>) -> std::net::SocketAddr {
    let answer = async move |RawQuery(query): RawQuery| {
        let query = query.unwrap_or_default();
        let n = {
            let mut all = asked.lock().unwrap();
            all.push(query);
            all.len() as u64
        };
        let mut out = String::new();
        for i in 0..2 {
            let at = (n - 1) * 20 + i * 10;
            out.push_str(&line("a", at, at).json());
        }
        if n == 3 {
            out.push_str(&ended("a").json());
        } else {
            out.push_str("{\"time_us\":");
        }
        out
    };
    let router = Router::new().route("/waggle/v1/tasks/a/logs", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    at
}

#[tokio::test]
async fn an_agent_that_breaks_off_is_asked_for_the_rest() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let at = agent(Arc::clone(&asked)).await;
    let query = LogQuery {
        follow: true,
        tail: Some(5),
        ..LogQuery::default()
    };
    let mut all = merged(&query);
    let pull = all.pull("a".into(), at);
    let open = pull.open().await.unwrap();
    all.join(pull, Some(open));
    let mut seen = Vec::new();
    let over = async {
        while !all.done.contains("a") {
            seen.extend(told(&mut all));
            tokio::select! {
                () = all.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), over)
        .await
        .unwrap();
    let mut want: Vec<LogEvent> = (0..6).map(|i| line("a", i * 10, i * 10)).collect();
    want.push(ended("a"));
    assert_eq!(seen, want);
    let asked = asked.lock().unwrap();
    assert!(
        asked[0].contains("tail=5") && !asked[0].contains("cursor"),
        "{asked:?}"
    );
    let mut cursor = LogCursor::at(10);
    cursor.set("a", "stdout", 20);
    assert!(
        asked[1].ends_with(&format!("&cursor={cursor}")),
        "{asked:?}"
    );
    assert!(
        asked[1].contains("may_skip=true") && !asked[1].contains("tail"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off_and_counted() {
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut all = merged(&query);
    let a = by_hand(&mut all, "a");
    let telemetry = Telemetry::disabled();
    // As many as there may be on their way, and one more: nobody takes the first.
    let (parts, reader) = mpsc::channel(1);
    let (_views, seen) = watch::channel(Arc::new(ClusterView::default()));
    let tell = all.tell(LogForm::Text, seen, &telemetry, parts);
    let said = async {
        for i in 0..1000 {
            // Two rounds of telling at least.
            if a.send(line("a", i, i * 10)).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(said, tell);
    let page = telemetry.prometheus_text();
    let cut = page
        .lines()
        .find(|l| l.starts_with("waggle_log_readers_cut_total"));
    assert!(cut.is_some_and(|l| l.ends_with(" 1")), "{page}");
    drop(reader);
}

#[tokio::test]
async fn who_is_left_out_is_said_and_told_once_there_is_room() {
    let mut view = crate::http::tests::busy();
    for a in view.agents.values_mut() {
        let info = Arc::make_mut(&mut Arc::make_mut(a).info);
        // Nobody answers there.
        (info.ip, info.http_port) = (std::net::Ipv4Addr::LOCALHOST, 1);
    }
    let one = view.tasks.values().next().unwrap().as_ref().clone();
    let more = |view: &mut ClusterView, from: usize, to: usize| {
        for n in from..to {
            let mut t = one.clone();
            t.id = waggle_types::TaskId::new(format!("web.{n:03}")).unwrap();
            view.tasks.insert(Arc::new(t));
        }
    };
    more(&mut view, 0, 256);
    let follow = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let id = ServiceId::new("/shop/web").unwrap();
    let mut all = Merged::new(Picked::Service(id), "/shop/web", &follow);
    all.look_for_more(&view);
    assert_eq!(all.sources.len(), 256);
    let left_out = |left_out| vec![LogEvent::LeftOut { left_out }];
    assert_eq!(told(&mut all), left_out(2));
    all.look_for_more(&view);
    assert_eq!(told(&mut all), [], "it is known");
    more(&mut view, 256, 257);
    all.look_for_more(&view);
    assert_eq!(told(&mut all), left_out(3));
    // One of those that are followed has ended and left; the next takes its place.
    let first = all.sources.keys().next().unwrap().clone();
    all.sources.remove(&first);
    view.tasks
        .remove(&waggle_types::TaskId::new(first.clone()).unwrap());
    all.look_for_more(&view);
    assert_eq!((all.sources.len(), all.left_out), (256, 2));
    assert!(!all.sources.contains_key(&first));
    assert_eq!(told(&mut all), []);
}
