"""Consuming, getting, settling, prefetch, single active consumer."""

from cases import each
from wire import V


def _fill(ch, queue="@q", count=3, **properties):
    for number in range(1, count + 1):
        ch.pub("", queue, str(number), **properties)


def consume_deliver_ack(t):
    "consume-ok, deliveries, acks"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    _fill(ch)
    ch.consume("@q", "tag")
    ch.recv(3)
    ch.ack(3, multiple=True)
    ch.close()
    other.settle("@q", 0)


def consume_tag_generated(t):
    "An empty tag is filled in by the server"
    ch = t.channel()
    ch.queue("@q")
    ch.call("basic.consume", queue="@q")
    ch.pub("", "@q", b"m")
    ch.recv()


def consume_tag_reused(t):
    "A tag that is in use on the channel"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "t")
    ch.consume("@q", "t")


def consume_tag_reused_after_cancel(t):
    "… is free after cancel"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "t")
    ch.cancel("t")
    ch.consume("@q", "t")


def consume_tag_per_channel(t):
    "… and on another channel"
    c = t.connect()
    one, two = c.channel(), c.channel()
    one.queue("@q")
    one.consume("@q", "t")
    two.consume("@q", "t")


def consume_queue_missing(t):
    "Consuming from what is not there"
    t.channel().consume("@q")


def consume_last_declared(t):
    "An empty queue name is the last declared one"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.consume("")
    ch.recv()


def consume_no_ack(t):
    "Without acks the tags count all the same and nothing is outstanding"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch)
    ch.consume("@q", no_ack=True)
    ch.recv(3)
    ch.ack(1)
    ch.recv()


def consume_no_local_ignored(t):
    "no-local is ignored"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", no_local=True)
    ch.pub("", "@q", b"own")
    ch.recv()


def consume_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.send("basic.consume", queue="@q", consumer_tag="t", nowait=True)
    ch.recv()


@each(second={"exclusive": False}, second_exclusive={"exclusive": True})
def consume_exclusive_refuses(t, options):
    "Nobody beside an exclusive consumer"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "a", exclusive=True)
    ch.consume("@q", "b", **options)


def consume_exclusive_refused(t):
    "No exclusive consumer beside others"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "a")
    ch.consume("@q", "b", exclusive=True)


def consume_exclusive_released(t):
    "After its cancel others may come"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "a", exclusive=True)
    ch.cancel("a")
    ch.consume("@q", "b")


def consume_order_of_ok(t):
    "consume-ok precedes the deliveries"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=2)
    ch.send("basic.consume", queue="@q", consumer_tag="t", no_ack=True)
    ch.recv(3)


def cancel_unknown(t):
    "Cancelling a tag nobody knows"
    t.channel().cancel("nobody")


def cancel_keeps_outstanding(t):
    "What was delivered before cancel can be acked after it"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=2)
    ch.qos(1)
    ch.consume("@q", "t")
    ch.recv()
    ch.cancel("t")
    ch.passive("@q")
    ch.ack(1)
    ch.passive("@q")


def cancel_ok_is_last(t):
    "Deliveries come before cancel-ok, none after it"
    ch, other = t.channel(), t.channel()
    ch.queue("@q")
    _fill(ch, count=3)
    ch.consume("@q", "t", no_ack=True)
    ch.recv(3)
    ch.cancel("t")
    other.pub("", "@q", b"later")
    other.settle("@q", 1)
    ch.sync()


def consume_generated_name(t):
    "A queue with a reserved name that is there can be bound, consumed from, purged and deleted"
    ch = t.channel()
    name = ch.queue("", auto_delete=False)
    ch.bind(name, "amq.direct", "@k")
    ch.pub("amq.direct", "@k", b"m")
    ch.consume(name, "t", no_ack=True)
    ch.recv()
    ch.cancel("t")
    ch.call("queue.purge", queue=name)
    ch.delete(name)


def cancel_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "t")
    ch.send("basic.cancel", consumer_tag="t", nowait=True)
    ch.pub("", "@q", b"m")
    ch.passive("@q")


def get_empty(t):
    "get-empty"
    ch = t.channel()
    ch.queue("@q")
    ch.get("@q")


