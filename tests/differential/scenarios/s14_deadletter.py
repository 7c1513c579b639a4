"""Dead-lettering: causes, routing, headers, cycles."""

from cases import each
from wire import V


def _queues(ch, args=None, **fields):
    """@dead, and @q whose dead letters go there by the default exchange."""
    ch.queue("@dead")
    ch.queue("@q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead", **(args or {})}, **fields)


def _take(ch, count=1, queue="@dead"):
    ch.settle(queue, count)
    for _ in range(count):
        ch.get(queue)


@each(reject=("basic.reject", {}), nack=("basic.nack", {}), nack_multiple=("basic.nack", {"multiple": True}))
def dead_rejected(t, case):
    "Rejected without requeue"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.send(case[0], delivery_tag=1, **case[1])
    _take(ch)


def dead_expired_queue_ttl(t):
    "Expired by the queue's TTL"
    ch = t.channel()
    _queues(ch, {"x-message-ttl": 20})
    ch.pub("", "@q", b"m")
    _take(ch)


def dead_expired_own(t):
    "Expired by its own expiration, which is taken off and recorded"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m", expiration="20")
    _take(ch)


def dead_expiration_removed_on_reject(t):
    "The expiration is taken off whatever the cause"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m", expiration="60000")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_ttl_zero(t):
    "TTL 0 without a consumer goes straight on"
    ch = t.channel()
    _queues(ch, {"x-message-ttl": 0})
    ch.pub("", "@q", b"m")
    _take(ch)


def dead_maxlen(t):
    "Dropped from the head"
    ch = t.channel()
    _queues(ch, {"x-max-length": 1})
    ch.pub("", "@q", b"1")
    ch.pub("", "@q", b"2")
    _take(ch)
    ch.get("@q")


def dead_maxlen_bytes(t):
    "Dropped for octets, several at once, oldest first"
    ch = t.channel()
    _queues(ch, {"x-max-length-bytes": 6})
    for body in "aa", "bb", "cc", "dddd":
        ch.pub("", "@q", body)
    _take(ch, 2)
    ch.get("@q")


def dead_reject_publish_dlx(t):
    "reject-publish-dlx sends the refused one on and nacks it"
    ch = t.channel()
    _queues(ch, {"x-max-length": 1, "x-overflow": "reject-publish-dlx"})
    ch.confirm()
    ch.pub("", "@q", b"1")
    ch.recv()
    ch.pub("", "@q", b"2")
    ch.recv()
    _take(ch)
    ch.get("@q")


