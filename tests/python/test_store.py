"""The store through the built binary: its tools, snapshots, damage, a full disk, and syncs before confirms."""

import base64
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request

import pika
import pytest

import brokers
from conftest import parameters

BODY = 20_000


@pytest.fixture(autouse=True)
def ours(request):
    if os.environ.get("AMQP_URL") or os.environ.get("BROKER") == "rabbitmq":
        pytest.skip("about Hornpipe's own store")


def hornpipe(*arguments, code=0, env=None):
    """Runs a command of the binary and returns what it says."""
    env = {**brokers.Hornpipe.environment(), **(env or {})}
    done = subprocess.run(
        [brokers.Hornpipe.binary(), *map(str, arguments)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    right = code(done.returncode) if callable(code) else done.returncode == code
    assert right, f"{arguments} ended with {done.returncode}: {done.stdout}"
    return done.stdout


def publish(broker, queue, bodies, headers=None):
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True)
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, headers=headers))
    connection.close()


def take(broker, queue, count=None):
    """Bodies of a queue, settled."""
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    found = []
    while count is None or len(found) < count:
        method, _, body = channel.basic_get(queue)
        if method is None:
            break
        channel.basic_ack(method.delivery_tag)
        found.append(body)
    connection.close()
    return found


def bodies(count, size=BODY, salt=0):
    return [f"{salt}:{n}:".encode() + bytes([n % 251]) * size for n in range(count)]


def compacting(broker, moment):
    """A compaction of a stopped broker's store that has come to a moment, or to its end."""
    run = subprocess.Popen(
        [brokers.Hornpipe.binary(), "store", "compact", str(broker.data)],
        env=brokers.Hornpipe.environment(),
        stdout=subprocess.DEVNULL,
    )

    def has_come():
        try:
            return moment()
        except FileNotFoundError:
            # a folder that was being listed has been moved to its place
            return False

    # Looked at without a pause: such a moment is short.
    while run.poll() is None and not has_come():
        pass
    return run


def snapshot(broker, folder, login="guest:guest"):
    request = urllib.request.Request(
        f"http://127.0.0.1:{broker.http_port}/api/hornpipe/snapshot",
        json.dumps({"folder": str(folder)}).encode(),
        {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


class Volume:
    """A small file system in memory, and what fills it."""

    def __init__(self, folder, megabytes):
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a small file system")
        self.folder = folder
        folder.mkdir()
        size = f"size={megabytes}m"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]).returncode != 0:
            pytest.skip("a tmpfs can't be mounted here")

    def free(self):
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self):
        """By somebody else's doing."""
        with open(self.folder / "filler", "ab") as it:
            while self.free() > 0:
                try:
                    it.write(bytes(min(1 << 19, self.free())))
                    it.flush()
                except OSError:
                    return

    def empty(self):
        (self.folder / "filler").unlink()

    def unmount(self):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def volume(tmp_path):
    made = []

    def make(megabytes):
        made.append(Volume(tmp_path / "disk", megabytes))
        return made[0]

    yield make
    for it in made:
        it.unmount()


def metrics(broker, page="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics_port}{page}") as answer:
        return answer.read().decode()


def metric(broker, name, page="/metrics"):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", metrics(broker, page), re.M).group(1))


