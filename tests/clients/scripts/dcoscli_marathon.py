"""dcoscli 0.6.1, unmodified: `dcos marathon ...` against the gateway's paths. Prints a line per step."""
import json
import os
import subprocess
import sys
import time

APP = "/cli/sleeper"
STUCK = "/cli/stuck"


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

    def __call__(self, *args, stdin=None, fails=False):
        done = subprocess.run([self.dcos, "marathon"] + list(args), env=self.env, input=stdin, text=True,
                              capture_output=True, timeout=60)
        assert (done.returncode != 0) == fails, (args, done.returncode, done.stdout, done.stderr)
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
    assert "success" in dcos("ping", "--once")
    assert ":" in dcos.json("leader", "show", "--json")["host"] + ":"
    assert dcos.json("plugin", "list", "--json") == []
    print("ok about, ping, leader")

    app = {"id": APP, "cmd": "exec sleep 1000", "cpus": 0.05, "mem": 16, "instances": 1}
    assert "Created deployment" in dcos("app", "add", stdin=json.dumps(app))
    settled = lambda: dcos.json("deployment", "list", "--json") == []
    wait("the deployment's end", settled)
    assert [a["id"] for a in dcos.json("app", "list", "--json") if a["id"] == APP]
    assert APP in dcos("app", "list")
    assert dcos.json("app", "show", APP)["tasksRunning"] == 1
    tasks = [t["id"] for t in dcos.json("task", "list", "--json", APP)]
    assert len(tasks) == 1 and tasks[0] in dcos("task", "list")
    assert dcos.json("task", "show", tasks[0])["appId"] == APP

    dcos("app", "update", APP, "instances=2", "env={\"A\": \"1\"}")
    wait("the update's end", settled)
    versions = dcos.json("app", "version", "list", APP)
    assert len(versions) == 2
    assert dcos.json("app", "show", "--app-version=" + versions[1], APP)["instances"] == 1
    dcos("app", "restart", APP)
    wait("the restart's end", settled)
    dcos("app", "kill", APP)
    wait("all to be replaced", lambda: dcos.json("app", "show", APP)["tasksRunning"] == 2)
    victim = dcos.json("task", "list", "--json", APP)[0]["id"]
    assert dcos.json("task", "stop", victim)["id"] == victim
    wait("one to be replaced", lambda: victim not in [t["id"] for t in dcos.json("task", "list", "--json", APP)]
         and dcos.json("app", "show", APP)["tasksRunning"] == 2)
    victim = dcos.json("task", "list", "--json", APP)[0]["id"]
    dcos("task", "kill", "--scale", "--json", victim)
    wait("the scaling's end", lambda: settled() and dcos.json("app", "show", APP)["instances"] == 1)
    dcos("app", "stop", APP)
    wait("nothing to run", lambda: settled() and dcos.json("app", "show", APP)["tasksRunning"] == 0)
    dcos("app", "start", APP, "1")
    wait("one to run", lambda: settled() and dcos.json("app", "show", APP)["tasksRunning"] == 1)
    print("ok apps, tasks, versions")

    # More than any node has: the table of reasons is made of exactly Marathon's.
    stuck = {"id": STUCK, "cmd": "true", "cpus": 4096, "mem": 16}
    dcos("app", "add", stdin=json.dumps(stuck))
    wait("the queue to show it", lambda: STUCK in dcos("debug", "list"))
    assert dcos.json("debug", "list", "--json")[0]["app"]["id"] == STUCK
    wait("a reason", lambda: "CPUS" in dcos("debug", "summary", STUCK).upper())
    dcos("debug", "details", STUCK)
    one, = dcos.json("deployment", "list", "--json", STUCK)
    assert "locked" in dcos("app", "update", STUCK, "cpus=1", fails=True).lower()
    dcos("deployment", "rollback", one["id"])
    wait("the way back", settled)
    assert "does not exist" in dcos("app", "show", STUCK, fails=True)
    dcos("app", "add", stdin=json.dumps(stuck))
    one, = dcos.json("deployment", "list", "--json", STUCK)
    dcos("deployment", "stop", one["id"])
    dcos("deployment", "watch", "--max-count=1", "--interval=1", one["id"])
    dcos("app", "remove", "--force", STUCK)
    wait("its end", settled)
    print("ok debug, deployments")

    bad = dcos("app", "add", stdin=json.dumps({"id": "/cli/bad", "cmd": "x", "cpus": -1}), fails=True)
    assert "cpus" in bad, bad
    dcos("app", "remove", APP)
    wait("the removal's end", lambda: settled() and APP not in dcos("app", "list"))
    print("ok removal")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
