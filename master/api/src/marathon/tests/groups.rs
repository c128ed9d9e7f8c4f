//! Groups: relative ids, places in errors, and the three things that a body can be.

use serde_json::{Value, json};
use waggle_types::{GroupId, UnixMillis};

use super::super::{GroupBody, GroupMode, group_from_value};

fn group(path: &str) -> GroupId {
    GroupId::new(path).unwrap()
}

fn below(body: &Value) -> Result<GroupBody, crate::error::ApiError> {
    group_from_value(body, GroupMode::Below(&GroupId::root()), UnixMillis(7))
}

/// Ids and dependencies of all that an update holds.
fn outline(update: &waggle_types::GroupUpdate, out: &mut Vec<String>) {
    out.push(format!("{} {:?}", update.id, update.dependencies));
    for s in update.services.iter().flatten() {
        out.push(format!("{} {:?}", s.id, s.dependencies));
    }
    for g in update.groups.iter().flatten() {
        outline(g, out);
    }
}

#[test]
fn relative_ids_are_resolved() {
    let app = |id: &str, on: Value| json!({"id": id, "cmd": "x", "dependencies": on});
    let relative = json!({
        "id": "product",
        "groups": [
            {"id": "database", "apps": [app("mongo", json!([])), app("mysql", json!(["../mongo"]))]},
            {"id": "service", "dependencies": ["../database"],
             "apps": [app("rails", json!(["/other", "../../database"]))]},
        ],
    });
    let absolute = json!({
        "id": "/product",
        "groups": [
            {"id": "/product/database",
             "apps": [app("/product/database/mongo", json!([])),
                      app("/product/database/mysql", json!(["/product/database/mongo"]))]},
            {"id": "/product/service", "dependencies": ["/product/database"],
             "apps": [app("/product/service/rails", json!(["/other", "/product/database"]))]},
        ],
    });
    let body = below(&relative).unwrap();
    assert_eq!(body, below(&absolute).unwrap());
    let GroupBody::Update(update) = body else {
        panic!("{body:?}")
    };
    let mut lines = Vec::new();
    outline(&update, &mut lines);
    assert_eq!(
        lines,
        [
            "/product None",
            "/product/database None",
            "/product/database/mongo {}",
            "/product/database/mysql {ServiceId(/product/database/mongo)}",
            "/product/service Some({ServiceId(/product/database)})",
            "/product/service/rails {ServiceId(/other), ServiceId(/product/database)}",
        ]
    );
}

#[test]
fn a_body_is_an_update_a_factor_or_a_version() {
    let (root, shop) = (GroupId::root(), group("/shop"));
    let of = |body: Value| group_from_value(&body, GroupMode::Of(&shop), UnixMillis(7));
    assert_eq!(
        of(json!({"scaleBy": 1.5})).unwrap(),
        GroupBody::ScaleBy {
            id: shop.clone(),
            millionths: 1_500_000
        }
    );
    let version = "2026-11-23T03:47:00.123Z";
    let GroupBody::Version { version: read, .. } = of(json!({"version": version})).unwrap() else {
        panic!()
    };
    assert_eq!(read.to_string(), version);
    // What was read, changed and written back.
    let body = json!({"id": "/shop", "version": version, "apps": [], "groups": [], "pods": [], "dependencies": []});
    let GroupBody::Update(update) = of(body).unwrap() else {
        panic!()
    };
    assert_eq!(
        (update.services, update.groups),
        (Some(vec![]), Some(vec![]))
    );
    let eu = group("/shop/eu");
    for named in ["/shop/eu", "eu", "shop/eu"] {
        let body = json!({"id": named, "apps": []});
        let read = group_from_value(&body, GroupMode::Of(&eu), UnixMillis(7)).unwrap();
        assert_eq!(read.id(), &eu, "{named}");
    }
    let body = json!({"id": "/shop", "apps": []});
    let read = group_from_value(&body, GroupMode::Of(&root), UnixMillis(7)).unwrap();
    assert_eq!(read.id(), &shop);
}

#[test]
fn what_is_wrong_is_named_by_its_place() {
    let cases = [
        (json!([]), "/group", "must be an object, is a list"),
        (json!({"apps": []}), "/id", "is required"),
        (
            json!({"id": "a", "apps": 7}),
            "/apps",
            "must be a list, is a number",
        ),
        (
            json!({"id": "a", "scaleBy": -1}),
            "/scaleBy",
            "must not be negative",
        ),
        (
            json!({"id": "a", "scaleBy": 2, "apps": []}),
            "/scaleBy",
            "must stand alone",
        ),
        (
            json!({"id": "a", "version": "x"}),
            "/version",
            "must be a timestamp",
        ),
        (json!({"id": "../a"}), "/id", "must not lead above the root"),
        (
            json!({"id": "a", "pods": [{"id": "p"}]}),
            "/pods(0)/containers",
            "is required",
        ),
        (
            json!({"id": "a", "dependencies": ["/a/b"]}),
            "/dependencies(0)",
            "must not be the group itself",
        ),
        (
            json!({"id": "a/b", "dependencies": [".."]}),
            "/dependencies(0)",
            "must not be the group itself",
        ),
        (
            json!({"id": "a", "apps": [{"id": "x", "cmd": "y", "cpus": -1}]}),
            "/apps(0)/cpus",
            "must not be negative",
        ),
        (
            json!({"id": "a", "apps": [{"id": "/x", "cmd": "y"}]}),
            "/apps(0)/id",
            "must be directly below the group /a",
        ),
        (
            json!({"id": "a", "apps": [{"id": "x", "cmd": "y"}, {"id": "/a/x", "cmd": "y"}]}),
            "/apps(1)/id",
            "/a/x is there twice",
        ),
        (
            json!({"id": "a", "groups": [{"id": "b", "groups": [{"id": "c", "apps": [{"id": "d"}]}]}]}),
            "/groups(0)/groups(0)/apps(0)",
            "",
        ),
        (
            json!({"id": "a", "groups": [{"id": "/b"}]}),
            "/groups(0)/id",
            "must be directly below the group /a",
        ),
        (
            json!({"id": "a", "groups": [{"apps": []}]}),
            "/groups(0)/id",
            "is required",
        ),
        (
            json!({"id": "a", "groups": [{"id": "b", "scaleBy": 2}]}),
            "/groups(0)/scaleBy",
            "is only for the outermost group",
        ),
    ];
    for (body, place, rule) in cases {
        let err = below(&body).unwrap_err();
        assert_eq!(err.code.http(), 422, "{body}");
        let found = err.details.iter().find(|d| d.path.starts_with(place));
        let found = found.unwrap_or_else(|| panic!("{body}: {err:?}"));
        assert!(
            found.errors.iter().any(|e| e.contains(rule)),
            "{body}: {found:?}"
        );
    }
}
