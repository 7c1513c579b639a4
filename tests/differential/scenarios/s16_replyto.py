"""Direct reply-to."""

from cases import each

REPLY = "amq.rabbitmq.reply-to"


def _address(ch):
    """Sends a request through @q and returns the address to answer to, as the responder sees it."""
    ch.queue("@q")
    ch.consume(REPLY, "t", no_ack=True)
    ch.pub("", "@q", b"request", reply_to=REPLY, correlation_id="1")
    event = ch.get("@q")
    return {name: data for name, _, data in event.properties[3]}["reply_to"].decode()


def reply_round_trip(t):
    "Request and reply"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    address = _address(ch)
    other.pub("", address, b"reply", correlation_id="1", headers={"h": 1})
    ch.recv()


def reply_from_other_connection(t):
    "… from another connection"
    one, two = t.connect(), t.connect()
    ch, other = one.channel(), two.channel()
    address = _address(ch)
    other.pub("", address, b"reply", mandatory=True)
    ch.recv()


def reply_several(t):
    "Several replies to one request"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    address = _address(ch)
    for body in "1", "2", "3":
        other.pub("", address, body)
    ch.recv(3)


def reply_needs_no_ack(t):
    "The reply consumer cannot acknowledge"
    t.channel().consume(REPLY, "t")


def reply_consumer_twice(t):
    "One reply consumer a channel"
    ch = t.channel()
    ch.consume(REPLY, "a", no_ack=True)
    ch.consume(REPLY, "b", no_ack=True)


def reply_without_consumer(t):
    "Asking for replies without listening"
    ch = t.channel()
    ch.pub("", "@q", b"m", reply_to=REPLY)
    ch.recv()


def reply_consumer_other_channel(t):
    "The consumer has to be on the same channel"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.consume(REPLY, "t", no_ack=True)
    other.pub("", "@q", b"m", reply_to=REPLY)
    other.recv()


def reply_cancelled(t):
    "After a cancel the consumer is free to be set again"
    ch = t.channel()
    ch.consume(REPLY, "a", no_ack=True)
    ch.cancel("a")
    ch.consume(REPLY, "b", no_ack=True)


def reply_after_requester_left(t):
    "The requester is gone: mandatory comes back, and confirms are acks"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    address = _address(ch)
    ch.close()
    other.confirm()
    other.pub("", address, b"late", mandatory=True)
    other.recv(2)
    other.pub("", address, b"late")
    other.recv()


def reply_confirmed(t):
    "A reply that arrives is acked"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    address = _address(ch)
    other.confirm()
    other.pub("", address, b"reply")
    other.recv()
    ch.recv()


@each(passive=True, active=False)
def reply_declare_bare(t, passive):
    "Declaring the bare name succeeds"
    t.channel().call("queue.declare", queue=REPLY, **({"passive": True} if passive else {}))


@each(passive=True, active=False)
def reply_declare_address(t, passive):
    "Declaring an address tells whether its requester is there"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    address = _address(ch)
    fields = {"passive": True} if passive else {}
    other.call("queue.declare", queue=address, **fields)
    ch.close()
    other.call("queue.declare", queue=address, **fields)


def reply_declare_nonsense(t):
    "An address that never was"
    t.channel().call("queue.declare", queue=REPLY + ".nonsense", passive=True)


def reply_bind(t):
    "A reply queue cannot be bound"
    t.channel().bind(REPLY, "amq.direct", "k")


def reply_get(t):
    "Nor read with get"
    t.channel().get(REPLY)


def reply_exclusive_consumer(t):
    "The reply consumer may ask to be exclusive"
    t.channel().consume(REPLY, "t", no_ack=True, exclusive=True)


def reply_to_other_value(t):
    "Any other reply-to is left alone"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", reply_to="amq.rabbitmq.reply")
    ch.get("@q")


def reply_not_limited_by_qos(t):
    "Replies need no credit"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.qos(1)
    address = _address(ch)
    for body in "1", "2", "3":
        other.pub("", address, body)
    ch.recv(3)