def queue(broker, name):
    """What the management API says of a queue."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{broker.http_port}/api/queues/%2F/{name}",
        headers={"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def damage(broker):
    """Damaged queues and unreadable messages, as the metrics have them, and the per-object lines."""
    lines = [it for it in metrics(broker, "/metrics/per-object").splitlines() if it.startswith("hornpipe_queue_unreadable")]
    return metric(broker, "hornpipe_damaged_queues"), metric(broker, "hornpipe_unreadable_messages"), lines


def test_store_tools(own_broker, tmp_path):
    broker = own_broker()
    small, large = bodies(30, 10), bodies(20)
    publish(broker, "small", small, {"x": 1, "y": [b"\x00\xff".decode("latin1"), {"z": True}]})
    publish(broker, "large", large)
    assert "in use by another process" in hornpipe("store", "verify", broker.data, code=1)
    broker.stop()

    said = hornpipe("store", "verify", broker.data, "--all")
    assert "50 messages in 2 queues" in said and "the store is whole" in said and "queue 'small'" in said
    file = tmp_path / "export.jsonl"
    assert "50 messages" in hornpipe("store", "export", broker.data, file)
    hornpipe("store", "export", broker.data, file, code=1)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = [base64.b64decode(line["message"]["body"]) for line in lines if "message" in line]
    assert sorted(found) == sorted(small + large)

    # Into a new folder, by another broker.
    other = tmp_path / "other"
    hornpipe("store", "import", file, other)
    hornpipe("store", "import", file, other, code=1)
    assert "the store is whole" in hornpipe("store", "verify", other)
    second = brokers.Hornpipe(tmp_path / "second", data=other)
    try:
        second.start()
        assert take(second, "small") == small and take(second, "large", 5) == large[:5]
        second.stop()
        hornpipe("store", "compact", other)
        assert "15 messages" in hornpipe("store", "verify", other)
        second.start()
        assert take(second, "large") == large[5:]
        assert second.stop() == 0
    finally:
        second.cleanup()
    assert "is no data folder" in hornpipe("store", "verify", tmp_path / "none", code=1)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["beside", "on another file system"])
def test_snapshot_of_a_running_broker(own_broker, tmp_path, volume, elsewhere):
    """Where body files can be shared they are, else they are copied."""
    to = volume(256).folder if elsewhere else tmp_path
    broker = own_broker(HORNPIPE_STORE_BODY_FILE_BYTES="1MiB")
    publish(broker, "q", bodies(200, 50_000))
    stop, confirmed = threading.Event(), []

    def go_on():
        connection = pika.BlockingConnection(parameters(broker))
        channel = connection.channel()
        channel.confirm_delivery()
        n = 0
        while not stop.is_set():
            channel.basic_publish("", "q", f"late:{n}".encode() + bytes(3000), pika.BasicProperties(delivery_mode=2))
            confirmed.append(n)
            n += 1
            if n % 3 == 0:
                method, _, _ = channel.basic_get("q")
                channel.basic_ack(method.delivery_tag)
        connection.close()

    traffic = threading.Thread(target=go_on)
    traffic.start()
    try:
        brokers.until(lambda: len(confirmed) > 20, "traffic")
        before = len(confirmed)
        told = snapshot(broker, to / "one")
        said = hornpipe("store", "snapshot", to / "two", "--url", f"http://127.0.0.1:{broker.http_port}")
        assert f"snapshot in {to / 'two'}" in said and told["body_bytes"] > 0
        shared = [it.stat().st_nlink > 1 for it in (to / "one/shard-0/bodies").iterdir()]
        assert shared and not any(shared) if elsewhere else any(shared)
    finally:
        stop.set()
        traffic.join(brokers.DEADLINE)
    for folder, status in [(to / "one", 400), ("relative", 400), (broker.data / "in", 400), (to / "a/b", 400)]:
        with pytest.raises(urllib.error.HTTPError) as error:
            snapshot(broker, folder)
        assert error.value.code == status
    # The broker drains and drops its files; a snapshot needs none of them.
    while take(broker, "q", 1000):
        pass
    assert broker.stop() == 0
    for name in ["one", "two"]:
        assert "the store is whole" in hornpipe("store", "verify", to / name)
        restored = brokers.Hornpipe(tmp_path / f"on-{name}", data=to / name)
        try:
            restored.start()
            found = take(restored, "q")
            late = [int(body.split(b"late:")[1].split(b"\0")[0]) for body in found if body.startswith(b"late:")]
            old = [body for body in found if not body.startswith(b"late:")]
            # One moment: what was confirmed before it was asked for is there, without gaps, and every gap is at the front.
            assert late == list(range(late[0], late[-1] + 1)) and late[-1] >= before - 1
            assert old == bodies(200, 50_000)[200 - len(old) :]
            assert restored.stop() == 0
        finally:
            restored.cleanup()


def test_a_damaged_body_stops_its_queue_and_no_other(own_broker):
    broker = own_broker()
    publish(broker, "hurt", bodies(1, 300_000))
    publish(broker, "sound", bodies(3, 300_000, salt=1))
    broker.stop()
    (file,) = (broker.data / "shard-0/bodies").iterdir()
    with open(file, "r+b") as it:
        it.seek(150_000)
        it.write(b"\xff\x00" * 8)
    said = hornpipe("store", "verify", broker.data, code=3)
    assert "queue 'hurt' in vhost '/'" in said and file.name in said and "queue 'sound'" not in said
    broker.start()
    assert damage(broker) == (0, 0, []), "nobody has looked yet"
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    channel.basic_consume("hurt", lambda *_: pytest.fail("damaged octets were delivered"))
    names = lambda: [line for line in broker.log_tail(200).splitlines() if "queue 'hurt' in vhost '/'" in line]
    brokers.until(lambda: connection.process_data_events(0) or names(), "a line in the log that names the queue")
    assert file.name in names()[0] and "purge or delete" in names()[0]
    assert damage(broker) == (1, 1, ['hornpipe_queue_unreadable_messages{vhost="/",queue="hurt"} 1'])
    told = queue(broker, "hurt")["hornpipe_damage"]
    assert told["messages"] == 1 and file.name in told["reason"] and "hornpipe_damage" not in queue(broker, "sound")
    assert take(broker, "sound") == bodies(3, 300_000, salt=1)
    # Publishers go on, and after a purge the queue works again.
    channel.queue_purge("hurt")
    connection.close()
    assert damage(broker) == (0, 0, []) and "hornpipe_damage" not in queue(broker, "hurt")
    publish(broker, "hurt", [b"next"])
    assert take(broker, "hurt") == [b"next"]
    assert broker.stop() == 0


def test_a_damaged_body_in_a_delayed_exchange_holds_no_other_up(own_broker):
    broker = own_broker()
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare("later", "x-delayed-message", durable=True, arguments={"x-delayed-type": "fanout"})
    channel.queue_declare("out", durable=True)
    channel.queue_bind("out", "later")
    # All are due long before the broker is back; the first to be due is the one that will be hurt.
    for body, delay in zip(bodies(3, 300_000), [1500, 1600, 1700]):
        properties = pika.BasicProperties(delivery_mode=2, headers={"x-delay": delay})
        channel.basic_publish("later", "", body, properties)
    broker.kill()
    (file,) = (broker.data / "shard-0/bodies").iterdir()
    with open(file, "r+b") as it:
        it.seek(150_000)
        it.write(b"\xff\x00" * 8)
    broker.start()
    said = lambda: [line for line in broker.log_tail(200).splitlines() if "exchange 'later' in vhost '/' leaves out" in line]
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    waiting = lambda: channel.queue_declare("out", passive=True).method.message_count
    brokers.until(lambda: waiting() == 2, "the others to be released")
    assert take(broker, "out") == bodies(3, 300_000)[1:]
    assert len(said()) == 1 and file.name in said()[0]
    assert damage(broker)[:2] == (1, 1)
    # Those that come later pass as well, and the exchange is rid of it when it is deleted.
    channel.basic_publish("later", "", b"next", pika.BasicProperties(delivery_mode=2, headers={"x-delay": 1}))
    brokers.until(lambda: waiting() == 1, "the next one")
    channel.exchange_delete("later")
    assert damage(broker)[:2] == (0, 0)
    connection.close()
    assert broker.stop() == 0


def accept_loss(broker):
    """Starts once with the flag, stops, and returns what was said."""
    run = subprocess.Popen(
        [brokers.Hornpipe.binary(), "--data-dir", broker.data, "--accept-data-loss"]
        + ["--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0"],
        env=brokers.Hornpipe.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        brokers.until(lambda: (broker.data / "ports.json").exists() or run.poll() is not None, "the start")
    finally:
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=brokers.DEADLINE)[0].decode()
    assert run.returncode == 0, said
    return said


@pytest.mark.parametrize("harm", ["missing", "cut", "another"])
def test_a_lost_body_file_stops_its_queues_and_no_other(own_broker, harm):
    broker = own_broker()
    publish(broker, "small", bodies(5, 100))
    publish(broker, "hurt", bodies(2, 300_000))
    publish(broker, "purged", bodies(1, 300_000))
    broker.restart()
    publish(broker, "sound", bodies(3, 300_000, salt=1))
    broker.stop()
    file, _ = sorted((broker.data / "shard-0/bodies").iterdir())
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        os.truncate(file, 100_000)
    else:
        file.write_bytes(bytes(file.stat().st_size))
    said = hornpipe("store", "verify", broker.data, code=3)
    assert "queue 'hurt' in vhost '/'" in said and file.name in said and "queue 'sound'" not in said
    # The others are served; what is hurt is named, and never served.
    broker.start()
    named = [line for line in broker.log_tail(200).splitlines() if file.name in line and "recovery: " in line]
    hurt = {queue for queue in ["small", "hurt", "purged", "sound"] if any(f"queue '{queue}' in" in line for line in named)}
    # At the start only the header of the last message in a file is looked at.
    assert hurt == ({"purged"} if harm == "another" else {"hurt", "purged"}), named
    assert damage(broker)[:2] == ((1, 1) if harm == "another" else (2, 3))
    assert file.name in queue(broker, "purged")["hornpipe_damage"]["reason"]
    assert take(broker, "small") == bodies(5, 100) and take(broker, "sound") == bodies(3, 300_000, salt=1)
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    channel.basic_consume("hurt", lambda *_: pytest.fail("a message that is not there was delivered"))
    stopped = lambda: connection.process_data_events(0) or "queue 'hurt' in vhost '/' stops at" in broker.log_tail(200)
    brokers.until(stopped, "the queue to stop at what is hurt")
    assert damage(broker)[0] == 2
    channel.queue_delete("purged")
    channel.queue_declare("purged", durable=True)
    assert damage(broker)[0] == 1
    connection.close()
    publish(broker, "purged", [b"next"])
    assert take(broker, "purged") == [b"next"]
    assert broker.stop() == 0
    # With the flag the hurt messages go, counted.
    assert "2 messages of queue 'hurt' in vhost '/' can't be read and left it" in accept_loss(broker)
    assert "the store is whole" in hornpipe("store", "verify", broker.data)
    broker.start()
    assert take(broker, "hurt") == []
    publish(broker, "hurt", bodies(1, 300_000, salt=2))
    assert take(broker, "hurt") == bodies(1, 300_000, salt=2)
    assert broker.stop() == 0


def test_damage_of_the_log_is_refused_by_name_until_it_is_accepted(own_broker):
    broker = own_broker()
    publish(broker, "q", bodies(40, 1000))

    def refused(*names):
        with pytest.raises(brokers.BrokerFailed) as error:
            broker.start()
        assert all(name in str(error.value) for name in names), error.value
        said = hornpipe("store", "verify", broker.data, code=lambda code: code != 0)
        assert any(name in said for name in names), said

    def put_back():
        shutil.rmtree(broker.data)
        shutil.copytree(whole, broker.data)

    # Killed a moment ago, and stopped in order: the end of the database is damaged.
    whole = broker.data.with_name("whole")
    broker.kill()
    shutil.copytree(broker.data, whole)
    end = len((whole / "shard-0/db/db").read_bytes().rstrip(b"\0"))
    for back in (20, 500, 3000):
        flip(broker.data / "shard-0/db/db", end - back)
        refused("shard-0/db/db is damaged", "was on disk")
        put_back()
    broker.start()
    assert broker.stop() == 0
    shutil.rmtree(whole)
    shutil.copytree(broker.data, whole)
    flip(broker.data / "shard-0/db/db", len((whole / "shard-0/db/db").read_bytes().rstrip(b"\0")) - 20)
    refused("shard-0/db/db")
    assert "was on disk" in accept_loss(broker)
    broker.start()
    assert broker.stop() == 0
    put_back()
    flip(broker.data / "shard-0/db/conf", 3)
    refused("shard-0/db/conf is damaged")
    (broker.data / "shard-0/db/conf").unlink()
    broker.start()
    assert take(broker, "q") == bodies(40, 1000)
    assert broker.stop() == 0


def flip(path, at):
    """Sixteen octets that are others now."""
    with open(path, "r+b") as it:
        it.seek(at)
        found = it.read(16)
        it.seek(at)
        it.write(bytes(255 - octet for octet in found))


def harms(path):
    """Ways to damage a file, each with its name."""
    size = path.stat().st_size
    used = len(path.read_bytes().rstrip(b"\0"))
    yield "removed", path.unlink
    yield "emptied", lambda: os.truncate(path, 0)
    if size:
        yield "cut", lambda: os.truncate(path, used // 2)
        yield "begun with others", lambda: flip(path, 0)
        yield "another in the middle", lambda: flip(path, used // 2)
        yield "ended with others", lambda: flip(path, max(0, used - 20))


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
def test_every_file_of_two_shards_cut_flipped_and_removed(own_broker, stopped):
    """The whole data folder: whatever is done to a file, nothing confirmed is missing without a word, and no word is wrong."""
    broker = own_broker(HORNPIPE_SHARDS="2", HORNPIPE_STORE_BODY_FILE_BYTES="1MiB", HORNPIPE_STORE_BALLAST_BYTES="1MiB")
    brokers.add_vhost(broker, "b")
    other = copy.copy(broker)
    other.vhost = "b"
    sent = {"small": bodies(20, 100), "large": bodies(4, 400_000, salt=1)}
    for it in (broker, other):
        for name, list_ in sent.items():
            publish(it, name, list_)
    brokers.until(lambda: held(broker) == 1 << 20, "the ballast to be made")
    assert broker.stop() == 0 if stopped else broker.kill() is None
    whole = broker.data.with_name("whole")
    broker.data.rename(whole)
    files = sorted(it.relative_to(whole) for it in whole.rglob("*") if it.is_file())
    names = {it.name for it in files}
    assert {"shards", "ballast", "lock", "mark", "conf", "db", "0000000000000001.body"} <= names, names
    if stopped:
        # What differs from a kill is what the log and its mark say.
        files = [file for file in files if file.parts[0] == "shard-0" and file.name in ("db", "mark")]
    seen = {"refused": 0, "told": 0, "whole": 0}
    for file in files:
        for what, _ in harms(whole / file):
            if file.parts[0] == "shard-1" and what not in ("removed", "another in the middle"):
                continue
            shutil.rmtree(broker.data, ignore_errors=True)
            shutil.copytree(whole, broker.data)
            dict(harms(broker.data / file))[what]()
            broker.log.unlink(missing_ok=True)
            case = f"{file} {what}"
            said = hornpipe("store", "verify", broker.data, code=lambda code: code in (0, 3))
            is_whole = said.rstrip().endswith("the store is whole")
            try:
                broker.start()
            except brokers.BrokerFailed:
                broker.process = None
                log = broker.log_tail(5)
                seen["refused"] += 1
                assert str(broker.data / file) in log or str((broker.data / file).parent) in log, f"{case}: {log}"
                assert not is_whole and str(file.parent) in said, f"{case}: refused, and verify says {said}"
                continue
            other.port, missing = broker.port, 0
            for it in (broker, other):
                for name, list_ in sent.items():
                    # Taken up to what can't be read; what comes is what was sent, in order.
                    found = take_readable(it, name)
                    assert found == list_[: len(found)], case
                    missing += len(list_) - len(found)
            told = damage(broker)[1]
            assert (missing > 0) == (told > 0), f"{case}: {missing} messages are missing, {told} are said to be"
            assert is_whole == (missing == 0), f"{case}: verify says {said}"
            if missing:
                assert file.suffix == ".body" and file.name in broker.log_tail(50), case
            seen["told" if missing else "whole"] += 1
            broker.kill()
    assert seen["refused"] and (stopped or all(seen.values())), seen


def take_readable(broker, queue):
    """Bodies of a queue up to one that it can't read."""
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    found = []
    total = channel.queue_declare(queue, passive=True).method.message_count
    channel.basic_consume(queue, lambda _c, _m, _p, body: found.append(body), auto_ack=True)
    stops = lambda: f"queue '{queue}' in vhost '{broker.vhost}' stops at" in broker.log_tail(50)
    brokers.until(lambda: connection.process_data_events(0) or len(found) == total or stops(), "all that can be read")
    connection.close()
    return found


