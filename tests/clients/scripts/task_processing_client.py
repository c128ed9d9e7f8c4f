"""task_processing 1.4.0 (Yelp), unmodified: ten tasks on its Mesos executor, their output by its logging executor.

Runs inside a node of the test cluster, where the Mesos API is on loopback. The logging executor finds each task's output
by what its offer says of the agent: `/files/debug`, then `/files/read`.
"""
import logging
import sys
import threading
import time
import uuid

from task_processing.runners.async_runner import Async, EventHandler
from task_processing.task_processor import TaskProcessor

LIMIT = 60.0
N_TASKS = 10
# Which of them fails.
FAILS = 7


class Seen:
    """What came, and waiting for it."""

    def __init__(self):
        self.lock = threading.Condition()
        self.events = {}
        self.lines = {}

    def event(self, event):
        with self.lock:
            self.events.setdefault(event.task_id, []).append(event)
            self.lock.notify_all()

    def line(self, task_id, message, stream):
        with self.lock:
            self.lines.setdefault(task_id, []).append((stream, message))
            self.lock.notify_all()

    def types(self, task_id):
        return [e.platform_type for e in self.events.get(task_id, [])]

    def wait(self, what, condition):
        end = time.monotonic() + LIMIT
        with self.lock:
            while not condition():
                left = end - time.monotonic()
                assert left > 0, "waited for %s; events %s lines %s" % (
                    what, {t: self.types(t) for t in self.events}, self.lines)
                self.lock.wait(min(left, 0.5))


def main(master):
    logging.basicConfig(level=logging.ERROR)
    seen = Seen()
    processor = TaskProcessor()
    processor.load_plugin("task_processing.plugins.mesos")
    # Its resources are those of its role; what is not reserved has this one.
    mesos = processor.executor_from_config("mesos_task", dict(
        role="*", framework_name="Clients: task_processing", mesos_address=master))
    logs = processor.executor_from_config("logging", dict(
        downstream_executor=mesos, handler=seen.line, format_string="{line}"))
    runner = Async(logs, [EventHandler(predicate=lambda e: e.kind == "task", cb=seen.event)])
    config = runner.TASK_CONFIG_INTERFACE
    tag = uuid.uuid4().hex[:8]
    tasks = []
    for i in range(N_TASKS):
        end = "exit 3" if i == FAILS else "exit 0"
        # The log is looked for while a task runs, and once more when it has ended.
        task = config(
            name="tp-%s-%d" % (tag, i), containerizer="MESOS", cpus=0.1, mem=32, disk=10,
            environment={"WHO": "task %d" % i},
            cmd='echo "$WHO runs as $MESOS_TASK_ID"; echo "$WHO complains" >&2; sleep 2; ' + end)
        tasks.append(task)
        runner.run(task)
    for task in tasks:
        seen.wait("the end of " + task.task_id, lambda: any(
            e.terminal for e in seen.events.get(task.task_id, [])))
    for i, task in enumerate(tasks):
        types = seen.types(task.task_id)
        assert types[0] == "staging" and "running" in types, types
        last = seen.events[task.task_id][-1]
        assert last.terminal and last.success is (i != FAILS), (i, types)
        assert types[-1] == ("failed" if i == FAILS else "finished"), (i, types)
    failed = seen.events[tasks[FAILS].task_id][-1].raw
    assert failed.message == "Command exited with status 3", failed
    print("ok ten tasks on task_processing's executor, one of which fails")

    for i, task in enumerate(tasks):
        want = {("stdout", "task %d runs as %s" % (i, task.task_id)), ("stderr", "task %d complains" % i)}
        seen.wait("the output of " + task.task_id, lambda: want <= set(seen.lines.get(task.task_id, [])))
    print("ok their output by its logging executor")

    long_ = config(name="tp-%s-long" % tag, containerizer="MESOS", cmd="exec sleep 600")
    runner.run(long_)
    seen.wait("a long task", lambda: "running" in seen.types(long_.task_id))
    assert runner.kill(long_.task_id)
    seen.wait("its end", lambda: seen.types(long_.task_id)[-1] == "killed")
    # Not by the runner: its threads look whether they are to end every ten seconds.
    mesos.stop()
    print("ok a kill")


if __name__ == "__main__":
    main(sys.argv[1])
