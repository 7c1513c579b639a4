"""Exchanges: declare, delete, equivalence, alternate exchanges, exchange-to-exchange bindings."""

from cases import each
from wire import V


@each(direct="direct", fanout="fanout", topic="topic", headers="headers")
def exchange_declare(t, kind):
    "Declare, again, passively"
    ch = t.channel()
    ch.exchange("@x", kind)
    ch.exchange("@x", kind)
    ch.call("exchange.declare", exchange="@x", type=kind, passive=True)


def exchange_passive_missing(t):
    "A passive declare of what is not there"
    ch = t.channel()
    ch.call("exchange.declare", exchange="@x", type="direct", passive=True)


def exchange_passive_ignores_properties(t):
    "A passive declare looks at the name only"
    ch = t.channel()
    ch.exchange("@x", "fanout", durable=True)
    ch.call("exchange.declare", exchange="@x", type="topic", passive=True, auto_delete=True, internal=True)


def exchange_passive_type_unknown(t):
    "A passive declare does not look at the type either"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    ch.call("exchange.declare", exchange="@x", type="nonsense", passive=True)


def exchange_type_unknown(t):
    "A type nobody provides"
    t.channel().exchange("@x", "nonsense")


def exchange_type_empty(t):
    "An empty type"
    t.channel().exchange("@x", "")


@each(type={"type": "fanout"}, durable={"durable": True}, auto_delete={"auto_delete": True}, internal={"internal": True})
def exchange_inequivalent(t, change):
    "A redeclaration that differs in one property"
    ch = t.channel()
    ch.exchange("@x", "direct")
    ch.exchange("@x", **{"type": "direct", **change})


def exchange_inequivalent_from_set(t):
    "The other way round: set before, not set now"
    ch = t.channel()
    ch.exchange("@x", "direct", durable=True)
    ch.exchange("@x", "direct")


def exchange_inequivalent_first_difference(t):
    "Of several differences the type is named"
    ch = t.channel()
    ch.exchange("@x", "direct")
    ch.exchange("@x", "topic", durable=True, internal=True)


def exchange_arguments_not_compared(t):
    "Arguments without a meaning are not compared"
    ch = t.channel()
    ch.exchange("@x", "direct", {"x-something": 1})
    ch.exchange("@x", "direct", {"x-something": "else"})
    ch.exchange("@x", "direct")


def exchange_default_declare(t):
    "The default exchange cannot be declared"
    t.channel().exchange("", "direct", durable=True)


def exchange_default_passive(t):
    "Nor looked up"
    t.channel().call("exchange.declare", exchange="", type="direct", passive=True)


def exchange_default_delete(t):
    "Nor deleted"
    t.channel().xdelete("")


def exchange_reserved_new(t):
    "Names that begin with amq. are reserved"
    t.channel().exchange("amq.differential", "direct")


def exchange_reserved_existing(t):
    "The predeclared ones can be redeclared as they are"
    ch = t.channel()
    ch.exchange("amq.direct", "direct", durable=True)
    ch.exchange("amq.match", "headers", durable=True)
    ch.exchange("amq.topic", "topic")


@each(direct="amq.direct", fanout="amq.fanout", topic="amq.topic", headers="amq.headers", match="amq.match",
      trace="amq.rabbitmq.trace")
def exchange_predeclared(t, name):
    "What is there from the start"
    t.channel().call("exchange.declare", exchange=name, type="direct", passive=True)


@each(direct="amq.direct", fanout="amq.fanout", missing="amq.nothing")
def exchange_reserved_delete(t, name):
    "System exchanges stay"
    t.channel().xdelete(name)


def exchange_delete_missing(t):
    "Deleting what is not there succeeds"
    ch = t.channel()
    ch.xdelete("@x")
    ch.xdelete("@x", if_unused=True)


def exchange_delete_in_use(t):
    "if-unused looks at bindings from the exchange"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    ch.queue("@q")
    ch.bind("@q", "@x")
    ch.xdelete("@x", if_unused=True)


