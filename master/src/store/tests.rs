//! One suite for every store: whatever the master relies on.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;

fn put(key: &str, value: &str) -> StoreOp {
    StoreOp::Put {
        key: key.into(),
        value: value.into(),
    }
}

fn delete(key: &str) -> StoreOp {
    StoreOp::Delete { key: key.into() }
}

fn is(key: &str, revision: u64) -> Compare {
    Compare {
        key: key.into(),
        revision,
    }
}

fn committed(t: Txn) -> u64 {
    match t {
        Txn::Committed { revision } => revision,
        Txn::Conflict { key, found } => panic!("conflict on {key}, found {found}"),
    }
}

fn each_store(check: impl AsyncFn(Arc<dyn Store>)) {
    let dir = tempfile::tempdir().unwrap();
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(check(Arc::new(MemoryStore::new())));
    let sqlite = SqliteStore::open(&dir.path().join("store.db")).unwrap();
    rt.block_on(check(Arc::new(sqlite)));
}

#[test]
fn what_is_put_is_got_until_it_is_deleted() {
    each_store(async |s| {
        assert_eq!(s.get("a").await.unwrap(), None);
        let r1 = committed(s.txn(vec![], vec![put("a", "1")]).await.unwrap());
        assert!(r1 > 0);
        let e = s.get("a").await.unwrap().unwrap();
        assert_eq!((e.value.as_slice(), e.revision), (b"1".as_slice(), r1));
        let r2 = committed(s.txn(vec![], vec![put("a", "2")]).await.unwrap());
        assert!(r2 > r1, "revisions grow");
        committed(s.txn(vec![], vec![delete("a")]).await.unwrap());
        assert_eq!(s.get("a").await.unwrap(), None);
        committed(s.txn(vec![], vec![delete("a")]).await.unwrap());
    });
}

#[test]
fn ranges_are_prefixes_in_key_order() {
    each_store(async |s| {
        let keys = ["b/2", "a", "b/1", "b/\u{10FFFF}x", "b0", "b", "B/1", "b/é"];
        let ops = keys.iter().map(|k| put(k, k)).collect();
        committed(s.txn(vec![], ops).await.unwrap());
        let names = |v: Vec<Entry>| v.into_iter().map(|e| e.key).collect::<Vec<_>>();
        assert_eq!(
            names(s.range("b/").await.unwrap()),
            ["b/1", "b/2", "b/é", "b/\u{10FFFF}x"]
        );
        assert_eq!(s.range("").await.unwrap().len(), keys.len());
        assert!(s.range("zz").await.unwrap().is_empty());
    });
}

#[test]
fn a_failed_condition_writes_nothing() {
    each_store(async |s| {
        let r = committed(s.txn(vec![is("a", 0)], vec![put("a", "1")]).await.unwrap());
        let out = s
            .txn(vec![is("a", r), is("b", 7)], vec![put("a", "2")])
            .await
            .unwrap();
        assert_eq!(
            out,
            Txn::Conflict {
                key: "b".into(),
                found: 0
            }
        );
        assert_eq!(s.get("a").await.unwrap().unwrap().revision, r);
        let out = s.txn(vec![is("a", 0)], vec![delete("a")]).await.unwrap();
        assert_eq!(
            out,
            Txn::Conflict {
                key: "a".into(),
                found: r
            }
        );
        committed(s.txn(vec![is("a", r)], vec![delete("a")]).await.unwrap());
    });
}

#[test]
fn one_of_many_racing_writers_wins() {
    each_store(async |s| {
        let tries = (0..32).map(|i| {
            let s = Arc::clone(&s);
            async move {
                s.txn(vec![is("lock", 0)], vec![put("lock", &i.to_string())])
                    .await
                    .unwrap()
            }
        });
        let all = futures::future::join_all(tries).await;
        let won = all
            .iter()
            .filter(|t| matches!(t, Txn::Committed { .. }))
            .count();
        assert_eq!(won, 1);
    });
}

#[test]
fn limits_are_typed_and_apply_nothing() {
    each_store(async |s| {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        let big = StoreOp::Put {
            key: "v".into(),
            value: vec![0; MAX_VALUE_BYTES + 1],
        };
        let many = (0..=MAX_OPS).map(|i| put(&i.to_string(), "")).collect();
        for ops in [vec![put("a", "1"), put(&long, "")], vec![big], many] {
            let err = s.txn(vec![], ops).await.unwrap_err();
            assert!(matches!(err, StoreError::TooLarge { .. }), "{err}");
        }
        assert!(s.range("").await.unwrap().is_empty());
    });
}

#[derive(Debug, Clone)]
struct Step {
    compare: Vec<(u8, bool)>,
    ops: Vec<(u8, Option<u8>)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let compare = prop::collection::vec((0u8..4, any::<bool>()), 0..3);
    let ops = prop::collection::vec((0u8..4, prop::option::of(any::<u8>())), 0..4);
    prop::collection::vec(
        (compare, ops).prop_map(|(compare, ops)| Step { compare, ops }),
        0..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any history of transactions gives what a plain map gives.
    #[test]
    fn histories_agree_with_a_map(history in steps()) {
        each_store(async |s| {
            let mut model: BTreeMap<String, (Vec<u8>, u64)> = BTreeMap::new();
            for step in &history {
                let mut holds = true;
                let compare = step.compare.iter().map(|(k, right)| {
                    let key = format!("k{k}");
                    let real = model.get(&key).map_or(0, |v| v.1);
                    holds &= *right;
                    is(&key, if *right { real } else { real + 1000 })
                }).collect();
                let ops: Vec<StoreOp> = step.ops.iter().map(|(k, v)| match v {
                    Some(v) => put(&format!("k{k}"), &v.to_string()),
                    None => delete(&format!("k{k}")),
                }).collect();
                match s.txn(compare, ops.clone()).await.unwrap() {
                    Txn::Committed { revision } => {
                        assert!(holds);
                        for op in ops {
                            match op {
                                StoreOp::Put { key, value } => { model.insert(key, (value, revision)); }
                                StoreOp::Delete { key } => { model.remove(&key); }
                            }
                        }
                    }
                    Txn::Conflict { .. } => assert!(!holds),
                }
                let all: BTreeMap<_, _> = s.range("").await.unwrap().into_iter()
                    .map(|e| (e.key, (e.value, e.revision))).collect();
                assert_eq!(&all, &model);
            }
        });
    }
}

#[tokio::test]
async fn sqlite_survives_reopening_and_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let s = SqliteStore::open(&path).unwrap();
    let r = committed(s.txn(vec![], vec![put("a", "1")]).await.unwrap());
    assert!(matches!(
        SqliteStore::open(&path),
        Err(StoreError::InUse { .. })
    ));
    drop(s);
    let s = SqliteStore::open(&path).unwrap();
    assert_eq!(s.get("a").await.unwrap().unwrap().revision, r);
    let next = committed(s.txn(vec![], vec![put("b", "1")]).await.unwrap());
    assert!(next > r, "revisions never go back");
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(SqliteStore::open(&path).unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(
        SqliteStore::open(&path),
        Err(StoreError::TooNew { found: 99, .. })
    ));
    let foreign = dir.path().join("foreign.db");
    std::fs::write(&foreign, b"this is not a database, it is a text file.....").unwrap();
    assert!(matches!(
        SqliteStore::open(&foreign),
        Err(StoreError::Open { .. })
    ));
}
