"""What the horizontal pod autoscaler's adapters and RabbitMQ's dashboards ask of the Prometheus pages."""

import re

from conftest import until

SERIES = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")


def scrape(metrics, path):
    """Values by series as printed; what is no metric line is an error."""
    found = {}
    for line in metrics.text(path).splitlines():
        if line and not line.startswith("#"):
            match = SERIES.match(line)
            assert match, line
            name, labels, value = match.groups()
            found[(name, frozenset(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels or "")))] = float(value.replace("undefined", "nan"))
    return found


def value(page, name, **labels):
    wanted = set(labels.items())
    return next((v for (n, ls), v in page.items() if n == name and wanted <= ls), None)


def test_per_object_queue_length(metrics, amqp, queue):
    name = queue(messages=3)
    until(
        lambda: value(
            scrape(metrics, "/metrics/per-object"), "rabbitmq_queue_messages_ready", queue=name, vhost=amqp.virtual_host
        ) == 3,
        "three ready",
    )


def test_detailed_queue_length(metrics, channel, amqp, queue, vhost):
    name = queue(messages=3)
    channel.basic_get(name)
    path = f"/metrics/detailed?family=queue_coarse_metrics&vhost={vhost}"
    labels = {"queue": name, "vhost": amqp.virtual_host}

    def seen():
        page = scrape(metrics, path)
        numbers = [value(page, f"rabbitmq_detailed_queue_messages{part}", **labels) for part in ("", "_ready", "_unacked")]
        return numbers == [3, 2, 1]

    until(seen, "three, two ready and one unacked")


def test_global_counters_are_there_and_grow(metrics, queue):
    def received():
        return value(scrape(metrics, "/metrics"), "rabbitmq_global_messages_received_total", protocol="amqp091")

    before = received()
    assert before is not None
    queue(messages=5)
    until(lambda: received() >= before + 5, "five more received")


def test_dashboards_can_join(metrics):
    page = scrape(metrics, "/metrics")
    assert value(page, "rabbitmq_identity_info", rabbitmq_endpoint="aggregated") == 1
    assert value(page, "rabbitmq_build_info") == 1


def test_size_buckets_have_literal_bounds(metrics, queue):
    queue(messages=1)
    page = scrape(metrics, "/metrics")
    for bound in ("100.0", "1000.0", "10000.0", "100000.0", "1e+06", "1e+07", "5e+07", "1e+08", "+Inf"):
        assert value(page, "rabbitmq_message_size_bytes_bucket", le=bound) is not None, bound
    assert value(page, "rabbitmq_message_size_bytes_bucket", le="100.0") >= 1
