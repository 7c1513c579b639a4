"""guv and GuvScale: the whole list of queues; flower: the queues of a vhost."""

import math

from conftest import until
from shapes import check


def test_guv_reads_the_whole_list(api, channel, queue):
    name = queue(messages=2)
    method, _, _ = channel.basic_get(name)
    channel.basic_ack(method.delivery_tag)

    def mine():
        queues = api.json("/api/queues")
        assert isinstance(queues, list), "guv knows no pages"
        found = [q for q in queues if q["name"] == name]
        return found and found[0].get("messages") == 1 and "ack" in found[0].get("message_stats", {}) and found

    check(until(mine, "the queue with its ack"), "guv_queues")


def workers(messages, processing=10.0, deadline=60.0, stddev=None, concurrency=1, low=1, high=5):
    """guv's proportional estimate."""
    stddev = processing / 2 if stddev is None else stddev
    target = deadline - 2.326 * stddev
    if target <= processing:
        target = processing + 0.01
    wanted = math.ceil(messages / concurrency) * processing / max(processing, target - processing)
    return max(low, min(high, math.ceil(wanted)))


def test_guv_scales_up_and_down_with_the_length(api, channel, queue):
    name = queue(messages=12)

    def wanted():
        found = [q for q in api.json("/api/queues") if q["name"] == name]
        return found and "messages" in found[0] and workers(found[0]["messages"])

    until(lambda: wanted() == 4, "four workers for twelve messages")
    channel.queue_purge(name)
    until(lambda: wanted() == 1, "one worker for none")


def test_flower_reads_a_vhost(api, vhost, queue):
    name = queue(messages=1)

    def mine():
        found = [q for q in api.json(f"/api/queues/{vhost}") if q["name"] == name]
        return found and found[0].get("messages") == 1 and found

    check(until(mine, "the message"), "flower_queues")


def test_a_wrong_password_is_401(anonymous):
    assert anonymous.status("/api/queues") == 401
