"""Message TTL, queue expiry, length limits, priorities and how they meet."""

from cases import each
from wire import V


def _fill(ch, *bodies, queue="@q", **properties):
    for body in bodies:
        ch.pub("", queue, body, **properties)


def _drain(ch, queue="@q", count=1):
    for _ in range(count + 1):
        ch.get(queue)


def ttl_queue(t):
    "A queue's TTL takes its messages"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": 30})
    _fill(ch, "1", "2")
    ch.settle("@q", 0)


def ttl_message(t):
    "A message's own expiration takes it"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, "1", expiration="30")
    ch.settle("@q", 0)


@each(queue_smaller=(30, "600000"), message_smaller=(600000, "30"))
def ttl_both(t, pair):
    "The smaller of both counts"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": pair[0]})
    _fill(ch, "1", expiration=pair[1])
    ch.settle("@q", 0)


def ttl_at_head_only(t):
    "An expired message behind a live one stays until its turn"
    ch = t.channel()
    ch.queue("@q")
    ch.queue("@probe")
    _fill(ch, "live")
    _fill(ch, "dead", expiration="20")
    _fill(ch, "probe", queue="@probe", expiration="60")
    ch.settle("@probe", 0)
    ch.passive("@q")
    ch.get("@q")
    ch.get("@q")


def ttl_zero_no_consumer(t):
    "TTL 0 without a consumer: gone at once"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": 0})
    _fill(ch, "1")
    ch.settle("@q", 0)
    ch.get("@q")


def ttl_zero_consumer(t):
    "TTL 0 with a waiting consumer: delivered"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": 0})
    ch.consume("@q", no_ack=True)
    _fill(ch, "1", "2")
    ch.recv(2)


def ttl_expiration_zero_consumer(t):
    "The same with the message's own expiration"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", no_ack=True)
    _fill(ch, "1", expiration="0")
    ch.recv()


def ttl_unacked_do_not_expire(t):
    "What is unacknowledged does not expire until it is requeued"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": 400})
    ch.queue("@probe", {"x-message-ttl": 700})
    _fill(ch, "1")
    ch.get("@q", no_ack=False)
    _fill(ch, "probe", queue="@probe")
    ch.settle("@probe", 0)
    ch.nack(1)
    ch.settle("@q", 0)
    ch.get("@q")


def ttl_unacked_can_be_acked(t):
    "… and can be acknowledged past its time"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": 400})
    ch.queue("@probe", {"x-message-ttl": 700})
    _fill(ch, "1")
    ch.get("@q", no_ack=False)
    _fill(ch, "probe", queue="@probe")
    ch.settle("@probe", 0)
    ch.ack(1)
    ch.sync()


def ttl_expiration_kept(t):
    "A message that lives keeps its expiration"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, "1", expiration="60000")
    ch.get("@q")


def expires_unused(t):
    "A queue nobody uses expires"
    ch = t.channel()
    ch.queue("@q", {"x-expires": 400})
    _wait_gone(t, "@q")


def _wait_gone(t, queue):
    """Waits without touching the queue: looking at it would renew it. A probe queue of a longer life tells the time."""
    ch = t.connections[0].channels[1]
    ch.queue("@clock", {"x-message-ttl": 1200})
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    ch.passive(queue)


def expires_with_consumer(t):
    "A consumer keeps it alive"
    ch = t.channel()
    ch.queue("@q", {"x-expires": 400})
    ch.consume("@q")
    _wait_gone(t, "@q")


def expires_after_cancel(t):
    "After the last consumer its time runs"
    ch = t.channel()
    ch.queue("@q", {"x-expires": 400})
    ch.consume("@q", "t")
    ch.cancel("t")
    _wait_gone(t, "@q")


def expires_with_messages(t):
    "Messages do not keep a queue alive, and are not dead-lettered"
    ch = t.channel()
    ch.queue("@dead")
    ch.queue("@q", {"x-expires": 400, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead"})
    _fill(ch, "1")
    ch.sync()
    ch.queue("@clock", {"x-message-ttl": 1200})
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    ch.passive("@dead")
    ch.passive("@q")


def length_drop_head(t):
    "Over the limit the oldest go"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 2})
    _fill(ch, "1", "2", "3", "4")
    ch.settle("@q", 2)
    _drain(ch, count=2)


