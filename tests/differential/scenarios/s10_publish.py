"""Publishing: refusals, mandatory, confirms, transactions, CC and BCC, user-id."""

from cases import each
from wire import V


def publish_immediate(t):
    "immediate is not implemented"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", immediate=True)
    ch.recv()


def publish_exchange_missing(t):
    "Publishing to an exchange that is not there"
    ch = t.channel()
    ch.pub("@x", "k", b"m")
    ch.recv()


def publish_exchange_missing_confirm(t):
    "… on a confirm channel: no confirm, just the error"
    ch = t.channel()
    ch.confirm()
    ch.pub("@x", "k", b"m")
    ch.recv()


@each(word="soon", unit="100ms", negative="-1", float="1.5", empty="", space=" 100", plus="+60000", too_large="315360000001",
      huge="99999999999999999999999", leading_zero="0060000", hex="0x10")
def publish_expiration_invalid(t, text):
    "An expiration that is not a decimal number in range"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", expiration=text)
    ch.get("@q")


@each(ours="guest", other="somebody", empty="")
def publish_user_id(t, user):
    "user-id has to be the connection's user"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", user_id=user)
    ch.get("@q")


def publish_unroutable(t):
    "Nothing is heard of a message nobody wanted"
    ch = t.channel()
    ch.pub("", "@nothing", b"m")
    ch.sync()


def mandatory_returned(t):
    "A mandatory message comes back whole"
    ch = t.channel()
    ch.pub("", "@nothing", b"body", mandatory=True, headers={"h": V("T", 5)}, delivery_mode=2, expiration="1000",
           message_id="1")
    ch.recv()


def mandatory_returned_long_body(t):
    "… in as many frames as frame_max asks for"
    ch = t.connect(frame_max=8192).channel()
    ch.pub("", "@nothing", b"x" * 10000, mandatory=True)
    ch.recv()


def mandatory_return_before_confirm(t):
    "The return precedes the confirm, and the confirm is an ack"
    ch = t.channel()
    ch.confirm()
    ch.pub("", "@nothing", b"m", mandatory=True)
    ch.recv(2)


def mandatory_routed(t):
    "A routed mandatory message is not returned"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", mandatory=True)
    ch.sync()


def mandatory_exchange_without_bindings(t):
    "An exchange without bindings returns, with the exchange's name"
    ch = t.channel()
    ch.exchange("@x", "topic")
    ch.pub("@x", "a.b", b"m", mandatory=True)
    ch.recv()


def confirm_select_twice(t):
    "confirm.select may be repeated"
    ch = t.channel()
    ch.confirm()
    ch.confirm()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.recv()


def confirm_select_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.queue("@q")
    ch.send("confirm.select", nowait=True)
    ch.pub("", "@q", b"m")
    ch.recv()


@each(transient=1, persistent=2)
def confirm_one_by_one(t, mode):
    "Numbers count from one"
    ch = t.channel()
    ch.queue("@q")
    ch.confirm()
    for _ in range(3):
        ch.pub("", "@q", b"m", delivery_mode=mode)
        ch.recv()


def confirm_counts_after_select(t):
    "What was published before select has no number"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"before")
    ch.confirm()
    ch.pub("", "@q", b"after")
    ch.recv()


def confirm_burst(t):
    "A burst is confirmed to the last one, however the acks are batched"
    ch = t.channel()
    ch.queue("@q")
    ch.confirm()
    for _ in range(100):
        ch.pub("", "@q", b"m", delivery_mode=2)
    ch.confirmed(1, 100)
    ch.settle("@q", 100)


def confirm_unroutable(t):
    "An unroutable message is acked"
    ch = t.channel()
    ch.confirm()
    ch.pub("", "@nothing", b"m")
    ch.recv()


def confirm_fanout(t):
    "One number however many queues"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    for name in "@a", "@b", "@c":
        ch.queue(name)
        ch.bind(name, "@x")
    ch.confirm()
    ch.pub("@x", "", b"m", delivery_mode=2)
    ch.recv()


def confirm_then_error(t):
    "Numbers start anew on a reopened channel"
    ch = t.channel()
    ch.queue("@q")
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.passive("@nothing")
    ch.reopen()
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()


def confirm_consumed_at_once(t):
    "Confirm and delivery of a message that finds its consumer waiting"
    c = t.connect()
    ch, consumer = c.channel(), c.channel()
    ch.queue("@q")
    consumer.consume("@q", no_ack=True)
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
    consumer.recv()


def confirm_on_tx(t):
    "A transactional channel does not confirm"
    ch = t.channel()
    ch.tx()
    ch.confirm()


def tx_on_confirm(t):
    "A confirming channel is not transactional"
    ch = t.channel()
    ch.confirm()
    ch.tx()


@each(commit="tx.commit", rollback="tx.rollback")
def tx_without_select(t, name):
    "commit and rollback need a select"
    t.channel().call(name)


