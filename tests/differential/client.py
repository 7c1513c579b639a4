"""A client that does exactly what a scenario says and writes down everything the broker answers.

A frame enters the transcript when the scenario takes it, not when it arrives, so the transcript is the same on every
run as long as the scenario waits for what it provoked. Frames of one channel are never reordered.
"""

import collections
import json
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request

import wire
from wire import BODY, HEADER, HEARTBEAT, METHOD, V

WAIT = 8.0  # seconds to wait for a frame that has to come; only a broken broker makes us wait this long

CAPABILITIES = ["publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
                "connection.blocked", "authentication_failure_close"]

_MASKS = [
    (re.compile(r"amq\.gen-[A-Za-z0-9_-]{22}"), "amq.gen-*"),
    (re.compile(r"amq\.ctag-[A-Za-z0-9_-]{22}"), "amq.ctag-*"),
    (re.compile(r"amq\.rabbitmq\.reply-to\.[A-Za-z0-9+/=_.-]+"), "amq.rabbitmq.reply-to.*"),
    (re.compile(r"<\d+\.\d+\.\d+>"), "<pid>"),
]
_NO_REPLY = {"basic.publish", "basic.ack", "basic.nack", "basic.reject", "basic.recover-async"}
ASK = 60000  # the channel for questions the transcript does not show
_IDENTITY = {"version", "platform", "copyright", "information", "cluster_name"}

Event = collections.namedtuple("Event", "channel name fields properties body")


class Stop(Exception):
    """The connection is gone: the rest of the scenario makes no sense."""


class Skip(Exception):
    """The scenario needs something this run does not have."""


