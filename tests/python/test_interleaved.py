"""Large bodies whose frames come interleaved on very many channels of one connection."""

import random
import struct

import pytest
from raw import BODY, HEADER, METHOD, Raw, long, short

FRAME = 131072 - 8
MIB = 1 << 20
CHANNELS = 200


def body_of(number, size):
    """No two are alike anywhere, nor are two parts of one."""
    return random.Random(number).randbytes(size)


def frames_of(channel, queue, body):
    """A persistent publish, frame by frame."""

    def frame(kind, payload):
        return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"

    yield frame(METHOD, struct.pack(">HHH", 60, 40, 0) + short("") + short(queue) + b"\0")
    yield frame(HEADER, struct.pack(">HHQ", 60, 0, len(body)) + struct.pack(">HB", 0x1000, 2))
    for at in range(0, len(body), FRAME):
        yield frame(BODY, body[at : at + FRAME])


def sizes(rng):
    """Of each channel's body: two as large as they may be, none of the others a multiple of a frame."""
    of = {channel: MIB + rng.randrange(MIB // 2) for channel in range(1, CHANNELS + 1)}
    of[7] = of[CHANNELS - 3] = 16 * MIB
    return of


def open_channels(peer):
    for channel in range(2, CHANNELS + 1):
        peer.method(channel, 20, 10, short(""))
        peer.expect(20, 11)


def interleave(peer, queue_of, numbers, of, rng, again=()):
    """Sends a body on each channel, now a frame of one and now of another, and in between heartbeats; `again`: channels that
    get a second one behind the first."""
    left = {channel: [frames_of(channel, queue_of(channel), body_of(numbers(channel), size))] for channel, size in of.items()}
    for channel in again:
        left[channel].append(frames_of(channel, queue_of(channel), body_of(numbers(channel) + 1, 70_000)))
    while left:
        channel = rng.choice(list(left))
        # sometimes two in a row
        for _ in range(rng.choice([1, 1, 1, 2])):
            frame = next(left[channel][0], None) if left[channel] else None
            if frame is None:
                left[channel] = left[channel][1:]
                if not left[channel]:
                    del left[channel]
                break
            peer.socket.sendall(frame)
        if rng.random() < 0.02:
            peer.frame(8, 0, b"")


def confirmed(peer, wanted):
    """Reads until each channel has so many confirms."""
    missing = dict(wanted)
    while any(missing.values()):
        kind, channel, payload = peer.read()
        if kind == METHOD:
            assert payload[:4] == struct.pack(">HH", 60, 80), (channel, payload[:60])
            tag, multiple = struct.unpack(">QB", payload[4:13])
            missing[channel] = wanted[channel] - tag if multiple else missing[channel] - 1


def declare_durable(peer, queue):
    peer.method(1, 50, 10, struct.pack(">H", 0) + short(queue) + bytes([0b0000_0010]) + long(b""))
    peer.expect(50, 11)


def is_body(got, number, size):
    # never shown whole where it is wrong
    return got == body_of(number, size)


@pytest.mark.parametrize("seed", [1, 2])
def test_bodies_interleaved_over_many_channels_arrive_whole_and_survive_kill_9(own_broker, seed):
    rng = random.Random(seed)
    broker = own_broker(HORNPIPE_MAX_MESSAGE_SIZE="16MiB")
    of = sizes(rng)
    again = [channel for channel in of if channel % 10 == 0]

    def queue_of(channel):
        return f"q{channel}"

    def number(channel):
        return seed * 100_000 + channel * 10

    peer = Raw(broker)
    open_channels(peer)
    for channel in of:
        declare_durable(peer, queue_of(channel))
        peer.method(channel, 85, 10, b"\0")
        peer.expect(85, 11)
    interleave(peer, queue_of, number, of, rng, again)
    confirmed(peer, {channel: 1 + (channel in again) for channel in of})
    broker.kill()
    peer.close()
    broker.start()
    peer = Raw(broker)
    for channel, size in of.items():
        assert is_body(peer.get(queue_of(channel))[1], number(channel), size), f"of channel {channel}"
        if channel in again:
            assert is_body(peer.get(queue_of(channel))[1], number(channel) + 1, 70_000), f"the second of channel {channel}"
    peer.close()


def test_what_was_not_whole_at_kill_9_is_not_there(own_broker):
    """Some bodies lack a frame when the broker is killed; the others are confirmed, and whole afterwards."""
    rng = random.Random(3)
    broker = own_broker(HORNPIPE_MAX_MESSAGE_SIZE="16MiB")
    of = sizes(rng)
    halves = [channel for channel in of if channel % 3 == 0]
    peer = Raw(broker)
    open_channels(peer)
    declare_durable(peer, "q")
    for channel in of:
        peer.method(channel, 85, 10, b"\0")
        peer.expect(85, 11)
    left = {channel: list(frames_of(channel, "q", body_of(channel, size))) for channel, size in of.items()}
    for channel in halves:
        left[channel].pop()
    turns = [channel for channel, frames in left.items() for _ in frames]
    rng.shuffle(turns)
    for channel in turns:
        peer.socket.sendall(left[channel].pop(0))
    whole = {channel: 1 for channel in of if channel not in halves}
    confirmed(peer, whole)
    broker.kill()
    peer.close()
    broker.start()
    peer = Raw(broker)
    missing = set(whole)
    while missing:
        got = peer.get("q")[1]
        # each body begins like that of one channel alone
        found = [channel for channel in missing if len(got) == of[channel] and is_body(got, channel, of[channel])]
        assert len(found) == 1, f"a body of {len(got)} octets that nobody sent, or a second time"
        missing.discard(found[0])
    peer.method(1, 60, 70, struct.pack(">H", 0) + short("q") + b"\1")
    peer.expect(60, 72)
    peer.close()


def test_bodies_interleaved_go_out_interleaved_to_consumers(own_broker):
    """One consumer a channel, all on one connection: each gets the bodies of its queue in order."""
    rng = random.Random(4)
    broker = own_broker(HORNPIPE_MAX_MESSAGE_SIZE="16MiB")
    of = sizes(rng)
    peer, taker = Raw(broker), Raw(broker)
    open_channels(peer)
    open_channels(taker)
    for channel in of:
        declare_durable(taker, f"q{channel}")
        arguments = struct.pack(">H", 0) + short(f"q{channel}") + short("") + bytes([0b0000_0010]) + long(b"")
        taker.method(channel, 60, 20, arguments)
        taker.expect(60, 21)
        peer.method(channel, 85, 10, b"\0")
        peer.expect(85, 11)
    got, size_of = {channel: [] for channel in of}, {}

    interleave(peer, lambda channel: f"q{channel}", lambda channel: channel, of, rng)
    missing = sum(of.values())
    while missing:
        kind, channel, payload = taker.read()
        if kind == HEADER:
            size_of[channel] = struct.unpack(">Q", payload[4:12])[0]
        elif kind == BODY:
            got[channel].append(payload)
            missing -= len(payload)
    for channel, size in of.items():
        assert size_of[channel] == size and is_body(b"".join(got[channel]), channel, size), f"of channel {channel}"
    confirmed(peer, {channel: 1 for channel in of})
    peer.close()
    taker.close()