def dead_reject_publish_no_dlx(t):
    "reject-publish does not dead-letter"
    ch = t.channel()
    _queues(ch, {"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.confirm()
    ch.pub("", "@q", b"1")
    ch.recv()
    ch.pub("", "@q", b"2")
    ch.recv()
    ch.passive("@dead")


def dead_not_purge(t):
    "Purged messages are not dead-lettered"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.purge("@q")
    ch.passive("@dead")


def dead_not_delete(t):
    "Nor those of a deleted queue"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.delete("@q")
    ch.passive("@dead")


def dead_not_ack(t):
    "Nor acknowledged ones"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.ack(1)
    ch.passive("@q")
    ch.passive("@dead")


def dead_exchange_missing(t):
    "A dead-letter exchange that is not there: dropped"
    ch = t.channel()
    ch.queue("@q", {"x-dead-letter-exchange": "@nowhere"})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.settle("@q", 0)


def dead_exchange_made_later(t):
    "It is looked up when it is needed"
    ch = t.channel()
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.pub("", "@q", b"m")
    ch.exchange("@dlx", "fanout")
    ch.queue("@dead")
    ch.bind("@dead", "@dlx")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_own_key(t):
    "Without a dead-letter routing key the message keeps its own"
    ch = t.channel()
    ch.exchange("@dlx", "direct")
    ch.queue("@dead")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.bind("@dead", "@dlx", "@q")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_exchange_shown(t):
    "Delivery and history show where it came from and through what"
    ch = t.channel()
    ch.exchange("@x", "topic")
    ch.exchange("@dlx", "fanout")
    ch.queue("@dead")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx", "x-dead-letter-routing-key": "new.key"})
    ch.bind("@q", "@x", "old.*")
    ch.bind("@dead", "@dlx")
    ch.pub("@x", "old.key", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_fans_out(t):
    "A dead letter may have several targets"
    ch = t.channel()
    ch.exchange("@dlx", "fanout")
    ch.queue("@one")
    ch.queue("@two")
    ch.bind("@one", "@dlx")
    ch.bind("@two", "@dlx")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch, queue="@one")
    _take(ch, queue="@two")


def dead_internal_exchange(t):
    "An internal exchange will do"
    ch = t.channel()
    ch.exchange("@dlx", "fanout", internal=True)
    ch.queue("@dead")
    ch.bind("@dead", "@dlx")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_alternate(t):
    "The dead-letter exchange's alternate is used"
    ch = t.channel()
    ch.exchange("@ae", "fanout")
    ch.exchange("@dlx", "direct", {"alternate-exchange": "@ae"})
    ch.queue("@dead")
    ch.bind("@dead", "@ae")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_properties_kept(t):
    "Everything else stays as it was"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m", content_type="text/plain", content_encoding="gzip", delivery_mode=2, priority=3, correlation_id="c",
           reply_to="r", message_id="i", timestamp=1000000000, type="t", user_id="guest", app_id="a", cluster_id="cl",
           headers={"z": V("T", 7), "a": V("b", 1), "x": V("x", b"\0\1"), "s": V("s", -3), "v": None})
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_cc_kept(t):
    "CC keys route the dead letter and are recorded, BCC keys route"
    ch = t.channel()
    ch.exchange("@dlx", "direct")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    for name, key in ("@by_key", "@q"), ("@by_cc", "@cc"), ("@by_bcc", "@bcc"):
        ch.queue(name)
        ch.bind(name, "@dlx", key)
    ch.pub("", "@q", b"m", headers={"CC": ["@cc"], "BCC": ["@bcc"]})
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch, queue="@by_key")
    _take(ch, queue="@by_cc")
    ch.passive("@by_bcc")


def dead_cc_with_key(t):
    "A dead-letter routing key replaces CC as well"
    ch = t.channel()
    ch.queue("@other")
    _queues(ch)
    ch.pub("", "@q", b"m", headers={"CC": ["@other2"]})
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)
    ch.passive("@other")


