"""Permissions and what only an operator can set: policies, limits, closing a connection."""

import re

from cases import each, wants


def _user(t, configure="", write="", read="", tags=""):
    """Makes a user named after the scenario with these permissions on / and returns a connection of it."""
    name = t.name
    t.http("PUT", f"/api/users/{name}", {"password": "secret", "tags": tags}, undo=("DELETE", f"/api/users/{name}"))
    t.http("PUT", f"/api/permissions/%2F/{name}", {"configure": configure, "write": write, "read": read})
    return t.connect(user=name, password="secret")


def _stage(t):
    """A queue and an exchange made by the ordinary user."""
    ch = t.channel()
    ch.queue("@q")
    ch.exchange("@x", "topic")
    ch.bind("@q", "@x", "k")
    return ch


@wants("admin")
@each(declare=("queue.declare", {"queue": "@new", "durable": True}), declare_existing=("queue.declare", {"queue": "@q", "durable": True}),
      delete=("queue.delete", {"queue": "@q"}), passive=("queue.declare", {"queue": "@q", "passive": True}),
      passive_missing=("queue.declare", {"queue": "@none", "passive": True}), purge=("queue.purge", {"queue": "@q"}),
      get=("basic.get", {"queue": "@q"}), consume=("basic.consume", {"queue": "@q", "consumer_tag": "t"}),
      bind=("queue.bind", {"queue": "@q", "exchange": "@x", "routing_key": "k"}),
      unbind=("queue.unbind", {"queue": "@q", "exchange": "@x", "routing_key": "k"}),
      xdeclare=("exchange.declare", {"exchange": "@newx", "type": "direct"}), xdelete=("exchange.delete", {"exchange": "@x"}),
      xpassive=("exchange.declare", {"exchange": "@x", "type": "topic", "passive": True}),
      xbind=("exchange.bind", {"destination": "@x", "source": "amq.fanout"}), get_missing=("basic.get", {"queue": "@none"}))
def denied_everything(t, case):
    "A user without any permission"
    _stage(t)
    _user(t).channel().call(case[0], **case[1])


@wants("admin")
@each(exchange="@x", default="", missing="@none")
def denied_publish(t, exchange):
    "Publishing without write permission"
    _stage(t)
    ch = _user(t, ".*", "^nothing$", ".*").channel()
    ch.pub(exchange, "k", b"m")
    ch.recv()


@wants("admin")
def allowed_by_pattern(t):
    "The pattern is searched, not anchored"
    ch = _user(t, "by_pattern", "by_pattern", "by_pattern").channel()
    ch.queue("@q")
    ch.exchange("@x")
    ch.bind("@q", "@x", "k")
    ch.pub("@x", "k", b"m")
    ch.get("@q")
    ch.pub("", "@q", b"m")
    ch.recv()


@wants("admin")
@each(dlx={"x-dead-letter-exchange": "secret"})
def denied_dead_letter_exchange(t, arguments):
    "A dead-letter exchange needs write on it and read on the queue"
    ch = _user(t, ".*", "^denied", ".*").channel()
    ch.queue("@q", arguments)


@wants("admin")
def denied_dead_letter_read(t):
    "… read on the queue"
    ch = _user(t, ".*", ".*", "^nothing$").channel()
    ch.queue("@q", {"x-dead-letter-exchange": "any"})


@wants("admin")
def denied_alternate(t):
    "An alternate exchange needs write on it"
    ch = _user(t, ".*", "^denied", ".*").channel()
    ch.exchange("@x", "direct", {"alternate-exchange": "secret"})


@wants("admin")
def denied_bind_write(t):
    "Binding needs write on the queue"
    _stage(t)
    _user(t, ".*", "^nothing$", ".*").channel().bind("@q", "@x", "z")


@wants("admin")
def denied_bind_read(t):
    "… and read on the exchange"
    _stage(t)
    _user(t, ".*", ".*", "^nothing$").channel().bind("@q", "@x", "z")


@wants("admin")
def denied_vhost(t):
    "No permission row, no vhost"
    name = t.name
    t.http("PUT", f"/api/users/{name}", {"password": "secret", "tags": ""}, undo=("DELETE", f"/api/users/{name}"))
    c = t.raw()
    c.quiet = True
    c.start()
    c.call("connection.start-ok", mechanism="PLAIN", response=f"\0{name}\0secret", locale="en_US")
    c.send("connection.tune-ok", channel_max=10, frame_max=131072)
    c.quiet = False
    c.call("connection.open", vhost="/")


@wants("admin")
def impersonator(t):
    "The impersonator tag lets a user-id pass"
    ch = _user(t, ".*", ".*", ".*", "impersonator").channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m", user_id="somebody")
    ch.get("@q")