def exchange_delete_as_destination(t):
    "if-unused does not look at bindings to the exchange"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    ch.exchange("@y", "fanout")
    ch.xbind("@y", "@x")
    ch.xdelete("@y", if_unused=True)
    ch.xdelete("@x", if_unused=True)


def exchange_delete_takes_bindings(t):
    "A deleted exchange takes its bindings along"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    ch.queue("@q")
    ch.bind("@q", "@x")
    ch.xdelete("@x")
    ch.exchange("@x", "fanout")
    ch.pub("@x", "", b"m", mandatory=True)
    ch.recv()


def exchange_auto_delete_unbind(t):
    "An auto-delete exchange goes with its last binding"
    ch = t.channel()
    ch.exchange("@x", "fanout", auto_delete=True)
    ch.queue("@q")
    ch.bind("@q", "@x", "a")
    ch.bind("@q", "@x", "b")
    ch.unbind("@q", "@x", "a")
    ch.call("exchange.declare", exchange="@x", type="fanout", passive=True)
    ch.unbind("@q", "@x", "b")
    ch.call("exchange.declare", exchange="@x", type="fanout", passive=True)


def exchange_auto_delete_queue_deleted(t):
    "… also when the bound queue is deleted"
    ch = t.channel()
    ch.exchange("@x", "fanout", auto_delete=True)
    ch.queue("@q")
    ch.bind("@q", "@x")
    ch.delete("@q")
    ch.call("exchange.declare", exchange="@x", type="fanout", passive=True)


def exchange_auto_delete_never_bound(t):
    "… but not before it had one"
    ch = t.channel()
    ch.exchange("@x", "fanout", auto_delete=True)
    ch.queue("@q")
    ch.unbind("@q", "@x")
    ch.call("exchange.declare", exchange="@x", type="fanout", passive=True)


def exchange_auto_delete_cascade(t):
    "A chain of auto-delete exchanges goes from its end"
    ch = t.channel()
    ch.exchange("@x", "fanout", auto_delete=True)
    ch.exchange("@y", "fanout", auto_delete=True)
    ch.queue("@q")
    ch.xbind("@y", "@x")
    ch.bind("@q", "@y")
    ch.delete("@q")
    ch.call("exchange.declare", exchange="@x", type="fanout", passive=True)


def exchange_internal(t):
    "Nobody publishes to an internal exchange"
    ch = t.channel()
    ch.exchange("@x", "fanout", internal=True)
    ch.pub("@x", "", b"m")
    ch.recv()


def exchange_internal_bound(t):
    "But another exchange may lead to it"
    ch = t.channel()
    ch.exchange("@x", "fanout")
    ch.exchange("@i", "fanout", internal=True)
    ch.queue("@q")
    ch.xbind("@i", "@x")
    ch.bind("@q", "@i")
    ch.pub("@x", "k", b"m")
    ch.get("@q")


def exchange_name_line_breaks(t):
    "CR and LF in a name are dropped"
    ch = t.channel()
    ch.exchange("@a\r\nb", "direct")
    ch.call("exchange.declare", exchange="@ab", type="direct", passive=True)
    ch.xdelete("@ab")


def exchange_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.send("exchange.declare", exchange="@x", type="direct", nowait=True)
    ch.call("exchange.declare", exchange="@x", type="direct", passive=True)
    ch.send("exchange.delete", exchange="@x", nowait=True)
    ch.call("exchange.declare", exchange="@x", type="direct", passive=True)


def exchange_nowait_error(t):
    "nowait does not silence an error"
    ch = t.channel()
    ch.exchange("@x", "direct")
    ch.send("exchange.declare", exchange="@x", type="fanout", nowait=True)
    ch.recv()


def alternate_used(t):
    "What an exchange cannot route goes to its alternate"
    ch = t.channel()
    ch.exchange("@ae", "fanout")
    ch.exchange("@x", "direct", {"alternate-exchange": "@ae"})
    ch.queue("@q")
    ch.queue("@r")
    ch.bind("@q", "@ae")
    ch.bind("@r", "@x", "known")
    ch.pub("@x", "unknown", b"1", mandatory=True)
    ch.pub("@x", "known", b"2", mandatory=True)
    ch.get("@q")
    ch.get("@q")
    ch.get("@r")


