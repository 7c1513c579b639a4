#!/usr/bin/env python3
"""Small traffic beside one heavy client: how long somebody waits who has no part in the load.

For each scenario a fresh broker, and two processes beside it: the heavy one prepares what it needs and then works for `--seconds`; the small
one sends 16 octets to itself each millisecond, over a connection and a queue of its own, and notes how long each took to come back. A line
for each scenario tells

* how many small messages there were, and p50, p99 and worst of their waits, ms
* how late the small client itself woke up at worst: it sleeps to the next millisecond, so that is the machine's doing, and a wait
  that is not clearly above it says nothing about the broker
* the longest turn of the broker's owner while the load ran, by processor time and by wall clock, if the broker has such metrics ("≤" names
  a bucket of the histogram, "=" is exact)
* how often the heavy one did what it does

Scenarios: `--list` tells them. Nothing is judged unless `--limit-ms` says so: then one fails in which a small message waited longer.
The broker is $HORNPIPE_BIN, a private RabbitMQ with BROKER=rabbitmq, or the one of AMQP_URL.
"""

import argparse
import gc
import multiprocessing
import os
import struct
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402
from long_queues import Books, Wire, frame, longest, method, publish, short, table  # noqa: E402

TICK = 0.001
BODY = b"x" * 16
DURABLE, EXCLUSIVE, NOWAIT = 2, 4, 16


def declare(queue, bits=NOWAIT, **arguments):
    args = {key.replace("_", "-"): value for key, value in arguments.items()}
    return method(1, 50, 10, b"\0\0" + short(queue) + bytes([bits]) + table(args))


def exchange(name, kind, **arguments):
    args = {key.replace("_", "-"): value for key, value in arguments.items()}
    return method(1, 40, 10, b"\0\0" + short(name) + short(kind) + bytes([NOWAIT]) + table(args))


def bind(queue, source, key="", **arguments):
    return method(1, 50, 20, b"\0\0" + short(queue) + short(source) + short(key) + b"\1" + table(arguments))


def consume(queue, tag):
    """Without acknowledgements, and without an answer."""
    return method(1, 60, 20, b"\0\0" + short(queue) + short(tag) + bytes([2 | 8]) + table({}))


def with_headers(source, headers, body=BODY):
    head = struct.pack(">HHQH", 60, 0, len(body), 0x2000) + table(headers)
    return method(1, 60, 40, b"\0\0" + short(source) + short("") + b"\0") + frame(2, 1, head) + frame(3, 1, body)


class Heavy:
    """What a heavy client does: `prepare` once, then `work` over and over; each call of it is one round."""

    # Rounds beyond these are not begun, for each uses up what was prepared; `None`: as many as there is time for.
    rounds = None
    # Between rounds, s.
    rest = 0.0

    def __init__(self, broker):
        self.broker = broker
        self.wire = Wire(broker)

    def sync(self):
        """Comes back when all before it is done."""
        self.wire.declare("flag", durable=False)

    def send(self, frames):
        """Sends many small commands, some hundred a write."""
        frames = list(frames)
        for k in range(0, len(frames), 500):
            self.wire.sock.sendall(b"".join(frames[k : k + 500]))

    def api(self, method_, path):
        Books(self.broker).api(path, method_)

    def prepare(self):
        pass

    def work(self, k):
        raise NotImplementedError


class Declares(Heavy):
    """queue.declare of durable queues, 500 a write, unanswered"""

    bits = DURABLE | NOWAIT

    def work(self, k):
        self.send(declare(f"d{k}.{i}", self.bits) for i in range(5000))
        self.sync()


class DeclaresTransient(Declares):
    """the same with exclusive ones, which nothing of is written"""

    bits = EXCLUSIVE | NOWAIT


