"""pymesos 0.3.15, unmodified: a framework through its life. Prints a line per step; a failed step raises.

Runs inside a node of the test cluster, where the Mesos API is on loopback. Everything is done from callbacks or by
the driver's own calls, as frameworks do; what came is kept in `Scheduler` and waited for.
"""
import getpass
import logging
import os
import sys
import threading
import time
import uuid

from pymesos import decode_data, encode_data, MesosSchedulerDriver, MesosOperatorMasterDriver, Scheduler, OperatorMaster

LIMIT = 40.0
TERMINAL = ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST", "TASK_DROPPED", "TASK_GONE")


class Framework(Scheduler):
    """Keeps what came. Offers are declined by default; `want` takes them."""

    def __init__(self):
        self.lock = threading.Condition()
        self.framework_id = None
        self.registrations = 0
        self.reregistrations = 0
        self.disconnections = 0
        self.offers = []
        self.updates = []
        self.errors = []
        self.rescinded = []
        self.operations = []
        self.messages = []
        self.executors_lost = []
        self.want = None
        self.refuse = 5.0
        self.explicit = False

    def _note(self, change):
        with self.lock:
            change()
            self.lock.notify_all()

    def wait(self, what, condition, limit=LIMIT):
        """Waits until `condition` holds; returns its value."""
        end = time.monotonic() + limit
        with self.lock:
            while True:
                value = condition()
                if value:
                    return value
                left = end - time.monotonic()
                assert left > 0, "waited %.0f s for %s; updates %s errors %s" % (
                    limit, what, [(u["task_id"]["value"], u["state"], u.get("message")) for u in self.updates],
                    self.errors)
                self.lock.wait(min(left, 0.5))

    def registered(self, driver, framework_id, master_info):
        assert master_info["version"], master_info

        def change():
            self.framework_id = framework_id["value"]
            self.registrations += 1
        self._note(change)

    def reregistered(self, driver, master_info):
        def change():
            self.reregistrations += 1
        self._note(change)

    def disconnected(self, driver):
        def change():
            self.disconnections += 1
        self._note(change)

    def resourceOffers(self, driver, offers):
        for offer in offers:
            assert offer["agent_id"]["value"] and offer["hostname"] and offer["allocation_info"]["role"], offer
            want = self.want
            operations = want(offer) if want else None
            if operations:
                driver.acceptOffers([offer["id"]], operations, {"refuse_seconds": 0.0})
            else:
                driver.declineOffer(offer["id"], {"refuse_seconds": self.refuse})
        self._note(lambda: self.offers.extend(offers))

    def offerRescinded(self, driver, offer_id):
        self._note(lambda: self.rescinded.append(offer_id))

    def statusUpdate(self, driver, update):
        if self.explicit:
            driver.acknowledgeStatusUpdate(update)
        self._note(lambda: self.updates.append(update))

    def operationStatusUpdate(self, driver, update):
        self._note(lambda: self.operations.append(update))

    def frameworkMessage(self, driver, executor_id, agent_id, data):
        self._note(lambda: self.messages.append((executor_id["value"], agent_id["value"], decode_data(data))))

    def executorLost(self, driver, executor_id, agent_id, status):
        self._note(lambda: self.executors_lost.append((executor_id["value"], status)))

    def error(self, driver, message):
        self._note(lambda: self.errors.append(message))
        # What can't be mended: it would subscribe again at once, and again.
        driver.stop(failover=True)

    def states(self, task):
        return [u["state"] for u in self.updates if u["task_id"]["value"] == task]

    def last(self, task):
        mine = [u for u in self.updates if u["task_id"]["value"] == task]
        return mine[-1] if mine else None


def amount(resources, name):
    """What a list of resources holds of a scalar that is not reserved."""
    return sum(r["scalar"]["value"] for r in resources
               if r["name"] == name and r.get("role", "*") == "*" and not r.get("disk"))


