#!/usr/bin/env python3
"""Long queues and bulk work: how long the broker is away from everybody else meanwhile, and whether length costs speed.

Each case fills queues, does one thing that concerns all of it, and prints for that phase

* the longest turn of the owner, by wall clock and by processor time, from the histogram of its turns
  (`hornpipe_owner_turn_seconds`); "≤" names a bucket, "=" is exact
* how long a bystander waited: another connection that publishes a small message and gets it back, over and over
* the most processor time that writing the same 4 MiB took a thread of this script. It does nothing else, so what is more than usual there is
  the machine's: a guest whose host takes memory back is charged for it, and so is a turn of the owner that falls into it

Cases: purge delete expire expire-dlx max-length max-length-dlx requeue ack reject gaps curve cold fanout wide memory spread names

`memory` prints what the broker's process holds while `--messages` of `--body` octets enter one queue, wait, are found again by a restart after
SIGKILL, and leave; `spread` the same for messages dealt out to `--queues` queues in turn; `names` for `--queues` empty durable queues.

`--messages` is the length when messages come as runs of one key, `--singles` when every message is a run of its own (two keys
alternate), `--unacked` how many deliveries are outstanding when the channel is closed. Nothing is judged unless
`--limit-ms` says so: then a case fails in which the owner worked longer than that in one turn.
"""

import argparse
import ctypes
import json
import os
import re
import socket
import struct
import sys
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402
import length_curve  # noqa: E402

RECV = 1 << 20


def short(text):
    data = text.encode()
    return bytes([len(data)]) + data


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel, class_id, method_id, arguments=b""):
    return frame(1, channel, struct.pack(">HH", class_id, method_id) + arguments)


def publish(key, body, persistent, exchange=""):
    head = struct.pack(">HHQHB", 60, 0, len(body), 0x1000, 2 if persistent else 1)
    return method(1, 60, 40, b"\0\0" + short(exchange) + short(key) + b"\0") + frame(2, 1, head) + frame(3, 1, body)


def table(entries):
    out = b""
    for key, value in entries.items():
        out += short(key)
        if isinstance(value, bool):
            out += b"t" + bytes([value])
        elif isinstance(value, int):
            out += b"l" + struct.pack(">q", value)
        else:
            data = value.encode()
            out += b"S" + struct.pack(">I", len(data)) + data
    return struct.pack(">I", len(out)) + out


