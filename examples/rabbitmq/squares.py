#!/usr/bin/env python3
"""Puts tasks into Piecework's inbox and reads their results from DONE, over AMQP alone.

    pip install pika
    squares.py PROJECT [COUNT]

PROJECT is the number that `piecework submit squares.yaml` printed. Prints the result of each task in task order.
The broker is the one of `PIECEWORK_BROKER` (amqp://localhost without it), and `PIECEWORK_BROKER_PREFIX` the prefix of its queues.
"""

import json
import os
import sys

import pika

# Tasks of one message. Up to 10,000 are allowed, and 4 MiB.
BATCH = 100
# How long nothing may come before this gives up, in seconds.
PATIENCE = 120

PERSISTENT = pika.BasicProperties(content_type="application/json", delivery_mode=2)


def main() -> None:
    project, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    prefix = os.environ.get("PIECEWORK_BROKER_PREFIX", "piecework")
    url = os.environ.get("PIECEWORK_BROKER", "amqp://guest:guest@localhost/%2f")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()

    # A queue of our own, before there is anything to miss: all that is recorded of this project. Only for as long as we are
    # connected; a reader that must miss nothing makes a durable one with a name.
    mine = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(mine, f"{prefix}.done", routing_key=f"{project}.#")

    # A message that is confirmed is safe. One that is not is sent again: a key is one task, however often it comes.
    channel.confirm_delivery()
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        message = {
            "version": 1,
            "project": project,
            "tasks": [{"key": f"square-{n}", "item": str(n)} for n in numbers],
            "end": first + BATCH >= count,
        }
        channel.basic_publish("", f"{prefix}.inbox", json.dumps(message), PERSISTENT, mandatory=True)

    # Results come in the order in which tasks end, and may come twice if a coordinator dies: the task's index tells.
    results = {}
    for delivery, _, body in channel.consume(mine, inactivity_timeout=PATIENCE):
        if delivery is None:
            sys.exit(f"nothing has come for {PATIENCE} s: does `piecework dead-letters ls` list what was sent?")
        message = json.loads(body)
        if message["type"] == "project":
            print(f"project {project} has {message['state']}", file=sys.stderr)
            break
        if message["type"] == "result" and message["phase"] == "task":
            if not message["success"]:
                sys.exit(f"task {message['key']} failed: {message['outcome']}")
            results[message["index"]] = message["stdout"]["text"]
        channel.basic_ack(delivery.delivery_tag)
    connection.close()
    for index in sorted(results):
        sys.stdout.write(results[index])


if __name__ == "__main__":
    main()
