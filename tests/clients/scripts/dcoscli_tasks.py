"""dcoscli 0.6.1, unmodified: `dcos task ...` and `dcos node` against the gateway's paths. Prints a line per step."""
import base64
import json
import os
import sys

from dcoscli_marathon import Dcos, wait

APP = "/cli/talker"


def main(url, home):
    dcos = Dcos(url, home)
    task = lambda *args, **how: dcos(*args, command="task", **how)
    cmd = "echo first line; echo to the other >&2; exec sleep 1000"
    dcos("app", "add", stdin=json.dumps({"id": APP, "cmd": cmd, "cpus": 0.05, "mem": 32, "instances": 1}))
    wait("the deployment's end", lambda: dcos.json("deployment", "list", "--json") == [])
    mine = [t for t in json.loads(task("--json")) if t["name"] == "talker.cli"]
    assert len(mine) == 1 and mine[0]["state"] == "TASK_RUNNING", mine
    id = mine[0]["id"]
    table = task(id).splitlines()
    assert len(table) == 2 and table[0].split()[:4] == ["NAME", "HOST", "USER", "STATE"], table
    assert id in table[1] and " R " in table[1], table
    print("ok list")

    assert task("log", id) == "first line\n"
    assert task("log", id, "stderr") == "to the other\n"
    assert "first line" in task("log", "--lines=1", id, "stdout")
    shown = task("ls", id).split()
    assert {"stdout", "stderr"} <= set(shown), shown
    assert "stdout" in task("ls", "--long", id)
    print("ok log, ls")

    assert task("exec", id, "echo", "from inside") == "from inside\n"
    both = task("exec", id, "sh", "-c", "echo out; echo err >&2", both=True)
    assert both == ("out\n", "err\n"), both
    # dcoscli does not pass exit codes on.
    assert task("exec", id, "sh", "-c", "echo gone; exit 3") == "gone\n"
    assert task("exec", "--interactive", id, "cat", stdin="typed\n") == "typed\n"
    much = base64.b64encode(os.urandom(150000)).decode() + "\n"
    assert task("exec", "-i", id, "cat", stdin=much) == much
    inside = task("exec", id, "sh", "-c", "pwd; ls")
    assert "stdout" in inside, inside
    assert "Cannot find a task" in task("exec", "nobody-here", "true", fails=True)
    print("ok exec")

    nodes = json.loads(dcos("--json", command="node"))
    kinds = [n["type"] for n in nodes]
    assert kinds.count("agent") == 3 and any(k.startswith("master") for k in kinds), kinds
    assert any(n["type"] == "agent" and n["id"] == mine[0]["slave_id"] for n in nodes)
    assert "agent" in dcos(command="node")
    print("ok node")

    dcos("app", "remove", APP)
    wait("the removal's end", lambda: dcos.json("deployment", "list", "--json") == [])
    assert id not in task()
    wait("the task among the completed", lambda: id in task("--completed"))
    # What it wrote is there for as long as its sandbox is kept.
    assert task("log", "--completed", id) == "first line\n"
    assert task("log", "--completed", id, "stderr") == "to the other\n"
    print("ok log of a completed task")
    print("ok removal")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
