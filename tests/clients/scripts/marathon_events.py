"""marathon-python 0.13, unmodified: its event stream, and the calls that marathon_client.py does not make.

Prints a line per step; a failed step raises. Runs inside a node of the test cluster.
"""
import sys
import threading
import time

from marathon import MarathonClient, NotFoundError
from marathon.exceptions import ConflictError
from marathon.models import MarathonApp, MarathonGroup
from marathon.models.events import (
    MarathonApiPostEvent, MarathonAppTerminatedEvent, MarathonDeploymentFailed, MarathonDeploymentInfo,
    MarathonDeploymentStepSuccess, MarathonDeploymentSuccess, MarathonEventStreamAttached,
    MarathonEventStreamDetached, MarathonGroupChangeSuccess, MarathonInstanceChangedEvent,
    MarathonStatusUpdateEvent)

APP = "/events/sleeper"
STUCK = "/events/stuck"


class Listener(threading.Thread):
    """Collects what a stream of events tells until the server ends it."""

    def __init__(self, server, **how):
        super().__init__(daemon=True)
        self.stream = MarathonClient(server).event_stream(**how)
        self.events, self.error = [], None
        self.start()

    def run(self):
        try:
            for event in self.stream:
                self.events.append(event)
        except Exception as e:
            self.error = e

    def of(self, kind):
        return [e for e in list(self.events) if isinstance(e, kind)]

    def wait(self, what, found, limit=30.0):
        end = time.monotonic() + limit
        while not found():
            assert time.monotonic() < end, "waited for %s; heard %s; %s" % (
                what, [type(e).__name__ for e in self.events], self.error)
            time.sleep(0.02)
        print("ok", what)

    def done(self, deployment):
        """Waits for the end of a deployment, as a client does that deploys: by its id."""
        self.wait("the end of %s by event" % deployment[:8], lambda: deployment in [
            e.id for e in self.of(MarathonDeploymentSuccess)])


