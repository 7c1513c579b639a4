"""KEDA's `rabbitmq` scaler: http (one queue, queues by pattern) and amqp (passive declare)."""

import pika
import pytest
from urllib.parse import quote, quote_plus

from conftest import until
from shapes import check


@pytest.mark.parametrize("escape", ["%2F", "%2f"])
def test_one_queue(api, amqp, queue, escape):
    if amqp.virtual_host != "/":
        pytest.skip("about the vhost /")
    name = queue(messages=3)
    found = until(
        lambda: (q := api.json(f"/api/queues/{escape}/{quote_plus(name)}")).get("messages") == 3 and q,
        "three messages",
    )
    check(found, "keda_queue")
    assert (found["messages_ready"], found["messages_unacknowledged"]) == (3, 0)


def test_length_counts_what_is_being_worked_on(api, vhost, channel, queue):
    name = queue(messages=3)
    method, _, _ = channel.basic_get(name)
    found = until(
        lambda: (q := api.json(f"/api/queues/{vhost}/{quote_plus(name)}")).get("messages_unacknowledged") == 1 and q,
        "one unacked",
    )
    assert (found["messages"], found["messages_ready"]) == (3, 2)
    channel.basic_ack(method.delivery_tag)
    until(lambda: api.json(f"/api/queues/{vhost}/{quote_plus(name)}").get("messages") == 2, "the ack")


def test_a_queue_without_traffic_has_no_message_stats_or_zero_ones(api, vhost, queue):
    name = queue()
    found = until(lambda: "messages" in (q := api.json(f"/api/queues/{vhost}/{name}")) and q, "counts")
    rate = found.get("message_stats", {}).get("publish_details", {}).get("rate", 0)
    assert (found["messages"], rate) == (0, 0)


def test_a_missing_queue_is_404(api, vhost):
    assert api.status(f"/api/queues/{vhost}/autoscaler-none") == 404


def by_pattern(vhost, pattern, size=100):
    return f"/api/queues/{vhost}?page=1&use_regex=true&pagination=false&name={quote_plus(pattern)}&page_size={size}"


def test_queues_by_pattern(api, vhost, queue):
    name = queue("-a", messages=2)
    stem = name[: -len("-a")]
    other = queue("-b")
    path = by_pattern(vhost, f"^{stem}-[a-z]$")
    page = until(
        lambda: (p := api.json(path))["items"] and all("messages" in q for q in p["items"])
        and sum(q["messages"] for q in p["items"]) == 2 and p,
        "the messages",
    )
    check(page, "keda_page")
    assert page["page_count"] == 1
    assert [q["name"] for q in page["items"]] == [name]
    assert other not in str(page)


def test_a_pattern_nothing_matches(api, vhost, queue):
    queue()
    page = api.json(by_pattern(vhost, "^autoscaler-none$"))
    check(page, "keda_page")
    assert page["items"] == []
    assert page["page_count"] <= 1


def test_a_page_too_small_for_all_is_told(api, vhost, queue):
    stem = queue("-1")[: -len("-1")]
    queue("-2")
    page = api.json(by_pattern(vhost, "^autoscaler-", size=1))
    assert page["page_count"] >= 2, "KEDA refuses this instead of scaling on half the queues"
    assert len(page["items"]) == 1 and stem


def test_rates(api, vhost, channel, queue):
    name = queue()
    path = f"/api/queues/{vhost}/{quote_plus(name)}"

    def busy():
        channel.basic_publish("", name, b"job")
        method, _, _ = channel.basic_get(name)
        channel.basic_ack(method.delivery_tag)
        stats = api.json(path).get("message_stats", {})
        rates = [stats.get(key, {}).get("rate", 0) for key in ("publish_details", "deliver_get_details")]
        return all(rate > 0 for rate in rates) and stats

    stats = until(busy, "rates above zero")
    check(api.json(path) | {"message_stats": stats}, "keda_rates")

    def idle():
        stats = api.json(path)["message_stats"]
        return stats["publish_details"]["rate"] == 0 and stats["deliver_get_details"]["rate"] == 0

    until(idle, "rates back at zero")


def test_a_name_with_a_space(api, vhost, queue):
    name = queue(" jobs", messages=1)
    path = f"/api/queues/{vhost}/{quote(name, safe='')}"
    until(lambda: api.json(path).get("messages") == 1, "the message")


def test_a_passive_declare_with_all_flags_false(amqp, queue):
    name = queue(messages=4)
    connection = pika.BlockingConnection(amqp)
    try:
        answer = connection.channel().queue_declare(name, passive=True, durable=False, exclusive=False, auto_delete=False)
        assert answer.method.message_count == 4, "a durable queue answers although the flags say otherwise"
    finally:
        connection.close()


def test_passive_declare_counts_ready_only(amqp, channel, queue):
    name = queue(messages=2)
    channel.basic_get(name)
    connection = pika.BlockingConnection(amqp)
    try:
        polled = connection.channel()
        assert polled.queue_declare(name, passive=True).method.message_count == 1
    finally:
        connection.close()