def dead_twice_two_queues(t):
    "Two deaths in two queues: two entries, newest first"
    ch = t.channel()
    ch.queue("@end")
    ch.queue("@two", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@end"})
    ch.queue("@one", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@two", "x-message-ttl": 20})
    ch.pub("", "@one", b"m")
    ch.settle("@two", 1)
    ch.get("@two", no_ack=False)
    ch.reject(1)
    _take(ch, queue="@end")


def dead_twice_same_queue(t):
    "Rejected twice from the same queue: one entry that counts"
    ch = t.channel()
    ch.queue("@q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@q"})
    ch.pub("", "@q", b"m")
    for tag in (1, 2, 3):
        ch.settle("@q", 1)
        ch.get("@q", no_ack=False)
        ch.reject(tag)
    _take(ch, queue="@q")


def dead_two_reasons_same_queue(t):
    "Two reasons in one queue: two entries"
    ch = t.channel()
    ch.queue("@end")
    ch.queue("@wait", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@work", "x-message-ttl": 20})
    ch.queue("@work", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@wait"})
    ch.pub("", "@work", b"m")
    ch.get("@work", no_ack=False)
    ch.reject(1)
    ch.settle("@work", 1)
    ch.get("@work", no_ack=False)
    ch.reject(2)
    _take(ch, queue="@work")


def dead_retry_loop(t):
    "A retry loop through a waiting queue turns as often as the consumer rejects"
    ch = t.channel()
    ch.exchange("@retry", "fanout")
    ch.exchange("@back", "fanout")
    ch.queue("@work", {"x-dead-letter-exchange": "@retry"})
    ch.queue("@wait", {"x-dead-letter-exchange": "@back", "x-message-ttl": 15})
    ch.bind("@wait", "@retry")
    ch.bind("@work", "@back")
    ch.consume("@work")
    ch.pub("", "@work", b"m", headers={"mine": 1})
    for tag in (1, 2, 3):
        ch.recv()
        ch.reject(tag)
    ch.recv()
    ch.ack(4)


def dead_ttl_cycle_cut(t):
    "A loop of expiry alone is cut"
    ch = t.channel()
    ch.queue("@a", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@b", "x-message-ttl": 20})
    ch.queue("@b", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@a", "x-message-ttl": 20})
    ch.queue("@clock", {"x-message-ttl": 300})
    ch.pub("", "@a", b"m")
    ch.pub("", "@clock", b"tick")
    ch.settle("@clock", 0)
    ch.settle("@a", 0)
    ch.settle("@b", 0)


def dead_self_cycle_cut(t):
    "A queue that is its own dead-letter target, by TTL"
    ch = t.channel()
    ch.queue("@a", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@a", "x-message-ttl": 20})
    ch.pub("", "@a", b"m")
    ch.settle("@a", 0)


def dead_maxlen_self_cycle_cut(t):
    "… and by length"
    ch = t.channel()
    ch.queue("@a", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@a", "x-max-length": 1})
    ch.pub("", "@a", b"1")
    ch.pub("", "@a", b"2")
    _take(ch, queue="@a")
    ch.get("@a")


def dead_publisher_x_death(t):
    "A publisher's own x-death takes no part in the history"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m", headers={"x-death": [{"count": V("l", 5), "reason": "rejected", "queue": "@q", "time": V("T", 1000),
                                                   "exchange": "", "routing-keys": ["@q"]}]})
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_publisher_x_death_relayed(t):
    "… and is relayed when nothing dies"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers={"x-death": [{"count": V("l", 5), "reason": "rejected"}], "x-first-death-queue": "mine"})
    ch.get("@q")


@each(string="oops", number=5, empty_array=[], array_of_strings=["a"])
def dead_publisher_x_death_odd(t, value):
    "An x-death of the wrong shape does not stand in the way"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m", headers={"x-death": value})
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_republished_starts_afresh(t):
    "A consumer that publishes a dead letter again, headers and all"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.settle("@dead", 1)
    event = ch.get("@dead")
    headers = {name: data for name, _, data in event.properties[3]}["headers"]
    ch.connection.quiet = True  # what is sent depends on what came
    ch.pub("", "@q", b"m", headers=headers)
    ch.get("@q", no_ack=False)
    ch.connection.quiet = False
    ch.reject(3)
    _take(ch)


def dead_from_consumer_many(t):
    "nack multiple dead-letters in order"
    ch = t.channel()
    _queues(ch)
    ch.consume("@q")
    for body in "1", "2", "3":
        ch.pub("", "@q", body)
    ch.recv(3)
    ch.nack(3, multiple=True, requeue=False)
    _take(ch, 3)


def dead_expired_order(t):
    "Expired messages arrive in order"
    ch = t.channel()
    _queues(ch, {"x-message-ttl": 20})
    for body in "1", "2", "3":
        ch.pub("", "@q", body)
    _take(ch, 3)


def dead_redelivered_flag(t):
    "A dead letter is a new message: not redelivered"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.nack(1)
    ch.get("@q", no_ack=False)
    ch.reject(2)
    _take(ch)


def dead_to_ttl_queue(t):
    "The target's TTL counts from arrival there"
    ch = t.channel()
    ch.queue("@dead", {"x-message-ttl": 30})
    ch.queue("@q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead"})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.settle("@dead", 0)


def dead_to_full_queue(t):
    "A full target drops its own head"
    ch = t.channel()
    ch.queue("@dead", {"x-max-length": 1})
    ch.queue("@q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead", "x-message-ttl": 20})
    ch.pub("", "@q", b"1")
    ch.pub("", "@q", b"2")
    ch.settle("@q", 0)
    ch.settle("@dead", 1)
    ch.get("@dead")