def length_zero(t):
    "A limit of zero passes through to a waiting consumer only"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 0})
    _fill(ch, "1")
    ch.passive("@q")
    ch.consume("@q", no_ack=True)
    _fill(ch, "2")
    ch.recv()


def length_bytes(t):
    "A limit in octets counts bodies"
    ch = t.channel()
    ch.queue("@q", {"x-max-length-bytes": 10})
    _fill(ch, "aaaa", "bbbb", "cccc")
    ch.settle("@q", 2)
    _drain(ch, count=2)


def length_bytes_several_drops(t):
    "One large message may push out several"
    ch = t.channel()
    ch.queue("@q", {"x-max-length-bytes": 10})
    _fill(ch, "aaa", "bbb", "ccc", "dddddddd")
    ch.settle("@q", 1)
    _drain(ch)


def length_bytes_too_large(t):
    "A message larger than the limit does not stay"
    ch = t.channel()
    ch.queue("@q", {"x-max-length-bytes": 10})
    _fill(ch, "aaa", "b" * 11)
    ch.settle("@q", 0)


def length_bytes_headers_free(t):
    "Headers do not count"
    ch = t.channel()
    ch.queue("@q", {"x-max-length-bytes": 4})
    _fill(ch, "ab", "cd", headers={"long": "x" * 100})
    ch.settle("@q", 2)


def length_both_limits(t):
    "The first limit that is reached counts"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 3, "x-max-length-bytes": 5})
    _fill(ch, "aa", "bb", "cc")
    ch.settle("@q", 2)
    _fill(ch, "", "", "")
    ch.settle("@q", 3)


def length_unacked_free(t):
    "What is unacknowledged does not count; a requeue can cause a drop"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 2})
    _fill(ch, "1", "2")
    ch.get("@q", no_ack=False)
    _fill(ch, "3")
    ch.settle("@q", 2)
    ch.nack(1)
    ch.settle("@q", 2)
    _drain(ch, count=2)


def length_reject_publish(t):
    "reject-publish keeps the old and nacks the new"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 2, "x-overflow": "reject-publish"})
    ch.confirm()
    for body in "1", "2", "3":
        _fill(ch, body)
        ch.recv()
    ch.get("@q")
    _fill(ch, "4")
    ch.recv()
    _drain(ch, count=2)


def length_reject_publish_silent(t):
    "Without confirms it is silent"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 1, "x-overflow": "reject-publish"})
    _fill(ch, "1", "2")
    _drain(ch)


def length_reject_publish_mandatory(t):
    "A full queue is not an unroutable message"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.confirm()
    _fill(ch, "1")
    ch.recv()
    ch.pub("", "@q", b"2", mandatory=True)
    ch.recv()


def length_reject_publish_bytes(t):
    "Limits in octets reject as well"
    ch = t.channel()
    ch.queue("@q", {"x-max-length-bytes": 5, "x-overflow": "reject-publish"})
    ch.confirm()
    for body in "aaa", "bbb", "cc":
        _fill(ch, body)
        ch.recv()
    _drain(ch, count=2)


def length_reject_publish_zero(t):
    "A limit of zero rejects everything, a waiting consumer or not"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 0, "x-overflow": "reject-publish"})
    ch.confirm()
    _fill(ch, "1")
    ch.recv()


def length_reject_publish_unacked_free(t):
    "What is unacknowledged does not count here either"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.confirm()
    _fill(ch, "1")
    ch.recv()
    ch.get("@q", no_ack=False)
    _fill(ch, "2")
    ch.recv()
    _fill(ch, "3")
    ch.recv()


def length_reject_publish_fanout(t):
    "One full queue of two: a nack, and the other has the message"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    ch.queue("@full", {"x-max-length": 0, "x-overflow": "reject-publish"})
    ch.queue("@free")
    ch.bind("@full", "@x")
    ch.bind("@free", "@x")
    ch.confirm()
    ch.pub("@x", "", b"1")
    ch.recv()
    ch.settle("@free", 1)


def length_drop_head_confirms(t):
    "A message dropped at once is acked all the same"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 0})
    ch.confirm()
    _fill(ch, "1", delivery_mode=2)
    ch.recv()


def length_to_waiting_consumer(t):
    "What goes straight to a consumer is never dropped"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 1})
    ch.consume("@q", no_ack=True)
    _fill(ch, "1", "2", "3")
    ch.recv(3)


