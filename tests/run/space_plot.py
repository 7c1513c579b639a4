#!/usr/bin/env python3
"""Draws what a backlog costs: resident memory and disk while messages go in and come out again, as SVG, without libraries.

A broker of its own, a publisher that keeps a window of confirms open, then a consumer; the samples are taken ten times a
second from /proc, the data folder and the metrics.
"""

import argparse
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import amqp

sys.path.insert(0, str(Path(__file__).resolve().parent))
import brokers  # noqa: E402
from crash_loop import connect  # noqa: E402

COLOURS = {"memory": "#c0392b", "database": "#2471a3", "in the database": "#7fb3d5", "body files": "#1e8449", "waiting": "#7d6608"}


def sample(broker, began):
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    value = lambda name: float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))
    pages = int(Path(f"/proc/{broker.process.pid}/statm").read_text().split()[1])
    size = lambda where: sum(it.stat().st_blocks * 512 for it in where if it.is_file())
    shard = broker.data / "shard-0"
    return {
        "seconds": time.monotonic() - began,
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "database": size(it for folder in shard.glob("db*") for it in folder.rglob("*")),
        "in the database": value("hornpipe_store_db_live_bytes"),
        "body files": size((shard / "bodies").iterdir()),
        "messages": value("rabbitmq_queue_messages"),
    }


class Sampler(threading.Thread):
    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.rows, self.done = broker, [], threading.Event()
        self.began = time.monotonic()

    def run(self):
        while not self.done.wait(0.1):
            try:
                self.rows.append(sample(self.broker, self.began))
            except (OSError, AttributeError):
                pass  # a file went while it was looked at


def fill(broker, queue, count, size):
    connection = connect(broker)
    channel = connection.channel()
    channel.queue_declare(queue, durable=True, auto_delete=False)
    channel.confirm_select()
    confirmed = [0]

    def on_ack(tag, multiple):
        confirmed[0] = max(confirmed[0], tag) if multiple else confirmed[0] + 1

    channel.events["basic_ack"].add(on_ack)
    message = lambda: amqp.Message(b"x" * size, delivery_mode=2)
    for sent in range(1, count + 1):
        channel.basic_publish(message(), routing_key=queue)
        if sent % 100 == 0:
            try:
                while True:
                    connection.drain_events(timeout=60 if sent - confirmed[0] > 5000 else 0.0001)
            except socket.timeout:
                pass
    while channel.queue_declare(queue, passive=True).message_count < count:
        time.sleep(0.05)
    connection.close()


def drain(broker, queue, count, keep):
    """Takes all; every `keep`th message stays unsettled until the end and is given back."""
    connection = connect(broker)
    channel = connection.channel()
    channel.basic_qos(0, 2000 + (count // keep if keep else 0), False)
    seen = [0]

    def on_message(message):
        seen[0] += 1
        if not keep or seen[0] % keep:
            channel.basic_ack(message.delivery_tag)

    channel.basic_consume(queue, callback=on_message)
    while seen[0] < count:
        connection.drain_events(timeout=60)
    return connection


def svg(rows, title, marks):
    """Curves of megabytes over seconds."""
    width, height, left, top = 900, 420, 70, 50
    names = [name for name in COLOURS if name in rows[0]]
    until = rows[-1]["seconds"] or 1
    most = max(row[name] for row in rows for name in names) / 1e6 * 1.05
    x = lambda seconds: left + seconds / until * (width - left - 20)
    y = lambda megabytes: height - 40 - megabytes / most * (height - 40 - top)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    out.append(f'<rect width="{width}" height="{height}" fill="white"/><text x="{left}" y="20" font-size="15">{title}</text>')
    for k in range(6):
        value = most * k / 5
        out.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0f} MB</text>')
        out.append(f'<text x="{x(until * k / 5):.1f}" y="{height - 22}" text-anchor="middle">{until * k / 5:.0f} s</text>')
    for seconds, what in marks:
        out.append(f'<line x1="{x(seconds):.1f}" x2="{x(seconds):.1f}" y1="{top}" y2="{height - 40}" stroke="#999" stroke-dasharray="4"/>')
        out.append(f'<text x="{x(seconds) + 4:.1f}" y="{top + 12}" fill="#555">{what}</text>')
    for k, name in enumerate(names):
        points = " ".join(f"{x(row['seconds']):.1f},{y(row[name] / 1e6):.1f}" for row in rows)
        out.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.6"/>')
        out.append(f'<text x="{left + 120 * k}" y="38" fill="{COLOURS[name]}">{name}</text>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", default="docs/plots", help="folder of the SVG files")
    arguments.add_argument("--messages", type=int, default=60_000)
    arguments.add_argument("--size", type=int, action="append", help="octets of a body; may repeat")
    arguments.add_argument("--keep", type=int, default=50, help="one message in so many is not settled; 0 = all are")
    options = arguments.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for size in options.size or [100, 1000, 50_000]:
        count = min(options.messages, 2_000_000_000 // size // 4)
        directory = Path(tempfile.mkdtemp(prefix="hornpipe-plot-"))
        broker = brokers.Hornpipe(directory, {"HORNPIPE_STORE_BALLAST_BYTES": "0"})
        try:
            broker.start()
            sampler = Sampler(broker)
            sampler.start()
            now = lambda: time.monotonic() - sampler.began
            marks = [(now(), "in")]
            fill(broker, "q", count, size)
            marks.append((now(), "out"))
            connection = drain(broker, "q", count, options.keep)
            marks.append((now(), "idle"))
            still = [now(), None]

            def settled():
                row = sampler.rows[-1]
                state = (row["database"], row["body files"])
                if state != still[1]:
                    still[:] = [now(), state]
                return now() - still[0] > 8

            brokers.until(settled, "housekeeping to end")
            sampler.done.set()
            sampler.join()
            connection.close()
            last, most = sampler.rows[-1], max(sampler.rows, key=lambda row: row["database"] + row["body files"])
            name = out / f"backlog-{size}.svg"
            kept = f", one in {options.keep} not settled" if options.keep else ""
            name.write_text(svg(sampler.rows, f"{count} messages of {size} octets in and out{kept}", marks))
            megabytes = lambda octets: f"{octets / 1e6:.0f} MB"
            print(
                f"{name}: {count} × {size}: memory at most {megabytes(max(row['memory'] for row in sampler.rows))}, "
                f"disk full {megabytes(most['database'] + most['body files'])} (database {megabytes(most['database'])}), "
                f"after the drain {megabytes(last['database'] + last['body files'])} (database {megabytes(last['database'])} "
                f"holding {megabytes(last['in the database'])}), memory {megabytes(last['memory'])}",
                flush=True,
            )
            broker.stop()
        finally:
            broker.cleanup()
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