def test_a_compaction_that_is_killed_leaves_the_old_store_or_the_new_one(own_broker):
    broker = own_broker(HORNPIPE_SHARDS="2")
    brokers.add_vhost(broker, "b")
    other = copy.copy(broker)
    other.vhost = "b"
    for it in (broker, other):
        publish(it, "q", bodies(40, 20_000))
        take(it, "q", 20)
    assert broker.stop() == 0
    before = hornpipe("store", "verify", "--all", broker.data).splitlines()
    queues = [line for line in before if line.startswith("queue ")]
    assert len(queues) == 2
    beside = broker.data / "compacting"
    moments = [
        lambda: beside.exists(),
        lambda: (beside / "shard-0/mark").exists(),
        lambda: list(beside.glob("shard-0/bodies/*.body")),
        lambda: (beside / "shard-1").exists(),
        lambda: list(beside.glob("shard-1/bodies/*.body")),
        lambda: False,
    ]
    killed = 0
    for moment in moments:
        run = compacting(broker, moment)
        run.kill()
        killed += run.wait(brokers.DEADLINE) != 0
        said = hornpipe("store", "verify", "--all", broker.data)
        assert [line for line in said.splitlines() if line.startswith("queue ")] == queues and "the store is whole" in said
    assert killed >= 3 and not beside.exists()
    broker.start()
    other.port = broker.port
    for it in (broker, other):
        assert take(it, "q") == bodies(40, 20_000)[20:]
    assert broker.stop() == 0