class ManyQueues(Heavy):
    """publishes to 10 000 queues in turn that one connection consumes"""

    count = 10_000
    persistent = False

    def prepare(self):
        self.names = [f"m{k:05d}" for k in range(self.count)]
        self.taker = Wire(self.broker)
        self.send(declare(name, DURABLE | NOWAIT) for name in self.names)
        self.sync()
        own, self.wire = self.wire, self.taker
        self.send(consume(name, name) for name in self.names)
        self.sync()
        self.wire = own
        self.messages = [publish(name, BODY, self.persistent) for name in self.names]
        multiprocessing.get_context("fork").Process(target=self.take, daemon=True).start()

    def take(self):
        view = memoryview(bytearray(1 << 20))
        while self.taker.sock.recv_into(view):
            pass

    def work(self, k):
        self.send(self.messages)
        self.sync()


class ManyQueuesPersistent(ManyQueues):
    """the same with persistent messages"""

    persistent = True


class BoundQueue(Heavy):
    """deletes a queue with 20 000 bindings"""

    rounds, rest, count = 6, 0.3, 20_000

    def prepare(self):
        for q in range(self.rounds):
            self.send([declare(f"b{q}", DURABLE | NOWAIT)])
            self.send(bind(f"b{q}", "amq.direct", f"key.{q}.{k}") for k in range(self.count))
        self.sync()

    def work(self, k):
        self.wire.delete(f"b{k}")


class WideTransaction(Heavy):
    """transactions of 2 000 publishes, each to 100 queues"""

    publishes, queues = 2000, 100

    def prepare(self):
        self.send([exchange("fan", "fanout")])
        for k in range(self.queues):
            self.send([declare(f"t{k}", DURABLE | NOWAIT, x_max_length=1000), bind(f"t{k}", "fan")])
        self.sync()
        self.wire.call(90, 10, b"", 90, 11)

    def work(self, k):
        self.send(publish(f"key{i % 7}", BODY, False, "fan") for i in range(self.publishes))
        self.wire.call(90, 20, b"", 90, 21)


class Fanout(Heavy):
    """publishes to a fanout of 4 100 queues, another key each"""

    count = 4100

    def prepare(self):
        self.send([exchange("fan", "fanout")])
        self.send(declare(f"f{k}", DURABLE | NOWAIT, x_max_length=50) + bind(f"f{k}", "fan") for k in range(self.count))
        self.sync()

    def work(self, k):
        self.send(publish(f"key.{k}.{i}", BODY, False, "fan") for i in range(50))
        self.sync()


class WideDeadLetters(Fanout):
    """messages that expire at once into a fanout of 10 000 queues"""

    count = 10_000

    def prepare(self):
        super().prepare()
        self.wire.declare("dying", x_message_ttl=0, x_dead_letter_exchange="fan")

    def work(self, k):
        self.send(publish("dying", BODY, False) for _ in range(5))
        self.sync()


class WideRelease(Fanout):
    """messages that a delayed exchange lets go to 10 000 queues"""

    count, rest = 10_000, 0.05

    def prepare(self):
        super().prepare()
        self.send([exchange("later", "x-delayed-message", x_delayed_type="fanout")])
        self.send(bind(f"f{k}", "later") for k in range(self.count))
        self.sync()

    def work(self, k):
        self.send(with_headers("later", {"x-delay": 1}) for _ in range(2))
        self.sync()


class Headers(Heavy):
    """publishes to a headers exchange with 5 000 bindings, of which few fit"""

    count = 5000

    def prepare(self):
        self.send([exchange("h", "headers"), declare("h", DURABLE | NOWAIT, x_max_length=1000)])
        self.send(bind("h", "h", "", **{"x-match": "any", "k": k}) for k in range(self.count))
        self.sync()

    def work(self, k):
        self.send(with_headers("h", {"k": (k * 100 + i) % self.count}) for i in range(100))
        self.sync()


