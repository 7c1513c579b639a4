"""From the first octet to open-ok."""

import wire
from cases import each

_PROPERTIES = {"product": "differential", "capabilities": {"authentication_failure_close": True}}
_PLAIN = "\0guest\0guest"


def _start_ok(c, mechanism="PLAIN", response=_PLAIN, locale="en_US", properties=None):
    return c.call("connection.start-ok", client_properties=_PROPERTIES if properties is None else properties,
                  mechanism=mechanism, response=response, locale=locale)


def _tune(t):
    c = t.raw()
    c.quiet = True
    c.start()
    _start_ok(c)
    c.quiet = False
    return c


@each(amqp_0_9_1=b"AMQP\0\0\x09\x01", amqp_0_9=b"AMQP\x01\x01\0\x09", amqp_0_8=b"AMQP\x01\x01\x08\0",
      amqp_0_9_2=b"AMQP\0\0\x09\x02", amqp_0_10=b"AMQP\x01\x01\0\x0a", amqp_1_0_plain=b"AMQP\0\x01\0\0",
      amqp_1_0_sasl=b"AMQP\x03\x01\0\0", amqp_1_0_tls=b"AMQP\x02\x01\0\0", http=b"GET / HTTP/1.1\r\n\r\n",
      noise=b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", almost=b"AMQp\0\0\x09\x01", tls=b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")
def header(t, octets):
    "What answers a protocol header"
    c = t.raw()
    c.octets(octets, f"octets {octets!r}")
    event = c.recv()
    if event and event.name == "octets":
        c.eof()
    else:
        c.drop()
        c.gone = True


def handshake_whole(t):
    "A complete handshake and a close, every field shown"
    c = t.raw()
    c.start(show=True)
    _start_ok(c)
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    c.call("connection.open", vhost="/")
    c.close()


def handshake_amqplain(t):
    "AMQPLAIN takes a table without its length"
    c = t.raw()
    c.start()
    _start_ok(c, "AMQPLAIN", wire.table({"LOGIN": "guest", "PASSWORD": "guest"})[4:])


def handshake_amqplain_malformed(t):
    "AMQPLAIN with something that is no table"
    c = t.raw()
    c.start()
    _start_ok(c, "AMQPLAIN", b"\xff\xff\xff")


def handshake_mechanism_unknown(t):
    "A mechanism that was not offered"
    c = t.raw()
    c.start()
    _start_ok(c, "SCRAM-SHA-256", b"n,,n=guest")
    c.eof()


def handshake_plain_malformed(t):
    "PLAIN without its zeros"
    c = t.raw()
    c.start()
    _start_ok(c, response="guest guest")


def handshake_password_wrong(t):
    "A wrong password is told to those who declared that they want to know"
    c = t.raw()
    c.start()
    _start_ok(c, response="\0guest\0wrong")


def handshake_password_wrong_amqplain(t):
    "The refusal names the mechanism"
    c = t.raw()
    c.start()
    _start_ok(c, "AMQPLAIN", wire.table({"LOGIN": "guest", "PASSWORD": "wrong"})[4:])


def handshake_password_wrong_silent(t):
    "Without the capability a wrong password just ends the socket"
    c = t.raw()
    c.start()
    _start_ok(c, response="\0guest\0wrong", properties={"product": "differential"})


def handshake_user_unknown(t):
    "An unknown user is refused in the same words"
    c = t.raw()
    c.start()
    _start_ok(c, response="\0nobody\0guest")


def handshake_password_blank(t):
    "A blank password never opens a door"
    c = t.raw()
    c.start()
    _start_ok(c, response="\0guest\0")


def handshake_locale_unknown(t):
    "A locale that was not offered"
    c = t.raw()
    c.start()
    _start_ok(c, locale="xx_XX")


def handshake_vhost_unknown(t):
    "A vhost that does not exist"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    c.call("connection.open", vhost="@nowhere")


def handshake_vhost_empty(t):
    "The empty vhost name is not the default one"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    c.call("connection.open", vhost="")


@each(frame_max_zero=(2047, 0), frame_max_tiny=(2047, 100), frame_max_4095=(2047, 4095), frame_max_above=(2047, 131073),
      channel_max_zero=(0, 131072), channel_max_above=(2048, 131072))
def tune_ok_refused(t, values):
    "tune-ok outside what was proposed"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=values[0], frame_max=values[1], heartbeat=0)
    c.send("connection.open", vhost="/")
    c.recv()


@each(frame_max_4096=(2047, 4096), frame_max_8192=(2047, 8192), channel_max_one=(1, 131072))
def tune_ok_accepted(t, values):
    "tune-ok below what was proposed"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=values[0], frame_max=values[1], heartbeat=0)
    c.send("connection.open", vhost="/")
    c.recv()


def tune_ok_heartbeat_large(t):
    "The client's heartbeat is taken as it is, above the proposal too"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=600)
    c.call("connection.open", vhost="/")


def open_before_tune_ok(t):
    "connection.open where tune-ok is due"
    c = _tune(t)
    c.send("connection.open", vhost="/")
    c.eof()


def tune_ok_before_start_ok(t):
    "tune-ok where start-ok is due"
    c = t.raw()
    c.start()
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    c.eof()


def channel_before_open(t):
    "channel.open before the connection is open"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    c.send_on(1, "channel.open")
    c.eof()


def channel_count_exceeded(t):
    "One channel more than negotiated"
    c = t.connect(channel_max=2)
    c.channel()
    c.channel()
    c.send_on(3, "channel.open")
    c.next(3)


def channel_number_beyond_max(t):
    "Channel numbers above channel_max, when only the count is within"
    c = t.connect(channel_max=2)
    c.send_on(9, "channel.open")
    c.next(9)


def heartbeats_are_sent(t):
    "A quiet connection gets heartbeats"
    c = t.connect(heartbeat=2)
    c.show_heartbeats = True
    c.recv(1)
    c.show_heartbeats = False


def heartbeat_missed(t):
    "A peer that keeps silent too long is dropped without a word"
    c = t.connect(heartbeat=1)
    c.eof()


def close_before_open(t):
    "connection.close right after tune-ok"
    c = _tune(t)
    c.send("connection.tune-ok", channel_max=2047, frame_max=131072, heartbeat=0)
    c.send("connection.close", code=200, text="bye")
    c.eof()