def test_nothing_starts_beside_a_compaction(own_broker):
    """The data folder is held from before the first store is opened until the last copy is in its place."""
    broker = own_broker(HORNPIPE_SHARDS="2")
    publish(broker, "q", bodies(400, 20_000))
    assert broker.stop() == 0
    beside = broker.data / "compacting"
    # While the copy is made, and when it is whole and its store closed: its mark is written again then.
    moments = [lambda: beside.exists(), lambda: (beside / "shard-0/mark").exists(), lambda: (beside / "shard-1").exists()]
    held = 0
    for moment in moments:
        run = compacting(broker, moment)
        run.send_signal(signal.SIGSTOP)
        if run.poll() is None:
            with pytest.raises(brokers.BrokerFailed, match="in use"):
                broker.start()
            held += 1
            run.send_signal(signal.SIGCONT)
        assert run.wait(brokers.DEADLINE) == 0
    assert held >= 2
    broker.start()
    assert take(broker, "q") == bodies(400, 20_000)


@pytest.mark.parametrize("argument", ["x-message-ttl", "x-max-priority"])
def test_a_body_lies_there_once_however_its_queues_differ(own_broker, argument):
    broker = own_broker(HORNPIPE_STORE_BALLAST_BYTES="0")
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    channel.confirm_delivery()
    queues = [f"q{n}" for n in range(30)]
    for n, queue in enumerate(queues):
        value = 10_000_000 + n if argument == "x-message-ttl" else n + 1
        channel.queue_declare(queue, durable=True, arguments={argument: value})
        channel.queue_bind(queue, "amq.fanout")
    sent = bodies(40, 100_000)
    for body in sent:
        channel.basic_publish("amq.fanout", "", body, pika.BasicProperties(delivery_mode=2, priority=99))
    connection.close()
    broker.kill()
    size = sum(it.stat().st_blocks * 512 for it in (broker.data / "shard-0/bodies").iterdir())
    # 4 MB, or 120 if each queue had its own; a file is 16 MiB at first
    assert size < 40_000_000
    broker.start()
    # one of them leaves: the others keep what they share
    assert take(broker, queues[0]) == sent
    connection = pika.BlockingConnection(parameters(broker))
    connection.channel().queue_delete(queues[1])
    connection.close()
    broker.kill()
    broker.start()
    for queue in queues[2:]:
        assert take(broker, queue) == sent
    assert broker.stop() == 0
    assert "the store is whole" in hornpipe("store", "verify", broker.data)


