"""Runs examples/rabbitmq as a user would, and holds all messages of DONE against their published schema.

queue_messages.py PIECEWORK UP_JSON: the program, and what `piecework up --rabbitmq --output json` has written.
"""

import json
import os
import pathlib
import subprocess
import sys

import jsonschema
import pika

COUNT = 2000

program, up = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text())
root = pathlib.Path(__file__).parent.parent
password = pathlib.Path(up["rabbitmq_password_file"]).read_text().strip()
url = up["rabbitmq"].replace("piecework@", f"piecework:{password}@") + "/%2f"


def piecework(*args: str) -> str:
    return subprocess.run([program, *args], check=True, capture_output=True, text=True).stdout


# A second reader, with a queue that outlives its connection.
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("ci-reader", durable=True)
channel.queue_bind("ci-reader", "piecework.done", routing_key="#")

project = piecework("submit", str(root / "examples/rabbitmq/squares.yaml")).strip()
example = subprocess.run(
    [sys.executable, root / "examples/rabbitmq/squares.py", project, str(COUNT)],
    env={**os.environ, "PIECEWORK_BROKER": url},
    stdout=subprocess.PIPE,
    text=True,
    timeout=300,
)
expected = "".join(f"{n * n}\n" for n in range(COUNT))
assert example.returncode == 0, example.returncode
assert example.stdout == expected, f"wrong: {example.stdout[:500]}"
assert piecework("results", project) == expected

schema = json.loads((root / "docs/queue-messages.schema.json").read_text())
validator = jsonschema.Draft202012Validator(schema)
done = {"result": 0, "project": 0}
for delivery, _, body in channel.consume("ci-reader", inactivity_timeout=10, auto_ack=True):
    assert delivery is not None, f"messages are missing: {done}"
    message = json.loads(body)
    validator.validate(message)
    done[message["type"]] += 1
    if message["type"] == "project":
        break
assert done == {"result": COUNT, "project": 1}, done

# What makes no sense is kept, and told.
channel.confirm_delivery()
channel.basic_publish("", "piecework.inbox", b'{"version": 1, "project": "nowhere", "end": true}', mandatory=True)
for _ in range(100):
    letters = json.loads(piecework("dead-letters", "ls", "--output", "json"))["letters"]
    if letters:
        break
    connection.sleep(0.1)
assert "no project named" in letters[0]["reason"], letters
piecework("dead-letters", "rm", letters[0]["id"])
connection.close()
print(f"{COUNT} tasks in, {COUNT} results out, one message refused with its reason")