def scalar(name, value, **more):
    return dict(name=name, type="SCALAR", scalar=dict(value=value), **more)


def task(offer, task_id, command, cpus=0.1, mem=32, **more):
    return dict(
        task_id=dict(value=task_id), name="t " + task_id, agent_id=offer["agent_id"],
        # As task_processing sends them: empty ones must do no harm.
        resources=[scalar("cpus", cpus), scalar("mem", mem), scalar("gpus", 0),
                   dict(name="ports", type="RANGES", ranges=dict(range=[]))],
        command=command, **more)


def launch(tasks):
    return [dict(type="LAUNCH", launch=dict(task_infos=tasks))]


def once(make):
    """Operations for the first offer with room."""
    done = []

    def want(offer):
        if done or amount(offer["resources"], "cpus") < 0.5 or amount(offer["resources"], "mem") < 128:
            return None
        operations = make(offer)
        if operations:
            done.append(True)
        return operations
    return want


def start(master, name, sched, **more):
    implicit = more.pop("implicit", True)
    info = dict(user=getpass.getuser(), name=name, hostname="clients", failover_timeout=60, principal="clients")
    info.update(more)
    driver = MesosSchedulerDriver(sched, info, master, use_addict=False, implicit_acknowledgements=implicit)
    driver.start()
    sched.wait("a subscription", lambda: sched.registrations + sched.reregistrations)
    return driver


def stop(driver, failover=False):
    driver.stop(failover)
    driver.join()


def tasks_run(master):
    """Shell and argv, environment, output, failure, kill; all with implicit acknowledgements."""
    sched = Framework()
    driver = start(master, "Clients: Tasks", sched)
    tag = uuid.uuid4().hex[:8]
    names = ["%s.%s" % (kind, tag) for kind in ("shell", "argv", "fails", "long", "stubborn")]
    shell, argv, fails, long_, stubborn = names

    def make(offer):
        env = dict(variables=[dict(name="GREETING", value="hello")])
        return launch([
            task(offer, shell, dict(value='test "$GREETING" = hello && test -n "$MESOS_SANDBOX"', environment=env)),
            task(offer, argv, dict(shell=False, value="/bin/sh", arguments=["sh", "-c", "exit 0"])),
            task(offer, fails, dict(value="exit 3")),
            task(offer, long_, dict(value="exec sleep 600")),
            task(offer, stubborn, dict(value="trap '' TERM; while :; do sleep 0.1; done"),
                 kill_policy=dict(grace_period=dict(nanoseconds=200000000))),
        ])
    sched.want = once(make)
    driver.reviveOffers()
    for name in (shell, argv):
        sched.wait(name, lambda: "TASK_FINISHED" in sched.states(name))
    sched.wait("a failure", lambda: "TASK_FAILED" in sched.states(fails))
    failed = sched.last(fails)
    assert failed["message"] == "Command exited with status 3", failed
    assert failed["source"] == "SOURCE_EXECUTOR" and failed["uuid"] and failed["executor_id"]["value"] == fails, failed
    assert failed["reason"] == "REASON_COMMAND_EXECUTOR_FAILED", failed
    for name in (long_, stubborn):
        sched.wait(name, lambda: "TASK_RUNNING" in sched.states(name))
        running = [u for u in sched.updates if u["task_id"]["value"] == name and u["state"] == "TASK_RUNNING"][0]
        addresses = running["container_status"]["network_infos"][0]["ip_addresses"]
        assert addresses[0]["ip_address"], running
        driver.killTask(dict(value=name))
        sched.wait("the end of " + name, lambda: "TASK_KILLED" in sched.states(name))
    assert not sched.errors, sched.errors
    print("ok command tasks, failure, kill, kill policy")

    # What is not known is no error.
    driver.killTask(dict(value="nobody." + tag))
    lost = sched.wait("an answer to a kill of nobody", lambda: sched.last("nobody." + tag))
    assert lost["state"] == "TASK_LOST" and "uuid" not in lost, lost
    driver.declineOffer(dict(value="no-such-offer"))
    driver.acceptOffers([dict(value="no-such-offer")], launch([task(
        dict(agent_id=dict(value="a")), "stale." + tag, dict(value="true"))]))
    stale = sched.wait("a task on a stale offer", lambda: sched.last("stale." + tag))
    assert stale["state"] == "TASK_LOST" and stale["reason"] == "REASON_INVALID_OFFERS", stale
    driver.acknowledgeStatusUpdate(failed)
    big = "big." + tag
    sched.want = once(lambda o: launch([task(o, big, dict(value="true"), cpus=10000)]))
    driver.reviveOffers()
    over = sched.wait("an over-sized task", lambda: sched.last(big))
    assert over["state"] == "TASK_ERROR" and over["reason"] == "REASON_TASK_INVALID", over
    assert "more resources" in over["message"], over
    print("ok stale offers, unknown tasks, late acknowledgements, over-sized tasks")

    driver.reconcileTasks([])
    driver.reconcileTasks([dict(task_id=dict(value="who." + tag))])
    who = sched.wait("a reconciliation", lambda: sched.last("who." + tag))
    assert who["reason"] == "REASON_RECONCILIATION" and who["state"] == "TASK_LOST", who
    driver.requestResources([])
    driver.sendFrameworkMessage(dict(value="x"), dict(value="y"), "aGVsbG8=")
    stop(driver)
    print("ok reconciliation, teardown")


