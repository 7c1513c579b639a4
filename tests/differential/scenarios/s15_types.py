"""Exchange types: how they route and what they refuse."""

from cases import each, wants
from wire import V


def _routes(ch, kind, bindings, keys):
    """Binds a queue per binding key, publishes each key once and shows what every queue got."""
    ch.exchange("@x", kind)
    for number, key in enumerate(bindings):
        ch.queue(f"@q{number}")
        ch.bind(f"@q{number}", "@x", key)
    for key in keys:
        ch.pub("@x", key, key or "(empty)")
    for number in range(len(bindings)):
        ch.holds(f"@q{number}")


def direct_keys(t):
    "direct compares the whole key"
    _routes(t.channel(), "direct", ["a", "a.b", "A", "#"], ["a", "a.b", "A", "", "#", "b"])


def fanout_keys(t):
    "fanout ignores the key"
    _routes(t.channel(), "fanout", ["a", "b"], ["a", "", "c.d"])


@each(star=["*", "*.*", "a.*", "*.b", "a.*.c"], hash=["#", "a.#", "#.b", "a.#.b", "#.#"], mixed=["*.#", "#.*", "*.#.*", "a.#.*"],
      literal=["", ".", "a", "a.", ".a", "a..b"])
def topic_patterns(t, patterns):
    "topic patterns against all kinds of keys"
    _routes(t.channel(), "topic", patterns, ["", "a", "b", "a.b", "a.c", "a.b.c", "a.b.b", "a.", ".", "..", ".a", "a..b", "A.b"])


def topic_many_hashes(t):
    "More than two # words in a binding key"
    ch = t.channel()
    ch.exchange("@x", "topic")
    ch.queue("@q")
    ch.bind("@q", "@x", "#.a.#.b.#")


def topic_stars_in_key(t):
    "Wildcards in a routing key are plain words"
    _routes(t.channel(), "topic", ["a.b", "a.*", "*", "#.x"], ["a.*", "*", "#", "*.x", "#.x"])


def topic_unbind(t):
    "Unbinding one of overlapping patterns"
    ch = t.channel()
    ch.exchange("@x", "topic")
    ch.queue("@q")
    for key in "a.*", "a.#", "#":
        ch.bind("@q", "@x", key)
    ch.unbind("@q", "@x", "a.#")
    ch.pub("@x", "a", b"1")
    ch.unbind("@q", "@x", "#")
    ch.pub("@x", "a", b"2")
    ch.pub("@x", "a.b", b"3")
    ch.settle("@q", 2)
    ch.get("@q")
    ch.get("@q")


def topic_utf8(t):
    "Words beyond ASCII"
    _routes(t.channel(), "topic", ["żółw.*", "*.☃"], ["żółw.a", "a.☃", "zolw.a"])


_HEADERS = [{}, {"a": 1}, {"a": 1, "b": 2}, {"a": "1"}, {"a": V("l", 1)}, {"a": V("b", 1)}, {"a": 1.0}, {"a": None}, {"b": 2},
            {"a": True}, {"x-a": 1}, {"a": V("x", b"1")}, {"a": {"n": 1}}, {"a": [1]}, {"a": V("T", 1)}, {"a": V("D", (0, 1))}]


@each(all={"x-match": "all", "a": 1, "b": 2}, any={"x-match": "any", "a": 1, "b": 2}, none={"a": 1, "b": 2}, all_empty={"x-match": "all"},
      any_empty={"x-match": "any"}, no_arguments={}, void={"x-match": "all", "a": None}, string={"x-match": "any", "a": "1"},
      x_ignored={"x-match": "all", "x-a": 1, "a": 1}, with_x={"x-match": "all-with-x", "x-a": 1}, any_with_x={"x-match": "any-with-x", "x-a": 1, "b": 2},
      binary={"x-match": "any", "a": V("x", b"1")}, table={"a": {"n": 1}}, array={"a": [1]}, float={"a": 1.0}, bool={"a": True})
def headers_match(t, arguments):
    "Which header tables a headers binding takes"
    ch = t.channel()
    ch.exchange("@x", "headers")
    ch.queue("@q")
    ch.bind("@q", "@x", "ignored", arguments)
    for number, headers in enumerate(_HEADERS):
        ch.pub("@x", "k", f"headers {number}", headers=headers)
    ch.pub("@x", "k", b"no headers")
    ch.holds("@q")


@each(word="some", number=5, bool=True, void=None)
def headers_match_refused(t, value):
    "An x-match nobody knows"
    ch = t.channel()
    ch.exchange("@x", "headers")
    ch.queue("@q")
    ch.bind("@q", "@x", "", {"x-match": value, "a": 1})


def headers_two_bindings(t):
    "Two bindings that differ in arguments only"
    ch = t.channel()
    ch.exchange("@x", "headers")
    ch.queue("@q")
    ch.bind("@q", "@x", "", {"a": 1})
    ch.bind("@q", "@x", "", {"a": 2})
    ch.pub("@x", "", b"1", headers={"a": 1})
    ch.pub("@x", "", b"2", headers={"a": 2})
    ch.pub("@x", "", b"3", headers={"a": 3})
    ch.unbind("@q", "@x", "", {"a": 1})
    ch.pub("@x", "", b"4", headers={"a": 1})
    ch.settle("@q", 2)


