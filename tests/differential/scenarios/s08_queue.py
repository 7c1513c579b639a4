"""Queues: declare, equivalence, exclusive, auto-delete, delete, purge."""

from cases import each
from wire import V


def queue_declare(t):
    "Declare, again, passively"
    ch = t.channel()
    ch.queue("@q")
    ch.queue("@q")
    ch.passive("@q")


def queue_declare_transient(t):
    "A queue neither durable nor exclusive"
    ch = t.channel()
    ch.queue("@q", durable=False)
    ch.pub("", "@q", b"m")
    ch.get("@q")


def queue_server_named(t):
    "An empty name is filled in by the server and remembered"
    ch = t.channel()
    ch.queue("", exclusive=True)
    ch.pub("", "x", b"m")
    ch.get("")
    ch.purge("")
    ch.delete("")


def queue_last_declared_passive(t):
    "A passive declare is remembered as well"
    ch = t.channel()
    ch.queue("@a")
    ch.queue("@b")
    ch.passive("@a")
    ch.pub("", "@a", b"for a")
    ch.get("")


@each(get=("basic.get", {}), consume=("basic.consume", {"consumer_tag": "t"}), purge=("queue.purge", {}),
      delete=("queue.delete", {}), bind=("queue.bind", {"exchange": "amq.direct", "routing_key": "k"}),
      unbind=("queue.unbind", {"exchange": "amq.direct", "routing_key": "k"}))
def queue_none_declared(t, case):
    "An empty name when nothing was declared on this channel"
    t.channel().call(case[0], **case[1])


def queue_last_declared_per_channel(t):
    "The last declared queue is a matter of the channel"
    c = t.connect()
    c.channel().queue("@q")
    c.channel().get("")


def queue_passive_empty_name(t):
    "A passive declare of the empty name"
    t.channel().passive("")


def queue_passive_missing(t):
    "A passive declare of what is not there"
    t.channel().passive("@q")


def queue_passive_ignores_properties(t):
    "A passive declare looks at the name only"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 5})
    ch.call("queue.declare", queue="@q", passive=True, auto_delete=True, arguments={"x-max-length": 7})


def queue_reserved_new(t):
    "Names that begin with amq. are reserved"
    t.channel().queue("amq.differential")


def queue_reserved_passive(t):
    "Looking for a reserved name is allowed"
    t.channel().passive("amq.differential")


def queue_generated_name_redeclared(t):
    "A name the server generated can be redeclared"
    ch = t.channel()
    name = ch.queue("", auto_delete=False)
    ch.queue(name)


@each(durable={"durable": False}, auto_delete={"auto_delete": True})
def queue_inequivalent(t, change):
    "A redeclaration that differs in one property"
    ch = t.channel()
    ch.queue("@q")
    ch.queue("@q", **change)


def queue_inequivalent_exclusive(t):
    "Redeclared as exclusive"
    ch = t.channel()
    ch.queue("@q", durable=False)
    ch.call("queue.declare", queue="@q", exclusive=True)


def queue_inequivalent_not_exclusive(t):
    "An own exclusive queue redeclared as shared"
    ch = t.channel()
    ch.queue("@q", exclusive=True)
    ch.call("queue.declare", queue="@q")


@each(value=({"x-max-length": 1000}, {"x-max-length": 2000}), added=({}, {"x-max-length": 2000}),
      removed=({"x-max-length": 1000}, {}), expires=({"x-expires": 100000}, {"x-expires": 200000}),
      dlx=({"x-dead-letter-exchange": "a"}, {"x-dead-letter-exchange": "b"}),
      dlk=({"x-dead-letter-exchange": "a"}, {"x-dead-letter-exchange": "a", "x-dead-letter-routing-key": "k"}),
      overflow=({"x-overflow": "drop-head"}, {"x-overflow": "reject-publish"}),
      bytes=({"x-max-length-bytes": 5}, {"x-max-length-bytes": V("l", 6)}), priority=({"x-max-priority": 5}, {"x-max-priority": 6}),
      sac=({"x-single-active-consumer": True}, {}), mode=({"x-queue-mode": "lazy"}, {"x-queue-mode": "default"}),
      type=({}, {"x-queue-type": "quorum"}), two=({"x-max-length": 1, "x-expires": 100000}, {"x-max-length": 2, "x-expires": 200000}))
def queue_inequivalent_argument(t, pair):
    "A redeclaration that differs in an argument"
    ch = t.channel()
    ch.queue("@q", pair[0])
    ch.queue("@q", pair[1])


@each(type_classic=({}, {"x-queue-type": "classic"}), unknown=({"x-whatever": 1}, {"x-whatever": "two"}),
      unknown_dropped=({"x-whatever": 1}, {}), order=({"x-max-length": 1, "x-expires": 100000}, {"x-expires": 100000, "x-max-length": 1}))
def queue_equivalent_argument(t, pair):
    "Differences that do not count"
    ch = t.channel()
    ch.queue("@q", pair[0])
    ch.queue("@q", pair[1])


def queue_exclusive_beats_durable(t):
    "exclusive with durable is one queue with exclusive without"
    ch = t.channel()
    ch.call("queue.declare", queue="@q", exclusive=True, durable=True)
    ch.call("queue.declare", queue="@q", exclusive=True)
    ch.call("queue.declare", queue="@q", exclusive=True, durable=True)