class Wire:
    """One connection with channel 1, spoken by hand: bulk traffic must not be limited by a client library."""

    def __init__(self, broker):
        self.sock = socket.create_connection((broker.host, broker.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sock.sendall(b"AMQP\0\0\x09\x01")
        self.expect(10, 10)
        plain = f"\0{broker.user}\0{broker.password}".encode()
        args = table({}) + short("PLAIN") + struct.pack(">I", len(plain)) + plain + short("en_US")
        self.sock.sendall(method(0, 10, 11, args))
        self.expect(10, 30)
        self.sock.sendall(method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0)))
        self.sock.sendall(method(0, 10, 40, short(broker.vhost) + b"\0\0"))
        self.expect(10, 41)
        self.open()

    def open(self):
        self.call(20, 10, b"\0", 20, 11)

    def read_frame(self):
        while True:
            if len(self.buffer) >= 7:
                kind, channel, size = struct.unpack_from(">BHI", self.buffer)
                if len(self.buffer) >= size + 8:
                    payload, self.buffer = self.buffer[7 : 7 + size], self.buffer[8 + size :]
                    return kind, channel, payload
            data = self.sock.recv(RECV)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self.buffer += data

    def expect(self, class_id, method_id):
        while True:
            kind, _, payload = self.read_frame()
            if kind == 8:
                continue
            found = struct.unpack_from(">HH", payload) if kind == 1 else None
            if found != (class_id, method_id):
                raise AssertionError(f"expected {class_id}.{method_id}, got {kind} {payload[:200]!r}")
            return payload[4:]

    def call(self, class_id, method_id, args, ok_class, ok_method):
        self.sock.sendall(method(1, class_id, method_id, args))
        return self.expect(ok_class, ok_method)

    def declare(self, queue, durable=True, **arguments):
        args = {key.replace("_", "-"): value for key, value in arguments.items()}
        body = b"\0\0" + short(queue) + bytes([2 if durable else 0]) + table(args)
        return self.call(50, 10, body, 50, 11)

    def purge(self, queue):
        return struct.unpack(">I", self.call(50, 30, b"\0\0" + short(queue) + b"\0", 50, 31))[0]

    def delete(self, queue):
        return struct.unpack(">I", self.call(50, 40, b"\0\0" + short(queue) + b"\0", 50, 41))[0]

    def bind(self, queue, exchange):
        self.call(50, 20, b"\0\0" + short(queue) + short(exchange) + short("") + b"\0" + table({}), 50, 21)

    def get(self, queue):
        """Whether there was a message; takes it."""
        self.sock.sendall(method(1, 60, 70, b"\0\0" + short(queue) + b"\1"))
        _, _, payload = self.read_frame()
        if struct.unpack_from(">HH", payload) == (60, 72):
            return False
        self.read_frame()
        self.read_frame()
        return True

    def consume(self, queue, no_ack, tag="t"):
        self.call(60, 20, b"\0\0" + short(queue) + short(tag) + bytes([2 if no_ack else 0]) + table({}), 60, 21)

    def receive(self, count, size):
        """Takes so many deliveries of one known size off the wire, unread."""
        left = count * size - len(self.buffer)
        self.buffer = b""
        view = memoryview(bytearray(RECV))
        while left > 0:
            n = self.sock.recv_into(view[: min(left, RECV)])
            if n == 0:
                raise ConnectionError("the broker closed the connection")
            left -= n

    def close_channel(self):
        self.sock.sendall(method(1, 20, 40, struct.pack(">H", 200) + short("") + struct.pack(">HH", 0, 0)))

    def close(self):
        self.sock.close()


def delivery_size(queue, body, tag="t"):
    """Octets of a delivery of a message of `publish`."""
    return 8 + 4 + 1 + len(tag) + 8 + 1 + 1 + 1 + len(queue) + 8 + 15 + 8 + body