def dead_to_reject_publish_queue(t):
    "A full target that rejects: lost"
    ch = t.channel()
    ch.queue("@dead", {"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.queue("@q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead"})
    ch.pub("", "@dead", b"already there")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.settle("@q", 0)
    ch.settle("@dead", 1)
    ch.get("@dead")


def dead_to_priority_queue(t):
    "The priority is honoured at the target"
    ch = t.channel()
    ch.queue("@dead", {"x-max-priority": 5})
    ch.queue("@q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead"})
    for body, level in ("low", 1), ("high", 5):
        ch.pub("", "@q", body, priority=level)
        ch.sync()
    for tag in (1, 2):
        ch.get("@q", no_ack=False)
        ch.reject(tag)
    ch.settle("@dead", 2)
    ch.get("@dead")
    ch.get("@dead")


def dead_priority_and_maxlen(t):
    "Which level a priority queue dead-letters from when it is full"
    ch = t.channel()
    _queues(ch, {"x-max-priority": 5, "x-max-length": 2})
    for body, level in ("low1", 1), ("high", 5), ("low2", 1):
        ch.pub("", "@q", body, priority=level)
    _take(ch)
    ch.get("@q")
    ch.get("@q")


def dead_priority_and_ttl(t):
    "Expiry in a priority queue"
    ch = t.channel()
    _queues(ch, {"x-max-priority": 5, "x-message-ttl": 20})
    ch.pub("", "@q", b"low", priority=1)
    _take(ch)


def dead_original_expiration_kept_in_second_death(t):
    "The recorded expiration stays with its entry"
    ch = t.channel()
    ch.queue("@end")
    ch.queue("@two", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@end", "x-message-ttl": 20})
    ch.queue("@one", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@two"})
    ch.pub("", "@one", b"m", expiration="20")
    _take(ch, queue="@end")


def dead_with_queue_length_and_ttl(t):
    "Length and TTL together: two reasons in one target"
    ch = t.channel()
    _queues(ch, {"x-max-length": 1, "x-message-ttl": 40})
    ch.pub("", "@q", b"1")
    ch.pub("", "@q", b"2")
    _take(ch, 2)


def dead_exclusive_queue(t):
    "An exclusive queue can dead-letter"
    ch = t.channel()
    _queues(ch, exclusive=True)
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_headers_exchange(t):
    "A headers exchange can route by the cause of death"
    ch = t.channel()
    ch.exchange("@dlx", "headers")
    ch.queue("@dead")
    ch.bind("@dead", "@dlx", "", {"x-match": "any-with-x", "x-first-death-reason": "rejected"})
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch)


def dead_in_tx(t):
    "A reject in a transaction dies with the commit"
    ch = t.channel()
    _queues(ch)
    ch.pub("", "@q", b"m")
    ch.sync()
    ch.tx()
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.sync()
    ch.passive("@dead")
    ch.commit()
    _take(ch)


def dead_unroutable(t):
    "A dead letter nobody wants is gone, mandatory or not"
    ch = t.channel()
    ch.exchange("@dlx", "direct")
    ch.queue("@q", {"x-dead-letter-exchange": "@dlx"})
    ch.pub("", "@q", b"m", mandatory=True)
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.settle("@q", 0)


def dead_default_exchange_own_key(t):
    "The default exchange with the message's own key leads back to the same queue"
    ch = t.channel()
    ch.queue("@q", {"x-dead-letter-exchange": ""})
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    _take(ch, queue="@q")