def poll(what, condition, limit=30.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited %.0f s for %s" % (limit, what)
        time.sleep(0.05)
    print("ok", what)


def events(client, server):
    heard = Listener(server)
    heard.wait("the attachment", lambda: heard.events)
    assert isinstance(heard.events[0], MarathonEventStreamAttached), heard.events
    some = Listener(server, event_types=[MarathonDeploymentSuccess, "app_terminated_event"])
    heard.wait("the other's attachment", lambda: len(heard.of(MarathonEventStreamAttached)) == 2)

    created = client.create_app(APP, MarathonApp(cmd="exec sleep 1000", cpus=0.05, mem=16, instances=2))
    first = created.deployments[0].id
    heard.done(first)
    posts = heard.of(MarathonApiPostEvent)
    assert posts[0].uri == "/v2/apps" and posts[0].app_definition["id"] == APP, posts
    assert posts[0].client_ip
    infos = [e.plan for e in heard.of(MarathonDeploymentInfo) if e.plan.id == first]
    assert infos and len(infos) == len(infos[0].steps), infos
    action = infos[0].steps[0].actions[0]
    assert (action.action, action.app) == ("StartApplication", APP), action
    target = infos[0].target.groups[0]
    assert target["id"] == "/events" and target["apps"][0]["id"] == APP, target
    assert [e.plan.id for e in heard.of(MarathonDeploymentStepSuccess)] == [first] * len(infos)
    assert heard.of(MarathonGroupChangeSuccess)[0].group_id == "/events"
    tasks = {t.id for t in client.list_tasks(APP)}
    running = [e for e in heard.of(MarathonStatusUpdateEvent) if e.task_status == "TASK_RUNNING"]
    assert {e.task_id for e in running} == tasks, (running, tasks)
    assert all(e.app_id == APP and e.host and e.slave_id and e.ip_addresses for e in running), running
    conditions = [e.condition for e in heard.of(MarathonInstanceChangedEvent)]
    assert conditions.count("Running") == 2 and conditions.count("Staging") == 2, conditions
    print("ok events of a deployment")

    # What comes and goes within milliseconds is told with every state.
    quick = client.create_app("/events/quick", MarathonApp(cmd="exit 3", cpus=0.05, mem=16, instances=1))
    ends = lambda: [e for e in heard.of(MarathonStatusUpdateEvent)
                    if e.app_id == "/events/quick" and e.task_status == "TASK_FAILED"]
    heard.wait("the end of a task that fails at once", ends)
    assert "3" in ends()[0].message, ends()[0].message
    heard.done(quick.deployments[0].id)
    heard.done(client.delete_app("/events/quick", force=True)["deploymentId"])
    heard.wait("the app to be gone", lambda: "/events/quick" in [
        e.app_id for e in heard.of(MarathonAppTerminatedEvent)])
    # What can't get on is rolled back.
    stuck = client.create_app("/events/huge", MarathonApp(cmd="true", cpus=4096, mem=16)).deployments[0].id
    back = client.delete_deployment(stuck)
    heard.wait("a deployment to fail", lambda: stuck in [e.id for e in heard.of(MarathonDeploymentFailed)])
    heard.done(back["deploymentId"])
    kinds = {type(e) for e in some.events}
    assert kinds == {MarathonDeploymentSuccess, MarathonAppTerminatedEvent}, kinds
    raw = next(MarathonClient(server).event_stream(raw=True))
    assert '"event_stream_attached"' in raw, raw
    heard.wait("a detachment", lambda: heard.of(MarathonEventStreamDetached))
    assert heard.error is None and some.error is None, (heard.error, some.error)
    return heard


def calls(client, heard):
    version = client.get_app(APP).version
    heard.done(client.update_app(APP, MarathonApp(labels={"a": "1"}))["deploymentId"])
    heard.done(client.rollback_app(APP, version)["deploymentId"])
    assert client.get_app(APP).labels == {}
    heard.done(client.update_apps([MarathonApp(id=APP, labels={"b": "2"})])["deploymentId"])
    assert client.get_app(APP).labels == {"b": "2"}
    heard.done(client.scale_app(APP, delta=1)["deploymentId"])
    assert client.get_app(APP).instances == 3
    print("ok update, rollback, scale by delta")

    gone = client.list_tasks(APP)[0].id
    assert client.kill_given_tasks([gone], scale=True) is True
    poll("a task to go for good", lambda: len(client.list_tasks(APP)) == 2)
    poll("the scaling's end", lambda: not client.list_deployments())
    def replaced(killed):
        ids = {t.id for t in killed}
        poll("%d killed to be replaced" % len(ids), lambda: not ids & {t.id for t in client.list_tasks(APP)}
             and client.get_app(APP).tasks_running == 2)

    killed = client.kill_tasks(APP)
    assert len(killed) == 2, killed
    replaced(killed)
    host = client.list_tasks(APP)[0].host
    killed = client.kill_tasks(APP, host=host)
    assert killed and all(t.host == host for t in killed), killed
    replaced(killed)
    scaled = client.kill_task(APP, client.list_tasks(APP)[0].id, scale=True)
    heard.done(scaled["deploymentId"])
    assert client.list_endpoints() is not None
    print("ok kills")

    # More than any node has: it waits, and the queue says for what.
    stuck = client.create_app(STUCK, MarathonApp(cmd="true", cpus=4096, mem=16, instances=1))
    poll("the queue to show it", lambda: [q for q in client.list_queue(embed_last_unused_offers=True)
                                          if q.app.id == STUCK and q.count == 1])
    try:
        client.update_app(STUCK, MarathonApp(cpus=2048))
    except ConflictError:
        pass
    else:
        raise AssertionError("a locked app was changed")
    client.reset_delay(STUCK)
    assert [d for d in client.list_deployments() if d.id == stuck.deployments[0].id
            and d.affected_apps == [STUCK] and d.total_steps == len(d.steps)]
    assert client.delete_deployment(stuck.deployments[0].id, force=True) == {}
    poll("its deployment to be dropped", lambda: not client.list_deployments())
    client.delete_app(STUCK, force=True)
    try:
        client.reset_delay("/events/none")
    except NotFoundError:
        pass
    else:
        raise AssertionError("a delay of nothing was reset")
    assert client.get_metrics()["gauges"]
    for unsupported in (client.list_event_subscriptions, lambda: client.create_event_subscription("http://x"),
                        lambda: client.delete_event_subscription("http://x")):
        try:
            unsupported()
        except NotFoundError:
            pass
        else:
            raise AssertionError("callbacks are not there")
    print("ok queue, deployments, metrics")


def groups(client, heard):
    app = lambda id, **more: MarathonApp(id=id, cmd="exec sleep 1000", cpus=0.05, mem=16, instances=1, **more)
    made = client.create_group(MarathonGroup(id="/tree", apps=[app("/tree/db"), app("/tree/web", dependencies=["/tree/db"])]))
    heard.done(made["deploymentId"])
    steps = [[(a.action, a.app) for a in s.actions] for e in heard.of(MarathonDeploymentInfo)
             if e.plan.id == made["deploymentId"] for s in e.plan.steps]
    order = [app for step in steps for kind, app in step if kind == "ScaleApplication"]
    assert order and order.index("/tree/db") < order.index("/tree/web"), steps
    assert "/tree" in [e.group_id for e in heard.of(MarathonGroupChangeSuccess)]
    assert "/tree" in [g.id for g in client.list_groups()]
    group = client.get_group("/tree")
    assert sorted(a.id for a in group.apps) == ["/tree/db", "/tree/web"] and group.version, group
    first = group.version
    heard.done(client.scale_group("/tree", 2)["deploymentId"])
    assert client.get_app("/tree/web").instances == 2
    heard.done(client.rollback_group("/tree", first)["deploymentId"])
    assert client.get_app("/tree/web").instances == 1
    changed = MarathonGroup(id="/tree", apps=[app("/tree/db"), app("/tree/web", labels={"step": "2"})])
    heard.done(client.update_group("/tree", changed)["deploymentId"])
    assert client.get_app("/tree/web").labels == {"step": "2"}
    many = [MarathonApp(id=id, labels={"step": "3"}) for id in ("/tree/db", "/tree/web")]
    heard.done(client.update_apps(many)["deploymentId"])
    assert client.get_app("/tree/db").labels == {"step": "3"}
    heard.done(client.delete_group("/tree")["deploymentId"])
    try:
        client.get_group("/tree")
    except NotFoundError:
        pass
    else:
        raise AssertionError("the group is still there")
    print("ok groups")


def abdication(client, heard):
    leader, before = client.get_leader()["leader"], {t.id for t in client.list_tasks(APP)}
    assert client.delete_leader() == {"message": "Leadership abdicated"}
    heard.join(30)
    assert not heard.is_alive() and heard.error is None, heard.error
    assert client.get_leader()["leader"] == leader
    poll("the tasks to be known again", lambda: {t.id for t in client.list_tasks(APP)} == before
         and client.get_app(APP).tasks_running == len(before))
    again = Listener(client.servers[0])
    again.wait("the attachment to the next leader", lambda: again.events)
    again.done(client.delete_app(APP)["deploymentId"])
    print("ok abdication")


def main(server):
    client = MarathonClient(server)
    heard = events(client, server)
    calls(client, heard)
    groups(client, heard)
    abdication(client, heard)


if __name__ == "__main__":
    main(sys.argv[1])