def alternate_missing(t):
    "The alternate need not exist; then the message is unroutable"
    ch = t.channel()
    ch.exchange("@x", "direct", {"alternate-exchange": "@ae"})
    ch.pub("@x", "k", b"m", mandatory=True)
    ch.recv()


def alternate_chain(t):
    "Alternates chain"
    ch = t.channel()
    ch.exchange("@x", "direct", {"alternate-exchange": "@y"})
    ch.exchange("@y", "direct", {"alternate-exchange": "@z"})
    ch.exchange("@z", "fanout")
    ch.queue("@q")
    ch.bind("@q", "@z")
    ch.pub("@x", "k", b"m", mandatory=True)
    ch.get("@q")


def alternate_cycle(t):
    "A circle of alternates ends"
    ch = t.channel()
    ch.exchange("@x", "direct", {"alternate-exchange": "@y"})
    ch.exchange("@y", "direct", {"alternate-exchange": "@x"})
    ch.pub("@x", "k", b"m", mandatory=True)
    ch.recv()


def alternate_type_wrong(t):
    "The alternate must be a string"
    t.channel().exchange("@x", "direct", {"alternate-exchange": 5})


@each(other=({"alternate-exchange": "@a"}, {"alternate-exchange": "@b"}), added=({}, {"alternate-exchange": "@b"}),
      dropped=({"alternate-exchange": "@a"}, {}))
def alternate_inequivalent(t, pair):
    "The alternate is the one argument that is compared"
    ch = t.channel()
    ch.exchange("@x", "direct", pair[0])
    ch.exchange("@x", "direct", pair[1])


def xbind_routes(t):
    "Exchange to exchange to queue, one copy however many ways"
    ch = t.channel()
    for name in "@a", "@b", "@c":
        ch.exchange(name, "fanout")
    ch.queue("@q")
    ch.xbind("@b", "@a")
    ch.xbind("@c", "@a")
    ch.bind("@q", "@b")
    ch.bind("@q", "@c")
    ch.bind("@q", "@a")
    ch.pub("@a", "key", b"m")
    ch.get("@q")
    ch.get("@q")


def xbind_cycle(t):
    "Exchanges bound in a circle"
    ch = t.channel()
    ch.exchange("@a", "fanout")
    ch.exchange("@b", "fanout")
    ch.queue("@q")
    ch.xbind("@b", "@a")
    ch.xbind("@a", "@b")
    ch.bind("@q", "@b")
    ch.pub("@a", "", b"m")
    ch.get("@q")
    ch.get("@q")


def xbind_to_itself(t):
    "An exchange bound to itself"
    ch = t.channel()
    ch.exchange("@a", "fanout")
    ch.queue("@q")
    ch.xbind("@a", "@a")
    ch.bind("@q", "@a")
    ch.pub("@a", "", b"m")
    ch.get("@q")
    ch.get("@q")


@each(source=("@y", "@nothing"), destination=("@nothing", "@y"), default_source=("@y", ""), default_destination=("", "@y"))
def xbind_refused(t, ends):
    "Both ends must be there, and none be the default exchange"
    ch = t.channel()
    ch.exchange("@y", "fanout")
    ch.xbind(*ends)


def xunbind_missing(t):
    "Unbinding what is not bound succeeds"
    ch = t.channel()
    ch.exchange("@a", "fanout")
    ch.exchange("@b", "fanout")
    ch.xunbind("@b", "@a", "k")
    ch.xunbind("@b", "@nothing", "k")
    ch.xunbind("@nothing", "@a", "k")


def xbind_unbind(t):
    "After unbind nothing passes"
    ch = t.channel()
    ch.exchange("@a", "direct")
    ch.exchange("@b", "fanout")
    ch.queue("@q")
    ch.bind("@q", "@b")
    ch.xbind("@b", "@a", "k")
    ch.pub("@a", "k", b"1")
    ch.xunbind("@b", "@a", "k")
    ch.pub("@a", "k", b"2", mandatory=True)
    ch.recv()
    ch.get("@q")
    ch.get("@q")