class Scenario:
    """One run of one scenario against one broker: its connections, its names, its transcript."""

    def __init__(self, name, url, admin=None):
        self.name = name
        self.url = urllib.parse.urlsplit(url)
        self.admin = admin
        self.lines = []
        self.connections = []
        self.declared = []
        self.undo = []
        self.masks = []

    # names and lines

    def full(self, item):
        """Puts the scenario's name in place of a leading @, so that names never meet those of another scenario."""
        if isinstance(item, str) and item.startswith("@"):
            return f"{self.name}.{item[1:]}"
        if isinstance(item, V):
            return V(item.tag, self.full(item.value))
        if isinstance(item, wire.Table):
            return wire.Table((key, self.full(part)) for key, part in item)
        if isinstance(item, dict):
            return {key: self.full(part) for key, part in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(self.full(part) for part in item)
        return item

    def write(self, line):
        for pattern, mask in _MASKS + self.masks:
            line = pattern.sub(mask, line)
        self.lines.append(line)

    # connections

    def raw(self):
        """A socket without handshake."""
        connection = Connection(self, f"c{len(self.connections) + 1}")
        self.connections.append(connection)
        return connection

    def connect(self, **options):
        """A connection with the handshake done and not shown."""
        connection = self.raw()
        connection.handshake(**options)
        return connection

    def channel(self, **options):
        """A channel on the first connection, which is made when there is none."""
        connection = self.connections[0] if self.connections else self.connect(**options)
        return connection.channel()

    # the other door, for what AMQP cannot do

    def http(self, verb, path, body=None, undo=None):
        """A call of the management API. `undo` is a (verb, path) for after the scenario."""
        if not self.admin:
            raise Skip("no --admin URL")
        path = path.replace("@", urllib.parse.quote(self.name) + ".")
        if undo:
            self.undo.append(undo)
        status, answer = request(self.admin, verb, path, self.full(body) if body is not None else None)
        if status == 501:
            raise Skip(f"the broker has no {verb} {path.split('/')[2]}")
        self.write(f"http {verb} {path} -> {status}")
        return answer

    # the end

    def finish(self):
        """Closes what is still open and shows every frame nobody took."""
        for connection in self.connections:
            connection.finish()

    def clean(self):
        for connection in self.connections:
            connection.drop()
        for verb, path in reversed(self.undo):
            request(self.admin, verb, path.replace("@", urllib.parse.quote(self.name) + "."), None)
        if not self.declared:
            return
        cleaner = Scenario(self.name, self.url.geturl())
        connection = cleaner.connect()
        channel = connection.channel()
        deadline = time.monotonic() + 10
        for kind, name in reversed(self.declared):
            while time.monotonic() < deadline:
                event = channel.call(kind, **{kind.split(".")[0]: name})
                if event and event.name == "channel.close" and event.fields["code"] == 405:
                    channel.reopen()  # the owner's end has not been noticed yet
                    continue
                if event and event.name == "channel.close":
                    channel.reopen()
                break
        connection.drop()


def request(admin, verb, path, body):
    parts = urllib.parse.urlsplit(admin)
    call = urllib.request.Request(f"http://{parts.hostname}:{parts.port}{path}", method=verb)
    import base64
    user = f"{urllib.parse.unquote(parts.username or 'guest')}:{urllib.parse.unquote(parts.password or 'guest')}"
    call.add_header("authorization", "Basic " + base64.b64encode(user.encode()).decode())
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        call.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(call, data, timeout=20) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Connection:
    """One socket. Channel 0 is the connection itself."""

    def __init__(self, scenario, name):
        self.scenario, self.name = scenario, name
        url = scenario.url
        self.socket = socket.create_connection((url.hostname, url.port or 5672), timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.events = collections.defaultdict(collections.deque)
        self.content = {}
        self.channels = {}
        self.gone = False        # the peer closed the socket and we have said so
        self.closing = False     # a connection.close went one way or the other
        self.opened = False
        self.asking = False
        self.answer_close = True
        self.show_heartbeats = False
        self.frame_max = 131072
        self.quiet = False

    # out

    def octets(self, data, note=None):
        """Sends octets as they are."""
        if note:
            self.write(f"> {self.name} {note}")
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # the peer is gone; the next receive says so

    def frame(self, kind, channel, payload, end=wire.FRAME_END, note=None):
        shown = f"frame type {kind} channel {channel} {len(payload)} octets"
        self.octets(wire.frame(kind, channel, payload, end), note or shown)

    def send(self, name, **fields):
        self.send_on(0, name, **fields)

    def send_on(self, number, name, **fields):
        fields = self.scenario.full(fields)
        if name in ("queue.declare", "exchange.declare") and not fields.get("passive"):
            kind = name.split(".")[0]
            key = fields.get(kind) or ""
            if key and not key.startswith("amq.") and (f"{kind}.delete", key) not in self.scenario.declared:
                self.scenario.declared.append((f"{kind}.delete", key))
        shown = []
        kinds = dict(wire.BY_NAME[name][1])
        for field, data in fields.items():
            if kinds.get(field) == "b":
                shown.append(field if data else f"no {field}")
            else:
                shown.append(f"{field}={wire.show_field(kinds[field], data)}")
        self.write(f"> {self.name}.{number} {name}" + "".join(" " + part for part in shown))
        self.octets(wire.frame(METHOD, number, wire.method(name, **fields)))

    # in

    def _frame(self, deadline):
        """The next frame as (type, channel, payload), "eof", "timeout" or ("octets", data) when it is no frame."""
        while True:
            if self.buffer[:4] == b"AMQP" and len(self.buffer) >= 8:
                data, self.buffer = self.buffer[:8], self.buffer[8:]
                return "octets", 0, data
            if self.buffer[:4] != b"AMQP" and len(self.buffer) >= 7:
                kind, channel = self.buffer[0], int.from_bytes(self.buffer[1:3], "big")
                size = int.from_bytes(self.buffer[3:7], "big")
                if len(self.buffer) >= size + 8:
                    payload, end = self.buffer[7:7 + size], self.buffer[7 + size]
                    self.buffer = self.buffer[8 + size:]
                    if end != wire.FRAME_END:
                        raise wire.Malformed(f"frame end {end:#x}")
                    return kind, channel, payload
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 20)
            except socket.timeout:
                return "timeout"
            except OSError:
                return "eof"
            if not data:
                return "eof"
            self.buffer += data

    def _take(self, kind, channel, payload):
        """Turns a frame into an event once its content is complete."""
        if kind == "octets":
            self.events[0].append(Event(0, "octets", {"octets": payload}, None, None))
            return
        if kind == HEARTBEAT:
            if self.show_heartbeats:
                self.events[0].append(Event(channel, "heartbeat", {}, None, None))
            return
        if kind == METHOD:
            name, fields = wire.parse_method(payload)
            if channel in self.content:
                raise wire.Malformed(f"{name} inside a content on channel {channel}")
            if name in wire.WITH_CONTENT:
                self.content[channel] = [name, fields, None, b"", []]
            else:
                self.events[channel].append(Event(channel, name, fields, None, None))
            return
        part = self.content.get(channel)
        if part is None:
            raise wire.Malformed(f"frame type {kind} without a method on channel {channel}")
        if kind == HEADER:
            part[2] = wire.parse_header(payload)
        else:
            part[3] += payload
            part[4].append(len(payload))
        if part[2] and len(part[3]) >= part[2][2]:
            del self.content[channel]
            self.events[channel].append(Event(channel, part[0], part[1], part[2], (part[3], part[4])))

    def next(self, number, wait=WAIT):
        """The next event of a channel, shown; None when there is none. What ends the connection is shown as well."""
        deadline = time.monotonic() + wait
        while True:
            if self.events[number]:
                return self._show(self.events[number].popleft())
            if number and self.events[0]:
                event = self._show(self.events[0].popleft())
                if event.name == "connection.close":
                    return event
                continue
            if self.gone:
                raise Stop
            try:
                got = self._frame(deadline)
                if got == "timeout":
                    self.write(f"! {self.name}.{number} nothing came")
                    raise Stop
                if got == "eof":
                    self.gone = True
                    self.write(f"= {self.name} the server closed the socket")
                    return None
                self._take(*got)
            except wire.Malformed as error:
                self.write(f"! {self.name} malformed: {error}")
                self.gone = True
                raise Stop from None

    def _show(self, event):
        if event.name == "octets":
            self.write(f"< {self.name} octets {event.fields['octets']!r}")
            return event
        kinds = dict(wire.BY_NAME[event.name][1]) if event.name in wire.BY_NAME else {}
        shown = []
        for field, data in event.fields.items():
            if field == "server_properties":
                data = wire.Table((key, V(item.tag, "*") if key in _IDENTITY else item) for key, item in data)
            if not field.startswith("_"):
                shown.append(f"{field.rstrip('_')}={wire.show_field(kinds[field], data)}")
        self.write(f"< {self.name}.{event.channel} {event.name}" + "".join(" " + part for part in shown))
        if event.properties:
            class_id, weight, _, properties = event.properties
            odd = "" if (class_id, weight) == (60, 0) else f" class={class_id} weight={weight}"
            for name, kind, data in properties:
                self.write(f"      {name}={wire.show_field(kind, data)}")
            self.write(f"      body {wire.show_body(*event.body)}{odd}")
        if event.name == "channel.close" and self.answer_close:
            self.octets(wire.frame(METHOD, event.channel, wire.method("channel.close-ok")))
            if event.channel in self.channels:
                self.channels[event.channel].open = False
        if event.name == "connection.close":
            self.closing = True
            if self.answer_close:
                self.octets(wire.frame(METHOD, 0, wire.method("connection.close-ok")))
        if event.name == "connection.open-ok":
            self.opened = True
        if event.name == "connection.close-ok":
            self._over()
        return event

    def _over(self):
        """After close-ok it is the client's turn to end the socket; RabbitMQ waits for that."""
        self.closing = self.gone = True
        self.drop()

    def write(self, line):
        if not self.quiet:
            self.scenario.write(line)

    # steps

    def recv(self, count=1):
        event = None
        for _ in range(count):
            event = self.next(0)
        return event

    def call(self, name, **fields):
        self.send(name, **fields)
        return self.next(0)

    def eof(self):
        """Waits for the end of the socket, showing what comes before."""
        while not self.gone:
            self.next(0)

    def start(self, show=False):
        """Sends the protocol header and takes connection.start, which most scenarios need not show again."""
        before, self.quiet = self.quiet, self.quiet or not show
        self.octets(b"AMQP\x00\x00\x09\x01")
        event = self.recv()
        self.quiet = before
        return event

    def handshake(self, user=None, password=None, vhost=None, frame_max=131072, channel_max=2047, heartbeat=0,
                  capabilities=CAPABILITIES, properties=None):
        url = self.scenario.url
        user = user if user is not None else urllib.parse.unquote(url.username or "guest")
        password = password if password is not None else urllib.parse.unquote(url.password or "guest")
        vhost = vhost if vhost is not None else urllib.parse.unquote(url.path[1:] or "%2F")
        self.quiet = True
        self.start()
        about = {"product": "differential", "capabilities": {name: True for name in capabilities}}
        about.update(properties or {})
        event = self.call("connection.start-ok", client_properties=about, mechanism="PLAIN",
                          response=f"\0{user}\0{password}", locale="en_US")
        if not event or event.name != "connection.tune":
            self.quiet = False
            self.write(f"! {self.name} handshake: {event and (event.name, event.fields)}")
            raise Stop
        self.frame_max = frame_max
        self.send("connection.tune-ok", channel_max=channel_max, frame_max=frame_max, heartbeat=heartbeat)
        event = self.call("connection.open", vhost=vhost)
        self.quiet = False
        if not event or event.name != "connection.open-ok":
            self.write(f"! {self.name} open: {event and (event.name, event.fields)}")
            raise Stop

    # what the transcript does not show

    def hidden(self, number, reply):
        """Waits for one expected answer on a channel and leaves everything else for the scenario to take."""
        deadline = time.monotonic() + WAIT
        while True:
            for event in self.events[number]:
                if event.name in (reply, "channel.close"):
                    if event.name == reply:
                        self.events[number].remove(event)
                    return event
            if self.gone or any(event.name == "connection.close" for event in self.events[0]):
                return None
            got = self._frame(deadline)
            if got in ("timeout", "eof"):
                self.write(f"! {self.name}.{number} no {reply}: {got}")
                self.gone = got == "eof"
                raise Stop
            self._take(*got)

    def ask(self, name, **fields):
        """A question on a channel of our own, so that an error does not touch the scenario's channels."""
        if not self.asking:
            self.octets(wire.frame(METHOD, ASK, wire.method("channel.open")))
            self.hidden(ASK, "channel.open-ok")
            self.asking = True
        self.octets(wire.frame(METHOD, ASK, wire.method(name, **fields)))
        event = self.hidden(ASK, name + "-ok")
        if event is None:
            raise Stop
        if event.name == "channel.close":
            self.events[ASK].clear()
            self.octets(wire.frame(METHOD, ASK, wire.method("channel.close-ok")))
            self.asking = False
        return event

    def barrier(self, queue):
        """Sees to it that what was published before is in the queue before the queue is asked for a count.

        RabbitMQ's queues answer passive declares ahead of the publishes that wait in their mailbox, so a round trip
        through each channel that published and then through the queue itself has to come first.
        """
        dirty = [channel for channel in self.channels.values() if channel.dirty and channel.open]
        for channel in dirty:
            channel.dirty = False
            self.octets(wire.frame(METHOD, channel.number, wire.method("channel.flow", active=True)))
            self.hidden(channel.number, "channel.flow-ok")
        if dirty and not self.gone and not any(event.name == "connection.close" for event in self.events[0]):
            for _ in range(3):
                self.ask("queue.declare", queue=self.scenario.full(queue), passive=True)

    def channel(self, number=None):
        """Opens a channel; the exchange is shown only when it fails."""
        number = number or max(self.channels, default=0) + 1
        channel = self.channels[number] = Channel(self, number)
        channel.reopen()
        return channel

    def close(self):
        """connection.close and everything up to its answer."""
        self.send("connection.close", code=200, text="bye")
        self.closing = True
        self.eof()

    def drop(self):
        try:
            self.socket.close()
        except OSError:
            pass

    def finish(self):
        if self.gone:
            return
        if not self.closing and not self.opened:
            self.drop()
            return
        if not self.closing:
            for number, channel in sorted(self.channels.items()):
                if channel.open and not self.closing and not self.gone:
                    self._quiet_close(number, "channel.close", "channel.close-ok")
                    channel.open = False
        if not self.closing and not self.gone:
            self._quiet_close(0, "connection.close", "connection.close-ok")
        try:
            self.eof()
        except Stop:
            pass

    def _quiet_close(self, number, name, reply):
        self.octets(wire.frame(METHOD, number, wire.method(name, code=200, text="end")))
        try:
            self.until(number, reply)
        except Stop:
            self.gone = True
        if not number:
            self._over()

    def until(self, number, reply):
        """Shows what comes on a channel before one expected answer, which itself is not shown."""
        while not self.gone and not (self.closing and number):
            while not self.events[number] and not self.gone and not (number and self.events[0]):
                got = self._frame(time.monotonic() + WAIT)
                if got == "timeout":
                    self.write(f"! {self.name}.{number} no {reply}")
                    raise Stop
                if got == "eof":
                    self.gone = True
                    self.write(f"! {self.name} the server closed the socket before {reply}")
                    return
                try:
                    self._take(*got)
                except wire.Malformed as error:
                    self.write(f"! {self.name} malformed: {error}")
                    raise Stop from None
            source = self.events[number] or self.events[0]
            if source[0].name == reply:
                source.popleft()
                return
            event = self._show(source.popleft())
            if event.name in ("connection.close", "channel.close"):
                return


class Channel:
    """One channel and short names for what scenarios do with it. Each step is shown with its answer."""

    def __init__(self, connection, number):
        self.connection, self.number, self.open = connection, number, True
        self.dirty = False  # something was sent that a queue may not have seen yet
        self.scenario = connection.scenario

    def reopen(self):
        """Opens the number, again after a channel error."""
        connection = self.connection
        connection.octets(wire.frame(METHOD, self.number, wire.method("channel.open")))
        connection.quiet, before = True, connection.quiet
        try:
            event = connection.next(self.number)
        finally:
            connection.quiet = before
        if not event or event.name != "channel.open-ok":
            connection.write(f"! {connection.name}.{self.number} open: {event and (event.name, event.fields)}")
            raise Stop
        self.open = True
        return self

    def send(self, name, **fields):
        self.dirty = self.dirty or name in _NO_REPLY or bool(fields.get("nowait"))
        self.connection.send_on(self.number, name, **fields)

    def next(self):
        return self.connection.next(self.number)

    def recv(self, count=1):
        """Takes that many frames (a content counts as one)."""
        event = None
        for _ in range(count):
            event = self.next()
        return event

    def call(self, name, **fields):
        """Sends and takes one frame."""
        self.send(name, **fields)
        return self.next()

    def sync(self):
        """A round trip through the channel that changes nothing; shows whatever came before its answer."""
        self.connection.octets(wire.frame(METHOD, self.number, wire.method("channel.flow", active=True)))
        self.connection.until(self.number, "channel.flow-ok")

    # exchanges, queues, bindings

    def queue(self, queue, args=None, **fields):
        fields = {"durable": True, **fields} if not fields.get("exclusive") else fields
        fields = {key: item for key, item in fields.items() if item is not False}
        event = self.call("queue.declare", queue=queue, **fields, **({"arguments": args} if args is not None else {}))
        if event and event.name == "queue.declare-ok":
            name = event.fields["queue"].decode()
            if name.startswith("amq.gen"):
                self.scenario.declared.append(("queue.delete", name))
            return name
        return None

    def passive(self, queue):
        self.connection.barrier(queue)
        return self.call("queue.declare", queue=queue, passive=True)

    def settle(self, queue, count):
        """Repeats a passive declare until that many messages are ready; shows the last answer."""
        connection, deadline = self.connection, time.monotonic() + WAIT
        name = self.scenario.full(queue)
        connection.barrier(queue)
        while True:
            event = connection.ask("queue.declare", queue=name, passive=True)
            if event.name != "queue.declare-ok":
                connection.write(f"! waiting for {count} in {name}: {event.name} {event.fields}")
                raise Stop
            if event.fields["message_count"] == count:
                connection.write(f"= {name} has {count} ready")
                return
            if time.monotonic() > deadline:
                connection.write(f"! {name} has {event.fields['message_count']} ready, not {count}")
                return
            time.sleep(0.005)

    def vanish(self, queue):
        """Repeats a passive declare until the queue is gone."""
        connection, deadline = self.connection, time.monotonic() + WAIT
        name = self.scenario.full(queue)
        while time.monotonic() < deadline:
            event = connection.ask("queue.declare", queue=name, passive=True)
            if event.name == "channel.close":
                connection.write(f"= {name}: {wire.text(event.fields['text'])}")
                return
            time.sleep(0.02)
        connection.write(f"! {name} is still there")

    def delete(self, queue, **fields):
        return self.call("queue.delete", queue=queue, **fields)

    def purge(self, queue):
        return self.call("queue.purge", queue=queue)

    def exchange(self, exchange, type="direct", args=None, **fields):
        return self.call("exchange.declare", exchange=exchange, type=type, **fields,
                         **({"arguments": args} if args is not None else {}))

    def xdelete(self, exchange, **fields):
        return self.call("exchange.delete", exchange=exchange, **fields)

    def bind(self, queue, exchange, key="", args=None):
        return self.call("queue.bind", queue=queue, exchange=exchange, routing_key=key,
                         **({"arguments": args} if args is not None else {}))

    def unbind(self, queue, exchange, key="", args=None):
        return self.call("queue.unbind", queue=queue, exchange=exchange, routing_key=key,
                         **({"arguments": args} if args is not None else {}))

    def xbind(self, destination, source, key="", args=None):
        return self.call("exchange.bind", destination=destination, source=source, routing_key=key,
                         **({"arguments": args} if args is not None else {}))

    def xunbind(self, destination, source, key="", args=None):
        return self.call("exchange.unbind", destination=destination, source=source, routing_key=key,
                         **({"arguments": args} if args is not None else {}))

    # messages

    def pub(self, exchange, key, body=b"", mandatory=False, immediate=False, **properties):
        """Publishes; nothing is taken."""
        full = self.scenario.full
        body = wire.raw(body)
        properties = {name: full(item) for name, item in properties.items()}
        shown = f"exchange={wire.text(full(exchange))} routing_key={wire.text(full(key))}"
        shown += " mandatory" * mandatory + " immediate" * immediate
        kinds = dict(wire.PROPERTIES)
        for name, item in properties.items():
            shown += f" {name}={wire.show_field(kinds[name], item)}"
        connection = self.connection
        connection.write(f"> {connection.name}.{self.number} basic.publish {shown} body {wire.show_body(body, [])}")
        out = wire.frame(METHOD, self.number, wire.method(
            "basic.publish", exchange=full(exchange), routing_key=full(key), mandatory=mandatory, immediate=immediate))
        out += wire.frame(HEADER, self.number, wire.header(len(body), properties))
        size = (connection.frame_max or 131072) - 8
        for at in range(0, len(body), size):
            out += wire.frame(BODY, self.number, body[at:at + size])
        self.dirty = True
        connection.octets(out)

    def get(self, queue, no_ack=True):
        return self.call("basic.get", queue=queue, **({"no_ack": True} if no_ack else {}))

    def holds(self, queue):
        """Takes everything out of a queue with basic.get and shows the bodies in one line."""
        connection, bodies = self.connection, []
        before, connection.quiet = connection.quiet, True
        try:
            while True:
                event = self.get(queue)
                if not event or event.name != "basic.get-ok":
                    break
                bodies.append(event.body[0].decode())
        finally:
            connection.quiet = before
        connection.write(f"= {self.scenario.full(queue)} holds {bodies}"
                         + ("" if event and event.name == "basic.get-empty" else f" then {event and event.name}"))

    def consume(self, queue, tag="t", args=None, **fields):
        return self.call("basic.consume", queue=queue, consumer_tag=tag, **fields,
                         **({"arguments": args} if args is not None else {}))

    def cancel(self, tag="t", **fields):
        return self.call("basic.cancel", consumer_tag=tag, **fields)

    def ack(self, tag, multiple=False):
        self.send("basic.ack", delivery_tag=tag, **({"multiple": True} if multiple else {}))

    def nack(self, tag, multiple=False, requeue=True):
        self.send("basic.nack", delivery_tag=tag, multiple=multiple, requeue=requeue)

    def reject(self, tag, requeue=False):
        self.send("basic.reject", delivery_tag=tag, requeue=requeue)

    def recover(self, requeue=True):
        return self.call("basic.recover", requeue=requeue)

    def qos(self, count, global_=False, size=0):
        return self.call("basic.qos", prefetch_count=count, **({"global_": True} if global_ else {}),
                         **({"prefetch_size": size} if size else {}))

    def confirm(self):
        return self.call("confirm.select")

    def confirmed(self, first, last):
        """Takes confirms until each number in first..=last has one; shows the outcome of each, however it was batched."""
        connection, open_, outcome = self.connection, set(range(first, last + 1)), {}
        while open_:
            connection.quiet = True
            try:
                event = connection.next(self.number)
            finally:
                connection.quiet = False
            if not event or event.name not in ("basic.ack", "basic.nack"):
                connection.write(f"! {event and (event.name, event.fields)} while waiting for confirms {sorted(open_)}")
                raise Stop
            tag = event.fields["delivery_tag"]
            hit = {n for n in open_ if n <= tag} if event.fields["multiple"] else {tag} & open_
            if not hit:
                connection.write(f"! confirm of {tag}, which is not open")
            for number in hit:
                outcome[number] = event.name[6:]
            open_ -= hit
        shown = " ".join(f"{number}:{outcome[number]}" for number in sorted(outcome))
        connection.write(f"= {connection.name}.{self.number} confirms {shown}")

    def tx(self):
        return self.call("tx.select")

    def commit(self):
        return self.call("tx.commit")

    def rollback(self):
        return self.call("tx.rollback")

    def close(self):
        """channel.close, shown, with everything before its answer."""
        self.send("channel.close", code=200, text="bye")
        self.open = False
        while True:
            event = self.next()
            if not event or event.name in ("channel.close-ok", "connection.close"):
                return event
