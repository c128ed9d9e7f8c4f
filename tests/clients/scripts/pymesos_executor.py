"""pymesos 0.3.15's own executor, unmodified: what an agent starts for `pymesos_client.py`.

A task's data says what it is to do: "finish" ends at once, anything else runs until it is killed.
"""
import os
import sys
import time

from pymesos import Executor, MesosExecutorDriver, decode_data, encode_data


class Runner(Executor):
    def registered(self, driver, executor_info, framework_info, agent_info):
        assert agent_info["id"]["value"] and agent_info["hostname"], agent_info
        assert framework_info["name"] == "Clients: Executors", framework_info
        # What the framework wrote comes as it was written.
        assert decode_data(executor_info["data"]) == b"\x00\xffexecutor", executor_info

    def launchTask(self, driver, task):
        def say(state):
            driver.sendStatusUpdate(dict(task_id=task["task_id"], state=state, data=task["data"],
                                         message="pid %d" % os.getpid()))
        say("TASK_RUNNING")
        if decode_data(task["data"]) == b"finish":
            say("TASK_FINISHED")

    def killTask(self, driver, task_id):
        driver.sendStatusUpdate(dict(task_id=task_id, state="TASK_KILLED", timestamp=time.time()))

    def frameworkMessage(self, driver, message):
        if decode_data(message) == b"exit":
            os._exit(7)
        driver.sendFrameworkMessage(encode_data(b"heard " + decode_data(message)))


if __name__ == "__main__":
    driver = MesosExecutorDriver(Runner())
    driver.run()
    sys.exit(0)
