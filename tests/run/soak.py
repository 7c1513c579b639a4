#!/usr/bin/env python3
"""Mixed traffic for a long while: what must stay is that nothing is lost and that memory and disk are steady.

Flows run side by side, each with queues, publisher and consumer of its own: persistent messages under confirms of which some
stay unacknowledged for long, transient ones, large ones, messages that expire into a dead-letter queue, rejected ones that
are dead-lettered, priorities, and a queue that fills to a backlog and is drained, over and over. Each message carries its flow and
number; a set per flow holds those confirmed and not yet settled, which must be empty when all is drained.

Memory (RSS of the broker's process) and disk (octets of the data folder) are sampled; at the end the medians of the second
and of the last quarter are compared, and the disk is looked at after the drain. Exit code 1 when something does not hold.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import pika

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402

MIB = 1 << 20


class Flow:
    """One kind of traffic. `arguments`: of its queue; the dead-letter queue, where there is one, is consumed too."""

    def __init__(self, name, sizes, persistent=True, arguments=None, reject=0.0, consume=True, burst=200,
                 hold=0, pause=0.2, priority=None):
        self.name = name
        self.sizes = sizes
        self.persistent = persistent
        self.arguments = dict(arguments or {})
        self.dead = bool(reject) or "x-message-ttl" in self.arguments
        if self.dead:
            self.arguments.update({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}.dead"})
        self.reject = reject
        self.consume = consume
        self.burst = burst
        self.hold = hold
        self.pause = pause
        self.priority = priority
        self.lock = threading.Lock()
        self.waiting = set()
        self.sent = self.settled = self.dead_lettered = 0
        self.problems = []

    def open(self, parameters):
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        channel.queue_declare(self.name, durable=True, arguments=self.arguments)
        if self.dead:
            channel.queue_declare(f"{self.name}.dead", durable=True)
        return connection, channel

    def publish(self, parameters, running, rng):
        connection, channel = self.open(parameters)
        channel.confirm_delivery()
        number = 0
        while running.is_set():
            for _ in range(self.burst):
                number += 1
                with self.lock:
                    self.waiting.add(number)
                    self.sent += 1
                head = f"{self.name}:{number}:".encode()
                body = head + bytes(rng.choice(self.sizes))
                properties = pika.BasicProperties(
                    delivery_mode=2 if self.persistent else 1,
                    priority=rng.randrange(self.priority) if self.priority else None,
                )
                channel.basic_publish("", self.name, body, properties)
                if not running.is_set():
                    break
            connection.process_data_events(0)
            if self.pause:
                connection.sleep(self.pause)
        connection.close()

    def take(self, parameters, running, rng, queue):
        """Consumes until the flow has stopped and nothing is left."""
        connection, channel = self.open(parameters)
        channel.basic_qos(prefetch_count=500)
        held = []
        for method, _, body in channel.consume(queue, inactivity_timeout=0.2):
            if method is None:
                for tag, number in held:
                    self.finish(number)
                    channel.basic_ack(tag)
                held = []
                if not running.is_set() and not self.waiting:
                    break
                continue
            flow, number, _ = body.split(b":", 2)
            number = int(number)
            if flow.decode() != self.name:
                self.problems.append(f"{queue} delivered a message of {flow!r}")
            if queue.endswith(".dead"):
                self.dead_lettered += 1
            if not queue.endswith(".dead") and rng.random() < self.reject:
                channel.basic_reject(method.delivery_tag, requeue=False)
                continue
            if self.hold and rng.random() < 0.02:
                held.append((method.delivery_tag, number))
                if len(held) > self.hold:
                    tag, number = held.pop(0)
                    self.finish(number)
                    channel.basic_ack(tag)
                continue
            self.finish(number)
            channel.basic_ack(method.delivery_tag)
        channel.cancel()
        connection.close()

    def finish(self, number):
        with self.lock:
            if number not in self.waiting:
                self.problems.append(f"{self.name}: message {number} came twice, or nobody sent it")
            self.waiting.discard(number)
            self.settled += 1

    def sawtooth(self, parameters, running, rng, depth):
        """Publisher and consumer in turn: fills the queue, drains it."""
        connection, channel = self.open(parameters)
        number = 0
        while running.is_set():
            channel.confirm_delivery() if number == 0 else None
            first = number
            while number < first + depth and running.is_set():
                number += 1
                with self.lock:
                    self.waiting.add(number)
                    self.sent += 1
                head = f"{self.name}:{number}:".encode()
                properties = pika.BasicProperties(delivery_mode=2)
                channel.basic_publish("", self.name, head + bytes(rng.choice(self.sizes)), properties)
            for method, _, body in channel.consume(self.name, inactivity_timeout=5):
                if method is None:
                    break
                self.finish(int(body.split(b":", 2)[1]))
                channel.basic_ack(method.delivery_tag)
                if not self.waiting:
                    break
            channel.cancel()
        connection.close()


def disk_bytes(folder):
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def rss_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--samples", help="write the samples to this file, as JSON")
    options = parser.parse_args()
    flows = [
        Flow("persistent", [16, 200, 1024], hold=100),
        Flow("transient", [1024, 4096], persistent=False),
        Flow("large", [300_000, 1_500_000, 3_000_000], burst=3, pause=0.3),
        Flow("ttl", [100], arguments={"x-message-ttl": 300}, consume=False),
        Flow("rejected", [100, 5000], reject=0.3),
        Flow("priority", [50, 500], arguments={"x-max-priority": 5}, priority=6),
        Flow("quorum", [100, 1000], arguments={"x-queue-type": "quorum"}),
    ]
    backlog = Flow("backlog", [100, 1024, 2000])
    with tempfile.TemporaryDirectory() as folder:
        broker = brokers.Hornpipe(folder)
        broker.start()
        running = threading.Event()
        running.set()
        failures = []
        threads = []

        def start(function, *arguments):
            rng = random.Random(f"{options.seed} {len(threads)}")
            parameters = pika.URLParameters(broker.url)

            def run():
                try:
                    function(parameters, running, rng, *arguments)
                except Exception:
                    failures.append(traceback.format_exc())
                    running.clear()

            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()

        for flow in flows:
            start(flow.publish)
            if flow.consume:
                start(flow.take, flow.name)
            if flow.dead:
                start(flow.take, f"{flow.name}.dead")
        start(backlog.sawtooth, 20_000)
        flows.append(backlog)
        samples = []
        begun = time.monotonic()
        pid = broker.process.pid
        while running.is_set() and time.monotonic() - begun < options.minutes * 60:
            time.sleep(options.every)
            at = time.monotonic() - begun
            waiting = sum(len(f.waiting) for f in flows)
            samples.append({"s": round(at), "rss": rss_bytes(pid), "disk": disk_bytes(broker.data), "waiting": waiting})
            if len(samples) % 12 == 0:
                s = samples[-1]
                print(f"{s['s']:5} s  rss {s['rss'] / MIB:6.1f} MiB  disk {s['disk'] / MIB:7.1f} MiB  "
                      f"{waiting} waiting, {sum(f.settled for f in flows)} settled", flush=True)
        running.clear()
        for thread in threads:
            thread.join(brokers.DEADLINE)
            if thread.is_alive():
                failures.append("a client did not end: its queue is not drained")
        drained_rss, drained_disk = rss_bytes(pid), disk_bytes(broker.data)
        # housekeeping has a minute
        try:
            brokers.until(lambda: disk_bytes(broker.data) < 256 * MIB + 64 * MIB, "disk to be given back", 60)
        except TimeoutError as error:
            failures.append(str(error))
        settled_disk = disk_bytes(broker.data)
        code = broker.stop()
        if options.samples:
            Path(options.samples).write_text(json.dumps(samples))
    for flow in flows:
        print(f"{flow.name}: {flow.sent} sent, {flow.settled} settled, {flow.dead_lettered} of them dead-lettered, "
              f"{len(flow.waiting)} left")
        failures += flow.problems[:5]
        if flow.waiting:
            failures.append(f"{flow.name}: {len(flow.waiting)} messages never came, like {sorted(flow.waiting)[:5]}")
        if flow.settled == 0:
            failures.append(f"{flow.name}: no traffic")
    quarter = len(samples) // 4
    if quarter >= 3:
        for what in ("rss", "disk"):
            early = statistics.median(s[what] for s in samples[quarter : 2 * quarter])
            late = statistics.median(s[what] for s in samples[-quarter:])
            print(f"{what}: median of the second quarter {early / MIB:.1f} MiB, of the last {late / MIB:.1f} MiB, "
                  f"highest {max(s[what] for s in samples) / MIB:.1f} MiB")
            if late > 1.25 * early + 32 * MIB:
                failures.append(f"{what} grew from {early / MIB:.1f} to {late / MIB:.1f} MiB")
    print(f"drained: rss {drained_rss / MIB:.1f} MiB, disk {drained_disk / MIB:.1f} MiB, then {settled_disk / MIB:.1f} MiB")
    if code != 0:
        failures.append(f"the broker ended with {code}")
    for failure in failures:
        print("FAILED:", failure)
    print(f"soak: {'FAILED' if failures else 'ok'}, seed {options.seed}, {options.minutes:g} minutes")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