def get_missing(t):
    "Getting from what is not there"
    t.channel().get("@q")


def get_no_ack(t):
    "A get without ack leaves nothing to ack"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=1)
    ch.get("@q")
    ch.ack(1)
    ch.recv()


def get_shares_tags(t):
    "get and deliver share the delivery tags of the channel"
    ch = t.channel()
    ch.queue("@a")
    ch.queue("@b")
    _fill(ch, "@a", 1)
    _fill(ch, "@b", 2)
    ch.get("@a", no_ack=False)
    ch.consume("@b")
    ch.recv(2)
    ch.ack(3, multiple=True)
    ch.sync()


def get_counts_down(t):
    "message-count is what is left"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch)
    for _ in range(4):
        ch.get("@q", no_ack=False)


def get_while_consumed(t):
    "A consumer without credit leaves messages for get"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(1)
    ch.consume("@q")
    _fill(ch, count=2)
    ch.recv()
    ch.get("@q")


@each(ack=("basic.ack", {}), reject=("basic.reject", {"requeue": True}), nack=("basic.nack", {"requeue": True}),
      ack_multiple=("basic.ack", {"multiple": True}), nack_multiple=("basic.nack", {"multiple": True}))
def settle_unknown_tag(t, case):
    "A tag that was never given out"
    ch = t.channel()
    ch.send(case[0], delivery_tag=5, **case[1])
    ch.recv()


@each(ack=("basic.ack", {}), reject=("basic.reject", {"requeue": True}), nack=("basic.nack", {"requeue": True}))
def settle_tag_zero(t, case):
    "Tag zero without multiple"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=1)
    ch.get("@q", no_ack=False)
    ch.send(case[0], delivery_tag=0, **case[1])
    ch.recv()


@each(ack=("basic.ack", {}), nack=("basic.nack", {"requeue": True}))
def settle_zero_multiple_none(t, case):
    "Tag zero with multiple is fine with nothing outstanding"
    ch = t.channel()
    ch.send(case[0], delivery_tag=0, multiple=True, **case[1])
    ch.sync()


def ack_zero_multiple(t):
    "Tag zero with multiple takes all"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    _fill(ch)
    for _ in range(3):
        ch.get("@q", no_ack=False)
    ch.ack(0, multiple=True)
    ch.close()
    other.passive("@q")


def ack_twice(t):
    "The same tag twice"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=1)
    ch.get("@q", no_ack=False)
    ch.ack(1)
    ch.ack(1)
    ch.recv()


def ack_multiple_after_single(t):
    "multiple with a tag that was acked already"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch)
    for _ in range(3):
        ch.get("@q", no_ack=False)
    ch.ack(2)
    ch.ack(2, multiple=True)
    ch.recv()


def ack_multiple_beyond(t):
    "multiple with a tag above what was given out"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch)
    for _ in range(3):
        ch.get("@q", no_ack=False)
    ch.ack(9, multiple=True)
    ch.recv()


def ack_other_channel(t):
    "Tags of another channel are unknown"
    c = t.connect()
    one, two = c.channel(), c.channel()
    one.queue("@q")
    _fill(one, count=1)
    one.get("@q", no_ack=False)
    two.ack(1)
    two.recv()


def reject_requeue_position(t):
    "A rejected message is back where it was"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch)
    ch.get("@q", no_ack=False)
    ch.reject(1, requeue=True)
    for _ in range(3):
        ch.get("@q")


def nack_multiple_position(t):
    "Nacked messages are back where they were, the middle one too"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=5)
    for _ in range(4):
        ch.get("@q", no_ack=False)
    ch.ack(2)
    ch.nack(3, multiple=True)
    ch.nack(4)
    for _ in range(4):
        ch.get("@q")


def requeue_out_of_order(t):
    "Requeued last first, they come back in order"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch)
    for _ in range(3):
        ch.get("@q", no_ack=False)
    for tag in (3, 1, 2):
        ch.reject(tag, requeue=True)
    for _ in range(3):
        ch.get("@q")


def reject_drop(t):
    "Rejected without requeue it is gone"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=2)
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.get("@q")
    ch.get("@q")