def test_names_of_the_brokers_own_queues_are_refused(own_broker):
    """A client's queue of such a name and the broker's own would be one in the store."""
    broker = own_broker()
    definition = {"durable": True, "auto_delete": False, "arguments": {}}
    for own in ("\x01grave.7", "\x01delayed.x"):
        connection = pika.BlockingConnection(parameters(broker))
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403.*contains reserved prefix"):
            connection.channel().queue_declare(own, durable=True)
        connection.close()
        name = urllib.parse.quote(own, safe="")
        queues = [{"name": own, "vhost": broker.vhost, **definition}]
        for method, path, body in [
            ("PUT", f"/api/queues/%2F/{name}", definition),
            ("POST", "/api/definitions", {"queues": queues}),
        ]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{broker.http_port}{path}",
                json.dumps(body).encode(),
                {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(), "Content-Type": "application/json"},
                method=method,
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code in (400, 401)
            assert "contains reserved prefix" in refused.value.read().decode()


def test_a_store_that_is_gone_is_not_taken_for_a_new_one(own_broker):
    broker = own_broker()
    publish(broker, "q", bodies(3, 100))
    assert broker.stop() == 0
    shutil.rmtree(broker.data / "shard-0")
    for _ in range(2):
        with pytest.raises(brokers.BrokerFailed, match="there is one shard, and there is nothing in .*shard-0"):
            broker.start()
    assert "DAMAGED: " in hornpipe("store", "verify", broker.data, code=3)
    said = accept_loss(broker)
    assert "there is nothing in" in said
    broker.start()
    publish(broker, "q", bodies(3, 100))
    # Without its mark, and started with the flag, it says what that leaves open.
    assert broker.stop() == 0
    (broker.data / "shard-0/mark").unlink()
    with pytest.raises(brokers.BrokerFailed, match="shard-0/mark is damaged"):
        broker.start()
    assert "shard-0/mark is damaged" in hornpipe("store", "verify", broker.data, code=3)
    said = accept_loss(broker)
    assert "not checked: without" in said and "groups at its end may be missing unseen" in said
    broker.start()
    assert take(broker, "q") == bodies(3, 100)
    # Somebody tidies the locks away: a second broker is refused all the same.
    for name in ["lock", "shard-0/lock"]:
        (broker.data / name).unlink()
    second = brokers.Hornpipe(broker.data.with_name("second"), data=broker.data)
    ports = (broker.data / "ports.json").read_text()
    with pytest.raises(brokers.BrokerFailed, match="in use by another process"):
        second.start()
    (broker.data / "ports.json").write_text(ports)
    publish(broker, "q", bodies(3, 100))
    assert take(broker, "q") == bodies(3, 100)
    assert broker.stop() == 0


@pytest.mark.parametrize("waits_at", ["shards", "shard-0/generation"])
def test_a_long_start_says_how_far_it_is(own_broker, waits_at):
    broker = own_broker(**brokers.RESTLESS)
    # Until the database was exchanged, so that there is a file which names it.
    for salt in range(1000):
        publish(broker, "q", bodies(40, 20_000, salt=salt))
        take(broker, "q")
        if (broker.data / "shard-0/generation").exists():
            break
    assert broker.stop() == 0
    # The start waits for a file that it reads, for as long as we like.
    file = broker.data / waits_at
    content = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    port, broker.keep_http = broker.http_port, True
    broker.spawn()
    word = {"shards": "looking at the data folder", "shard-0/generation": "opening the database"}[waits_at]

    def ready():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready") as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError:
            return None

    brokers.until(lambda: (ready() or {}).get("reason") == word, f"'{word}' on the health page")
    brokers.until(lambda: re.search(rf"starting for \d+ s: {word}", broker.log_tail(1000)), f"'{word}' in the log")
    assert ready()["status"] == "starting"
    # A reader of what is there now, and of nothing else later.
    whole = file.with_name(file.name + ".whole")
    whole.write_bytes(content)
    with open(file, "wb") as it:
        whole.rename(file)
        it.write(content)
    broker.wait_serving()
    assert ready() == {"status": "ok"}
    assert broker.stop() == 0


