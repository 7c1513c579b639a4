"""queue.bind and queue.unbind."""

from cases import each
from wire import V


def bind_unbind(t):
    "Bound, it gets; unbound, it does not"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "k")
    ch.pub("@x", "k", b"1")
    ch.unbind("@q", "@x", "k")
    ch.pub("@x", "k", b"2")
    ch.get("@q")
    ch.get("@q")


@each(queue=("@nothing", "amq.direct"), exchange=("@q", "@nothing"), both=("@nothing", "@nothing"), default=("@q", ""))
def bind_refused(t, ends):
    "Both ends must be there"
    ch = t.channel()
    ch.queue("@q")
    ch.bind(*ends, "k")


@each(queue=("@nothing", "amq.direct"), exchange=("@q", "@nothing"), both=("@nothing", "@nothing"),
      binding=("@q", "amq.direct"), default=("@q", ""))
def unbind_missing(t, ends):
    "Unbinding what is not there"
    ch = t.channel()
    ch.queue("@q")
    ch.unbind(*ends, "k")


def bind_twice(t):
    "The same binding twice is one"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "k")
    ch.bind("@q", "@x", "k")
    ch.pub("@x", "k", b"1")
    ch.unbind("@q", "@x", "k")
    ch.pub("@x", "k", b"2")
    ch.settle("@q", 1)


def bind_twice_with_arguments(t):
    "Another argument table is another binding"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "k")
    ch.bind("@q", "@x", "k", {"a": 1})
    ch.pub("@x", "k", b"1")
    ch.unbind("@q", "@x", "k")
    ch.pub("@x", "k", b"2")
    ch.unbind("@q", "@x", "k", {"a": 2})
    ch.pub("@x", "k", b"3")
    ch.unbind("@q", "@x", "k", {"a": 1})
    ch.pub("@x", "k", b"4")
    ch.settle("@q", 3)


def bind_arguments_order(t):
    "The order of the arguments does not make another binding"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "k", {"a": 1, "b": 2})
    ch.unbind("@q", "@x", "k", {"b": 2, "a": 1})
    ch.pub("@x", "k", b"1")
    ch.passive("@q")


def bind_arguments_meaningless(t):
    "Arguments of any kind are taken"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "k", {"autoDelete": True, "x-odd": V("V"), "t": {"n": [1, V("T", 5)]}})


def bind_empty_names(t):
    "Empty queue and empty key both become the last declared queue"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("", "@x", "")
    ch.pub("@x", "@q", b"by name")
    ch.pub("@x", "", b"by empty key")
    ch.settle("@q", 1)
    ch.get("@q")


def bind_empty_key(t):
    "A named queue with an empty key keeps the empty key"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "")
    ch.pub("@x", "@q", b"by name")
    ch.pub("@x", "", b"by empty key")
    ch.settle("@q", 1)
    ch.get("@q")


def bind_nowait(t):
    "nowait has no answer"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.send("queue.bind", queue="@q", exchange="@x", routing_key="k", nowait=True)
    ch.pub("@x", "k", b"m")
    ch.get("@q")


def bind_two_keys(t):
    "Two matching bindings bring one copy"
    ch = t.channel()
    ch.exchange("@x", "topic")
    ch.queue("@q")
    ch.bind("@q", "@x", "a.*")
    ch.bind("@q", "@x", "*.b")
    ch.pub("@x", "a.b", b"m")
    ch.settle("@q", 1)


def bind_two_queues(t):
    "Two queues with one key get a copy each"
    ch = t.channel()
    ch.exchange("@x")
    for name in "@a", "@b":
        ch.queue(name)
        ch.bind(name, "@x", "k")
    ch.pub("@x", "k", b"m")
    ch.get("@a")
    ch.get("@b")


def bind_gone_with_queue(t):
    "A deleted queue takes its bindings along"
    ch = t.channel()
    ch.exchange("@x")
    ch.queue("@q")
    ch.bind("@q", "@x", "k")
    ch.delete("@q")
    ch.queue("@q")
    ch.pub("@x", "k", b"m", mandatory=True)
    ch.recv()


def default_binding(t):
    "Every queue is bound to the default exchange by its name"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", mandatory=True)
    ch.get("@q")
    ch.delete("@q")
    ch.pub("", "@q", b"m", mandatory=True)
    ch.recv()
