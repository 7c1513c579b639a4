"""What a client sees of quorum queues."""

from cases import each
from wire import V

_QUORUM = {"x-queue-type": "quorum"}


def quorum_publish_get(t):
    "Declare, publish, confirm, get, ack"
    ch = t.channel()
    ch.queue("@q", _QUORUM)
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.get("@q", no_ack=False)
    ch.ack(1)
    ch.settle("@q", 0)


def quorum_redeclare(t):
    "Redeclared the same and as classic"
    ch = t.channel()
    ch.queue("@q", _QUORUM)
    ch.queue("@q", _QUORUM)
    ch.queue("@q")


def quorum_delivery_count_reject(t):
    "A rejected message carries how often it was tried"
    ch = t.channel()
    ch.queue("@q", _QUORUM)
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.consume("@q")
    for tag in (1, 2, 3):
        ch.recv()
        ch.reject(tag, requeue=True)
    ch.recv()
    ch.ack(4)


def quorum_delivery_limit(t):
    "Beyond the limit a message is dead-lettered"
    ch = t.channel()
    ch.queue("@dead")
    ch.queue("@q", {**_QUORUM, "x-delivery-limit": 2, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead"})
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.consume("@q")
    for tag in (1, 2, 3):
        ch.recv()
        ch.reject(tag, requeue=True)
    ch.settle("@dead", 1)
    ch.get("@dead")


def quorum_delivery_limit_drop(t):
    "… or dropped without a dead-letter exchange"
    ch = t.channel()
    ch.queue("@q", {**_QUORUM, "x-delivery-limit": 0})
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.get("@q", no_ack=False)
    ch.reject(1, requeue=True)
    ch.settle("@q", 0)


@each(unused={"if_unused": True}, empty={"if_empty": True})
def quorum_delete_conditional(t, fields):
    "Conditional deletes are not for quorum queues"
    ch = t.channel()
    ch.queue("@q", _QUORUM)
    ch.delete("@q", **fields)


def quorum_global_qos(t):
    "Nor is a global prefetch"
    ch = t.channel()
    ch.queue("@q", _QUORUM)
    ch.qos(5, global_=True)
    ch.consume("@q")


def quorum_purge_delete(t):
    "Purge and delete count"
    ch = t.channel()
    ch.queue("@q", _QUORUM)
    ch.confirm()
    for _ in range(3):
        ch.pub("", "@q", b"m")
    ch.confirmed(1, 3)
    ch.purge("@q")
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.delete("@q")


def quorum_sac_get(t):
    "get on a quorum queue with a single active consumer"
    ch = t.channel()
    ch.queue("@q", {**_QUORUM, "x-single-active-consumer": True})
    ch.get("@q")


def quorum_reject_publish(t):
    "reject-publish nacks"
    ch = t.channel()
    ch.queue("@q", {**_QUORUM, "x-max-length": 0, "x-overflow": "reject-publish"})
    ch.confirm()
    ch.pub("", "@q", b"m")
    ch.recv()