@each(passive=("queue.declare", {"passive": True}), declare=("queue.declare", {"exclusive": True}),
      consume=("basic.consume", {"consumer_tag": "t"}), get=("basic.get", {}), purge=("queue.purge", {}), delete=("queue.delete", {}),
      bind=("queue.bind", {"exchange": "amq.direct"}), unbind=("queue.unbind", {"exchange": "amq.direct"}))
def queue_locked(t, case):
    "Another connection's exclusive queue is out of reach"
    one, two = t.connect(), t.connect()
    one.channel().queue("@q", exclusive=True)
    two.channel().call(case[0], queue="@q", **case[1])


def queue_locked_publish(t):
    "Publishing into another connection's exclusive queue is fine"
    one, two = t.connect(), t.connect()
    ch, other = one.channel(), two.channel()
    ch.queue("@q", exclusive=True)
    other.pub("", "@q", b"m", mandatory=True)
    other.sync()
    ch.settle("@q", 1)


def queue_exclusive_two_channels(t):
    "The connection owns an exclusive queue, not the channel"
    c = t.connect()
    one, two = c.channel(), c.channel()
    one.queue("@q", exclusive=True)
    one.close()
    two.passive("@q")


def queue_auto_delete_cancel(t):
    "An auto-delete queue goes with its last consumer"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q", auto_delete=True)
    ch.consume("@q", "a")
    ch.consume("@q", "b")
    ch.cancel("a")
    other.passive("@q")
    ch.cancel("b")
    other.passive("@q")


def queue_auto_delete_channel_close(t):
    "… also with its channel"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q", auto_delete=True)
    ch.consume("@q", "a")
    ch.close()
    t.connections[0].channels[2].vanish("@q")


def queue_auto_delete_unused(t):
    "… but not before a first consumer, and get is none"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q", auto_delete=True)
    ch.pub("", "@q", b"m")
    ch.get("@q")
    ch.close()
    other.passive("@q")


def queue_counts(t):
    "message-count is what is ready, consumer-count is who listens"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    for _ in range(3):
        ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.passive("@q")
    ch.qos(1)
    ch.consume("@q", "a")
    ch.recv()
    ch.passive("@q")
    other.queue("@q")


def queue_delete_counts_ready(t):
    "delete-ok counts what was ready"
    ch = t.channel()
    ch.queue("@q")
    for _ in range(3):
        ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.delete("@q")
    ch.sync()


def queue_delete_missing(t):
    "Deleting what is not there succeeds"
    ch = t.channel()
    ch.delete("@q")
    ch.delete("@q", if_unused=True, if_empty=True)


def queue_delete_in_use(t):
    "if-unused with a consumer"
    ch = t.channel()
    ch.queue("@q")
    ch.consume("@q")
    ch.delete("@q", if_unused=True)


def queue_delete_not_empty(t):
    "if-empty with a message"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.delete("@q", if_empty=True)


def queue_delete_empty_but_unacked(t):
    "if-empty with nothing but an unacknowledged message"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.delete("@q", if_empty=True)


def queue_delete_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.queue("@q")
    ch.send("queue.delete", queue="@q", nowait=True)
    ch.passive("@q")


def queue_declare_nowait(t):
    "Declare without an answer"
    ch = t.channel()
    ch.send("queue.declare", queue="@q", durable=True, nowait=True)
    ch.passive("@q")


def queue_delete_cancels(t):
    "Consumers hear of the deletion when they asked to"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.consume("@q", "a")
    other.delete("@q")
    ch.recv()
    ch.send("basic.cancel-ok", consumer_tag="a")
    ch.sync()


def queue_delete_cancels_silently(t):
    "… and not when they did not"
    c = t.connect(capabilities=[])
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.consume("@q", "a")
    other.delete("@q")
    ch.sync()
    ch.cancel("a")


def queue_ack_after_delete(t):
    "Acknowledging what came from a queue that is gone"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.delete("@q")
    ch.ack(1)
    ch.sync()


def queue_purge(t):
    "Purging takes what is ready and leaves what is not"
    ch = t.channel()
    ch.queue("@q")
    for _ in range(3):
        ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.purge("@q")
    ch.nack(1)
    ch.settle("@q", 1)


def queue_purge_missing(t):
    "Purging what is not there"
    t.channel().purge("@q")


def queue_purge_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.send("queue.purge", queue="@q", nowait=True)
    ch.passive("@q")


def queue_name_line_breaks(t):
    "CR and LF in a name are dropped"
    ch = t.channel()
    ch.queue("@a\r\nb")
    ch.passive("@ab")
    ch.delete("@ab")


def queue_name_longest(t):
    "A name of 255 octets"
    ch = t.channel()
    ch.queue("@" + "n" * (255 - len(t.name) - 1))


def queue_name_too_long_text(t):
    "The whole reply text is cut to what a short string can hold"
    ch = t.channel()
    ch.passive("@" + "n" * (255 - len(t.name) - 1))


def queue_name_utf8(t):
    "A name beyond ASCII"
    ch = t.channel()
    ch.queue("@żółć ☃")
    ch.passive("@żółć ☃")
    ch.passive("@żółw")


def queue_name_quotes(t):
    "Quotes in a name that an error quotes"
    t.channel().passive("@it's \"quoted\"")