class Topic(Heavy):
    """publishes to a topic exchange with 4 096 bindings of 12 words, all of which fit, another key each"""

    def prepare(self):
        self.send([exchange("t", "topic"), declare("t", DURABLE | NOWAIT, x_max_length=1000)])
        key = lambda k: ".".join("*" if k >> bit & 1 else "w" for bit in range(12)) + ".#"
        self.send(bind("t", "t", key(k)) for k in range(4096))
        self.sync()

    def work(self, k):
        key = ".".join("w" * 12)
        self.send(publish(f"{key}.{k}.{i}", BODY, False, "t") for i in range(100))
        self.sync()


class BoundExchange(Heavy):
    """deletes an exchange with 20 000 bindings by way of the management API"""

    rounds, rest, count = 6, 0.3, 20_000

    def prepare(self):
        self.send([declare("bound", DURABLE | NOWAIT)])
        for x in range(self.rounds):
            self.wire.call(40, 10, b"\0\0" + short(f"x{x}") + short("direct") + bytes([DURABLE]) + table({}), 40, 11)
            self.send(bind("bound", f"x{x}", f"key.{x}.{k}") for k in range(self.count))
        self.sync()

    def work(self, k):
        self.api("DELETE", f"/api/exchanges/%2F/x{k}")


class WholeVhost(Heavy):
    """deletes a vhost with 5 000 bound queues by way of the management API"""

    rounds, rest, count = 4, 0.3, 5000

    def prepare(self):
        for v in range(self.rounds):
            Books(self.broker).api(f"/api/vhosts/v{v}", "PUT", {})
            user = urllib.parse.quote(self.broker.user)
            everything = {"configure": ".*", "write": ".*", "read": ".*"}
            Books(self.broker).api(f"/api/permissions/v{v}/{user}", "PUT", everything)
            own, vhost = self.wire, self.broker.vhost
            self.broker.vhost = f"v{v}"
            self.wire = Wire(self.broker)
            self.send(declare(f"q{k}", DURABLE | NOWAIT) + bind(f"q{k}", "amq.fanout") for k in range(self.count))
            self.sync()
            self.wire.close()
            self.wire, self.broker.vhost = own, vhost

    def work(self, k):
        self.api("DELETE", f"/api/vhosts/v{k}")


class Nothing(Heavy):
    """nothing at all: what the machine and the small client do by themselves"""

    rest = 0.01

    def work(self, k):
        pass


SCENARIOS = {
    "nothing": Nothing,
    "declares": Declares,
    "declarest": DeclaresTransient,
    "manyq": ManyQueues,
    "manyqp": ManyQueuesPersistent,
    "bindq": BoundQueue,
    "txwide": WideTransaction,
    "dlxwide": WideDeadLetters,
    "delaywide": WideRelease,
    "headers": Headers,
    "topicstar": Topic,
    "fan4100": Fanout,
    "delexchange": BoundExchange,
    "delvhost": WholeVhost,
}


def heavy(kind, broker, seconds, pipe):
    """The heavy process: prepares, waits for the word, works."""
    # who waits for the processor because a client computes does not wait for the broker
    os.nice(10)
    load = kind(broker)
    load.prepare()
    pipe.send("ready")
    pipe.recv()
    begun = time.monotonic()
    done = 0
    while time.monotonic() < begun + seconds and (load.rounds is None or done < load.rounds):
        load.work(done)
        done += 1
        time.sleep(load.rest)
    # what it left behind belongs to it
    time.sleep(0.2)
    pipe.send(done)
    pipe.recv()


