"""An open connection: closing it and misusing channel 0."""

import wire
from cases import each


def connection_close(t):
    "close, close-ok, end of the socket"
    c = t.connect()
    c.channel()
    c.close()


def connection_close_with_error_code(t):
    "The client may give any code"
    c = t.connect()
    c.send("connection.close", code=541, text="my own fault", class_id=60, method_id=40)
    c.eof()


def connection_close_ok_unasked(t):
    "close-ok that nobody asked for"
    c = t.connect()
    c.send("connection.close-ok")
    c.eof()


@each(start_ok=("connection.start-ok", {"mechanism": "PLAIN", "response": "x", "locale": "en_US"}),
      tune_ok=("connection.tune-ok", {"frame_max": 131072, "channel_max": 10}),
      open=("connection.open", {"vhost": "/"}),
      secure_ok=("connection.secure-ok", {"response": "x"}),
      open_ok=("connection.open-ok", {}), blocked=("connection.blocked", {"reason": "x"}),
      channel_open=("channel.open", {}), channel_close=("channel.close", {"code": 200}),
      publish=("basic.publish", {"routing_key": "q"}), declare=("queue.declare", {"queue": "q"}))
def channel_zero(t, case):
    "A method that does not belong on channel 0 of an open connection"
    c = t.connect()
    c.send(case[0], **case[1])
    c.eof()


def update_secret(t):
    "A new secret is acknowledged and changes nothing for a password user"
    c = t.connect()
    c.call("connection.update-secret", secret="anything", reason="rotation")
    c.channel().passive("amq.nothing")


def connection_close_settles_channels(t):
    "What a closing connection had unacknowledged is back for others"
    one, two = t.connect(), t.connect()
    a, b = one.channel(), two.channel()
    a.queue("@q")
    a.pub("", "@q", b"m")
    a.get("@q", no_ack=False)
    b.passive("@q")
    one.close()
    b.settle("@q", 1)
    b.get("@q")


def socket_dropped_settles_channels(t):
    "A client that vanishes leaves its deliveries to others, redelivered"
    one, two = t.connect(), t.connect()
    a, b = one.channel(), two.channel()
    a.queue("@q")
    a.pub("", "@q", b"m")
    a.get("@q", no_ack=False)
    one.drop()
    one.gone = True
    b.settle("@q", 1)
    b.get("@q")


def frames_after_close_ignored(t):
    "After a hard error the server listens for close-ok only"
    c = t.connect()
    ch = c.channel()
    c.answer_close = False
    ch.call("channel.flow", active=False)
    ch.send("queue.declare", queue="@q", durable=True)
    c.send("connection.close-ok")
    c.eof()


def exclusive_gone_before_close_ok(t):
    "Exclusive queues are gone when close-ok arrives"
    one, two = t.connect(), t.connect()
    one.channel().queue("@q", exclusive=True)
    one.send("connection.close", code=200)
    one.recv()
    two.channel().passive("@q")
    one.eof()


def two_connections_share(t):
    "What one connection declares another one sees"
    one, two = t.connect(), t.connect()
    one.channel().queue("@q")
    two.channel().passive("@q")
