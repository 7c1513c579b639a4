"""Queue arguments: what is taken and in which words the rest is refused."""

from cases import each
from wire import V

_BIG = 315360000000


@each(ttl_zero={"x-message-ttl": 0}, ttl_max={"x-message-ttl": _BIG}, ttl_long={"x-message-ttl": V("l", 1000)},
      ttl_byte={"x-message-ttl": V("b", 100)}, expires_one={"x-expires": 600000}, expires_max={"x-expires": _BIG},
      length_zero={"x-max-length": 0}, bytes_zero={"x-max-length-bytes": 0}, drop_head={"x-overflow": "drop-head"},
      reject_publish={"x-overflow": "reject-publish"}, reject_publish_dlx={"x-overflow": "reject-publish-dlx"},
      dlx={"x-dead-letter-exchange": "nowhere"}, dlx_empty={"x-dead-letter-exchange": ""},
      dlk={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k"}, priority_one={"x-max-priority": 1},
      priority_max={"x-max-priority": 255}, priority_zero={"x-max-priority": 0}, sac={"x-single-active-consumer": True},
      sac_false={"x-single-active-consumer": False}, type_classic={"x-queue-type": "classic"}, mode_lazy={"x-queue-mode": "lazy"},
      mode_default={"x-queue-mode": "default"}, version_two={"x-queue-version": 2}, unknown={"x-unknown": "anything"},
      not_x={"something": V("V")}, locator={"x-queue-leader-locator": "client-local"})
def argument_taken(t, arguments):
    "Arguments that make a queue"
    t.channel().queue("@q", arguments)


@each(ttl_negative={"x-message-ttl": -1}, ttl_large={"x-message-ttl": _BIG + 1}, ttl_string={"x-message-ttl": "1000"},
      ttl_float={"x-message-ttl": 1.5}, ttl_bool={"x-message-ttl": True}, ttl_void={"x-message-ttl": None},
      ttl_table={"x-message-ttl": {}}, ttl_array={"x-message-ttl": []}, ttl_timestamp={"x-message-ttl": V("T", 5)},
      ttl_binary={"x-message-ttl": V("x", b"5")}, ttl_decimal={"x-message-ttl": V("D", (0, 5))},
      expires_zero={"x-expires": 0}, expires_negative={"x-expires": -5}, expires_large={"x-expires": _BIG + 1},
      expires_string={"x-expires": "soon"}, length_negative={"x-max-length": -1}, length_string={"x-max-length": "10"},
      bytes_negative={"x-max-length-bytes": -1}, bytes_string={"x-max-length-bytes": "10"}, overflow_word={"x-overflow": "explode"},
      overflow_number={"x-overflow": 5}, dlx_number={"x-dead-letter-exchange": 5}, dlk_alone={"x-dead-letter-routing-key": "k"},
      dlk_number={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 5}, priority_negative={"x-max-priority": -1},
      priority_large={"x-max-priority": 256}, priority_string={"x-max-priority": "5"}, sac_string={"x-single-active-consumer": "true"},
      sac_number={"x-single-active-consumer": 1}, type_word={"x-queue-type": "fancy"}, type_number={"x-queue-type": 5},
      mode_number={"x-queue-mode": 5}, mode_word={"x-queue-mode": "eager"}, version_one={"x-queue-version": 1},
      version_three={"x-queue-version": 3}, version_string={"x-queue-version": "2"}, stream_age={"x-max-age": "1h"},
      stream_segment={"x-stream-max-segment-size-bytes": 1000}, quorum_limit={"x-delivery-limit": 5},
      quorum_size={"x-quorum-initial-group-size": 3}, quorum_strategy={"x-dead-letter-exchange": "", "x-dead-letter-strategy": "at-least-once"},
      two_bad={"x-max-length": -1, "x-expires": 0}, two_bad_other_order={"x-expires": 0, "x-max-length": -1})
def argument_refused(t, arguments):
    "Arguments that do not"
    t.channel().queue("@q", arguments)


@each(declare_first=True, declare_second=False)
def argument_refused_existing(t, same):
    "A bad argument on a queue that exists: validated or compared"
    ch = t.channel()
    ch.queue("@q", {"x-max-length": 5})
    ch.queue("@q", {"x-max-length": -1} if same else {"x-max-length": 5, "x-expires": "soon"})


@each(not_durable={"durable": False}, exclusive={"exclusive": True}, auto_delete={"auto_delete": True})
def quorum_property_refused(t, fields):
    "What a quorum queue cannot be"
    t.channel().queue("@q", {"x-queue-type": "quorum"}, **fields)


@each(not_durable={"durable": False}, exclusive={"exclusive": True}, auto_delete={"auto_delete": True})
def stream_property_refused(t, fields):
    "What a stream cannot be"
    t.channel().queue("@q", {"x-queue-type": "stream"}, **fields)


@each(priority={"x-max-priority": 5}, mode={"x-queue-mode": "lazy"}, overflow={"x-overflow": "reject-publish-dlx"},
      age={"x-max-age": "1h"}, limit_word={"x-delivery-limit": "many"}, strategy_word={"x-dead-letter-strategy": "sometimes"})
def quorum_argument_refused(t, arguments):
    "Arguments a quorum queue does not take"
    t.channel().queue("@q", {"x-queue-type": "quorum", **arguments})


@each(quorum="quorum", stream="stream")
def server_named_refused(t, kind):
    "Queues of these types need a name of their own"
    t.channel().queue("", {"x-queue-type": kind})
