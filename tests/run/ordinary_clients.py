#!/usr/bin/env python3
"""What ordinary clients reach end to end: pika and amqplib, against this broker and RabbitMQ in turns.

The client library is the limit nearly everywhere, so figures say what an application gains, not what the broker can do. Prints a Markdown table of medians.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pika

import brokers

HERE = Path(__file__).resolve().parent
BODY = b"x" * 256


def cpu(pid):
    """CPU seconds of a process tree."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                after = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(after[1]), []).append((int(entry), sum(map(int, after[11:15]))))
            if int(entry) == pid:
                total = sum(map(int, after[11:15]))
    todo = [pid]
    while todo:
        for child, ticks in children.get(todo.pop(), []):
            total += ticks
            todo.append(child)
    return total / os.sysconf("SC_CLK_TCK")


def pika_publish(url, count):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for _ in range(count):
        channel.basic_publish("", "ordinary", BODY)
    connection.close()


def pika_flow(url, count, side=multiprocessing.get_context("spawn").Process):
    """Transient messages, no confirms, auto-ack; the publisher in a process or thread of its own."""
    parameters = pika.URLParameters(url)
    admin = pika.BlockingConnection(parameters)
    admin.channel().queue_delete("ordinary")
    admin.channel().queue_declare("ordinary", durable=True)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    publisher = side(target=pika_publish, args=(url, count))
    publisher.start()
    begin = None
    seen = 0
    for _ in channel.consume("ordinary", auto_ack=True, inactivity_timeout=60):
        # The publisher's start doesn't count.
        begin = begin or time.perf_counter()
        seen += 1
        if seen == count:
            break
    took = time.perf_counter() - begin
    publisher.join()
    connection.close()
    admin.channel().queue_delete("ordinary")
    admin.close()
    return {"messages/s": (count - 1) / took}


def pika_confirmed(url, count):
    """Persistent messages, each confirmed before the next."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_delete("ordinary")
    channel.queue_declare("ordinary", durable=True)
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    waits = []
    for _ in range(count):
        begin = time.perf_counter()
        channel.basic_publish("", "ordinary", BODY, persistent)
        waits.append(time.perf_counter() - begin)
    assert channel.queue_declare("ordinary", passive=True).method.message_count == count
    channel.queue_delete("ordinary")
    connection.close()
    return {"messages/s": count / sum(waits), "confirm p50, ms": statistics.median(waits) * 1e3}


def pika_request(url, count):
    """A request through a queue and its answer through direct reply-to, one after another."""
    parameters = pika.URLParameters(url)
    ready = threading.Event()

    def serve():
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()
        channel.queue_delete("ordinary")
        channel.queue_declare("ordinary")
        ready.set()
        served = 0
        for method, properties, body in channel.consume("ordinary", inactivity_timeout=60):
            channel.basic_publish("", properties.reply_to, body)
            channel.basic_ack(method.delivery_tag)
            served += 1
            if served == count:
                break
        channel.cancel()
        channel.queue_delete("ordinary")
        connection.close()

    server = threading.Thread(target=serve)
    server.start()
    ready.wait(60)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    answered = []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: answered.append(None), auto_ack=True)
    waits = []
    for number in range(count):
        begin = time.perf_counter()
        channel.basic_publish("", "ordinary", BODY, pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        while len(answered) <= number:
            connection.process_data_events(60)
        waits.append(time.perf_counter() - begin)
    connection.close()
    server.join()
    return {"round trips/s": count / sum(waits), "round trip p50, ms": statistics.median(waits) * 1e3}


def amqplib(case):
    def run(url, count):
        done = subprocess.run(
            ["node", str(HERE / "ordinary_client.mjs"), case, url, str(count)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            timeout=300,
        )
        return json.loads(done.stdout)

    return run


CASES = [
    ("pika, transient, auto-ack", pika_flow, 20_000),
    ("pika, the same, both ends in one process", lambda url, count: pika_flow(url, count, threading.Thread), 20_000),
    ("pika, persistent, one confirm at a time", pika_confirmed, 2_000),
    ("pika, request and answer", pika_request, 2_000),
    ("amqplib, transient, prefetch 200, ack each", amqplib("flow"), 60_000),
    ("amqplib, persistent, 100 confirms outstanding", amqplib("confirmed"), 30_000),
    ("amqplib, persistent, one confirm at a time", amqplib("single"), 2_000),
]


def pid_of(broker):
    return broker.process.pid if broker.kind == "hornpipe" else int((broker.directory / "starter.pid").read_text())


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages")
    arguments.add_argument("--alone", action="store_true", help="without RabbitMQ")
    options = arguments.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="hornpipe-ordinary-"))
    running = [brokers.Hornpipe(directory / "ours")]
    if not options.alone:
        running.append(brokers.RabbitMq(directory / "theirs"))
    figures = {}
    try:
        for broker in running:
            broker.start()
        for round_ in range(options.rounds):
            for name, run, count in CASES:
                count = max(10, int(count * options.scale))
                for broker in running:
                    before = cpu(pid_of(broker))
                    found = run(broker.url, count)
                    found["broker CPU ms per 1000"] = (cpu(pid_of(broker)) - before) * 1e6 / count
                    for figure, value in found.items():
                        figures.setdefault((name, figure), {}).setdefault(broker.kind, []).append(value)
            print(f"round {round_ + 1} of {options.rounds} done", flush=True)
        for broker in running:
            broker.stop()
    finally:
        for broker in running:
            broker.cleanup()
        shutil.rmtree(directory, ignore_errors=True)
    kinds = [broker.kind for broker in running]
    print("| client | figure | " + " | ".join(kinds) + (" | ratio |" if len(kinds) > 1 else " |"))
    print("|---|---|" + "---:|" * (len(kinds) + (len(kinds) > 1)))
    for (name, figure), values in figures.items():
        medians = [statistics.median(values[kind]) for kind in kinds]
        ratio = [f"{medians[0] / medians[1]:.2f} ×" if medians[1] else "–"] if len(kinds) > 1 else []
        print(f"| {name} | {figure} | " + " | ".join([f"{value:,.2f}" for value in medians] + ratio) + " |")


if __name__ == "__main__":
    main()