def checks(master):
    """What general checks of tasks say is in every status, and told when it is something else; nothing is killed for it."""
    sched = Framework()
    driver = start(master, "Clients: Checks", sched)
    tag = uuid.uuid4().hex[:8]
    command, web = "command." + tag, "web." + tag
    times = dict(delay_seconds=0.0, interval_seconds=0.2, timeout_seconds=5.0)

    def make(offer):
        ports = [r["ranges"]["range"] for r in offer["resources"] if r["name"] == "ports"]
        if not ports:
            return None
        port = ports[0][0]["begin"]
        env = dict(variables=[dict(name="WHERE", value="said")])
        says = dict(type="COMMAND", command=dict(
            command=dict(value='test -e "$WHERE" && exit "$(cat "$WHERE")"', environment=env)), **times)
        answers = dict(type="HTTP", http=dict(port=port, path="/missing"), **times)
        served = task(offer, web, dict(value="exec python3 -m http.server %d" % port), check=answers)
        served["resources"].append(dict(name="ports", type="RANGES", ranges=dict(range=[dict(begin=port, end=port)])))
        run = "echo 3 > new; mv new said; exec sleep 600"
        return launch([task(offer, command, dict(value=run), check=says), served])
    sched.want = once(make)
    driver.reviveOffers()

    def said(name):
        mine = [u for u in sched.updates if u["task_id"]["value"] == name and u["state"] == "TASK_RUNNING"]
        return [(u["check_status"], u.get("reason")) for u in mine]
    changed = "REASON_TASK_CHECK_STATUS_UPDATED"
    three = (dict(type="COMMAND", command=dict(exit_code=3)), changed)
    sched.wait("the command's answer", lambda: three in said(command))
    first = said(command)[0]
    assert first == (dict(type="COMMAND", command={}), None), first
    missing = (dict(type="HTTP", http=dict(status_code=404)), changed)
    sched.wait("the server's answer", lambda: missing in said(web))
    # Of what it says no task dies, and reconciliation says it again.
    driver.reconcileTasks([dict(task_id=dict(value=command))])
    again = (three[0], "REASON_RECONCILIATION")
    sched.wait("a reconciliation", lambda: again in said(command))
    assert not [u for u in sched.updates if u["state"] in TERMINAL], sched.updates
    for name in (command, web):
        driver.killTask(dict(value=name))
        sched.wait("the end of " + name, lambda: "TASK_KILLED" in sched.states(name))
    assert sched.last(command)["check_status"] == three[0], sched.last(command)
    assert not sched.errors, sched.errors
    stop(driver)
    print("ok general checks")