class Books:
    """What the broker says of itself."""

    def __init__(self, broker):
        self.http = f"http://127.0.0.1:{broker.http_port}"
        self.metrics_url = f"http://127.0.0.1:{broker.metrics_port}/metrics"
        self.auth = "Basic " + b64encode(f"{broker.user}:{broker.password}".encode()).decode()

    def api(self, path, method="GET", body=None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": self.auth, "Content-Type": "application/json"}
        request = urllib.request.Request(self.http + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def queue(self, name):
        return self.api(f"/api/queues/%2F/{name}")

    def metrics(self):
        with urllib.request.urlopen(self.metrics_url, timeout=120) as answer:
            text = answer.read().decode()
        found = {}
        for line in text.splitlines():
            match = re.match(r"(hornpipe_\w+|process_\w+|rabbitmq_queue_messages\w*|rabbitmq_process_resident\w+)(\{[^}]*\})? (\S+)$", line)
            if match:
                found[match[1] + (match[2] or "")] = float(match[3])
        return found

    def settled(self, queue, ready, unacked=0):
        """Waits until a queue has so many messages and the store has nothing to do."""

        def there():
            q = self.queue(queue)
            return q["messages_ready"] == ready and q["messages_unacknowledged"] == unacked

        brokers.until(there, f"{queue} to have {ready} + {unacked}", 900)
        brokers.until(lambda: self.metrics()["hornpipe_pending_ops"] == 0, "the store to be done", 900)


class Bystander(threading.Thread):
    """A connection with little traffic of its own: a message there and back, over and over."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.wire = Wire(broker)
        self.wire.declare("bystander", durable=False)
        self.times = []
        self.ending = False
        self.start()

    def run(self):
        message = publish("bystander", b"x" * 16, False)
        while not self.ending:
            begun = time.perf_counter()
            self.wire.sock.sendall(message)
            while not self.wire.get("bystander"):
                pass
            self.times.append(time.perf_counter() - begun)
            time.sleep(0.001)

    def end(self):
        self.ending = True
        self.join()
        self.wire.close()


class Yardstick(threading.Thread):
    """Writes the same memory over and over: how much processor time that takes at most, which the broker has no part in."""

    SIZE = 4 << 20

    def __init__(self):
        super().__init__(daemon=True)
        self.buffer = ctypes.create_string_buffer(self.SIZE)
        self.most = 0
        self.ending = False
        self.start()

    def run(self):
        ctypes.memset(self.buffer, 1, self.SIZE)
        while not self.ending:
            begun = time.thread_time()
            ctypes.memset(self.buffer, 2, self.SIZE)
            self.most = max(self.most, time.thread_time() - begun)
            time.sleep(0.01)

    def end(self):
        self.ending = True
        self.join()


class Phase:
    """What happens between two looks at the broker."""

    def __init__(self, run, title, judged=True):
        self.run, self.title, self.judged = run, title, judged

    def __enter__(self):
        self.before = self.run.books.metrics()
        self.bystander = Bystander(self.run.broker)
        self.yardstick = Yardstick()
        self.begun = time.perf_counter()
        return self

    def __exit__(self, kind, *_):
        took = time.perf_counter() - self.begun
        self.bystander.end()
        self.yardstick.end()
        if kind:
            return
        after = self.run.books.metrics()
        wall, over_wall, _ = longest(self.before, after, "")
        cpu, over_cpu, worst = longest(self.before, after, "cpu_")
        times = sorted(self.bystander.times) or [0]
        p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
        rss = after.get("rabbitmq_process_resident_memory_bytes", 0)
        print(
            f"| {self.title} | {took:.2f} s | {cpu} | {over_cpu} | {wall} | {over_wall} "
            f"| {times[-1] * 1e3:.1f} | {p99 * 1e3:.1f} | {self.yardstick.most * 1e3:.1f} | {rss / 2**20:.0f} |",
            flush=True,
        )
        if self.judged and self.run.args.limit_ms and worst > self.run.args.limit_ms:
            self.run.failures.append(f"{self.title}: a turn worked {cpu} ms")


def longest(before, after, kind):
    """The longest turn of a phase in words, how many were over 5 ms, and its bound in ms."""
    name = f"hornpipe_owner_turn_{kind}seconds_bucket"
    grown = {}
    for key, value in after.items():
        if key.startswith(name):
            bound = re.search(r'le="([^"]+)"', key)[1]
            grown[float(bound)] = value - before.get(key, 0)
    bounds = sorted(grown)
    total = grown[bounds[-1]]
    over = int(total - grown[0.005])
    most = after[f"hornpipe_owner_turn_{kind}max_seconds"]
    if most > before[f"hornpipe_owner_turn_{kind}max_seconds"]:
        return f"= {most * 1e3:.1f}", over, most * 1e3
    bound = next(b for b in bounds if grown[b] == total)
    return f"≤ {bound * 1e3:g}", over, bound * 1e3


class Run:
    def __init__(self, args, broker):
        self.args, self.broker = args, broker
        self.books = Books(broker)
        self.failures = []

    # ---- filling ----------------------------------------------------------------------------------------------------

    def fill(self, queue, count, singles, persistent=True, body=None):
        """Publishes `count` messages and waits until all is on disk."""
        wire = Wire(self.broker)
        body = b"x" * (body or self.args.body)
        one = publish(queue, body, persistent)
        if singles:
            one += publish("nowhere", b"x", False)
        per = max(1, (1 << 20) // len(one))
        many = one * per
        left = count
        while left >= per:
            wire.sock.sendall(many)
            left -= per
        wire.sock.sendall(one * left)
        return wire

    def filled(self, queue, title, count, singles, persistent=True):
        with Phase(self, f"fill, {title}"):
            wire = self.fill(queue, count, singles, persistent)
            self.books.settled(queue, count)
        return wire

    def shapes(self):
        yield "runs", self.args.messages, False
        yield "one by one", self.args.singles, True

    # ---- cases ------------------------------------------------------------------------------------------------------

    def case_purge(self):
        for persistent in (True, False):
            for shape, count, singles in self.shapes():
                title = f"{count:,} {'persistent' if persistent else 'transient'}, {shape}"
                control = Wire(self.broker)
                control.declare("q")
                wire = self.filled("q", title, count, singles, persistent)
                with Phase(self, f"purge, {title}"):
                    got = control.purge("q")
                    self.books.settled("q", 0)
                    self.wait_idle()
                assert got == count, (got, count)
                control.delete("q")
                wire.close()
                control.close()

    def case_delete(self):
        for shape, count, singles in self.shapes():
            control = Wire(self.broker)
            control.declare("q")
            title = f"{count:,}, {shape}"
            wire = self.filled("q", title, count, singles)
            with Phase(self, f"delete, {title}"):
                got = control.delete("q")
                self.wait_idle()
            assert got == count, (got, count)
            wire.close()
            control.close()

    def wait_idle(self):
        """Waits until nothing is left to do in slices."""
        brokers.until(lambda: self.books.metrics().get("hornpipe_work_items", 0) == 0, "the work to end", 900)
        brokers.until(lambda: self.books.metrics()["hornpipe_pending_ops"] == 0, "the store to be done", 900)

    def expire(self, dlx):
        for shape, count, singles in self.shapes():
            control = Wire(self.broker)
            more = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"} if dlx else {}
            control.declare("dead")
            control.declare("q", **more)
            title = f"{count:,}{' into a DLX' if dlx else ''}, {shape}"
            # all of them get one deadline: a policy sets it on what is published from then on, so the clock is the filler's
            ttl = int(self.args.ttl * 1000)
            control.delete("q")
            control.declare("q", x_message_ttl=ttl, **more)
            begun = time.monotonic()
            wire = self.fill("q", count, singles)
            brokers.until(
                lambda: self.books.queue("q")["messages_ready"] == count or time.monotonic() > begun + self.args.ttl,
                "the queue to be full",
                900,
            )
            fill = time.monotonic() - begun
            if fill > self.args.ttl:
                print(f"filling took {fill:.0f} s, longer than --ttl: what expired meanwhile is not in the phase")
            time.sleep(max(0, self.args.ttl - fill - 0.2))
            with Phase(self, f"expire, {title}"):
                brokers.until(lambda: self.books.queue("q")["messages_ready"] == 0, "all to expire", 1800)
                if dlx:
                    self.books.settled("dead", count)
                self.wait_idle()
            control.delete("q")
            control.delete("dead")
            self.wait_idle()
            wire.close()
            control.close()

    def case_expire(self):
        self.expire(False)

    def case_expire_dlx(self):
        self.expire(True)

    def max_length(self, dlx):
        for shape, count, singles in self.shapes():
            control = Wire(self.broker)
            more = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"} if dlx else {}
            control.declare("dead")
            control.declare("q", **more)
            title = f"{count:,}{' into a DLX' if dlx else ''}, {shape}"
            wire = self.filled("q", title, count, singles)
            with Phase(self, f"max-length lowered, {title}"):
                policy = {"pattern": "^q$", "definition": {"max-length": 10}, "apply-to": "queues"}
                self.books.api("/api/policies/%2F/short", "PUT", policy)
                self.books.settled("q", 10)
                if dlx:
                    self.books.settled("dead", count - 10)
                self.wait_idle()
            self.books.api("/api/policies/%2F/short", "DELETE")
            control.delete("q")
            control.delete("dead")
            self.wait_idle()
            wire.close()
            control.close()

    def case_max_length(self):
        self.max_length(False)

    def case_max_length_dlx(self):
        self.max_length(True)

    def outstanding(self, title, act, more=None, after=None, gaps=False):
        """A channel with many unacked deliveries, every second of them acknowledged before where there are to be gaps, and what ends them."""
        for shape, singles in (("runs", False), ("one by one", True)):
            count = self.args.unacked
            control = Wire(self.broker)
            control.declare("dead")
            control.declare("q", **(more or {}))
            filler = self.filled("q", f"{count:,}, {shape}", count, singles)
            wire = Wire(self.broker)
            with Phase(self, f"deliver, {count:,} unacked, {shape}"):
                wire.consume("q", False)
                wire.receive(count, delivery_size("q", self.args.body))
                self.books.settled("q", 0, count)
            if gaps:
                shape += " with gaps"
                with Phase(self, f"every second one acknowledged, {shape}"):
                    acks = [method(1, 60, 80, struct.pack(">QB", tag, 0)) for tag in range(1, count, 2)]
                    for first in range(0, len(acks), 20_000):
                        wire.sock.sendall(b"".join(acks[first : first + 20_000]))
                    count -= len(acks)
                    self.books.settled("q", 0, count)
                    self.wait_idle()
            with Phase(self, f"{title}, {count:,} unacked, {shape}"):
                act(wire, self.args.unacked)
                (after or (lambda n: self.books.settled("q", n)))(count)
                self.wait_idle()
            if gaps and not after:
                with Phase(self, f"deliver again, {count:,}, {shape}"):
                    again = Wire(self.broker)
                    again.consume("q", False)
                    again.receive(count, delivery_size("q", self.args.body))
                    self.books.settled("q", 0, count)
                again.close()
            control.delete("q")
            control.delete("dead")
            self.wait_idle()
            for one in (wire, filler, control):
                one.close()

    def case_requeue(self):
        self.outstanding("channel closed", lambda wire, _: wire.close_channel())
        self.outstanding("connection lost", lambda wire, _: wire.close())

    def case_ack(self):
        ack = lambda wire, n: wire.sock.sendall(method(1, 60, 80, struct.pack(">QB", n, 1)))
        self.outstanding("ack multiple", ack, after=lambda n: self.books.settled("q", 0))

    def case_reject(self):
        nack = lambda wire, n: wire.sock.sendall(method(1, 60, 120, struct.pack(">QB", n, 1)))
        more = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
        self.outstanding("nack multiple into a DLX", nack, more, lambda n: self.books.settled("dead", n))

    def case_gaps(self):
        self.outstanding("connection lost", lambda wire, _: wire.close(), gaps=True)
        nack = lambda wire, n: wire.sock.sendall(method(1, 60, 120, struct.pack(">QB", n, 1)))
        more = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
        self.outstanding("nack multiple into a DLX", nack, more, lambda n: self.books.settled("dead", n), gaps=True)

    def case_curve(self):
        """Cost of a message put in and taken out against length, over several passes."""
        steps = self.args.steps
        step = self.args.messages // steps
        size = delivery_size("q", self.args.body)
        pid = self.broker.process.pid
        control = Wire(self.broker)

        def cost(act):
            elapsed, processor = time.perf_counter(), length_curve.cpu_seconds(pid)
            act()
            return [(time.perf_counter() - elapsed) / step * 1e6, (length_curve.cpu_seconds(pid) - processor) / step * 1e6]

        def put(length):
            wires.append(self.fill("q", step, False))
            self.books.settled("q", length)

        passes = []
        for _ in range(self.args.passes):
            control.declare("q")
            wires = []
            lengths = [(k + 1) * step for k in range(steps)]
            into = [(length, cost(lambda: put(length))) for length in lengths]
            consumer = Wire(self.broker)
            consumer.consume("q", True)
            out = [(length, cost(lambda: consumer.receive(step, size))) for length in reversed(lengths)][::-1]
            figures = {}
            for name, rows in (("in", into), ("out", out)):
                for k, kind in enumerate(("elapsed", "processor")):
                    figures[f"{name}, {kind}"] = [(length, costs[k]) for length, costs in rows]
            passes.append(figures)
            control.delete("q")
            for wire in (*wires, consumer):
                wire.close()
            self.wait_idle()
        print("\n" + "\n".join(length_curve.report(passes)), flush=True)
        if self.args.plot:
            title = f"{self.args.body} octets, persistent, one queue: {self.args.passes} passes to {self.args.messages:,}"
            Path(self.args.plot).write_text(length_curve.svg(passes, title))

    def case_cold(self):
        """One queue among many whose messages lie interleaved, drained while nothing of it is in memory."""
        queues, each = self.args.queues, self.args.each
        control = Wire(self.broker)
        body = b"x" * 1024
        size = delivery_size("c00000", 1024)
        for k in range(queues):
            control.declare(f"c{k:05d}")
        control.declare("s00000")
        wire = Wire(self.broker)
        for _ in range(each):
            for k in range(0, queues, 500):
                wire.sock.sendall(b"".join(publish(f"c{i:05d}", body, True) for i in range(k, min(k + 500, queues))))
        self.books.settled("c00000", each)
        last = f"c{queues - 1:05d}"
        self.books.settled(last, each)
        sequential = self.args.each * 2000
        self.fill("s00000", sequential, False, body=1024)
        self.books.settled("s00000", sequential)
        print(f"resident before: {self.books.metrics()['hornpipe_resident_body_bytes'] / 2**20:.0f} MiB of bodies")
        rates = []
        for k in range(0, queues, max(1, queues // 20)):
            name = f"c{k:05d}"
            consumer = Wire(self.broker)
            begun = time.perf_counter()
            consumer.consume(name, True)
            consumer.receive(each, size)
            rates.append(each / (time.perf_counter() - begun))
            consumer.close()
        rates.sort()
        consumer = Wire(self.broker)
        begun = time.perf_counter()
        consumer.consume("s00000", True)
        consumer.receive(sequential, size)
        base = sequential / (time.perf_counter() - begun)
        cold = rates[len(rates) // 2]
        print(
            f"one cold queue of {queues:,} with {each} messages each: median {cold:,.0f}/s "
            f"(worst {rates[0]:,.0f}); one long queue: {base:,.0f}/s; ratio {cold / base:.2f}",
            flush=True,
        )

    def case_fanout(self):
        """One body for any number of queues."""
        control = Wire(self.broker)
        control.call(40, 10, b"\0\0" + short("fan") + short("fanout") + bytes([2]) + table({}), 40, 11)
        for k in range(1000):
            control.declare(f"f{k:04d}")
            control.bind(f"f{k:04d}", "fan")
        before = self.disk()
        body = os.urandom(100_000)
        count = 200
        with Phase(self, f"fan-out of {count} × {len(body):,} octets to 1,000 queues"):
            wire = Wire(self.broker)
            wire.sock.sendall(publish("", body, True, "fan") * count)
            self.books.settled("f0000", count)
            self.books.settled("f0999", count)
        grown = self.disk() - before
        print(
            f"fan-out to 1,000 queues: {count} bodies of {len(body):,} octets took {grown:,} octets on disk, "
            f"{grown / (count * len(body)):.2f} of one copy"
        )
        control.close()

    def case_wide(self):
        """A topology of `--queues` queues: made, published to, and taken down."""
        count = self.args.queues
        names = [f"w{k:06d}" for k in range(count)]
        control = Wire(self.broker)
        control.call(40, 10, b"\0\0" + short("wide") + short("fanout") + bytes([2]) + table({}), 40, 11)

        def all_of(title, make, judged=True, wire=control):
            with Phase(self, f"{title}, {count:,}", judged):
                for k in range(0, count, 500):
                    wire.sock.sendall(b"".join(make(name) for name in names[k : k + 500]))
                # answered after all that
                wire.declare("flag", durable=False)

        def declare(name, bits=0x12):
            return method(1, 50, 10, b"\0\0" + short(name) + bytes([bits]) + table({}))

        def bind(name, key="", exchange="wide"):
            return method(1, 50, 20, b"\0\0" + short(name) + short(exchange) + short(key) + b"\1" + table({}))

        def delete(name):
            return method(1, 50, 40, b"\0\0" + short(name) + b"\4")

        all_of("declare durable queues", declare)
        all_of("bind them to a fanout", bind)
        for persistent in (False, True):
            for round_ in ("first", "second"):
                kind = "persistent" if persistent else "transient"
                with Phase(self, f"the {round_} {kind} publish to {count:,}"):
                    control.sock.sendall(publish("", b"x" * self.args.body, persistent, "wide"))
                    control.declare("flag", durable=False)
                    self.books.settled(names[-1], 1 + 2 * persistent + (round_ == "second"))
        with Phase(self, "ten binds with a publish after each"):
            for k in range(10):
                control.sock.sendall(declare(f"more{k}") + bind(f"more{k}"))
                control.sock.sendall(publish("", b"x" * self.args.body, False, "wide"))
            control.declare("flag", durable=False)
            self.books.settled(names[-1], 14)
        all_of("purge", lambda name: method(1, 50, 30, b"\0\0" + short(name) + b"\1"))
        with Phase(self, "delete the exchange"):
            control.call(40, 20, b"\0\0" + short("wide") + b"\0", 40, 21)
            self.books.settled(names[-1], 0)
        all_of("bind them to amq.direct, a key each", lambda name: bind(name, name, "amq.direct"))
        all_of("delete them", delete)
        owner = Wire(self.broker)
        all_of("declare exclusive queues", lambda name: declare(name, 0x14), wire=owner)
        all_of("bind them to amq.fanout", lambda name: bind(name, "", "amq.fanout"), wire=owner)
        with Phase(self, f"a transient publish to {count:,} exclusive queues"):
            control.sock.sendall(publish("", b"x" * self.args.body, False, "amq.fanout"))
            control.declare("flag", durable=False)
        with Phase(self, f"close a connection with {count:,} exclusive queues"):
            owner.close()
            left = lambda: self.books.api("/api/overview")["object_totals"]["queues"] < 100
            brokers.until(left, "the queues to go", 300)
        control.close()

    def resident(self):
        """Resident MiB of the broker's process, now and at most so far."""
        status = Path(f"/proc/{self.broker.process.pid}/status").read_text()
        return [int(re.search(rf"{name}:\s+(\d+)", status)[1]) // 1024 for name in ("VmRSS", "VmHWM")]

    def restarted(self):
        """Kills the broker, starts it again and says how long it took from the process's start until clients are served."""
        # the answer comes when all before it is on disk
        Wire(self.broker).declare("flag")
        self.broker.kill()
        begun = time.perf_counter()
        self.broker.start()
        took = time.perf_counter() - begun
        self.books = Books(self.broker)
        recovered = re.findall(r"recovered (\d+) log entries in (\d+) ms", self.broker.log_tail(200))
        return f"{took:.2f} s, {recovered[-1][0] if recovered else '?'} log entries in {recovered[-1][1] if recovered else '?'} ms"

    def held(self, title, fresh, took):
        now, most = self.resident()
        print(f"| {title} | {took} | {now} | {most} | {fresh} | {self.disk() / 2**20:,.0f} |", flush=True)

    def case_memory(self):
        count, size = self.args.messages, delivery_size("q", self.args.body)
        print("\n| phase | took | resident MiB | at most | fresh | disk MiB |\n|---|---|---|---|---|---|")
        fresh = self.resident()[0]
        control = Wire(self.broker)
        control.declare("q")
        begun = time.perf_counter()
        self.fill("q", count, False)
        self.books.settled("q", count)
        self.held(f"{count:,} × {self.args.body} in", fresh, f"{time.perf_counter() - begun:.1f} s")
        self.held("killed and started again", fresh, self.restarted())
        self.books.settled("q", count)
        consumer = Wire(self.broker)
        begun = time.perf_counter()
        consumer.consume("q", True)
        consumer.receive(count, size)
        self.books.settled("q", 0)
        self.held("drained", fresh, f"{time.perf_counter() - begun:.1f} s")

    def case_spread(self):
        queues = self.args.queues
        each = self.args.messages // queues
        print("\n| phase | took | resident MiB | at most | fresh | disk MiB |\n|---|---|---|---|---|---|")
        fresh = self.resident()[0]
        control = Wire(self.broker)
        names = [f"c{k:06d}" for k in range(queues)]
        for name in names:
            control.declare(name)
        self.held(f"{queues:,} queues", fresh, "")
        wire = Wire(self.broker)
        body = b"x" * self.args.body
        frames = [b"".join(publish(name, body, True) for name in names[k : k + 500]) for k in range(0, queues, 500)]
        begun = time.perf_counter()
        for _ in range(each):
            for frame_of_500 in frames:
                wire.sock.sendall(frame_of_500)
        self.books.settled(names[-1], each)
        self.held(f"{queues * each:,} × {self.args.body} in, in turn", fresh, f"{time.perf_counter() - begun:.1f} s")
        self.held("killed and started again", fresh, self.restarted())
        assert self.books.queue(names[0])["messages_ready"] == each

    def case_names(self):
        queues = self.args.queues
        print("\n| phase | took | resident MiB | at most | fresh | disk MiB |\n|---|---|---|---|---|---|")
        fresh = self.resident()[0]
        wire = Wire(self.broker)
        begun = time.perf_counter()
        for start in range(0, queues, 1000):
            names = [f"c{k:06d}" for k in range(start, min(start + 1000, queues))]
            declare = lambda name: method(1, 50, 10, b"\0\0" + short(name) + bytes([2]) + table({}))
            wire.sock.sendall(b"".join(declare(name) for name in names))
            for _ in names:
                wire.expect(50, 11)
        self.held(f"{queues:,} durable queues declared", fresh, f"{time.perf_counter() - begun:.1f} s")
        self.held("killed and started again", fresh, self.restarted())
        assert self.books.queue(f"c{queues - 1:06d}")["messages_ready"] == 0

    def disk(self):
        """Octets in use under the data folder, but for the ballast, which is made a second after the start."""
        total = 0
        for root, _, names in os.walk(self.broker.data):
            for name in names:
                if name == "ballast":
                    continue
                try:
                    total += os.stat(os.path.join(root, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
        return total


CASES = ["purge", "delete", "expire", "expire-dlx", "max-length", "max-length-dlx", "requeue", "ack", "reject",
         "gaps", "curve", "cold", "fanout", "wide", "memory", "spread", "names"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all without it")
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--singles", type=int, default=2_000_000)
    parser.add_argument("--unacked", type=int, default=1_000_000)
    parser.add_argument("--body", type=int, default=100)
    parser.add_argument("--ttl", type=float, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--passes", type=int, default=5, help="of `curve`")
    parser.add_argument("--plot", help="file for the drawing of `curve`")
    parser.add_argument("--queues", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--limit-ms", type=float, default=0)
    args = parser.parse_args()
    failures = []
    heading = False
    for case in args.cases or CASES:
        with tempfile.TemporaryDirectory() as directory:
            # no alarm may hold back the filling
            env = {"HORNPIPE_MEMORY_LIMIT": "16GiB"}
            broker = brokers.Hornpipe(directory, env)
            try:
                broker.start()
                run = Run(args, broker)
                if not heading:
                    heading = True
                    print(
                        "| phase | took | longest turn, processor ms | over 5 ms | longest turn, wall ms | over 5 ms "
                        "| bystander, longest ms | p99 ms | yardstick, longest ms | RSS MiB |\n|---|---|---|---|---|---|---|---|---|---|"
                    )
                getattr(run, "case_" + case.replace("-", "_"))()
                failures += run.failures
            finally:
                broker.cleanup()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