def priority_order(t):
    "Higher first, in order within a level"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 10})
    for body, level in ("low1", 1), ("high1", 9), ("mid", 5), ("low2", 1), ("high2", 9):
        ch.pub("", "@q", body, priority=level)
    for _ in range(5):
        ch.get("@q")


def priority_absent_is_zero(t):
    "No priority is priority zero"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 10})
    _fill(ch, "none")
    _fill(ch, "zero", priority=0)
    _fill(ch, "one", priority=1)
    for _ in range(3):
        ch.get("@q")


def priority_clamped(t):
    "Above the maximum is the maximum, and the property stays as it was"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 3})
    _fill(ch, "three", priority=3)
    _fill(ch, "two", priority=2)
    _fill(ch, "ninety", priority=90)
    for _ in range(3):
        ch.get("@q")


def priority_ignored_on_plain(t):
    "A plain queue does not care"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, "low", priority=1)
    _fill(ch, "high", priority=9)
    ch.get("@q")
    ch.get("@q")


def priority_requeue(t):
    "A requeued message is back at its place in its level"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5})
    for body, level in ("a5", 5), ("b5", 5), ("a1", 1), ("b1", 1):
        ch.pub("", "@q", body, priority=level)
    for _ in range(3):
        ch.get("@q", no_ack=False)
    ch.nack(3)
    ch.nack(1)
    for _ in range(3):
        ch.get("@q")


def priority_consumer_prefetch(t):
    "What is already delivered is not overtaken, what waits is"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5})
    ch.qos(1)
    ch.consume("@q")
    _fill(ch, "first", priority=1)
    ch.recv()
    _fill(ch, "low", priority=1)
    _fill(ch, "high", priority=5)
    ch.passive("@q")
    ch.ack(1)
    ch.recv()
    ch.ack(2)
    ch.recv()


def priority_zero_max(t):
    "A maximum of zero"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 0})
    _fill(ch, "low", priority=0)
    _fill(ch, "high", priority=9)
    ch.get("@q")
    ch.get("@q")


def priority_length_drop(t):
    "Over the limit: from which level is dropped"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5, "x-max-length": 2})
    for body, level in ("high1", 5), ("low1", 1), ("high2", 5):
        ch.pub("", "@q", body, priority=level)
    ch.settle("@q", 2)
    _drain(ch, count=2)


def priority_length_drop_newcomer(t):
    "… when the newcomer is the highest"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5, "x-max-length": 2})
    for body, level in ("low1", 1), ("low2", 1), ("high", 5):
        ch.pub("", "@q", body, priority=level)
    ch.settle("@q", 2)
    _drain(ch, count=2)


def priority_ttl_behind_higher(t):
    "An expired message of a low level stays while a live one of a higher level is before it"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5})
    ch.queue("@clock", {"x-message-ttl": 150})
    _fill(ch, "high live", priority=5)
    _fill(ch, "low dead", priority=1, expiration="30")
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    ch.passive("@q")
    ch.get("@q")
    ch.get("@q")


def priority_ttl_high_first(t):
    "An expired message of a high level is not handed out"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5})
    ch.queue("@clock", {"x-message-ttl": 150})
    _fill(ch, "low live", priority=1)
    _fill(ch, "high dead", priority=5, expiration="30")
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    _drain(ch)


def priority_purge(t):
    "Purge counts all levels"
    ch = t.channel()
    ch.queue("@q", {"x-max-priority": 5})
    for level in range(6):
        _fill(ch, "m", priority=level)
    ch.purge("@q")
    ch.passive("@q")


def ttl_with_length(t):
    "Expired messages make room"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 1, "x-message-ttl": 400, "x-overflow": "reject-publish"})
    ch.confirm()
    _fill(ch, "1")
    ch.recv()
    _fill(ch, "2")
    ch.recv()
    ch.settle("@q", 0)
    _fill(ch, "3")
    ch.recv()


def ttl_does_not_restart_on_requeue(t):
    "A requeue does not give a new lease"
    ch = t.channel()
    ch.queue("@q", {"x-message-ttl": 1000})
    ch.queue("@clock", {"x-message-ttl": 700})
    _fill(ch, "1")
    ch.get("@q", no_ack=False)
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    ch.nack(1)
    ch.get("@q", no_ack=False)
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    ch.nack(2)
    ch.get("@q")