def small(broker, ending, pipe):
    """The small process: there and back each millisecond until it is told to end. Does as little as it can beside."""
    wire = Wire(broker)
    wire.call(50, 10, b"\0\0" + short("small") + bytes([EXCLUSIVE]) + table({}), 50, 11)
    wire.consume("small", True)
    message = publish("small", BODY, False)
    # method, header and body frame of one delivery: all are alike but for the tag, which has a fixed width
    wire.sock.sendall(message)
    for _ in range(3):
        wire.read_frame()
    size = sum(8 + n for n in (4 + 2 + 8 + 1 + 1 + 1 + len("small"), 14 + 1, len(BODY)))
    buffer = memoryview(bytearray(size))
    waits, late = [], 0.0
    gc.disable()
    clock, send, receive = time.perf_counter, wire.sock.sendall, wire.sock.recv_into
    pipe.send("ready")
    due = clock()
    while not ending.is_set():
        due = max(due + TICK, clock())
        time.sleep(max(0.0, due - clock()))
        sent = clock()
        late = max(late, sent - due)
        send(message)
        left = size
        while left:
            n = receive(buffer[:left])
            if n == 0:
                raise ConnectionError("the broker closed the small connection")
            left -= n
        waits.append(clock() - sent)
    pipe.send((waits, late))


def measure(name, broker, seconds):
    """One scenario; its figures."""
    fork = multiprocessing.get_context("fork")
    (load, load_end), (mine, mine_end), ending = fork.Pipe(), fork.Pipe(), fork.Event()
    processes = [
        fork.Process(target=heavy, args=(SCENARIOS[name], broker, seconds, load_end)),
        fork.Process(target=small, args=(broker, ending, mine_end)),
    ]

    def told(pipe, process):
        brokers.until(lambda: pipe.poll(0.1) or not process.is_alive(), f"{name} to go on", 300)
        if not pipe.poll():
            raise RuntimeError(f"a client of {name} ended with {process.exitcode}")
        return pipe.recv()

    try:
        processes[0].start()
        told(load, processes[0])
        books = Books(broker) if broker.metrics_port else None
        if books:
            brokers.until(lambda: books.metrics()["hornpipe_pending_ops"] == 0, "the store to be done", 120)
        time.sleep(0.3)
        processes[1].start()
        told(mine, processes[1])
        time.sleep(0.1)
        before = books.metrics() if books else None
        load.send("go")
        rounds = told(load, processes[0])
        ending.set()
        waits, late = told(mine, processes[1])
        after = books.metrics() if books else None
        load.send("end")
    finally:
        for process in processes:
            if process.pid:
                process.join(1)
                process.kill()
                process.join()
    waits.sort()
    at = lambda part: waits[min(len(waits) - 1, int(len(waits) * part))] * 1e3
    turns = [longest(before, after, kind)[0] for kind in ("cpu_", "")] if books else ["", ""]
    return len(waits), at(0.5), at(0.99), waits[-1] * 1e3, late * 1e3, turns, rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long the load goes on")
    parser.add_argument("--rounds", type=int, default=1, help="how often each scenario is run")
    parser.add_argument("--limit-ms", type=float, help="fail where a small message waited longer")
    parser.add_argument("--list", action="store_true", help="tell the scenarios")
    args = parser.parse_args()
    if args.list:
        for name, kind in SCENARIOS.items():
            print(f"{name:12} {' '.join(kind.__doc__.split())}")
        return 0
    unknown = set(args.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    print("| scenario | messages | p50 ms | p99 | worst | own sleep late by | longest turn, processor ms | wall ms | rounds |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    failed = []
    for name in args.scenarios or SCENARIOS:
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory(prefix="small-traffic-") as folder:
                broker = brokers.make(folder)
                try:
                    if broker.kind != "external":
                        broker.start()
                    count, p50, p99, worst, late, (cpu, wall), rounds = measure(name, broker, args.seconds)
                except RuntimeError as error:
                    print(f"| {name} | {error} |", flush=True)
                    failed.append(f"{name} did not run")
                    continue
                finally:
                    broker.cleanup()
            print(
                f"| {name} | {count} | {p50:.2f} | {p99:.2f} | {worst:.1f} | {late:.1f} | {cpu} | {wall} | {rounds} |",
                flush=True,
            )
            if args.limit_ms and worst > args.limit_ms:
                failed.append(f"{name}: waited {worst:.1f} ms")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
