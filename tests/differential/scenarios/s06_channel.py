"""Channel life: open, close, flow, and frames for channels that are not there."""

import wire
from cases import each
from wire import METHOD


def channel_open_close(t):
    "open-ok and close-ok"
    c = t.connect()
    c.send_on(1, "channel.open")
    c.next(1)
    c.send_on(1, "channel.close", code=200, text="bye")
    c.next(1)


def channel_open_twice(t):
    "A second open on the same number"
    c = t.connect()
    c.channel()
    c.send_on(1, "channel.open")
    c.next(1)


def channel_reused(t):
    "A closed number can be opened again, and its delivery tags start anew"
    ch = t.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.close()
    ch.reopen()
    ch.get("@q", no_ack=False)


@each(declare=("queue.declare", {"queue": "q"}), close=("channel.close", {"code": 200}), ack=("basic.ack", {"delivery_tag": 1}),
      close_ok=("channel.close-ok", {}), flow=("channel.flow", {"active": True}))
def channel_never_opened(t, case):
    "A method on a number that was never opened"
    c = t.connect()
    c.send_on(5, case[0], **case[1])
    c.next(5, 0.3) if case[0] == "channel.close-ok" else c.eof()


def channel_used_after_close(t):
    "A method on a number that was closed"
    c = t.connect()
    ch = c.channel()
    ch.close()
    ch.send("queue.declare", queue="@q")
    c.eof()


def flow_on(t):
    "flow active=true is confirmed"
    t.channel().call("channel.flow", active=True)


def flow_off(t):
    "flow active=false is not implemented"
    t.channel().call("channel.flow", active=False)


def flow_ok_unasked(t):
    "flow-ok that nobody asked for"
    ch = t.channel()
    ch.send("channel.flow-ok", active=True)
    ch.call("channel.flow", active=True)


def access_request(t):
    "The old ticket is handed out to whoever asks"
    t.channel().call("access.request", realm="/data", active=True, write=True, read=True)


@each(declare_ok=("queue.declare-ok", {"queue": "q"}), blocked=("connection.blocked", {"reason": "x"}),
      consume_ok=("basic.consume-ok", {"consumer_tag": "t"}), open_ok=("channel.open-ok", {}),
      connection_open=("connection.open", {"vhost": "/"}), get_empty=("basic.get-empty", {}))
def server_method_from_client(t, case):
    "Methods that only a server sends, or that belong on channel 0"
    c = t.connect()
    ch = c.channel()
    ch.send(case[0], **case[1])
    c.eof()


def cancel_ok_unasked(t):
    "A cancel-ok is taken without a word"
    ch = t.channel()
    ch.send("basic.cancel-ok", consumer_tag="t")
    ch.call("channel.flow", active=True)


def frames_after_channel_error_ignored(t):
    "After a soft error the channel is deaf until close-ok"
    c = t.connect()
    ch = c.channel()
    c.answer_close = False
    ch.passive("@nothing")
    ch.send("queue.declare", queue="@q", durable=True)
    ch.pub("", "@q", b"lost")
    ch.send("channel.close-ok")
    c.answer_close = True
    ch.reopen()
    ch.passive("@q")


def channel_close_crosses_error(t):
    "A close that crosses the server's close is answered"
    c = t.connect()
    ch = c.channel()
    c.answer_close = False
    ch.passive("@nothing")
    ch.send("channel.close", code=200)
    ch.next()
    ch.send("channel.close-ok")
    c.answer_close = True
    ch.reopen()
    ch.open = True


def channel_error_requeues_first(t):
    "Unacknowledged messages are back before the client reads of the error"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.consume("@q")
    ch.pub("", "@q", b"m")
    ch.recv()
    ch.ack(9)
    ch.next()
    other.get("@q")


def channel_error_requeues(t):
    "The same for what basic.get fetched"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    ch.pub("", "@q", b"m")
    ch.get("@q", no_ack=False)
    ch.ack(9)
    ch.next()
    other.settle("@q", 1)
    other.get("@q")


def channel_error_leaves_others(t):
    "A soft error on one channel leaves the next alone"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.passive("@nothing")
    other.queue("@q")


def channel_close_requeues_in_order(t):
    "A closing channel returns its deliveries to their places"
    c = t.connect()
    ch, other = c.channel(), c.channel()
    ch.queue("@q")
    for body in (b"1", b"2", b"3", b"4"):
        ch.pub("", "@q", body)
    for _ in range(3):
        ch.get("@q", no_ack=False)
    ch.close()
    for _ in range(4):
        other.get("@q")


def pipelined_close(t):
    "Work sent ahead of close is done before close-ok"
    ch = t.channel()
    ch.queue("@q")
    ch.send("queue.purge", queue="@q")
    ch.send("basic.get", queue="@q")
    ch.close()