def explicit_acks(master):
    """Nothing is said twice that was acknowledged; what is not comes again to the next scheduler."""
    sched = Framework()
    sched.explicit = True
    driver = start(master, "Clients: Explicit", sched, implicit=False,
                   capabilities=[dict(type="PARTITION_AWARE"), dict(type="TASK_KILLING_STATE")])
    tag = uuid.uuid4().hex[:8]
    name = "acked." + tag
    sched.want = once(lambda o: launch([task(o, name, dict(value="exec sleep 600"))]))
    driver.reviveOffers()
    sched.wait("a task", lambda: "TASK_RUNNING" in sched.states(name))
    driver.killTask(dict(value=name))
    sched.wait("its end", lambda: "TASK_KILLED" in sched.states(name))
    driver.killTask(dict(value="gone." + tag))
    unknown = sched.wait("an unknown task", lambda: sched.last("gone." + tag))
    assert unknown["state"] == "TASK_UNKNOWN", unknown
    uuids = [u["uuid"] for u in sched.updates if "uuid" in u]
    assert len(uuids) == len(set(uuids)), sched.states(name)
    stop(driver)
    print("ok explicit acknowledgements, partition-aware states")


def offers(master):
    """Filters, suppress and revive, roles."""
    sched = Framework()
    sched.refuse = 3600.0
    driver = start(master, "Clients: Offers", sched, role="clients")
    sched.wait("an offer", lambda: sched.offers)
    assert all(o["allocation_info"]["role"] == "clients" for o in sched.offers), sched.offers
    agents = 3
    sched.wait("an offer of each agent", lambda: len({o["agent_id"]["value"] for o in sched.offers}) == agents)
    with sched.lock:
        before = len(sched.offers)
    driver.suppressOffers()
    driver.reviveOffers()
    sched.wait("offers again after revive", lambda: len(sched.offers) >= before + agents)
    driver.suppressOffers()
    stop(driver)
    multi = Framework()
    driver = start(master, "Clients: Roles", multi, roles=["clients/a", "clients/b"],
                   capabilities=[dict(type="MULTI_ROLE")])
    multi.wait("offers to both roles", lambda: {
        o["allocation_info"]["role"] for o in multi.offers} == {"clients/a", "clients/b"})
    driver.suppressOffers(["clients/a"])
    driver.reviveOffers(["clients/b"])
    stop(driver)
    print("ok roles, decline with refuse_seconds, suppress and revive")


