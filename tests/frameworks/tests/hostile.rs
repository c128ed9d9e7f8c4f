//! What nobody should send, over real sockets against a running master: each is refused with a typed reason
//! (or, where it is not even a message, with a status or a closed connection), nothing of it is done, and the
//! master goes on answering others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use serde_json::{Value, json};
use tokio::time::timeout;
use waggle_api::client::{CallError, connect};
use waggle_types::{
    FrameworkInfo, Milli, Offer, OfferId, Operation, PortSet, RejectReason, Reservation,
    ResourcePart, Resources, TaskId, TaskSpec, Volume, VolumeId,
};
use world::{
    PATIENCE, http,
    scene::{REFUSE, Scene, cpus},
    talk::{offers, task},
};

fn stack(roles: &[&str]) -> Vec<Reservation> {
    let one = |r: &&str| Reservation::dynamic(*r, "hostile");
    roles.iter().map(one).collect()
}

fn reserve(roles: &[&str], resources: Resources) -> Operation {
    Operation::Reserve {
        stack: stack(roles),
        resources,
    }
}

fn with(change: impl Fn(&mut TaskSpec)) -> Vec<Operation> {
    let mut spec = task("t", "serve");
    change(&mut spec);
    vec![Operation::Launch(vec![spec])]
}

fn custom(kind: &str, milli: i64) -> Resources {
    let mut r = cpus(100);
    r.custom.set_scalar(kind, Milli(milli));
    r
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launches_of_what_is_not_there_are_refused() {
    use RejectReason as R;
    let mut s = Scene::set().await;
    let sized = |r: Resources| move |_: &Offer| with(|t| t.resources = r.clone());
    let not_there = [R::Overuse, R::NotOffered];
    for (what, resources, reasons) in [
        ("all of it", cpus(i64::MAX), &not_there[..]),
        ("a bit more", cpus(4001), &not_there),
        ("negative", cpus(-1), &[R::Invalid]),
        ("nothing", Resources::default(), &[R::Invalid]),
        ("a kind that nobody has", custom("gold", 1), &not_there),
        ("too many licenses", custom("licenses", 2001), &not_there),
        ("a kind without a name", custom("", 1), &[R::Invalid]),
        ("a built-in kind", custom("cpus", 1), &[R::Invalid]),
        (
            "a port of others",
            cpus(100).with_ports(PortSet::from_ports([80])),
            &not_there,
        ),
    ] {
        let reason = s.refused(what, sized(resources)).await;
        assert!(reasons.contains(&reason), "{what}: {reason}");
    }
    let parts = |reservation: Vec<Reservation>, revocable, r: Resources| {
        let part = ResourcePart {
            reservation,
            revocable,
            resources: r,
        };
        move |_: &Offer| with(|t| t.parts = vec![part.clone()])
    };
    let mine = task("t", "").resources;
    for (what, make, reason) in [
        (
            "a reservation that is not there",
            parts(stack(&["eng"]), false, mine.clone()),
            R::NotOffered,
        ),
        (
            "what nobody has lent",
            parts(Vec::new(), true, mine.clone()),
            R::NotOffered,
        ),
        (
            "parts of another whole",
            parts(Vec::new(), false, cpus(1)),
            R::Invalid,
        ),
        (
            "parts of no stack",
            parts(stack(&["a", "b"]), false, mine),
            R::BadReservation,
        ),
    ] {
        let got = s.refused(what, make).await;
        assert_eq!(got, reason, "{what}");
    }
    let twice = |_: &Offer| vec![Operation::Launch(vec![task("t", ""), task("t", "")])];
    assert_eq!(s.refused("a task twice", twice).await, R::DuplicateTask);
    let port = |_: &Offer| {
        let mut all = [task("t", ""), task("u", "")];
        for t in &mut all {
            t.resources.ports = PortSet::from_ports([31_000]);
        }
        vec![Operation::Launch(all.to_vec())]
    };
    let reason = s.refused("a port twice", port).await;
    assert!([R::Invalid, R::NotOffered].contains(&reason), "{reason}");
    let many = |_: &Offer| {
        let one = |i| TaskSpec {
            task_id: TaskId::new(format!("t{i}")).unwrap(),
            resources: cpus(1),
            ..task("t", "")
        };
        vec![Operation::Launch((0..10_001).map(one).collect())]
    };
    let reason = s.refused("ten thousand and one", many).await;
    assert!([R::TooMany, R::Invalid].contains(&reason), "{reason}");
    s.master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_of_others_and_old_ones_are_refused() {
    use RejectReason as R;
    let mut s = Scene::set().await;
    let launch = || with(|_| ());
    // Another framework's, while it is out.
    let (mut other, mut other_events) = {
        let info = FrameworkInfo::new("other", "ops");
        connect(s.master.channel().await, &info).await.unwrap()
    };
    s.calls.suppress().await.unwrap();
    let mut reasons = Vec::new();
    for _ in 0..50 {
        other.revive().await.unwrap();
        let theirs = offers(&mut other_events).await.remove(0);
        let called = s
            .calls
            .operate(&[theirs.offer_id], &launch(), REFUSE, None)
            .await;
        let Err(CallError::Rejected(why)) = called else {
            panic!("a foreign offer is taken")
        };
        reasons.push(why[0].reason);
        if reasons.last() != Some(&R::StaleOffer) {
            break;
        }
    }
    assert_eq!(reasons.last(), Some(&R::ForeignOffer));
    other.suppress().await.unwrap();
    s.still_answers().await;

    let never = OfferId::new("never").unwrap();
    for (ids, reason) in [
        (vec![never.clone()], R::StaleOffer),
        (vec![never.clone(), never], R::DuplicateOffer),
        (Vec::new(), R::NoOffers),
    ] {
        let called = s.calls.operate(&ids, &launch(), REFUSE, None).await;
        let Err(CallError::Rejected(why)) = called else {
            panic!("{reason} is taken")
        };
        assert!(why.iter().any(|r| r.reason == reason), "{reason}: {why:?}");
    }
    // Offers of two agents, one to each role.
    let mut seen = Vec::new();
    let both = [R::MixedAgents, R::MixedRoles];
    let found = timeout(PATIENCE, async {
        while !both.iter().all(|w| seen.contains(w)) {
            s.calls.revive().await.unwrap();
            let mut all = offers(&mut s.events).await;
            if all.len() < 2 {
                all.extend(offers(&mut s.events).await);
            }
            let ids: Vec<OfferId> = all.into_iter().map(|o| o.offer_id).collect();
            match s.calls.operate(&ids, &launch(), REFUSE, None).await {
                Err(CallError::Rejected(why)) => seen.extend(why.iter().map(|r| r.reason)),
                other => panic!("mixed offers are taken: {other:?}"),
            }
            // What is left of them comes again.
            let _ = s.calls.decline(&ids, REFUSE).await;
        }
    });
    let in_time = found.await.is_ok();
    assert!(in_time, "{seen:?}");
    s.still_answers().await;
    s.master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_that_make_no_sense_are_refused() {
    use RejectReason as R;
    let mut s = Scene::set().await;
    let role = |o: &Offer, rest: &str| format!("{}{rest}", o.role);
    let deep: Vec<String> = (1..=9).map(|n| vec!["eng"; n].join("/")).collect();
    let deep: Vec<&str> = deep.iter().map(String::as_str).collect();
    for (what, roles, reason) in [
        ("side by side", vec!["eng", "ops"], R::BadReservation),
        ("upwards", vec!["eng/a", "eng"], R::BadReservation),
        (
            "in a circle",
            vec!["eng", "eng/a", "eng"],
            R::BadReservation,
        ),
        ("of itself", vec!["eng", "eng"], R::BadReservation),
        ("for everybody", vec!["*"], R::BadReservation),
        ("for nobody", vec![], R::BadReservation),
        ("without end", deep, R::BadReservation),
        ("no role", vec!["a//b"], R::Invalid),
        ("for others", vec!["theirs"], R::NotInRole),
    ] {
        let make = |_: &Offer| vec![reserve(&roles, cpus(100))];
        let got = s.refused(what, make).await;
        assert_eq!(got, reason, "{what}");
    }
    let mine = |o: &Offer| vec![Reservation::dynamic(&*o.role, "hostile")];
    let make = |o: &Offer| {
        vec![Operation::Reserve {
            stack: mine(o),
            resources: cpus(4001),
        }]
    };
    assert_eq!(s.refused("more than there is", make).await, R::NotOffered);
    let make = |o: &Offer| {
        vec![Operation::Unreserve {
            stack: mine(o),
            resources: cpus(100),
        }]
    };
    assert_eq!(s.refused("what is not reserved", make).await, R::NotOffered);
    let make = |o: &Offer| {
        vec![Operation::Reserve {
            stack: stack(&[&role(o, "/x"), &role(o, "/x/y")]),
            resources: cpus(100),
        }]
    };
    assert_eq!(s.refused("of a refinement", make).await, R::NotOffered);
    let volume = |size| {
        move |o: &Offer| {
            let volume_id = VolumeId::new("v").unwrap();
            let volume = Volume {
                size: Milli(size),
                shared: false,
            };
            vec![
                Operation::Reserve {
                    stack: mine(o),
                    resources: Resources::from_millis(0, 0, 1000),
                },
                Operation::CreateVolume {
                    stack: mine(o),
                    volume_id,
                    volume,
                },
            ]
        }
    };
    assert_eq!(
        s.refused("a large volume", volume(1001)).await,
        R::NotOffered
    );
    assert_eq!(
        s.refused("a volume of nothing", volume(0)).await,
        R::Invalid
    );
    let make = |o: &Offer| {
        let mut all = volume(500)(o);
        all.push(all[1].clone());
        all
    };
    assert_eq!(s.refused("a volume twice", make).await, R::DuplicateVolume);
    let make = |o: &Offer| {
        vec![Operation::DestroyVolume {
            stack: mine(o),
            volume_id: VolumeId::new("v").unwrap(),
        }]
    };
    let reason = s.refused("a volume that is not there", make).await;
    assert!([R::NotOffered, R::NotFree].contains(&reason), "{reason}");
    // All or nothing: what was good in each is not done either.
    let make = |o: &Offer| {
        let mut all = volume(500)(o);
        all.extend(with(|t| t.resources = cpus(i64::MAX)));
        all
    };
    let reason = s.refused("a good start", make).await;
    assert!([R::NotOffered, R::Overuse].contains(&reason), "{reason}");
    assert_eq!(s.master.get("/waggle/v1/reservations").await, json!([]));
    s.master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_refused_alike() {
    let mut s = Scene::set().await;
    for (method, path, body, status) in [
        (
            "PUT",
            "quotas/eng",
            json!({"guarantee": {"cpus": 9}}),
            409..423,
        ),
        (
            "PUT",
            "quotas/eng",
            json!({"guarantee": {"gold": 1}}),
            400..423,
        ),
        (
            "PUT",
            "quotas/eng",
            json!({"guarantee": {"cpus": -1}}),
            422..423,
        ),
        (
            "PUT",
            "quotas/eng",
            json!({"guarantee": {"cpus": 2}, "limit": {"cpus": 1}}),
            400..423,
        ),
        ("PUT", "quotas/*", json!({"limit": {"cpus": 1}}), 400..423),
        ("PUT", "weights/eng", json!({"weight": 0}), 422..423),
        ("PUT", "weights/eng", json!({"weight": 1e300}), 422..423),
        (
            "POST",
            "reservations",
            json!({"agent": "n1", "stack": [{"role": "a"}, {"role": "b"}], "resources": {"cpus": 1}}),
            400..423,
        ),
        (
            "POST",
            "reservations",
            json!({"agent": "nowhere", "stack": [{"role": "a"}], "resources": {"cpus": 1}}),
            404..405,
        ),
    ] {
        let path = format!("/waggle/v1/{path}");
        let (got, answer) = http(s.master.mesos, method, &path, &body.to_string()).await;
        assert!(status.contains(&got), "{path} {body}: {got} {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["message"].as_str().is_some_and(|m| !m.is_empty()));
        s.still_answers().await;
    }
    assert_eq!(s.master.get("/waggle/v1/quotas").await, json!([]));
    assert_eq!(s.master.get("/waggle/v1/reservations").await, json!([]));
    s.master.stop().await;
}
