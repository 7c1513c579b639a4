#!/usr/bin/env python3
"""Holds the disk to its promise: at most 2 × what is live + 256 MiB, in steady state and within 60 s after a drain.

Each shape fills queues by a raw connection, looks at the disk once the store is done, drains, and waits until the promise
holds again; how long that took is printed, and a shape fails that needed longer than --within seconds. "Live" counts bodies only,
so the promise is kept without what the broker writes around them. The ballast does not count, what the log's database keeps
reserved does, and is printed apart.

Shapes: plain small stuck interleaved interleaved-small steady large dead-lettered delayed fanout fanout-ttl fanout-ttl-beside
"""

import argparse
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402
from long_queues import Books, Wire, delivery_size, frame, method, publish, short, table  # noqa: E402

MIB = 1 << 20
SLACK = 256 * MIB
# Of a body in one frame.
PIECE = 131072 - 8


def deliveries(wire, queue, body, count, ack_all_but=0, tag="t"):
    """Takes `count` deliveries with acknowledgements; one in `ack_all_but` is left unsettled (0 = none is)."""
    wire.consume(queue, False, tag)
    size = delivery_size(queue, body, tag)
    size += (-(-body // PIECE) - 1) * 8
    done = 0
    while done < count:
        some = min(10_000, count - done)
        wire.receive(some, size)
        if ack_all_but:
            tags = [done + k + 1 for k in range(some) if (done + k + 1) % ack_all_but]
            wire.sock.sendall(b"".join(method(1, 60, 80, struct.pack(">QB", t, 0)) for t in tags))
        else:
            wire.sock.sendall(method(1, 60, 80, struct.pack(">QB", done + some, 1)))
        done += some


class Run:
    def __init__(self, args, broker):
        self.args, self.broker, self.books = args, broker, Books(broker)
        self.failures = []
        self.control = Wire(broker)
        self.live = 0

    def disk(self):
        """Octets of the data folder without the ballast; of them, the log's database."""
        total = database = 0
        for path in self.broker.data.rglob("*"):
            try:
                taken = path.stat().st_blocks * 512 if path.is_file() else 0
            except FileNotFoundError:
                continue  # a file went while it was looked at
            if path.name == "ballast":
                continue
            total += taken
            if any(part.startswith("db") for part in path.relative_to(self.broker.data).parts):
                database += taken
        return total, database

    def judge(self, title, live, wait):
        """Looks at the disk; with `wait`, until the promise holds or the time is over."""
        most = 2 * live + SLACK
        began = time.monotonic()
        while True:
            total, database = self.disk()
            took = time.monotonic() - began
            if total <= most or not wait or took > self.args.within:
                break
            time.sleep(0.1)
        held = self.books.metrics().get("hornpipe_store_db_live_bytes", 0)
        kept = "kept" if total <= most else "BROKEN"
        print(
            f"| {title} | {live / MIB:,.0f} | {total / MIB:,.0f} | {database / MIB:,.0f} of {held / MIB:,.1f} "
            f"| {most / MIB:,.0f} | {kept}{f' after {took:.1f} s' if wait else ''} |",
            flush=True,
        )
        if total > most:
            self.failures.append(f"{title}: {total / MIB:.0f} MiB on disk, at most {most / MIB:.0f} promised")

    def pending(self):
        metrics = self.books.metrics()
        return metrics["hornpipe_pending_ops"] or metrics.get("hornpipe_work_items", 0)

    def idle(self):
        brokers.until(lambda: not self.pending(), "the store to be done", 600)

    def fill(self, queues, count, body, exchange="", key=None):
        """`count` persistent messages over the queues in turn."""
        wire = Wire(self.broker)
        octets = b"x" * body
        # whole in one frame, or as much of it as fits and the rest behind
        head = struct.pack(">HHQHB", 60, 0, body, 0x1000, 2)
        pieces = b"".join(frame(3, 1, octets[at : at + PIECE]) for at in range(0, body, PIECE))
        route = lambda queue: method(1, 60, 40, b"\0\0" + short(exchange) + short(key or queue) + b"\0")
        frames = [route(queue) + frame(2, 1, head) + pieces for queue in queues]
        if len(frames) == 1:
            per = max(1, MIB // len(frames[0]))
            for _ in range(count // per):
                wire.sock.sendall(frames[0] * per)
            wire.sock.sendall(frames[0] * (count % per))
        else:
            for _ in range(count // len(frames)):
                wire.sock.sendall(b"".join(frames))
        return wire

    def ready(self, queue, count):
        brokers.until(lambda: self.books.queue(queue)["messages_ready"] == count, f"{count} in {queue}", 600)

    # ---- shapes -----------------------------------------------------------------------------------------------------

    def shape_plain(self):
        self.one("plain, 1 KiB", 1024, self.args.mib * 1024)

    def shape_small(self):
        self.one("plain, 100 octets", 100, self.args.mib * MIB // 400)

    def shape_large(self):
        self.one("large, 4 MiB", 4 * MIB, self.args.mib // 4)

    def one(self, title, body, count):
        self.control.declare("q")
        wire = self.fill(["q"], count, body)
        self.ready("q", count)
        self.idle()
        self.judge(f"{title}: full", count * body, False)
        taker = Wire(self.broker)
        deliveries(taker, "q", body, count)
        self.judge(f"{title}: drained", 0, True)
        taker.close()
        wire.close()

    def shape_stuck(self):
        body, count = 1024, self.args.mib * 1024
        self.control.declare("q")
        wire = self.fill(["q"], count, body)
        self.ready("q", count)
        taker = Wire(self.broker)
        deliveries(taker, "q", body, count, ack_all_but=50)
        self.judge("one in 50 stays unsettled", count // 50 * body, True)
        taker.close()
        wire.close()

    def shape_interleaved(self):
        self.interleaved("1000 queues interleaved, 1 KiB", 1024, self.args.mib * 1024 // 1000)

    def shape_interleaved_small(self):
        self.interleaved("1000 queues interleaved, 100 octets", 100, self.args.mib * MIB // 400 // 1000)

    def interleaved(self, title, body, each):
        queues = [f"i{k:04d}" for k in range(1000)]
        for queue in queues:
            self.control.declare(queue)
        wire = self.fill(queues, each * len(queues), body)
        self.ready(queues[-1], each)
        self.idle()
        self.judge(f"{title}: full", each * len(queues) * body, False)
        for k, queue in enumerate(queues):
            if k % 50:
                self.control.purge(queue)
        self.judge(f"{title}: 980 purged", len(queues) // 50 * each * body, True)
        for queue in queues:
            self.control.delete(queue)
        wire.close()

    def shape_steady(self):
        """A backlog of a tenth through which ten times as much passes."""
        body, backlog = 1024, self.args.mib * 1024 // 10
        self.control.declare("q")
        wires = [self.fill(["q"], backlog, body)]
        self.ready("q", backlog)
        taker = Wire(self.broker)
        taker.consume("q", False)
        size = delivery_size("q", body)
        taken = 0
        one = publish("q", b"x" * body, True) * 1000
        worst = 0
        # what has been delivered and not been acknowledged is live as well
        for _ in range(backlog * 10 // 1000):
            wires[0].sock.sendall(one)
            taker.receive(1000, size)
            taken += 1000
            if taken > backlog:
                taker.sock.sendall(method(1, 60, 80, struct.pack(">QB", taken - backlog, 1)))
            if taken % 20_000 == 0:
                worst = max(worst, self.disk()[0])
        live = 2 * backlog * body
        most = 2 * live + SLACK
        print(f"| steady: at most, while {taken * body / MIB:,.0f} MiB passed | {live / MIB:,.0f} | {worst / MIB:,.0f} | "
              f"| {most / MIB:,.0f} | {'kept' if worst <= most else 'BROKEN'} |", flush=True)
        if worst > most:
            self.failures.append(f"steady: {worst / MIB:.0f} MiB on disk at most")
        taker.sock.sendall(method(1, 60, 80, struct.pack(">QB", 0, 1)))
        taker.close()
        for wire in wires:
            wire.close()

    def shape_dead_lettered(self):
        body, count = 1024, self.args.mib * 1024 // 2
        self.control.declare("dead")
        self.control.declare("q", x_dead_letter_exchange="", x_dead_letter_routing_key="dead", x_max_length=10)
        wire = self.fill(["q"], count, body)
        self.ready("dead", count - 10)
        self.idle()
        self.judge("dead-lettered by a limit: full", count * body, False)
        self.control.purge("dead")
        self.judge("dead-lettered by a limit: purged", 0, True)
        wire.close()

    def shape_delayed(self):
        body, count = 1024, self.args.mib * 1024 // 4
        arguments = table({"x-delayed-type": "fanout"})
        self.control.call(40, 10, b"\0\0" + short("late") + short("x-delayed-message") + bytes([2]) + arguments, 40, 11)
        self.control.declare("q")
        self.control.bind("q", "late")
        wire = Wire(self.broker)
        octets = b"x" * body
        headers = table({"x-delay": 3000})
        head = struct.pack(">HHQH", 60, 0, body, 0x3000) + headers + b"\2"
        one = method(1, 60, 40, b"\0\0" + short("late") + short("") + b"\0") + frame(2, 1, head) + frame(3, 1, octets)
        for _ in range(count // 1000):
            wire.sock.sendall(one * 1000)
        count = count // 1000 * 1000
        self.ready("q", count)
        self.idle()
        self.judge("delayed, then released: full", count * body, False)
        self.control.purge("q")
        self.judge("delayed, then released: purged", 0, True)
        wire.close()

    def shape_fanout(self):
        body, count = 16 * 1024, self.args.mib * 64 // 2
        self.control.call(40, 10, b"\0\0" + short("fan") + short("fanout") + bytes([2]) + table({}), 40, 11)
        for k in range(20):
            self.control.declare(f"f{k:02d}")
            self.control.bind(f"f{k:02d}", "fan")
        wire = self.fill(["f00"], count, body, exchange="fan", key="k")
        self.ready("f19", count)
        self.idle()
        self.judge("fan-out to 20 queues: full", count * body, False)
        for k in range(1, 20):
            self.control.purge(f"f{k:02d}")
        self.judge("fan-out to 20 queues: 19 purged", count * body, True)
        self.control.purge("f00")
        self.judge("fan-out to 20 queues: all purged", 0, True)
        wire.close()

    def ttl_queues(self, count):
        """Queues of a fan-out that differ in their time to live: a run in the log for each, with one body for all."""
        self.control.call(40, 10, b"\0\0" + short("fan") + short("fanout") + bytes([2]) + table({}), 40, 11)
        for k in range(count):
            self.control.declare(f"f{k:02d}", x_message_ttl=10_000_000 + k)
            self.control.bind(f"f{k:02d}", "fan")

    def shape_fanout_ttl(self):
        """Half of the queues are purged, then what lies beside their bodies in the files: these are written again, once each."""
        body, count, queues = 100_000, self.args.mib // 2 * MIB // 100_000, 60
        self.ttl_queues(queues)
        self.control.declare("beside")
        wires = [self.fill(["f00"], count // 2, body, exchange="fan", key="k"), self.fill(["beside"], count // 2, body)]
        self.ready("beside", count // 2)
        self.ready(f"f{queues - 1}", count // 2)
        self.idle()
        live = count // 2 * 2 * body
        self.judge("fan-out to 60 queues with a TTL each, others beside: full", live, False)
        for k in range(queues // 2 + 1):
            self.control.purge(f"f{k:02d}")
        self.judge("fan-out to 60 queues with a TTL each: 31 purged", live, True)
        self.control.purge("beside")
        self.judge("fan-out to 60 queues with a TTL each: the others purged", live // 2, True)
        time.sleep(5)
        self.judge("fan-out to 60 queues with a TTL each: 5 s later", live // 2, False)
        for wire in wires:
            wire.close()

    def shape_fanout_ttl_beside(self):
        """A little that many queues share in each file, among much that goes."""
        body, rounds, queues = 30_000, self.args.mib // 2, 60
        self.ttl_queues(queues)
        self.control.declare("beside")
        wires = []
        for _ in range(rounds):
            wires.append(self.fill(["f00"], 1, body, exchange="fan", key="k"))
            wires.append(self.fill(["beside"], 17, 100_000))
            # one behind the other, so that each file has some of both
            self.ready("beside", 17 * len(wires) // 2)
        self.ready(f"f{queues - 1}", rounds)
        self.idle()
        live = rounds * body
        self.judge("little for 60 queues with a TTL each, much beside: full", live + rounds * 1_700_000, False)
        self.control.purge("beside")
        self.judge("little for 60 queues with a TTL each: the rest purged", live, True)
        for wire in wires:
            wire.close()


SHAPES = ["plain", "small", "stuck", "interleaved", "interleaved-small", "steady", "large", "dead-lettered", "delayed", "fanout",
          "fanout-ttl", "fanout-ttl-beside"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], help="all without it")
    parser.add_argument("--mib", type=int, default=1024, help="MiB of bodies, about; some shapes use a part")
    parser.add_argument("--within", type=float, default=60, help="seconds after a drain until the promise must hold")
    args = parser.parse_args()
    failures = []
    print("| shape | live MiB | disk MiB | database MiB, of it live | allowed MiB | promise |\n|---|---|---|---|---|---|")
    for shape in args.shapes or SHAPES:
        with tempfile.TemporaryDirectory() as directory:
            # no alarm may hold back the filling
            broker = brokers.Hornpipe(directory, {"HORNPIPE_MEMORY_LIMIT": "16GiB"})
            try:
                broker.start()
                run = Run(args, broker)
                getattr(run, "shape_" + shape.replace("-", "_"))()
                failures += run.failures
            finally:
                broker.cleanup()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