def requeue_to_same_consumer(t):
    "A requeued message comes straight back to the only consumer"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q")
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.reject(1, requeue=True)
    ch.recv()
    ch.nack(2)
    ch.recv()
    ch.ack(3)


def recover_requeue(t):
    "recover returns everything outstanding"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=2)
    ch.get("@q", no_ack=False)
    ch.get("@q", no_ack=False)
    ch.recover()
    ch.get("@q")
    ch.get("@q")


def recover_to_consumer(t):
    "recover-ok, then the redeliveries"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=2)
    ch.consume("@q")
    ch.recv(2)
    ch.recover()
    ch.recv(2)


def recover_no_requeue(t):
    "recover without requeue is not implemented"
    t.channel().recover(requeue=False)


def recover_async(t):
    "recover-async has no answer"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=1)
    ch.get("@q", no_ack=False)
    ch.send("basic.recover-async", requeue=True)
    ch.get("@q")


def recover_async_no_requeue(t):
    "recover-async without requeue is not implemented either"
    ch = t.channel()
    ch.send("basic.recover-async")
    ch.recv()


def recover_nothing(t):
    "recover with nothing outstanding"
    t.channel().recover()


def qos_prefetch_size(t):
    "A limit in octets is not implemented"
    t.channel().qos(1, size=1000)


def qos_limits(t):
    "No more unacknowledged than the prefetch count; each ack brings the next"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=4)
    ch.qos(2)
    ch.consume("@q")
    ch.recv(2)
    ch.passive("@q")
    ch.ack(1)
    ch.recv()
    ch.passive("@q")
    ch.reject(2)
    ch.recv()


def qos_multiple_ack_frees_all(t):
    "multiple frees as much as it settles"
    ch = t.channel()
    ch.queue("@q")
    _fill(ch, count=6)
    ch.qos(3)
    ch.consume("@q")
    ch.recv(3)
    ch.ack(2, multiple=True)
    ch.recv(2)
    ch.passive("@q")


def qos_later_consumers_only(t):
    "A changed count is for consumers started later"
    ch = t.channel()
    ch.queue("@a")
    ch.queue("@b")
    ch.qos(1)
    ch.consume("@a", "a")
    ch.qos(2)
    ch.consume("@b", "b")
    _fill(ch, "@a", 3)
    ch.recv()
    ch.passive("@a")
    _fill(ch, "@b", 3)
    ch.recv(2)
    ch.passive("@b")


def qos_zero_unlimited(t):
    "Zero is no limit"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(1)
    ch.qos(0)
    ch.consume("@q")
    _fill(ch, count=5)
    ch.recv(5)
    ch.passive("@q")


def qos_no_ack_unlimited(t):
    "Consumers without acks are not limited"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(1)
    ch.consume("@q", no_ack=True)
    _fill(ch)
    ch.recv(3)


def qos_get_not_limited(t):
    "get is not limited"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(1)
    _fill(ch)
    ch.get("@q", no_ack=False)
    ch.get("@q", no_ack=False)


def qos_global_shared(t):
    "A global count is shared by the consumers of the channel"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(2, global_=True)
    ch.consume("@q", "a")
    ch.consume("@q", "b")
    _fill(ch, count=5)
    ch.recv(2)
    ch.passive("@q")
    ch.ack(1)
    ch.recv()
    ch.passive("@q")


def qos_global_at_once(t):
    "A global count acts on running consumers at once"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(1, global_=True)
    ch.consume("@q")
    _fill(ch, count=3)
    ch.recv()
    ch.passive("@q")
    ch.qos(3, global_=True)
    ch.recv(2)


def qos_global_and_consumer(t):
    "Both kinds hold at once"
    ch = t.channel()
    ch.queue("@q")
    ch.qos(3, global_=True)
    ch.qos(2)
    ch.consume("@q", "a")
    _fill(ch, count=5)
    ch.recv(2)
    ch.passive("@q")


def round_robin(t):
    "Consumers take turns"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q")
    a.consume("@q", "a", no_ack=True)
    b.consume("@q", "b", no_ack=True)
    for number in range(4):
        ch.pub("", "@q", str(number))
        (a, b)[number % 2].recv()


