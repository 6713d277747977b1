#!/usr/bin/env python3
"""Piecework against Celery over the same RabbitMQ, in turn: so many processes of /bin/true, two at a time, each result awaited.

    pip install celery pika
    PIECEWORK_BROKER=amqp://guest:guest@localhost against_celery.py [TASKS [ROUNDS]]

Needs `piecework` in PATH (a release build), and a RabbitMQ with nothing else to do. Celery gets a prefork pool of two, the RPC result
backend, persistent messages and its default settings otherwise; it is sent all tasks at once, as one group. Piecework runs them as
plain processes (`--runtime process`), so that both do the same: start /bin/true with one argument, wait, and tell how it ended.
The first round of each is a warm-up with a tenth of the tasks.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TASKS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
SLOTS = 2
START_SECS = 60
BROKER = os.environ["PIECEWORK_BROKER"]

APP = f"""
import subprocess
from celery import Celery
app = Celery("bench", broker={BROKER!r}, backend="rpc://")
app.conf.broker_connection_retry_on_startup = True

@app.task
def run(number):
    return subprocess.run(["/bin/true", str(number)]).returncode
"""

PROJECT = """
name: celery
image: none
items: {{range: 1..={tasks}}}
task: {{command: [/bin/true, "{{item}}"]}}
reassemble: none
"""


def celery(place: pathlib.Path, tasks: int) -> float:
    sys.path.insert(0, str(place))
    import celery as library
    import bench_app

    start = time.monotonic()
    group = library.group(bench_app.run.s(number) for number in range(tasks))
    codes = group.apply_async().get(timeout=3600)
    took = time.monotonic() - start
    assert codes == [0] * tasks, "Celery lost something"
    return tasks / took


def piecework(place: pathlib.Path, tasks: int) -> float:
    file = place / "project.yaml"
    file.write_text(PROJECT.format(tasks=tasks))
    start = time.monotonic()
    command = ["piecework", "--data", str(place / "data"), "--output", "json", "run", str(file)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    took = time.monotonic() - start
    last = [json.loads(line) for line in ran.stdout.splitlines()][-1]
    assert last["succeeded"] == tasks, last
    return tasks / took


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        (place / "bench_app.py").write_text(APP)
        log = (place / "log").open("w")
        quiet = {"stdout": log, "stderr": log}
        worker = [sys.executable, "-m", "celery", "-A", "bench_app", "worker", f"--concurrency={SLOTS}", "-l", "ERROR"]
        up = ["piecework", "--data", str(place / "data"), "up", "--runtime", "process", f"--slots={SLOTS}"]
        parts = [subprocess.Popen(worker, cwd=place, **quiet), subprocess.Popen(up, **quiet)]
        try:
            until = time.monotonic() + START_SECS
            while not (place / "data/piecework.sock").exists():
                assert time.monotonic() < until, (place / "log").read_text()
                time.sleep(0.1)
            ratios = []
            for number in range(ROUNDS + 1):
                tasks = TASKS if number else TASKS // 10
                ours, theirs = piecework(place, tasks), celery(place, tasks)
                if number:
                    ratios.append(ours / theirs)
                    print(f"{ours:.0f} tasks/s against Celery's {theirs:.0f}: {ours / theirs:.2f}", flush=True)
            print(f"median ratio of {ROUNDS} rounds, {TASKS} tasks each: {statistics.median(ratios):.2f}")
        finally:
            for part in parts:
                part.terminate()
                part.wait(60)


if __name__ == "__main__":
    main()