def test_a_failed_import_leaves_nothing(own_broker, tmp_path):
    broker = own_broker()
    publish(broker, "q", bodies(300, 1000))
    assert broker.stop() == 0
    export = tmp_path / "export"
    hornpipe("store", "export", broker.data, export)
    half = tmp_path / "half"
    half.write_bytes(export.read_bytes()[: export.stat().st_size // 2])
    target = tmp_path / "imported"
    hornpipe("store", "import", half, target, code=1)
    assert not target.exists()
    # A kill in the middle of one leaves a folder that no broker starts on, and that the next import clears.
    reading, writing = os.pipe()
    run = subprocess.Popen(
        [brokers.Hornpipe.binary(), "store", "import", "-", str(target)], env=brokers.Hornpipe.environment(), stdin=reading
    )
    os.write(writing, half.read_bytes()[:60_000])
    brokers.until(lambda: (target / "importing/shard-0/mark").exists(), "the import to be under way")
    run.kill()
    run.wait(brokers.DEADLINE)
    os.close(reading), os.close(writing)
    other = brokers.Hornpipe(tmp_path / "other", data=target)
    with pytest.raises(brokers.BrokerFailed, match="an import was not finished"):
        other.start()
    hornpipe("store", "import", export, target)
    try:
        other.start()
        assert take(other, "q") == bodies(300, 1000)
        assert other.stop() == 0
    finally:
        other.cleanup()


def test_files_that_hold_nothing_may_be_damaged(own_broker):
    broker = own_broker(HORNPIPE_STORE_BALLAST_BYTES="1MiB")
    publish(broker, "q", bodies(3, 100))
    ballast = broker.data / "ballast"
    brokers.until(lambda: ballast.exists() and ballast.stat().st_size == 1 << 20, "the ballast to be made")
    broker.kill()
    for name in ["ballast", "lock", "ports.json", "shard-0/lock"]:
        for change in [b"", b"\xff" * 5000, None]:
            path = broker.data / name
            path.unlink() if change is None else path.write_bytes(change)
            broker.start()
            brokers.until(lambda: ballast.exists() and ballast.stat().st_size == 1 << 20, "the ballast to be made")
            broker.kill()
    broker.start()
    assert take(broker, "q") == bodies(3, 100)
    assert broker.stop() == 0


@pytest.mark.parametrize("stop", ["kill", "stop"])
def test_long_queues_of_transient_messages_leave_memory_and_are_gone_after_a_restart(own_broker, stop):
    broker = own_broker(HORNPIPE_RESIDENT_BYTES="1MiB", HORNPIPE_PENDING_BYTES="1MiB")
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    channel.queue_declare("long", durable=True)
    channel.queue_declare("beside", durable=True)
    channel.confirm_delivery()
    for n in range(3000):
        channel.basic_publish("", "long", n.to_bytes(4, "big") * 1000, pika.BasicProperties(delivery_mode=1))
        if n % 300 == 0:
            channel.basic_publish("", "beside", b"kept", pika.BasicProperties(delivery_mode=2))
    # 12 MB came in; what is on its way to the disk comes on top of the budget
    assert metric(broker, "hornpipe_resident_body_bytes") < 4 << 20
    for n in range(1000):
        method, properties, body = channel.basic_get("long", auto_ack=True)
        assert (body, properties.delivery_mode) == (n.to_bytes(4, "big") * 1000, 1)
    assert method.message_count == 2000
    connection.close()
    if stop == "kill":
        broker.kill()
    else:
        broker.stop()
    broker.start()
    assert take(broker, "long") == []
    assert take(broker, "beside") == [b"kept"] * 10
    # nothing of it keeps room on the disk
    assert metric(broker, "hornpipe_resident_body_bytes") == 0


def test_a_drained_broker_gives_its_disk_back_by_itself(own_broker):
    broker = own_broker(
        HORNPIPE_STORE_DB_MIN_BYTES="12MiB",
        HORNPIPE_STORE_DB_SLACK_BYTES="48MiB",
        HORNPIPE_STORE_BODY_FILE_BYTES="1MiB",
        HORNPIPE_STORE_BALLAST_BYTES="0",
        HORNPIPE_INLINE_LIVE_BYTES="64MiB",
        HORNPIPE_LOG_RECORDS_SLACK="16",
    )
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()

    def used():
        total = 0
        for folder, _, files in os.walk(broker.data / "shard-0"):
            for it in files:
                try:
                    total += os.stat(os.path.join(folder, it)).st_size
                except FileNotFoundError:
                    pass  # it went while we looked
        return total

    for k in range(8):
        channel.queue_declare(f"q{k}", durable=True)
    # Interleaved queues, in groups small enough to stay in the database, and some large ones.
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    for n in range(2400):
        channel.basic_publish("", f"q{n % 8}", bytes(200_000 if n % 100 == 99 else 16_000), persistent)
    full = used()
    assert full > 38 << 20
    # Two in a hundred stay.
    for k in range(8):
        kept = []
        for n in range(300):
            method, _, _ = channel.basic_get(f"q{k}")
            (kept.append if n % 50 == 7 else channel.basic_ack)(method.delivery_tag)
    # Nothing is published any more: the broker does the rest by itself.
    brokers.until(lambda: metric(broker, "hornpipe_store_db_renewals_total") > 0, "a fresh database")
    brokers.until(lambda: used() < 28 << 20, f"disk space to be given back, {full} before")
    connection.close()
    broker.kill()
    broker.start()
    # The last acknowledgements had no confirm: some of them may not have reached the disk.
    assert 48 <= sum(len(take(broker, f"q{k}")) for k in range(8)) < 480
    assert broker.stop() == 0


class Flood(threading.Thread):
    """Publishes until it is told that it is enough; `confirmed` messages are on disk."""

    def __init__(self, broker, queue, size):
        super().__init__(daemon=True)
        # A blocked client of this kind hangs in the middle of a publish until it is read again.
        self.parameters = parameters(broker, blocked_connection_timeout=None)
        self.queue, self.size, self.sent, self.enough = queue, size, 0, threading.Event()

    def run(self):
        connection = pika.BlockingConnection(self.parameters)
        channel = connection.channel()
        try:
            while not self.enough.is_set() and self.sent < 2_000_000_000 // self.size:
                body = bodies(1, self.size, salt=self.sent)[0]
                channel.basic_publish("", self.queue, body, pika.BasicProperties(delivery_mode=2))
                self.sent += 1
            connection.close()
        except pika.exceptions.AMQPConnectionError:
            # Killed under it, on purpose or not: who waits for the broker finds out.
            pass


ALARM = "rabbitmq_alarms_free_disk_space_watermark"
# What is kept of the ballast for the next start.
LAST = 32 << 20


def held(broker):
    path = broker.data / "ballast"
    return path.stat().st_size if path.exists() else 0


def test_a_full_disk(tmp_path, volume):
    disk = volume(512)
    # The default disk_free_limit, and a ballast of an eighth of the volume.
    broker = brokers.Hornpipe(tmp_path / "broker", data=disk.folder / "data")
    try:
        broker.start()
        brokers.until(lambda: held(broker) == 64 << 20, "the ballast to be made")
        publish(broker, "q", [])
        flood = Flood(broker, "q", 100_000)
        flood.start()
        brokers.until(lambda: metric(broker, ALARM) == 1 or broker.process.poll() is not None, "the disk alarm")
        assert disk.free() > 0 and broker.process.poll() is None, broker.log_tail()
        flood.enough.set()
        # What was accepted is written; then the disk really is full, by somebody else's doing. Consumers go on.
        # A durable queue is told to be there once all before it is on disk.
        publish(broker, "barrier", [])
        disk.fill()
        taken = take(broker, "q", 100)
        assert len(taken) == 100 and broker.process.poll() is None
        brokers.until(lambda: held(broker) == LAST, "the first part of the ballast to be given up")
        # Space returns, and everything goes on without a restart. What was sent before the block is there.
        disk.empty()
        taken += take(broker, "q", 500)
        flood.join(brokers.DEADLINE)
        assert not flood.is_alive(), "the publisher was not read again"
        taken += take(broker, "q", flood.sent // 2 - len(taken))
        publish(broker, "q2", bodies(3, 1000))
        brokers.until(lambda: held(broker) == 64 << 20, "the ballast to be made again")
        # A start on a full disk: the ballast is what it opens with.
        assert broker.stop() == 0
        disk.fill()
        broker.start()
        assert "the ballast was given up to open" in broker.log_tail()
        taken += take(broker, "q")
        assert len(set(taken)) == flood.sent and broker.process.poll() is None
        disk.empty()
        publish(broker, "q2", bodies(3, 1000, salt=1))
        assert take(broker, "q2") == bodies(3, 1000) + bodies(3, 1000, salt=1)
        assert broker.stop() == 0
    finally:
        broker.cleanup()


@pytest.mark.parametrize("size", [500, 50_000])
def test_a_small_full_disk(tmp_path, volume, size):
    """Space for little more than the alarm: what is kept for opening stays, whatever else wants room."""
    disk = volume(160)
    broker = brokers.Hornpipe(tmp_path / "broker", {"HORNPIPE_LOG_RECORDS_SLACK": "8"}, data=disk.folder / "data")
    alive = lambda: broker.process.poll() is None
    last = min(LAST, (160 << 20) // 8)
    try:
        broker.start()
        brokers.until(lambda: held(broker) == last, "the ballast to be made")
        publish(broker, "q", [])
        flood = Flood(broker, "q", size)
        flood.start()
        # One in eight stays, so that there is always something to copy forward.
        connection = pika.BlockingConnection(parameters(broker))
        channel = connection.channel()
        kept = 0
        while metric(broker, ALARM) == 0:
            for n in range(64):
                method, _, _ = channel.basic_get("q")
                if method and n % 8:
                    channel.basic_ack(method.delivery_tag)
                else:
                    kept += 1
        assert alive(), broker.log_tail()
        flood.enough.set()
        disk.fill()
        # Consumers go on, though nothing can be written.
        got = 0
        while got < 200:
            method, _, _ = channel.basic_get("q")
            if method is None:
                break
            channel.basic_ack(method.delivery_tag)
            got += 1
        assert got and alive() and held(broker) == last, (got, held(broker), broker.log_tail())
        # Killed on a full disk it starts again, and again.
        disk.fill()
        for _ in range(2):
            broker.kill()
            broker.start()
            assert len(take(broker, "q", 1)) == 1
        # Somebody takes all there is, what the broker has given up too: a stop is a stop, and nothing is lost.
        disk.fill()
        assert broker.stop() == 0, broker.log_tail()
        (disk.folder / "filler").write_bytes(b"")
        # Full once more, and space returns: everything goes on without a restart.
        broker.start()
        brokers.until(lambda: held(broker) == last, "the ballast to be made again")
        disk.fill()
        late = threading.Thread(target=publish, args=(broker, "q2", bodies(3, 1000)), daemon=True)
        late.start()
        disk.empty()
        # The backlog itself may be more than the alarm allows: it goes, and its room with it.
        assert len(take(broker, "q")) >= kept // 2
        late.join(brokers.DEADLINE)
        assert take(broker, "q2") == bodies(3, 1000)
        brokers.until(lambda: held(broker) == last, "the ballast to be made again")
        assert broker.stop() == 0
        assert "the store is whole" in hornpipe("store", "verify", broker.data)
    finally:
        broker.cleanup()


def test_two_shards_on_a_small_full_disk(tmp_path, volume):
    """Room of one volume that two threads write to: neither takes what the other was promised."""
    disk = volume(256)
    broker = brokers.Hornpipe(
        tmp_path / "broker", {"HORNPIPE_SHARDS": "2", "HORNPIPE_LOG_RECORDS_SLACK": "8"}, data=disk.folder / "data"
    )
    alive = lambda: broker.process.poll() is None
    ballast = (256 << 20) // 8
    try:
        broker.start()
        brokers.until(lambda: held(broker) == ballast, "the ballast to be made")
        brokers.add_vhost(broker, "b")
        other = copy.copy(broker)
        other.vhost = "b"
        assert (broker.data / "shard-1").is_dir()
        for it in (broker, other):
            publish(it, "q", [])
        # Sizes that go to body files in one, to the database in the other.
        floods = [Flood(broker, "q", 100_000), Flood(other, "q", 700)]
        for it in floods:
            it.start()
        brokers.until(lambda: metric(broker, ALARM) == 1 or not alive(), "the disk alarm")
        for it in floods:
            it.enough.set()
        for it in (broker, other):
            publish(it, "barrier", [])
        disk.fill()
        # Consumers of both go on, though nothing can be written.
        taken = [take(broker, "q", 100), take(other, "q", 100)]
        assert alive() and [len(it) for it in taken] == [100, 100], broker.log_tail()
        # Killed on a full disk it starts again.
        broker.kill()
        disk.fill()
        broker.start()
        assert alive() and len(take(other, "q", 1)) == 1
        disk.empty()
        for it in floods:
            it.join(brokers.DEADLINE)
        for it in (broker, other):
            take(it, "q")
            publish(it, "q2", bodies(3, 1000))
            assert take(it, "q2") == bodies(3, 1000)
        brokers.until(lambda: held(broker) == ballast, "the ballast to be made again")
        assert broker.stop() == 0
        assert "the store is whole" in hornpipe("store", "verify", broker.data)
    finally:
        broker.cleanup()


# ------------------------------------------------------------------ syncs before confirms, as the kernel sees them

ACK = r"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50"
PUBLISH = r"\x00\x3c\x00\x28"


def trace(path):
    """Events in order: (what, began or ended, file)."""
    open_calls = {}
    for line in open(path, errors="replace"):
        found = re.match(r"(\d+) +(?:<\.\.\. )?(\w+)", line)
        if not found:
            continue
        thread, call = found.groups()
        if call == "fdatasync":
            if "resumed>" in line:
                if re.search(r"= 0$", line.strip()):
                    yield "synced", open_calls.pop(thread, "")
                continue
            name = bytes.fromhex(re.search(r"<(.*?)>", line).group(1).replace("\\x", "")).decode()
            yield "syncs", name
            if "unfinished" in line:
                open_calls[thread] = name
            elif re.search(r"= 0$", line.strip()):
                yield "synced", name
        elif call in ("recvfrom", "read", "recv") and PUBLISH in line:
            yield "publish", ""
        elif call in ("sendto", "write", "send", "writev") and ACK in line:
            yield "confirm", ""


def test_every_confirm_follows_the_syncs_it_claims(own_broker, tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("needs strace (Debian: apt-get install strace)")
    broker = own_broker()
    output = tmp_path / "trace"
    tracer = subprocess.Popen(
        ["strace", "-f", "-yy", "-xx", "-s", "200000", "-e", "trace=fdatasync,recvfrom,read,sendto,write,writev"]
        + ["-e", "signal=none", "-o", str(output), "-p", str(broker.process.pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = tracer.stderr.readline()
        if "attached" not in first:
            pytest.skip(f"strace can't attach here: {first.strip()}")
        sizes = [10, 100_000, 2000, 60_000, 1, 90_000] * 3
        publish(broker, "q", [bytes(size) for size in sizes])
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=brokers.DEADLINE)
    # One message after the other, so that each confirm has syncs of its own: those begun after its publish came in.
    confirms, since = [], None
    for what, name in trace(output):
        if what == "publish":
            since = []
        elif what == "confirm" and since is not None:
            confirms.append(since)
            since = None
        elif since is not None:
            since.append((what, name))
    assert len(confirms) == len(sizes), f"{len(confirms)} confirms of {len(sizes)} messages were seen"
    for size, events in zip(sizes, confirms):
        log = [k for k, (what, name) in enumerate(events) if what == "syncs" and re.search(r"/db(-\d+)?/db$", name)]
        assert log, f"{size} octets were confirmed without a sync of the log: {events}"
        assert ("synced", events[log[0]][1]) in events[log[0] :], f"before it had ended: {events}"
        if size > 40_000:
            done = [k for k, (what, name) in enumerate(events) if what == "synced" and name.endswith(".body")]
            assert done and done[0] < log[-1], f"the log names a body that was not synced before: {events}"