def alive(pid):
    try:
        with open("/proc/%s/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def executors(master):
    """pymesos's own executor: several tasks on one, messages both ways, a kill, its exit, its end with the framework."""
    sched = Framework()
    driver = start(master, "Clients: Executors", sched, checkpoint=True)
    tag = uuid.uuid4().hex[:8]
    names = ["%s.%s" % (kind, tag) for kind in ("first", "short", "killed", "dies", "again")]
    first, short, killed, dies, again = names
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pymesos_executor.py")

    def on(offer, name, data=b"run"):
        t = task(offer, name, None)
        del t["command"]
        t["data"] = encode_data(data)
        t["executor"] = dict(
            executor_id=dict(value="runner-" + tag), name="runner", type="CUSTOM",
            command=dict(value="exec '%s' '%s'" % (sys.executable, script)),
            data=encode_data(b"\x00\xffexecutor"), resources=[scalar("cpus", 0.1), scalar("mem", 64)],
            shutdown_grace_period=dict(nanoseconds=2 * 10 ** 9))
        return t

    at = []

    def make(offer):
        at.append(offer["agent_id"])
        return launch([on(offer, first), on(offer, short, b"finish"), on(offer, killed)])
    sched.want = once(make)
    driver.reviveOffers()
    for name in (first, killed):
        sched.wait(name, lambda: "TASK_RUNNING" in sched.states(name))
    sched.wait(short, lambda: sched.states(short) == ["TASK_RUNNING", "TASK_FINISHED"])
    running = sched.last(first)
    assert running["executor_id"]["value"] == "runner-" + tag, running
    assert running["source"] == "SOURCE_EXECUTOR" and decode_data(running["data"]) == b"run", running
    pids = {u["message"] for u in sched.updates if u.get("message", "").lower().startswith("pid")}
    assert len(pids) == 1, pids
    pid = pids.pop().split()[1]
    assert alive(pid), pid

    # More on the same one, while it lives.
    def more(offer):
        return launch([on(offer, dies)]) if offer["agent_id"] == at[0] else None
    sched.want = once(more)
    driver.reviveOffers()
    sched.wait(dies, lambda: "TASK_RUNNING" in sched.states(dies))
    assert sched.last(dies)["message"].split()[1] == pid, sched.last(dies)
    executor = dict(value="runner-" + tag)
    driver.sendFrameworkMessage(executor, at[0], encode_data(b"\x00hello\xff"))
    heard = sched.wait("an answer", lambda: sched.messages)
    assert heard[0] == ("runner-" + tag, at[0]["value"], b"heard \x00hello\xff"), heard
    driver.killTask(dict(value=killed))
    sched.wait("a kill", lambda: "TASK_KILLED" in sched.states(killed))
    driver.sendFrameworkMessage(executor, at[0], encode_data(b"exit"))
    for name in (first, dies):
        sched.wait("the end of " + name, lambda: "TASK_FAILED" in sched.states(name))
        assert sched.last(name)["reason"] == "REASON_EXECUTOR_TERMINATED", sched.last(name)
    lost = sched.wait("the executor's end", lambda: sched.executors_lost)
    assert lost == [("runner-" + tag, 7 << 8)], lost
    print("ok several tasks on pymesos's executor, messages, kill, its exit")

    # Another life, which the framework's end ends.
    sched.want = once(lambda offer: launch([on(offer, again)]))
    driver.reviveOffers()
    sched.wait(again, lambda: "TASK_RUNNING" in sched.states(again))
    pid = sched.last(again)["message"].split()[1]
    assert alive(pid), pid
    stop(driver)
    end = time.monotonic() + LIMIT
    while alive(pid):
        assert time.monotonic() < end, "the executor outlives its framework"
        time.sleep(0.05)
    print("ok an executor ends with its framework")


def failover(master):
    """A second scheduler with the same id takes over: the first is told, the task goes on."""
    first = Framework()
    driver = start(master, "Clients: Failover", first)
    tag = uuid.uuid4().hex[:8]
    name = "lives." + tag
    first.want = once(lambda o: launch([task(o, name, dict(value="exec sleep 600"))]))
    driver.reviveOffers()
    first.wait("a task", lambda: "TASK_RUNNING" in first.states(name))
    second = Framework()
    fid = first.framework_id
    other = start(master, "Clients: Failover", second, id=dict(value=fid))
    first.wait("the first scheduler to be told", lambda: "Framework failed over" in first.errors)
    driver.join()
    other.reconcileTasks([])
    second.wait("the task to be known", lambda: "TASK_RUNNING" in second.states(name))
    stop(other, failover=True)
    third = Framework()
    last = start(master, "Clients: Failover", third, id=dict(value=fid))
    last.killTask(dict(value=name))
    third.wait("the end of the task", lambda: "TASK_KILLED" in third.states(name))
    stop(last)
    # Torn down: the id is not taken again.
    gone = Framework()
    late = MesosSchedulerDriver(gone, dict(user="root", name="Clients: Failover", id=dict(value=fid)), master)
    late.start()
    gone.wait("an error", lambda: "Framework has been removed" in gone.errors)
    late.join()
    print("ok failover with the same id, teardown ends the id")


def volumes(master):
    """Reserve, create a volume and launch on it in one accept; then again on what is offered."""
    sched = Framework()
    role = "clients-volumes"
    driver = start(master, "Clients: Volumes", sched, role=role)
    tag = uuid.uuid4().hex[:8]
    writer, reader = "writer." + tag, "reader." + tag
    reserved = dict(role=role, reservation=dict(principal="clients"))
    disk = dict(persistence=dict(id="vol-" + tag, principal="clients"),
                volume=dict(container_path="data", mode="RW"))

    def make(offer):
        if amount(offer["resources"], "disk") < 64:
            return None
        volume = scalar("disk", 32, disk=disk, **reserved)
        t = task(offer, writer, dict(value="echo kept > data/file"))
        t["resources"] = [scalar("cpus", 0.1, **reserved), scalar("mem", 32, **reserved), volume]
        return [
            dict(type="RESERVE", reserve=dict(resources=[
                scalar("cpus", 0.1, **reserved), scalar("mem", 32, **reserved), scalar("disk", 32, **reserved)])),
            dict(type="CREATE", id=dict(value="made-" + tag), create=dict(volumes=[volume])),
        ] + launch([t])
    sched.want = once(make)
    driver.reviveOffers()
    sched.wait("the writer", lambda: "TASK_FINISHED" in sched.states(writer))

    def mine(offer):
        return [r for r in offer["resources"] if r.get("disk", {}).get("persistence", {}).get("id") == "vol-" + tag]

    held = []

    def again(offer):
        if not mine(offer) or held:
            return None
        held.append(offer)
        volume = mine(offer)[0]
        assert volume["disk"]["volume"]["container_path"] == "data", volume
        assert volume["role"] == role and volume["reservation"]["principal"] == "clients", volume
        t = task(offer, reader, dict(value="test \"$(cat data/file)\" = kept"))
        t["resources"] = [r for r in offer["resources"] if r.get("reservation")]
        return launch([t])
    sched.want = again
    driver.reviveOffers()
    sched.wait("the reader", lambda: "TASK_FINISHED" in sched.states(reader))

    freed = []

    def away(offer):
        if not mine(offer) or freed:
            return None
        freed.append(offer)
        plain = [scalar("cpus", 0.1, **reserved), scalar("mem", 32, **reserved), scalar("disk", 32, **reserved)]
        return [dict(type="DESTROY", destroy=dict(volumes=mine(offer))),
                dict(type="UNRESERVE", unreserve=dict(resources=plain))]
    sched.want = away
    driver.reviveOffers()
    sched.wait("the volume's end", lambda: freed)
    sched.want = None
    driver.reviveOffers()
    with sched.lock:
        n = len(sched.offers)
    agent = freed[0]["agent_id"]["value"]
    sched.wait("an offer without it", lambda: any(
        o["agent_id"]["value"] == agent and not mine(o) for o in sched.offers[n:]))
    stop(driver)
    print("ok reserve, create, launch, destroy, unreserve")


class Operator(OperatorMaster):
    """Keeps what the operator stream says."""

    def __init__(self):
        self.lock = threading.Condition()
        self.tasks, self.updates, self.frameworks, self.removed = [], [], [], []

    def _note(self, kept, value):
        with self.lock:
            kept.append(value)
            self.lock.notify_all()

    def wait(self, what, condition):
        end = time.monotonic() + LIMIT
        with self.lock:
            while not condition():
                assert time.monotonic() < end, "waited for %s; tasks %s" % (what, self.tasks)
                self.lock.wait(0.1)

    def taskAdded(self, task_info):
        self._note(self.tasks, task_info["task_id"]["value"])

    def taskUpdated(self, task_info):
        self._note(self.updates, (task_info["status"]["task_id"]["value"], task_info["state"]))

    def frameworkAdded(self, framework_info):
        self._note(self.frameworks, framework_info["framework_info"]["name"])

    def frameworkUpdated(self, framework_info):
        pass

    def frameworkRemoved(self, framework_info):
        self._note(self.removed, framework_info["name"])

    def agentAdded(self, agent_info):
        pass

    def agentRemoved(self, agent_info):
        pass


def operator(master):
    """The operator driver: reads, changes and the stream of events."""
    heard = Operator()
    driver = MesosOperatorMasterDriver(master, heard)
    driver.start()
    heard.wait("the stream", lambda: driver.connected)
    assert driver.getHealth()["get_health"]["healthy"] is True
    assert driver.getVersion()["get_version"]["version_info"]["version"]
    assert driver.getFlags()["get_flags"]["flags"] and driver.getMetrics(10 ** 9)["get_metrics"]["metrics"]
    assert len(driver.getAgents()["get_agents"]["agents"]) == 3
    assert driver.getMaster()["get_master"]["master_info"]["hostname"]
    for name in ("Frameworks", "Tasks", "Executors", "Roles", "State"):
        answer = getattr(driver, "get" + name)()
        assert answer["type"] == "GET_" + name.upper() and answer["get_" + name.lower()], answer
    sched = Framework()
    framework = start(master, "Clients: Watched", sched)
    tag = uuid.uuid4().hex[:8]
    name = "watched." + tag
    sched.want = once(lambda o: launch([task(o, name, dict(value="exec sleep 600"))]))
    framework.reviveOffers()
    sched.wait("a task", lambda: "TASK_RUNNING" in sched.states(name))
    heard.wait("the task", lambda: name in heard.tasks and (name, "TASK_RUNNING") in heard.updates)
    heard.wait("the framework", lambda: "Clients: Watched" in heard.frameworks)
    tasks = driver.getTasks()["get_tasks"]["tasks"]
    assert name in [t["task_id"]["value"] for t in tasks], tasks
    driver.updateWeights([dict(role="clients-watched", weight=2.0)])
    weights = driver.getWeights()["get_weights"]["weight_infos"]
    assert dict(role="clients-watched", weight=2.0) in weights, weights
    driver.updateWeights([dict(role="clients-watched", weight=1.0)])
    quota = dict(role="clients-watched", force=True, guarantee=[scalar("cpus", 0.1)])
    driver.setQuota(quota)
    assert "clients-watched" in [i["role"] for i in driver.getQuota()["get_quota"]["status"]["infos"]]
    driver.removeQuota("clients-watched")
    agent = driver.getAgents()["get_agents"]["agents"][0]["agent_info"]
    held = [scalar("cpus", 0.1, role="clients-watched", reservation=dict(principal="ops"))]
    driver.reserveResources(agent["id"]["value"], held)
    driver.unreserveResources(agent["id"]["value"], held)
    machine = dict(hostname=agent["hostname"], ip="")
    later = int((time.time() + 86400) * 10 ** 9)
    driver.updateMaintenanceSchedule([dict(machine_ids=[machine], unavailability=dict(
        start=dict(nanoseconds=later)))])
    windows = driver.getMaintenanceSchedule()["get_maintenance_schedule"]["schedule"]["windows"]
    assert windows[0]["machine_ids"][0]["hostname"] == agent["hostname"], windows
    assert driver.getMaintenanceStatus()["get_maintenance_status"]["status"]["draining_machines"]
    driver.updateMaintenanceSchedule([])
    stop(framework)
    heard.wait("the framework's end", lambda: "Clients: Watched" in heard.removed)
    heard.wait("the task's end", lambda: (name, "TASK_KILLED") in heard.updates)
    driver.stop()
    driver.join()
    print("ok operator driver")


STEPS = dict(executors=executors, tasks=tasks_run, checks=checks, acks=explicit_acks, offers=offers, failover=failover, volumes=volumes, operator=operator)


def main(master, names):
    if ":" not in master:
        master += ":5050"
    logging.basicConfig(level=logging.CRITICAL)
    for name in names or STEPS:
        STEPS[name](master)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
