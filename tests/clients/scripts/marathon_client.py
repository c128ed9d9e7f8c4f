"""marathon-python 0.13, unmodified, through the life of an app. Prints a line per step; a failed step raises.

Runs inside a node of the test cluster, where the Marathon API is on loopback.
"""
import sys
import time

from marathon import MarathonClient, NotFoundError
from marathon.exceptions import MarathonHttpError
from marathon.models import MarathonApp, MarathonHealthCheck
from marathon.models.app import PortDefinition, ReadinessCheck
from marathon.models.container import (
    MarathonContainer, MarathonContainerPortMapping, MarathonContainerVolume, MarathonDockerContainer)

APP = "/clients/sleeper"
CONTAINED = "/clients/contained"


def wait(what, condition, limit=30.0):
    """Polls `condition` until it holds; fails with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited %.0f s for %s" % (limit, what)
        time.sleep(0.05)
    print("ok", what)


def settled(client):
    return lambda: not client.list_deployments()


def main(server):
    client = MarathonClient(server)
    assert client.ping().strip() in (b"pong", "pong"), "ping"
    info = client.get_info()
    assert info.name == "marathon" and info.framework_id, info
    assert client.get_leader()["leader"]
    print("ok ping, info, leader")

    # A server of the standard library: answers HTTP on the port that the offer gave.
    created = client.create_app(APP, MarathonApp(
        cmd="exec python3 -m http.server $PORT0 --bind $HOST_IP",
        env={"HOST_IP": "0.0.0.0"}, cpus=0.1, mem=64, instances=2,
        port_definitions=[PortDefinition(port=0, protocol="tcp", labels={"VIP_0": "/sleeper:80"})],
        health_checks=[MarathonHealthCheck(
            protocol="HTTP", path="/", port_index=0, grace_period_seconds=20,
            interval_seconds=1, timeout_seconds=2, max_consecutive_failures=5)],
        labels={"owner": "clients"}))
    assert created.id == APP and created.deployments, created
    wait("two healthy instances", lambda: client.get_app(APP).tasks_healthy == 2)
    wait("the deployment's end", settled(client))

    tasks = client.list_tasks(APP)
    assert len(tasks) == 2 and all(len(t.ports) == 1 and t.host for t in tasks), tasks
    assert all(t.health_check_results and t.health_check_results[0].alive for t in tasks), tasks
    assert len(tasks[0].service_ports) == len(tasks[0].ports)
    assert client.list_endpoints()
    assert APP in [a.id for a in client.list_apps()]
    assert [a.id for a in client.list_apps(label="owner==clients")] == [APP]
    print("ok tasks, endpoints, selectors")

    client.scale_app(APP, 3)
    wait("three instances", lambda: client.get_app(APP).tasks_healthy == 3)
    wait("the scaling's end", settled(client))

    victim = client.list_tasks(APP)[0]
    client.kill_task(APP, victim.id)
    wait("a killed task to be replaced", lambda: (
        victim.id not in [t.id for t in client.list_tasks(APP)]
        and client.get_app(APP).tasks_healthy == 3))

    before = client.get_app(APP).version
    client.update_app(APP, MarathonApp(labels={"owner": "clients", "step": "2"}, instances=1))
    wait("the update's end", settled(client))
    app = client.get_app(APP)
    assert app.version != before and app.instances == 1 and app.labels["step"] == "2", app
    assert len(client.list_versions(APP)) >= 2
    assert client.get_version(APP, before).labels == {"owner": "clients"}
    client.restart_app(APP)
    wait("the restart's end", settled(client))
    client.list_queue()
    print("ok versions, restart, queue")

    # A container in the words that this client has: nothing of it is run, all of it comes back.
    created = client.create_app(CONTAINED, MarathonApp(
        cpus=0.1, mem=64, instances=0,
        container=MarathonContainer(
            docker=MarathonDockerContainer(
                image="nginx:1.25", network="BRIDGE", force_pull_image=True,
                parameters=[{"key": "hostname", "value": "web"}],
                port_mappings=[MarathonContainerPortMapping(
                    name="http-api", container_port=80, host_port=0, service_port=10080, protocol="tcp",
                    labels={"VIP_0": "/contained:80"})]),
            volumes=[MarathonContainerVolume(container_path="/etc/ssl", host_path="/etc/ssl", mode="RO")]),
        readiness_checks=[ReadinessCheck(
            name="warm", protocol="HTTP", path="/ready", port_name="http-api", interval_seconds=5,
            timeout_seconds=1, http_status_codes_for_ready=[200, 204], preserve_last_response=True)],
        uris=["https://example.com/conf.tar.gz"]))
    app = client.get_app(CONTAINED)
    for seen in (created, app):
        docker, mapping = seen.container.docker, seen.container.port_mappings[0]
        assert seen.container.type == "DOCKER" and docker.image == "nginx:1.25", docker
        assert docker.force_pull_image and docker.parameters[0]["key"] == "hostname", docker
        assert (mapping.container_port, mapping.host_port, mapping.service_port) == (80, 0, 10080), mapping
        assert seen.container.volumes[0].mode == "RO", seen.container
        ready = seen.readiness_checks[0]
        assert ready.port_name == "http-api" and ready.http_status_codes_for_ready == [200, 204], ready
        assert seen.networks == [{"mode": "container/bridge"}], seen.networks
        assert seen.fetch[0]["uri"].endswith("conf.tar.gz"), seen.fetch
    # As this client updates: it gets, changes, and sends all of it back.
    app.cpus = 0.2
    client.update_app(CONTAINED, app)
    wait("the container's update", settled(client))
    again = client.get_app(CONTAINED)
    assert again.cpus == 0.2 and again.container.docker.image == "nginx:1.25", again
    client.delete_app(CONTAINED)
    wait("the container's removal", settled(client))
    print("ok container, readiness checks")

    for bad in (MarathonApp(cmd="x", cpus=-1), MarathonApp(cmd="x", mem="much")):
        try:
            client.create_app("/clients/bad", bad)
        except MarathonHttpError as e:
            assert 400 <= e.status_code < 500, e
        else:
            raise AssertionError("a bad definition was taken")
    client.delete_app(APP)
    wait("the removal's end", settled(client))
    try:
        client.get_app(APP)
    except NotFoundError:
        pass
    else:
        raise AssertionError("the app is still there")
    assert APP not in [a.id for a in client.list_apps()]
    print("ok removal, errors")


if __name__ == "__main__":
    main(sys.argv[1])
