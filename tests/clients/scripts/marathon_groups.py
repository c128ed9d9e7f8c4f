"""marathon-python 0.13, unmodified, through the life of a group and of deployments with several steps. Prints a line per
step; a failed step raises.

Runs inside a node of the test cluster, where the Marathon API is on loopback.
"""
import sys
import time

from marathon import MarathonClient, NotFoundError
from marathon.exceptions import MarathonHttpError
from marathon.models import MarathonApp, MarathonGroup

SHOP = "/groups/shop"
DB = SHOP + "/db/main"
WEB = SHOP + "/web/front"


def wait(what, condition, limit=30.0):
    """Polls `condition` until it holds; fails with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited %.0f s for %s" % (limit, what)
        time.sleep(0.05)
    print("ok", what)


def settled(client):
    return lambda: not client.list_deployments()


def app(name, instances=1, cmd="sleep 1000", **more):
    return MarathonApp(id=name, cmd=cmd, cpus=0.01, mem=16, instances=instances, **more)


def shop(**web):
    return MarathonGroup(id=SHOP, groups=[
        MarathonGroup(id="db", apps=[app("main")]),
        MarathonGroup(id="web", dependencies=["../db"], apps=[app("front", **web)]),
    ])


def refused(status, call):
    try:
        call()
    except MarathonHttpError as e:
        assert e.status_code == status, e
        return e
    raise AssertionError("must be refused with %d" % status)


def main(server):
    client = MarathonClient(server)

    made = client.create_group(shop(instances=2))
    assert made["version"] and made["deploymentId"], made
    running = [d for d in client.list_deployments() if d.id == made["deploymentId"]]
    for d in running:
        actions = [[(a.action, a.app) for a in s.actions] for s in d.steps]
        assert actions == [
            [("StartApplication", DB), ("StartApplication", WEB)],
            [("ScaleApplication", DB)],
            [("ScaleApplication", WEB)],
        ], actions
        assert sorted(d.affected_apps) == [DB, WEB], d.affected_apps
        assert (d.current_step, d.total_steps) in [(2, 3), (3, 3)], (d.current_step, d.total_steps)
    wait("a group in the order of its dependencies", settled(client))
    first = client.get_group(SHOP)
    assert first.id == SHOP and [g.id for g in first.groups] == [SHOP + "/db", SHOP + "/web"], first
    web = first.groups[1]
    assert web.dependencies == [SHOP + "/db"] and web.apps[0].instances == 2, web
    assert min(t.started_at for t in client.list_tasks(WEB)) >= client.list_tasks(DB)[0].started_at
    assert client.get_app(DB).tasks_running == 1
    refused(409, lambda: client.create_group(shop()))
    print("ok group, its apps and steps")

    client.scale_group(SHOP, 2)
    wait("a group that is scaled", lambda: client.get_app(WEB).tasks_running == 4)
    wait("the end of scaling", settled(client))
    assert client.get_app(DB).instances == 2

    # What never fits holds its deployment up; its neighbours are locked with it.
    stuck = client.update_group(SHOP, MarathonGroup(id=SHOP, groups=[
        MarathonGroup(id="db", apps=[app("main"), MarathonApp(
            id="huge", cmd="sleep 1000", cpus=10000, mem=16, instances=1)]),
        MarathonGroup(id="web", dependencies=["../db"], apps=[app("front", cmd="sleep 2000")]),
    ]))
    refused(409, lambda: client.update_app(WEB, MarathonApp(instances=1)))
    waiting = [d for d in client.list_deployments() if d.id == stuck["deploymentId"]][0]
    assert waiting.current_step < waiting.total_steps, waiting
    assert [t.version for t in client.list_tasks(WEB)] != [], "its turn has not come"
    back = client.delete_deployment(stuck["deploymentId"])
    assert back["deploymentId"] != stuck["deploymentId"], back
    wait("the way back of a whole deployment", settled(client))
    assert client.get_app(WEB).cmd == "sleep 1000" and client.get_app(WEB).instances == 4
    try:
        client.get_app(SHOP + "/db/huge")
        raise AssertionError("must be gone")
    except NotFoundError:
        pass
    print("ok lock, cancel")

    client.rollback_group(SHOP, first.version)
    wait("an older version of a group", lambda: client.get_app(WEB).instances == 2)
    wait("the end of going back", settled(client))

    many = [MarathonApp(id=DB, instances=1), MarathonApp(id=WEB, instances=3)]
    done = client.update_apps(many)
    assert done["deploymentId"], done
    wait("two apps in one change", settled(client))
    assert client.get_app(WEB).instances == 3

    bad = refused(422, lambda: client.update_apps([
        MarathonApp(id=DB, dependencies=[WEB]), MarathonApp(id=WEB, dependencies=[DB])]))
    assert "cycle" in str(bad), bad
    assert client.get_app(DB).dependencies == []
    print("ok refusals")

    client.delete_group("/groups")
    wait("a group that is gone", settled(client))
    assert not [a for a in client.list_apps() if a.id.startswith("/groups/")]
    try:
        client.get_group(SHOP)
        raise AssertionError("must be gone")
    except NotFoundError:
        print("ok removal")


if __name__ == "__main__":
    main(sys.argv[1])
