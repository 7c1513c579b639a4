#!/usr/bin/env python3
"""Kills the broker in the middle of traffic, over and over, and keeps books on every message.

Each round: publishers send persistent messages under confirms, to a queue of their own, to a shared queue and through a
fanout exchange to two more; one consumer per queue takes and acknowledges some of them; then SIGKILL, sometimes a second
one in the middle of recovery, a start on the same data directory, and (most rounds) everything left is drained.

What must hold, whatever the moment of the kill:

* every message that was confirmed is delivered at least once
* nothing is delivered that nobody sent, and every body is what was sent
* per publisher and queue, first deliveries come in the order of publishing
* a message delivered again carries `redelivered`
* what was settled before a later confirmed publish (which is durable behind it) doesn't come back after that

With `--shards 2` all of this goes on in two vhosts, each in a shard of its own, in one process that is killed.

A confirm that hadn't arrived says nothing: such a message may be there or not.
"""

import argparse
import collections
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import amqp

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402

# No progress for this many seconds, with nothing else running, is a broker that doesn't deliver.
STALLED = 30
GONE = (OSError, amqp.exceptions.AMQPError, amqp.exceptions.RecoverableConnectionError)


def body_of(publisher, number, size):
    """A body that says what it is and can be checked by itself."""
    head = f"{publisher}:{number}:{size}:".encode()
    fill = (f"{publisher}/{number} " * (size // 8 + 1)).encode()[:size]
    return head + f"{zlib.crc32(head + fill)}:".encode() + fill


def read_body(data):
    """(publisher, number) of a body, which must be one of ours, unharmed."""
    if isinstance(data, str):
        data = data.encode()
    publisher, number, size, _ = data.split(b":", 4)[:4]
    if body_of(publisher.decode(), int(number), int(size)) != data:
        raise AssertionError(f"a body that nobody sent: {data[:60]!r}")
    return publisher.decode(), int(number)


class Books:
    """What was sent, confirmed and delivered, per queue."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sent = collections.defaultdict(set)  # queue -> {(publisher, number)}
        self.confirmed = collections.defaultdict(set)
        self.seen = collections.defaultdict(set)
        self.settled = collections.defaultdict(set)  # delivered and durably settled
        self.last = {}  # (queue, publisher) -> number delivered last for the first time
        self.problems = []
        self.duplicates = 0

    def delivered(self, queue, data, redelivered):
        try:
            key = read_body(data)
        except (AssertionError, ValueError) as error:
            self.problems.append(f"{queue}: {error}")
            return
        with self.lock:
            if key not in self.sent[queue]:
                self.problems.append(f"{queue}: {key} was never sent there")
            if key in self.settled[queue]:
                self.problems.append(f"{queue}: {key} came back after its settling was durable")
            if key in self.seen[queue]:
                self.duplicates += 1
                if not redelivered:
                    self.problems.append(f"{queue}: {key} delivered twice, the second time without `redelivered`")
                return
            self.seen[queue].add(key)
            publisher, number = key
            if self.last.get((queue, publisher), -1) >= number:
                self.problems.append(
                    f"{queue}: {key} delivered for the first time after {self.last[queue, publisher]}"
                )
            self.last[queue, publisher] = number

    def drained(self):
        """All queues are empty: what was confirmed and not seen is lost."""
        for queue, confirmed in self.confirmed.items():
            lost = sorted(confirmed - self.seen[queue])
            if lost:
                self.problems.append(f"{queue}: {len(lost)} confirmed messages lost, the first {lost[:5]}")

    def forget(self):
        """After a drain whose settling is durable: keeps memory flat over many rounds."""
        for queue in list(self.seen):
            self.settled[queue] |= self.seen[queue]


def key_of(vhost, queue):
    """What the books call a queue."""
    return queue if vhost == "/" else f"{vhost}:{queue}"


def place_of(key):
    """Vhost and name of a queue in the books."""
    vhost, _, queue = key.rpartition(":")
    return vhost or "/", queue


def connect(broker, vhost="/"):
    it = amqp.Connection(
        f"{broker.host}:{broker.port}",
        broker.user,
        broker.password,
        virtual_host=vhost,
        connect_timeout=10,
        read_timeout=60,
        write_timeout=60,
    )
    it.connect()
    return it


class Publisher(threading.Thread):
    """One connection; numbers go on over the rounds."""

    WINDOW = 300

    def __init__(self, name, vhost, numbers, broker, books, seed, tally):
        super().__init__(daemon=True)
        self.id, self.vhost, self.numbers, self.broker, self.books, self.tally = name, vhost, numbers, broker, books, tally
        self.random = random.Random(seed)
        self.error = None

    def run(self):
        try:
            connection = connect(self.broker, self.vhost)
            channel = connection.channel()
            channel.confirm_select()
        except GONE:
            return
        open_tags = collections.OrderedDict()

        def on_ack(tag, multiple):
            tags = [it for it in open_tags if it <= tag] if multiple else [tag]
            with self.books.lock:
                for it in tags:
                    number, queues = open_tags.pop(it)
                    for queue in queues:
                        self.books.confirmed[queue].add((self.id, number))
                self.tally[0] += len(tags)

        def on_nack(tag, multiple):
            self.books.problems.append(f"{self.id}: a nack for {tag}, though no queue refuses")

        channel.events["basic_ack"].add(on_ack)
        channel.events["basic_nack"].add(on_nack)
        tag = 0
        try:
            while True:
                for _ in range(self.random.randint(1, 40)):
                    number = next(self.numbers)
                    exchange, key, queues = self.random.choice(
                        [("", f"own-{self.id}", [f"own-{self.id}"]), ("", "shared", ["shared"]), ("fan", "", ["fan-a", "fan-b"])]
                    )
                    queues = [key_of(self.vhost, queue) for queue in queues]
                    size = self.random.choice([0, 10, 100, 100, 1000, 1000, 5000, self.random.choice([10, 300_000])])
                    tag += 1
                    with self.books.lock:
                        open_tags[tag] = (number, queues)
                        for queue in queues:
                            self.books.sent[queue].add((self.id, number))
                    channel.basic_publish(
                        amqp.Message(body_of(self.id, number, size), delivery_mode=2), exchange=exchange, routing_key=key
                    )
                while len(open_tags) > self.WINDOW:
                    connection.drain_events(timeout=60)
                try:
                    while True:
                        connection.drain_events(timeout=0.0005)
                except socket.timeout:
                    pass
        except GONE:
            # Confirms that had arrived before the end count.
            try:
                while open_tags:
                    connection.drain_events(timeout=0.01)
            except Exception:
                pass
        except Exception as error:  # a bug in here must not look like a clean round
            self.error = error


class Consumer(threading.Thread):
    """Takes what comes and settles in small groups, until the connection breaks."""

    def __init__(self, queue, broker, books, seed):
        super().__init__(daemon=True)
        self.queue, self.broker, self.books = queue, broker, books
        self.random = random.Random(seed)
        self.error = None

    def run(self):
        try:
            vhost, queue = place_of(self.queue)
            connection = connect(self.broker, vhost)
            channel = connection.channel()
            channel.basic_qos(0, self.random.choice([1, 10, 100]), False)

            def on_message(message):
                self.books.delivered(self.queue, message.body, message.delivery_info["redelivered"])
                channel.basic_ack(message.delivery_tag)

            channel.basic_consume(queue, callback=on_message)
            while True:
                connection.drain_events(timeout=60)
        except GONE:
            pass
        except Exception as error:
            self.error = error


def declare(broker, vhost, queues):
    connection = connect(broker, vhost)
    channel = connection.channel()
    channel.exchange_declare("fan", "fanout", durable=True, auto_delete=False)
    for queue in queues:
        channel.queue_declare(queue, durable=True, auto_delete=False)
    for queue in ("fan-a", "fan-b"):
        channel.queue_bind(queue, "fan", "")
    channel.queue_declare("barrier", durable=True, auto_delete=False)
    connection.close()


def empty(connection, channel, queue):
    """Lets a running consumer empty the queue; false if it stops getting anywhere."""
    before, end = None, None
    while count := channel.queue_declare(queue, passive=True).message_count:
        if count != before:
            before, end = count, time.monotonic() + STALLED
        elif time.monotonic() > end:
            return False
        try:
            connection.drain_events(timeout=0.05)
        except socket.timeout:
            pass
    return True


def drain(broker, vhost, queues, books):
    """Takes everything, settles it, and makes the settling durable with a confirmed publish behind it."""
    connection = connect(broker, vhost)
    channel = connection.channel()
    channel.confirm_select()
    channel.basic_qos(0, 500, False)
    for queue in queues:

        def on_message(message, key=key_of(vhost, queue)):
            books.delivered(key, message.body, message.delivery_info["redelivered"])
            channel.basic_ack(message.delivery_tag)

        tag = channel.basic_consume(queue, callback=on_message)
        if not empty(connection, channel, queue):
            books.problems.append(f"{queue} in {vhost}: ready messages that nobody is given")
        # After cancel-ok nothing more is on its way.
        channel.basic_cancel(tag)
    channel.basic_publish_confirm(amqp.Message("behind the acks", delivery_mode=2), routing_key="barrier")
    channel.queue_purge("barrier")
    left = {queue: channel.queue_declare(queue, passive=True).message_count for queue in queues}
    if any(left.values()):
        books.problems.append(f"messages left after draining in {vhost}: {left}")
    connection.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--publishers", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=None, help="the choices of a run; the kernel's scheduling remains")
    arguments.add_argument("--restless", action="store_true", help="limits of the store at their lowest, else by the seed")
    arguments.add_argument("--shards", type=int, default=1, help="as many shards, with a vhost in each")
    arguments.add_argument("--json", help="also write the result to this file")
    options = arguments.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    print(f"crash loop: {options.rounds} rounds, seed {seed}", flush=True)
    choose = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="hornpipe-crash-"))
    # Half of the runs with limits at their lowest, so that housekeeping is what is killed.
    restless = brokers.RESTLESS if choose.random() < 0.5 or options.restless else {}
    ours = os.environ.get("BROKER") != "rabbitmq"
    broker = brokers.make(directory, {**restless, "HORNPIPE_SHARDS": str(options.shards)} if ours else None, private=True)
    snapshots = [0, 0]
    books = Books()
    names = [f"p{n}" for n in range(options.publishers)]
    vhosts = ["/", *(f"v{n}" for n in range(1, options.shards))]
    homes = {name: vhosts[n % len(vhosts)] for n, name in enumerate(names)}
    places = {
        vhost: [f"own-{name}" for name in names if homes[name] == vhost] + ["shared", "fan-a", "fan-b"] for vhost in vhosts
    }
    queues = [key_of(vhost, queue) for vhost in vhosts for queue in places[vhost]]
    numbers = {name: iter(range(10**9)) for name in names}
    confirmed_total, recovery_kills, began = 0, 0, time.monotonic()
    broker.start()
    try:
        for vhost in vhosts[1:]:
            brokers.add_vhost(broker, vhost)
        for vhost in vhosts:
            declare(broker, vhost, places[vhost])
        for round_number in range(options.rounds):
            tally = [0]
            publishers = [Publisher(name, homes[name], numbers[name], broker, books, choose.random(), tally) for name in names]
            taken = choose.sample(queues, choose.randint(0, len(queues)))
            consumers = [Consumer(queue, broker, books, choose.random()) for queue in taken]
            for it in consumers + publishers:
                it.start()
            # The moment: after so many confirms, and a little later still, so that it falls anywhere in a commit.
            goal = choose.choice([0, 1, 50, 500, 2000, choose.randint(0, 6000)])
            brokers.until(lambda: tally[0] >= goal or not any(it.is_alive() for it in publishers), f"{goal} confirms")
            snapshot = None
            if ours and choose.random() < 0.4:
                snapshot = brokers.Snapshot(broker, directory / f"snapshot-{round_number}")
                snapshot.start()
                time.sleep(choose.random() * 0.3)
            time.sleep(choose.random() * 0.02)
            broker.kill()
            if snapshot:
                snapshot.join(brokers.DEADLINE)
                books.problems += snapshot.problems()
                snapshots[snapshot.whole] += 1
            for it in consumers + publishers:
                it.join(brokers.DEADLINE)
                if it.is_alive() or it.error:
                    raise RuntimeError(f"{it} didn't see the broker's end: {it.error!r}")
            confirmed_total += tally[0]
            while broker.kind == "hornpipe" and choose.random() < 0.25:
                broker.spawn()
                time.sleep(choose.random() * 0.15)
                broker.kill()
                recovery_kills += 1
            broker.start()
            if choose.random() < 0.7 or round_number == options.rounds - 1:
                for vhost in vhosts:
                    drain(broker, vhost, places[vhost], books)
                books.drained()
                if broker.kind == "hornpipe":
                    books.forget()
            print(
                f"round {round_number + 1}: {tally[0]} confirmed, {len(consumers)} consumers, "
                f"{books.duplicates} redelivered so far, {len(books.problems)} problems",
                flush=True,
            )
            if books.problems:
                break
        if broker.kind == "hornpipe":
            code = broker.stop()
            if code != 0:
                books.problems.append(f"the last stop ended with exit code {code}")
    except brokers.BrokerFailed as error:
        books.problems.append(f"the broker failed: {error}")
    finally:
        broker.cleanup()
    result = {
        "rounds": round_number + 1,
        "seed": seed,
        "kills_in_recovery": recovery_kills,
        "restless": bool(restless),
        "shards": options.shards,
        "databases_exchanged": broker.log_tail(10**9).count("was copied to a fresh one") if ours else 0,
        "snapshots": {"whole": snapshots[1], "cut": snapshots[0]},
        "confirmed": confirmed_total,
        "delivered": sum(len(it) for it in books.seen.values()),
        "redelivered": books.duplicates,
        "problems": len(books.problems),
        "seconds": round(time.monotonic() - began, 1),
    }
    if options.json:
        Path(options.json).write_text(json.dumps(result) + "\n")
    if books.problems:
        for it in books.problems[:20]:
            print(f"PROBLEM {it}")
        print(f"data directory and log kept in {directory}\n{broker.log_tail()}")
        print(f"crash loop: FAILED {result}")
        return 1
    if confirmed_total == 0:
        print("crash loop: FAILED, nothing was ever confirmed")
        return 1
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    print(f"crash loop: ok {result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