def round_robin_skips_full(t):
    "Who has no credit is passed over"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q")
    a.qos(1)
    a.consume("@q", "a")
    b.qos(3)
    b.consume("@q", "b")
    _fill(ch, count=4)
    a.recv()
    b.recv(3)


@each(int=V("I", 5), byte=V("b", 5), long=V("l", 5), short=V("s", 5))
def consumer_priority(t, value):
    "The higher priority is served first while it has credit"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q")
    a.consume("@q", "low")
    b.qos(2)
    b.consume("@q", "high", {"x-priority": value})
    _fill(ch, count=4)
    b.recv(2)
    a.recv(2)


def consumer_priority_negative(t):
    "A negative priority comes after the default"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q")
    a.consume("@q", "low", {"x-priority": -1})
    b.qos(2)
    b.consume("@q", "default")
    _fill(ch, count=3)
    b.recv(2)
    a.recv()


@each(string="high", bool=True, float=1.5, void=None)
def consumer_priority_invalid(t, value):
    "A priority that is no integer"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "t", {"x-priority": value})


@each(ha={"x-cancel-on-ha-failover": True}, unknown={"x-whatever": 1}, stream_offset={"x-stream-offset": "first"})
def consumer_argument(t, arguments):
    "Consumer arguments without a meaning here"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q", "t", arguments)


def sac_first_is_active(t):
    "Only the first consumer gets; the second takes over after a cancel"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q", {"x-single-active-consumer": True})
    a.consume("@q", "a", no_ack=True)
    b.consume("@q", "b", no_ack=True)
    _fill(ch, count=2)
    a.recv(2)
    a.cancel("a")
    ch.pub("", "@q", b"3")
    b.recv()


def sac_channel_close(t):
    "When the active one's channel ends, its messages go to the next, in order"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q", {"x-single-active-consumer": True})
    a.consume("@q", "a")
    b.consume("@q", "b")
    _fill(ch, count=2)
    a.recv(2)
    a.close()
    b.recv(2)


def sac_cancel_keeps_outstanding(t):
    "After a plain cancel the old one keeps what it has, and the next gets the rest"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q", {"x-single-active-consumer": True})
    a.qos(1)
    a.consume("@q", "a")
    b.consume("@q", "b")
    _fill(ch, count=2)
    a.recv()
    a.cancel("a")
    ch.pub("", "@q", b"3")
    b.recv(2)
    a.ack(1)
    a.sync()


def sac_exclusive_refused(t):
    "Exclusive and single active do not go together"
    ch = t.channel()
    ch.queue("@q", {"x-single-active-consumer": True})
    ch.consume("@q", "a", exclusive=True)


def sac_priority_newcomer(t):
    "A newcomer of higher priority does not displace the active one"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q", {"x-single-active-consumer": True})
    a.consume("@q", "a", no_ack=True)
    b.consume("@q", "b", {"x-priority": 10}, no_ack=True)
    _fill(ch, count=1)
    a.recv()


def sac_priority_succession(t):
    "Among those who wait the highest priority is next"
    c = t.connect()
    ch, a, b, d = c.channel(), c.channel(), c.channel(), c.channel()
    ch.queue("@q", {"x-single-active-consumer": True})
    a.consume("@q", "a", no_ack=True)
    b.consume("@q", "b", no_ack=True)
    d.consume("@q", "d", {"x-priority": 10}, no_ack=True)
    a.cancel("a")
    _fill(ch, count=1)
    d.recv()


def redelivered_to_other_consumer(t):
    "What a closing channel had goes to the next consumer, marked"
    c = t.connect()
    ch, a, b = c.channel(), c.channel(), c.channel()
    ch.queue("@q")
    a.consume("@q", "a")
    _fill(ch, count=1)
    a.recv()
    b.consume("@q", "b")
    a.close()
    b.recv()


def consume_from_two_queues(t):
    "One channel, two consumers, one sequence of tags"
    ch = t.channel()
    ch.queue("@a")
    ch.queue("@b")
    ch.consume("@a", "a")
    ch.consume("@b", "b")
    ch.pub("", "@a", b"1")
    ch.recv()
    ch.pub("", "@b", b"2")
    ch.recv()
    ch.ack(2, multiple=True)
    ch.sync()