@wants("admin")
@each(write=("allowed.x", "denied.x"), cc=("allowed.x", None))
def topic_permission(t, keys):
    "Topic permissions look at the routing key, CC included"
    _stage(t)
    c = _user(t, ".*", ".*", ".*")
    t.http("PUT", f"/api/topic-permissions/%2F/{t.name}", {"exchange": "@x", "write": "^allowed", "read": "^allowed"})
    ch = c.channel()
    ch.pub("@x", keys[0], b"m", mandatory=True)
    ch.recv()
    if keys[1]:
        ch.pub("@x", keys[1], b"m")
    else:
        ch.pub("@x", keys[0], b"m", headers={"CC": ["denied.y"]})
    ch.recv()


@wants("admin")
def topic_permission_read(t):
    "… on binding the binding key"
    _stage(t)
    c = _user(t, ".*", ".*", ".*")
    t.http("PUT", f"/api/topic-permissions/%2F/{t.name}", {"exchange": "@x", "write": ".*", "read": "^allowed"})
    ch = c.channel()
    ch.bind("@q", "@x", "allowed.1")
    ch.bind("@q", "@x", "denied.1")


@wants("admin")
@each(length=({"max-length": 1}, 1), ttl=({"message-ttl": 20}, 0), overflow=({"max-length": 1, "overflow": "reject-publish"}, 1))
def policy_acts(t, case):
    "A policy acts on queues that match"
    t.http("PUT", f"/api/policies/%2F/{t.name}", {"pattern": f"^{t.name}", "apply-to": "queues", "definition": case[0]},
           undo=("DELETE", f"/api/policies/%2F/{t.name}"))
    ch = t.channel()
    ch.queue("@q")
    for body in "1", "2", "3":
        ch.pub("", "@q", body)
    ch.settle("@q", case[1])
    ch.get("@q")


@wants("admin")
def policy_smaller_wins(t):
    "Policy and argument: the smaller length counts"
    t.http("PUT", f"/api/policies/%2F/{t.name}", {"pattern": f"^{t.name}", "apply-to": "queues", "definition": {"max-length": 2}},
           undo=("DELETE", f"/api/policies/%2F/{t.name}"))
    ch = t.channel()
    ch.queue("@small", {"x-max-length": 1})
    ch.queue("@large", {"x-max-length": 5})
    for name in "@small", "@large":
        for body in "1", "2", "3":
            ch.pub("", name, body)
    ch.settle("@small", 1)
    ch.settle("@large", 2)


@wants("admin")
def policy_dead_letter(t):
    "A dead-letter exchange by policy"
    t.http("PUT", f"/api/policies/%2F/{t.name}", {"pattern": f"^{t.name}.q$", "apply-to": "queues",
           "definition": {"dead-letter-exchange": "", "dead-letter-routing-key": "@dead"}},
           undo=("DELETE", f"/api/policies/%2F/{t.name}"))
    ch = t.channel()
    ch.queue("@q")
    ch.queue("@dead")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.reject(1)
    ch.settle("@dead", 1)
    ch.get("@dead")


@wants("admin")
def policy_alternate(t):
    "An alternate exchange by policy"
    t.http("PUT", f"/api/policies/%2F/{t.name}", {"pattern": f"^{t.name}.x$", "apply-to": "exchanges",
           "definition": {"alternate-exchange": "@ae"}}, undo=("DELETE", f"/api/policies/%2F/{t.name}"))
    ch = t.channel()
    ch.exchange("@x")
    ch.exchange("@ae", "fanout")
    ch.queue("@q")
    ch.bind("@q", "@ae")
    ch.pub("@x", "k", b"m", mandatory=True)
    ch.sync()
    ch.get("@q")


@wants("admin")
def vhost_deleted(t):
    "A connection whose vhost is deleted"
    t.masks.append((re.compile(r"' is (deleted|down)"), "' is gone"))  # RabbitMQ says either
    t.http("PUT", f"/api/vhosts/{t.name}", {}, undo=("DELETE", f"/api/vhosts/{t.name}"))
    t.http("PUT", f"/api/permissions/{t.name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    c = t.connect(vhost=t.name)
    c.channel().queue("@q")
    t.declared.clear()
    t.http("DELETE", f"/api/vhosts/{t.name}")
    c.eof()


@wants("admin")
def vhosts_are_apart(t):
    "The same name in two vhosts is two queues"
    t.http("PUT", f"/api/vhosts/{t.name}", {}, undo=("DELETE", f"/api/vhosts/{t.name}"))
    t.http("PUT", f"/api/permissions/{t.name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    one, two = t.connect(), t.connect(vhost=t.name)
    one.channel().queue("@q")
    two.channel().passive("@q")