def tx_select_twice(t):
    "tx.select may be repeated"
    ch = t.channel()
    ch.tx()
    ch.tx()
    ch.commit()


def tx_publish_commit(t):
    "Published messages appear with the commit, in order"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.tx()
    ch.pub("", "@q", b"1")
    ch.pub("", "@q", b"2")
    ch.sync()
    other.passive("@q")
    ch.commit()
    other.get("@q")
    other.get("@q")


def tx_publish_rollback(t):
    "Rolled back, they never were"
    ch = t.channel()
    ch.queue("@q")
    ch.tx()
    ch.pub("", "@q", b"1")
    ch.rollback()
    ch.pub("", "@q", b"2")
    ch.commit()
    ch.get("@q")
    ch.get("@q")


def tx_ack_commit(t):
    "Acks count with the commit"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.tx()
    ch.get("@q", no_ack=False)
    ch.ack(1)
    ch.commit()
    ch.close()
    other.settle("@q", 0)


def tx_ack_rollback(t):
    "Rolled back acks leave the message outstanding: it can be acked again"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.sync()
    ch.tx()
    ch.get("@q", no_ack=False)
    ch.ack(1)
    ch.rollback()
    other.passive("@q")
    ch.ack(1)
    ch.commit()
    ch.close()
    other.settle("@q", 0)


def tx_ack_not_committed(t):
    "An ack that was never committed is undone by the end of the channel"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    other.settle("@q", 1)
    ch.tx()
    ch.get("@q", no_ack=False)
    ch.ack(1)
    ch.close()
    other.settle("@q", 1)
    other.get("@q")


def tx_publish_not_committed(t):
    "Nor are messages published without commit"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.tx()
    ch.pub("", "@q", b"m")
    ch.close()
    other.passive("@q")


def tx_nack_requeue_commit(t):
    "A nack is held until the commit as well"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.sync()
    ch.tx()
    ch.get("@q", no_ack=False)
    ch.nack(1)
    ch.sync()
    other.passive("@q")
    ch.commit()
    other.settle("@q", 1)


def tx_ack_unknown(t):
    "An unknown tag is an error at once, not at commit"
    ch = t.channel()
    ch.tx()
    ch.ack(7)
    ch.recv()


def tx_publish_missing_exchange(t):
    "So is an unknown exchange"
    ch = t.channel()
    ch.tx()
    ch.pub("@x", "k", b"m")
    ch.recv()


def tx_mandatory(t):
    "Returns come with the commit, before commit-ok"
    ch = t.channel()
    ch.tx()
    ch.pub("", "@nothing", b"m", mandatory=True)
    ch.sync()
    ch.call("tx.commit")
    ch.recv()


def tx_reject_publish(t):
    "A commit that a full queue refuses"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.tx()
    ch.pub("", "@q", b"1")
    ch.pub("", "@q", b"2")
    ch.commit()


def cc_routes(t):
    "CC adds routing keys and stays, BCC adds and is removed"
    ch = t.channel()
    for name in "@a", "@b", "@c":
        ch.queue(name)
    ch.pub("", "@a", b"m", headers={"CC": ["@b"], "BCC": ["@c"], "other": 1})
    for name in "@a", "@b", "@c":
        ch.get(name)


def cc_same_queue(t):
    "The same queue by key and by CC gets one copy"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers={"CC": ["@q", "@q"]})
    ch.settle("@q", 1)


def cc_only_match(t):
    "A delivery by CC shows the routing key of the publish"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@nothing", b"m", headers={"CC": ["@q"]}, mandatory=True)
    ch.get("@q")


def bcc_only_header(t):
    "A headers table with nothing but BCC"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@nothing", b"m", headers={"BCC": ["@q"]})
    ch.get("@q")


@each(string="@q", number=5, table={"a": 1})
def cc_not_array(t, value):
    "CC that is no array"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers={"CC": value})
    ch.get("@q")


def bcc_not_array(t):
    "BCC that is no array"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", headers={"BCC": "@q"})
    ch.get("@q")


def cc_items_odd(t):
    "Items that are no strings are passed over"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@nothing", b"m", headers={"CC": [5, "@q", True]})
    ch.get("@q")


def cc_on_topic_exchange(t):
    "CC works with any exchange"
    ch = t.channel()
    ch.exchange("@x", "topic")
    ch.queue("@q")
    ch.bind("@q", "@x", "red.*")
    ch.pub("@x", "blue.one", b"m", headers={"CC": ["red.one"]})
    ch.get("@q")


def cc_mandatory_return_hides_nothing(t):
    "A returned message with CC and BCC"
    ch = t.channel()
    ch.pub("", "@nothing", b"m", headers={"CC": ["@no"], "BCC": ["@nor"]}, mandatory=True)
    ch.recv()
