"""A Celery worker as people run one: results, retries, a chord, an ETA, events, remote control."""

import os
import subprocess
import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from brokers import DEADLINE, until

HERE = Path(__file__).parent


class World:
    """The application as producer sees it, and its worker."""

    def __init__(self, broker, backend, directory):
        self.queue = f"celery-{uuid.uuid4().hex[:8]}"
        os.environ.update(CELERY_BROKER=broker.url, CELERY_BACKEND=backend, CELERY_QUEUE=self.queue)
        sys.modules.pop("celery_app", None)
        import celery_app

        self.module, self.app = celery_app, celery_app.app
        self.node = f"{uuid.uuid4().hex[:8]}@test"
        self.log = directory / "worker.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--pool=solo", "-E", "-l", "INFO", "-n", self.node],
            cwd=HERE,
            env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.DEVNULL,
            stdout=open(self.log, "wb"),
            stderr=subprocess.STDOUT,
        )

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, self.log.read_text()
            return b" ready." in self.log.read_bytes()

        until(ready, "the worker to be ready")

    def get(self, result):
        try:
            return result.get(timeout=DEADLINE, interval=0.05)
        except Exception:
            print(self.log.read_text())
            raise

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.app.close()


@pytest.fixture(scope="module")
def world(broker, tmp_path_factory):
    directory = tmp_path_factory.mktemp("celery")
    it = World(broker, f"db+sqlite:///{directory}/results.sqlite", directory)
    try:
        it.wait_ready()
        yield it
    finally:
        it.stop()


def test_results(world):
    results = [world.module.add.delay(n, 1) for n in range(20)]
    assert [world.get(it) for it in results] == [n + 1 for n in range(20)]


def test_retries(world):
    assert world.get(world.module.unsteady.delay(3)) == 3


def test_chord(world):
    from celery import chord

    result = chord((world.module.add.s(n, n) for n in range(10)), world.module.total.s())()
    assert world.get(result) == sum(2 * n for n in range(10))


def test_chain_and_group(world):
    from celery import chain, group

    assert world.get(chain(world.module.add.s(1, 2), world.module.add.s(10))()) == 13
    assert world.get(group(world.module.add.s(n, 0) for n in range(5))()) == list(range(5))


def test_eta(world):
    due = datetime.now(timezone.utc) + timedelta(seconds=1)
    late = world.module.now.apply_async(eta=due)
    # Something due at once is not held up behind it.
    assert world.get(world.module.add.delay(1, 1)) == 2
    assert datetime.fromisoformat(world.get(late)) >= due


def test_remote_control(world):
    answers = until(
        lambda: world.app.control.ping(destination=[world.node], timeout=2), "the worker to answer a ping"
    )
    assert answers == [{world.node: {"ok": "pong"}}]
    active = until(
        lambda: world.app.control.inspect([world.node], timeout=2).active_queues(), "the worker to name its queues"
    )
    assert [queue["name"] for queue in active[world.node]] == [world.queue]


def test_revoke(world):
    """An order to all workers about a task that one of them holds until its time."""
    result = world.module.now.apply_async(countdown=3600)
    inspect = world.app.control.inspect([world.node], timeout=2)

    def ids(answer):
        return [task["request"]["id"] for task in (answer or {}).get(world.node, [])]

    until(lambda: result.id in ids(inspect.scheduled()), "the worker to hold the task")
    world.app.control.revoke(result.id)
    until(lambda: result.id in (inspect.revoked() or {}).get(world.node, []), "the worker to know of the revocation")


def test_events(world):
    """What monitors see: the events of a task, in order, through a queue that expires."""
    seen, task = [], None
    with world.app.connection_for_read() as connection:
        handlers = {"*": lambda event: seen.append((event["type"], event.get("uuid")))}
        receiver = world.app.events.Receiver(connection, handlers=handlers)
        # a heartbeat shows that the queue is bound
        for _ in receiver.itercapture(timeout=DEADLINE, wakeup=True):
            if task is None and seen:
                task = world.module.add.delay(1, 2).id
            if ("task-succeeded", task) in seen:
                break
    assert [kind for kind, uuid in seen if uuid == task] == ["task-received", "task-started", "task-succeeded"]


def test_results_over_rpc(broker, tmp_path):
    """Results as messages: a reply queue per client, declared exclusive by Celery."""
    it = World(broker, "rpc://", tmp_path)
    try:
        it.wait_ready()
        results = [it.module.add.delay(n, n) for n in range(10)]
        assert [it.get(result) for result in results] == [2 * n for n in range(10)]
        assert it.get(it.module.unsteady.delay(1)) == 1
    finally:
        it.stop()


def test_worker_goes_on_after_a_restart_of_the_broker(own_broker, tmp_path):
    broker = own_broker()
    it = World(broker, f"db+sqlite:///{tmp_path}/results.sqlite", tmp_path)
    try:
        it.wait_ready()
        assert it.get(it.module.add.delay(1, 2)) == 3
        broker.restart()
        assert it.get(it.module.add.delay(3, 4)) == 7
    finally:
        it.stop()
