"""dcoscli 0.6.1, unmodified: `dcos marathon ...` against the gateway's paths. Prints a line per step."""
import json
import os
import subprocess
import sys
import time

APP = "/cli/sleeper"
STUCK = "/cli/stuck"
POD = "/cli/pod"
GROUP = "/cli/shop"


class Dcos:
    def __init__(self, url, home):
        self.dcos = os.path.join(os.path.dirname(sys.executable), "dcos")
        path = os.path.dirname(sys.executable) + ":" + os.environ.get("PATH", "")
        # As an attached cluster: where the gateway is, and nothing else.
        cluster = os.path.join(home, "clusters", "test")
        os.makedirs(cluster, mode=0o700)
        config = os.path.join(cluster, "dcos.toml")
        for file, text in ((config, '[core]\ndcos_url = "%s"\n' % url), (os.path.join(cluster, "attached"), "")):
            with open(file, "w") as f:
                f.write(text)
            os.chmod(file, 0o600)
        self.env = {**os.environ, "PATH": path, "DCOS_DIR": home, "HOME": home, "LC_ALL": "C.UTF-8"}

    def __call__(self, *args, command="marathon", stdin=None, fails=False, both=False):
        done = subprocess.run([self.dcos, command] + list(args), env=self.env, input=stdin, text=True,
                              capture_output=True, timeout=60)
        assert (done.returncode != 0) == fails, (args, done.returncode, done.stdout, done.stderr)
        if both:
            return done.stdout, done.stderr
        return done.stderr if fails else done.stdout

    def json(self, *args, **how):
        return json.loads(self(*args, **how))


def wait(what, condition, limit=30.0):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited %.0f s for %s" % (limit, what)
        time.sleep(0.1)
    print("ok", what)


def main(url, home):
    dcos = Dcos(url, home)
    assert dcos.json("about")["name"] == "marathon"
    assert "pong" in dcos("ping", "--once")
    assert dcos.json("plugin", "list", "--json") in ([], {"plugins": []})
    assert dcos.json("leader", "show", "--json")["ip"]
    print("ok about, ping, plugins, leader")

    app = {"id": APP, "cmd": "exec sleep 1000", "cpus": 0.05, "mem": 16, "instances": 1}
    assert "Created deployment" in dcos("app", "add", stdin=json.dumps(app))
    settled = lambda: dcos.json("deployment", "list", "--json") == []
    wait("the deployment's end", settled)
    assert APP in dcos("app", "list")
    assert dcos.json("app", "show", APP)["tasksRunning"] == 1
    task, = dcos.json("task", "list", "--json", APP)
    assert dcos.json("task", "show", task["id"])["appId"] == APP
    dcos("app", "update", APP, "instances=2")
    wait("the update's end", settled)
    assert len(dcos.json("app", "version", "list", APP)) == 2
    dcos("app", "kill", APP)
    print("ok apps, tasks, versions")

    # More than any node has: the table of reasons is made of exactly Marathon's.
    dcos("app", "add", stdin=json.dumps({"id": STUCK, "cmd": "true", "cpus": 4096, "mem": 16}))
    wait("the queue to show it", lambda: STUCK in dcos("debug", "list"))
    assert "CPUS" in dcos("debug", "summary", STUCK).upper()
    one, = [d for d in dcos.json("deployment", "list", "--json") if STUCK in d["affectedApps"]]
    dcos("deployment", "rollback", one["id"])
    wait("the way back", settled)
    print("ok debug, deployments")

    pod = {"id": POD, "scaling": {"kind": "fixed", "instances": 1}, "containers": [
        {"name": name, "exec": {"command": {"shell": "exec sleep 1000"}}, "resources": {"cpus": 0.05, "mem": 16}}
        for name in ("one", "two")]}
    assert "Created deployment" in dcos("pod", "add", stdin=json.dumps(pod))
    wait("the pod's end of deployment", settled)
    assert POD in dcos("pod", "list")
    shown = dcos.json("pod", "show", POD)
    assert shown["status"] == "STABLE" and len(shown["instances"][0]["containers"]) == 2, shown
    pod["scaling"]["instances"] = 2
    dcos("pod", "update", POD, "--force", stdin=json.dumps(pod))
    wait("the pod's update", settled)
    instance = dcos.json("pod", "show", POD)["instances"][0]["id"]
    dcos("pod", "kill", POD, instance)
    group, = [g for g in dcos.json("group", "list", "--json") if g["id"] == "/cli"]
    assert [p["id"] for p in group["pods"]] == [POD], group
    dcos("pod", "remove", POD)
    wait("the pod's removal", settled)
    assert POD not in dcos("pod", "list")
    print("ok pods")

    part = lambda name, **more: {"id": name, "cmd": "exec sleep 1000", "cpus": 0.05, "mem": 16, "instances": 1, **more}
    shop = {"id": GROUP, "apps": [part("db"), part("web", dependencies=["../db"])]}
    assert "Created deployment" in dcos("group", "add", stdin=json.dumps(shop))
    wait("the group's end of deployment", settled)
    assert "already" in dcos("group", "add", stdin=json.dumps(shop), fails=True)
    shown = dcos.json("group", "show", GROUP)
    assert [a["id"] for a in shown["apps"]] == [GROUP + "/db", GROUP + "/web"], shown
    assert shown["apps"][1]["dependencies"] == [GROUP + "/db"], shown
    assert GROUP in [g["id"] for top in dcos.json("group", "list", "--json") for g in top["groups"]]
    assert "/cli" in dcos("group", "list")
    dcos("group", "scale", GROUP, "2")
    wait("the group's scaling", settled)
    assert dcos.json("app", "show", GROUP + "/web")["tasksRunning"] == 2
    dcos("group", "update", GROUP, "apps=" + json.dumps([part("db", instances=1)]))
    wait("the group's update", settled)
    assert [a["id"] for a in dcos.json("group", "show", GROUP)["apps"]] == [GROUP + "/db"]
    older = dcos.json("group", "show", "--group-version=" + shown["version"], GROUP)
    assert [a["id"] for a in older["apps"]] == [GROUP + "/db", GROUP + "/web"], older
    dcos("group", "remove", GROUP)
    wait("the group's removal", settled)
    assert GROUP in dcos("group", "show", GROUP, fails=True)
    print("ok groups")

    bad = dcos("app", "add", stdin=json.dumps({"id": "/cli/bad", "cmd": "x", "cpus": -1}), fails=True)
    assert "cpus" in bad, bad
    dcos("app", "remove", APP)
    wait("the removal's end", settled)
    print("ok removal")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
