"""An agent that works under an identity of its own, and shows who cannot have it: agent.py

It is given nothing but $SPIFFE_ENDPOINT_SOCKET. Tasks are JSON over HTTP/1.1 on that socket; what a
task is comes from py-spiffe, which knows nothing of tasks.
"""

import http.client
import json
import os
import queue
import socket
import subprocess
import sys
import time

from spiffe import WorkloadApiClient

NODE = os.environ["SPIFFE_ENDPOINT_SOCKET"].removeprefix("unix:").replace("//", "", 1)

# What a shell can say on a connection that it inherits, and how it starts this program anew.
INHERITED = r"""printf 'GET /muster/v1/tasks HTTP/1.1\r\nHost: muster\r\nConnection: close\r\n\
workload.spiffe.io: true\r\n\r\n' >&0; exec cat""".replace("\\\n", "")
OWN = 'exec "$0" "$1" ask "$2"'


class Refused(Exception):
    """What was asked for is not to be had; `reason` is a word that stays."""

    def __init__(self, answer):
        super().__init__(answer["message"])
        self.reason = answer["reason"]


class Tasks(http.client.HTTPConnection):
    """The tasks of whoever asks, at the socket of a node or of a task."""

    def __init__(self, path):
        super().__init__("muster")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, path="", **fields):
        headers = {"workload.spiffe.io": "true"}
        self.request("POST", "/muster/v1/tasks" + path, json.dumps(fields), headers)
        response = self.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise Refused(answer)
        return answer


class Identity:
    """A task's SVIDs, one after the other, and in the end the error that ends them."""

    def __init__(self, task):
        self.updates = queue.Queue()
        client = WorkloadApiClient("unix://" + task["socket"])
        client.stream_x509_contexts(self.updates.put, self.updates.put, retry_connect=False)

    def next(self):
        return self.updates.get(timeout=10)


def main():
    node = Tasks(NODE)
    task, identity = opened("task", node, "code.review", ["repo.read", "repo.comment"], "60s")

    # A shell that it starts has no identity, whatever it inherits or knows.
    for what, path in ("node", NODE), ("task", task["socket"]):
        connection = Tasks(path)
        connection.connect()
        answer = shell(INHERITED, stdin=connection.sock)
        told("refused", f"a shell on the agent's connection to the {what}", answer == "")
    answer = shell(OWN, sys.executable, __file__, task["socket"])
    told("refused", "this program, started by a shell, at the task's socket", answer == "")

    # A part of the work has less than the whole, and never more.
    inside = Tasks(task["socket"])
    try:
        inside.ask(kind="code.read", permissions={"scopes": ["repo.merge"]})
        sys.exit("a sub-task has more than its task")
    except Refused as refused:
        told("refused", f"a sub-task with repo.merge: {refused.reason}", True)
    part, partial = opened("sub-task", inside, "code.read", ["repo.read"], "30s")

    node.ask(f"/{task['id']}:complete")
    for name, one, held in ("task", task, identity), ("sub-task", part, partial):
        end = held.next()
        gone = isinstance(end, Exception) and not os.path.exists(one["socket"])
        told("ended", f"the {name}: {end}", gone)


def opened(name, tasks, kind, scopes, ttl):
    began = time.monotonic()
    task = tasks.ask(kind=kind, permissions={"scopes": scopes}, ttl=ttl)
    identity = Identity(task)
    svid = identity.next().default_svid
    took = (time.monotonic() - began) * 1000
    same = str(svid.spiffe_id) == task["spiffeId"]
    told(name, f"{svid.spiffe_id} with {', '.join(scopes)}, in hand after {took:.0f} ms", same)
    return task, identity


def shell(script, *arguments, stdin=subprocess.DEVNULL):
    """What a shell hears."""
    command = ["/bin/sh", "-c", script, *arguments]
    run = subprocess.run(command, stdin=stdin, capture_output=True, timeout=10)
    return run.stdout.decode()


def told(word, text, holds):
    print(f"{word:8} {text}", flush=True)
    if not holds:
        sys.exit("that is not as it should be")


def ask(path):
    print(WorkloadApiClient("unix://" + path).fetch_x509_svid(timeout=5).spiffe_id)


if __name__ == "__main__":
    main() if sys.argv[1:2] != ["ask"] else ask(sys.argv[2])