def headers_cc(t):
    "CC does not route through a headers exchange but is a header"
    ch = t.channel()
    ch.exchange("@x", "headers")
    ch.queue("@q")
    ch.bind("@q", "@x", "", {"CC": None})
    ch.pub("@x", "", b"m", headers={"CC": ["a"]})
    ch.get("@q")


def hash_one_queue(t):
    "x-consistent-hash: each message to one queue, the same key to the same one"
    ch = t.channel()
    ch.exchange("@x", "x-consistent-hash")
    for name in "@a", "@b":
        ch.queue(name)
        ch.bind(name, "@x", "1")
    for _ in range(3):
        ch.pub("@x", "same", b"m", mandatory=True)
    ch.sync()
    connection = ch.connection
    connection.quiet = True
    counts = sorted(ch.passive(name).fields["message_count"] for name in ("@a", "@b"))
    connection.quiet = False
    connection.write(f"= counts {counts}")


@each(word="heavy", zero="0", negative="-1", empty="", float="1.5")
def hash_weight_refused(t, key):
    "x-consistent-hash: a binding key that is no weight"
    ch = t.channel()
    ch.exchange("@x", "x-consistent-hash")
    ch.queue("@q")
    ch.bind("@q", "@x", key)


@each(both={"hash-header": "h", "hash-property": "message_id"}, property={"hash-property": "app_id"},
      fine={"hash-header": "h"}, fine_property={"hash-property": "correlation_id"})
def hash_arguments(t, arguments):
    "x-consistent-hash: what is hashed"
    t.channel().exchange("@x", "x-consistent-hash", arguments)


def hash_no_queue(t):
    "x-consistent-hash without a binding returns"
    ch = t.channel()
    ch.exchange("@x", "x-consistent-hash")
    ch.pub("@x", "k", b"m", mandatory=True)
    ch.recv()


def random_one_queue(t):
    "x-random: each message to one queue"
    ch = t.channel()
    ch.exchange("@x", "x-random")
    for name in "@a", "@b":
        ch.queue(name)
        ch.bind(name, "@x", "whatever")
    for _ in range(20):
        ch.pub("@x", "k", b"m")
    ch.sync()
    connection = ch.connection
    connection.quiet = True
    total = sum(ch.passive(name).fields["message_count"] for name in ("@a", "@b"))
    connection.quiet = False
    connection.write(f"= {total} in all")


def history_replayed(t):
    "x-recent-history: a new binding gets what went before"
    ch = t.channel()
    ch.exchange("@x", "x-recent-history", {"x-recent-history-length": 2})
    ch.queue("@q")
    for body in "1", "2", "3":
        ch.pub("@x", "k", body, headers={"h": 1})
    ch.sync()
    ch.bind("@q", "@x", "")
    ch.settle("@q", 2)
    ch.get("@q")
    ch.get("@q")


def history_no_store(t):
    "x-recent-history: a message may ask not to be kept"
    ch = t.channel()
    ch.exchange("@x", "x-recent-history")
    ch.queue("@q")
    ch.pub("@x", "k", b"kept")
    ch.pub("@x", "k", b"not kept", headers={"x-recent-history-no-store": True})
    ch.sync()
    ch.bind("@q", "@x", "")
    ch.settle("@q", 1)
    ch.get("@q")


@each(zero=0, negative=-1, string="5")
def history_length_refused(t, value):
    "x-recent-history: a length that is none"
    t.channel().exchange("@x", "x-recent-history", {"x-recent-history-length": value})


def modulus_one_queue(t):
    "x-modulus-hash: each message to one queue, the same key to the same one"
    ch = t.channel()
    ch.exchange("@x", "x-modulus-hash")
    for name in "@a", "@b", "@c":
        ch.queue(name)
        ch.bind(name, "@x", "")
    for _ in range(3):
        ch.pub("@x", "same", b"m")
    ch.sync()
    connection = ch.connection
    connection.quiet = True
    counts = sorted(ch.passive(name).fields["message_count"] for name in ("@a", "@b", "@c"))
    connection.quiet = False
    connection.write(f"= counts {counts}")


@each(no_type={}, unknown={"x-delayed-type": "nonsense"}, itself={"x-delayed-type": "x-delayed-message"})
def delayed_type_refused(t, arguments):
    "x-delayed-message: the type behind it"
    t.channel().exchange("@x", "x-delayed-message", arguments)


def delayed_message(t):
    "x-delayed-message: held, then routed, the delay negated"
    ch = t.channel()
    ch.exchange("@x", "x-delayed-message", {"x-delayed-type": "direct"})
    ch.queue("@q")
    ch.bind("@q", "@x", "k")
    ch.pub("@x", "k", b"later", headers={"x-delay": 60})
    ch.pub("@x", "k", b"now")
    ch.settle("@q", 1)
    ch.settle("@q", 2)
    ch.get("@q")
    ch.get("@q")
