#!/usr/bin/env python3
"""Pulls the plug, with what a disk would hold at that moment: needs root and loop devices.

A process that is killed leaves its unsynced writes in the kernel, so SIGKILL can't show a missing fsync. Here the broker's
data directory is on an ext4 in a file on a loop device, mounted with commit=60, so that nothing reaches the device in the
course of a cut unless somebody asked for it. The backing file holds just what the file system has sent to the device. Right
after a confirm the broker is stopped in its tracks and the backing file is copied: that copy is the disk after a power cut.
The copy is mounted (the journal is replayed as it would be), a broker starts on it, and everything confirmed must be there.

So that the test can't pass by copying what was never at risk, an unsynced file is written just before each cut: it must be
missing from the copies.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import amqp

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402
from crash_loop import body_of, connect, empty, read_body  # noqa: E402

QUEUES = ["own", "fan-a", "fan-b"]
CANARY = b"never synced" * 1000


def sh(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def reason_it_cannot_run():
    if os.geteuid() != 0:
        return "needs root to mount"
    for tool in ("losetup", "mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    with tempfile.NamedTemporaryFile() as image:
        image.truncate(1 << 20)
        tried = subprocess.run(["losetup", "-f", "--show", image.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if tried.returncode != 0:
            return f"loop devices aren't to be had here: {tried.stderr.decode().strip()}"
        sh("losetup", "-d", tried.stdout.decode().strip())
    return None


class Disk:
    """An image file, the loop device over it and the mount of that."""

    def __init__(self, image, mount_point):
        self.image, self.mount_point = Path(image), Path(mount_point)
        self.mount_point.mkdir(parents=True, exist_ok=True)
        self.device = sh("losetup", "-f", "--show", str(self.image))
        try:
            sh("mount", "-t", "ext4", "-o", "commit=60,data=ordered,noatime", self.device, str(self.mount_point))
        except subprocess.CalledProcessError:
            sh("losetup", "-d", self.device)
            raise

    def written(self):
        """Sectors written to the device so far, and writes under way."""
        stat = Path(f"/sys/block/{Path(self.device).name}/stat").read_text().split()
        return int(stat[6]), int(stat[8])

    def copy_to(self, target):
        """The device as it is now, with no write in between. Nobody may be writing on purpose meanwhile."""

        def copied():
            before = self.written()
            # No sync of any kind: the copy reads what the loop device has handed to the backing file.
            sh("cp", "--sparse=always", str(self.image), str(target))
            return before[1] == 0 and before == self.written()

        brokers.until(copied, "a copy with no write during it")

    def close(self):
        sh("umount", str(self.mount_point))
        sh("losetup", "-d", self.device)


class Session:
    """A publisher that knows what it has had confirmed."""

    def __init__(self, broker, first):
        self.connection = connect(broker)
        self.channel = self.connection.channel()
        self.channel.confirm_select()
        self.open, self.tag, self.number = {}, 0, first
        self.confirmed, self.sent = {}, {}
        self.channel.events["basic_ack"].add(self.on_ack)

    def on_ack(self, tag, multiple):
        for it in [t for t in self.open if t <= tag] if multiple else [tag]:
            number, queues = self.open.pop(it)
            for queue in queues:
                self.confirmed.setdefault(queue, set()).add(number)

    def publish(self, choose):
        exchange, key, queues = choose.choice([("", "own", ["own"]), ("fan", "", ["fan-a", "fan-b"])])
        size = choose.choice([0, 100, 1000, 20_000, 200_000])
        self.tag += 1
        self.open[self.tag] = (self.number, queues)
        for queue in queues:
            self.sent.setdefault(queue, set()).add(self.number)
        self.channel.basic_publish(
            amqp.Message(body_of("p", self.number, size), delivery_mode=2), exchange=exchange, routing_key=key
        )
        self.number += 1

    def count(self):
        return sum(len(it) for it in self.confirmed.values())


def declare(broker):
    connection = connect(broker)
    channel = connection.channel()
    channel.exchange_declare("fan", "fanout", durable=True, auto_delete=False)
    for queue in QUEUES:
        channel.queue_declare(queue, durable=True, auto_delete=False)
    for queue in QUEUES[1:]:
        channel.queue_bind(queue, "fan", "")
    connection.close()


def drain(broker):
    """{queue: [numbers]} of everything there, settled."""
    connection = connect(broker)
    channel = connection.channel()
    channel.basic_qos(0, 100, False)
    found = {}
    for queue in QUEUES:
        numbers = found.setdefault(queue, [])

        def on_message(message, numbers=numbers):
            numbers.append(read_body(message.body)[1])
            channel.basic_ack(message.delivery_tag)

        tag = channel.basic_consume(queue, callback=on_message)
        # Stopping short shows as messages lost.
        empty(connection, channel, queue)
        channel.basic_cancel(tag)
    connection.close()
    return found


def duplicates(found):
    return [f"{queue} is out of order or has duplicates" for queue, have in found.items() if have != sorted(set(have))]


def check(number, confirmed, sent, found):
    problems = []
    for queue in QUEUES:
        have = found[queue]
        lost = sorted(confirmed.get(queue, set()) - set(have))
        invented = sorted(set(have) - sent.get(queue, set()))
        if lost:
            problems.append(f"cut {number}: {queue} lost {len(lost)} confirmed messages, the first {lost[:5]}")
        if invented:
            problems.append(f"cut {number}: {queue} has messages nobody sent: {invented[:5]}")
        if have != sorted(set(have)):
            problems.append(f"cut {number}: {queue} is out of order or has duplicates")
    return problems


def run(options, directory):
    choose = random.Random(options.seed)
    image = directory / "disk.img"
    with open(image, "wb") as file:
        file.truncate(options.size_mb << 20)
    # lazy_itable_init off: a background thread that writes to the device would disturb the copies.
    sh("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    disk = Disk(image, directory / "disk")
    broker = brokers.Hornpipe(directory / "original", brokers.RESTLESS, data=disk.mount_point / "data")
    confirmed, sent, taken, problems, canaries_gone, total, first = {}, {}, {}, [], 0, 0, 0
    try:
        broker.start()
        declare(broker)
        for cut in range(1, options.cuts + 1):
            session = Session(broker, first)
            goal = choose.choice([1, 2, 30, 200])
            window = choose.choice([1, 50])
            while session.count() < goal:
                while len(session.open) < window:
                    session.publish(choose)
                session.connection.drain_events(timeout=60)
            snapshot = None
            if cut % 4 == 0:
                snapshot = brokers.Snapshot(broker, disk.mount_point / f"snapshot{cut}")
                snapshot.start()
                time.sleep(choose.random() * 0.1)
            if cut % 2 == 0:
                # Room of the log is used again, its database exchanged.
                drained = drain(broker)
                problems += [f"cut {cut}: {it}" for it in duplicates(drained)]
                for queue, numbers in drained.items():
                    taken.setdefault(queue, set()).update(numbers)
            canary = disk.mount_point / f"canary{cut}"
            canary.write_bytes(CANARY)
            # Frozen at once: whatever the client hasn't read yet doesn't count as confirmed.
            broker.process.send_signal(signal.SIGSTOP)
            copy = directory / f"cut{cut}.img"
            disk.copy_to(copy)
            broker.process.send_signal(signal.SIGCONT)
            for queue in QUEUES:
                confirmed.setdefault(queue, set()).update(session.confirmed.get(queue, ()))
                sent.setdefault(queue, set()).update(session.sent.get(queue, ()))
            at_the_cut = {queue: set(numbers) - taken.get(queue, set()) for queue, numbers in confirmed.items()}
            sent_so_far = {queue: set(numbers) for queue, numbers in sent.items()}
            total += session.count()

            after = Disk(copy, directory / f"after{cut}")
            second = brokers.Hornpipe(directory / f"broker{cut}", data=after.mount_point / "data")
            try:
                left = after.mount_point / canary.name
                if not left.exists() or left.read_bytes() != CANARY:
                    canaries_gone += 1
                second.start()
                problems += check(cut, at_the_cut, sent_so_far, drain(second))
                # And it is a broker like any other: it takes a message and stops cleanly.
                connection = connect(second)
                connection.channel().basic_publish_confirm(
                    amqp.Message("after the cut", delivery_mode=2), routing_key="own"
                )
                connection.close()
                if second.stop() != 0:
                    problems.append(f"cut {cut}: the broker on the copy didn't stop cleanly")
            except (brokers.BrokerFailed, amqp.exceptions.AMQPError, OSError) as error:
                problems.append(f"cut {cut}: {error}\n{second.log_tail()}")
            finally:
                second.cleanup()
                after.close()
            copy.unlink()
            print(f"cut {cut}: {session.count()} confirmed since the last, {len(problems)} problems", flush=True)
            # The original goes on: the rest of its confirms arrive, and sometimes it is restarted.
            while session.open:
                session.connection.drain_events(timeout=60)
            for queue in QUEUES:
                confirmed[queue].update(session.confirmed.get(queue, ()))
                sent[queue].update(session.sent.get(queue, ()))
            first = session.number
            session.connection.close()
            if snapshot:
                snapshot.join(brokers.DEADLINE)
                problems += [f"cut {cut}: {it}" for it in snapshot.problems()]
            if cut % 3 == 0:
                broker.restart() if choose.random() < 0.5 else (broker.kill(), broker.start())
    finally:
        broker.cleanup()
        disk.close()
    exchanged = broker.log_tail(10**9).count("was copied to a fresh one")
    if options.cuts >= 20 and exchanged == 0:
        problems.append("the log's database was never exchanged: that was not tested")
    print(f"power cut: the log's database was exchanged {exchanged} times", flush=True)
    if canaries_gone == 0:
        problems.append("the unsynced file survived every cut: the copies show more than a disk would hold")
    return problems, total, canaries_gone


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--cuts", type=int, default=8)
    arguments.add_argument("--size-mb", type=int, default=1024, help="size of the image; it is sparse")
    arguments.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments.add_argument("--skip-if-impossible", action="store_true", help="exit 0 where root or loop devices lack")
    options = arguments.parse_args()
    reason = reason_it_cannot_run()
    if reason:
        print(f"power cut: SKIPPED, {reason}")
        return 0 if options.skip_if_impossible else 2
    print(f"power cut: {options.cuts} cuts, seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="hornpipe-cut-"))
    began = time.monotonic()
    try:
        problems, total, gone = run(options, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for it in problems[:20]:
        print(f"PROBLEM {it}")
    outcome = "FAILED" if problems else "ok"
    print(
        f"power cut: {outcome}, {options.cuts} cuts, {total} confirmed messages checked, "
        f"{gone} unsynced files gone, {time.monotonic() - began:.1f} s"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
