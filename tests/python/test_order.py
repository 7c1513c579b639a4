"""Commands of a channel take effect one after the other, also those that take the broker many turns."""

import struct

import pytest
from raw import METHOD, Raw, long, short

COUNT = 6000
DECLARED, PURGED, GOT, EMPTY = (50, 11), (50, 31), (60, 71), (60, 72)


def frame(class_id, method_id, arguments):
    payload = struct.pack(">HH", class_id, method_id) + arguments
    return struct.pack(">BHI", METHOD, 1, len(payload)) + payload + b"\xce"


def declare(queue, passive=False, **arguments):
    table = b"".join(short(key.replace("_", "-")) + b"S" + long(value.encode()) for key, value in arguments.items())
    bits = bytes([1 if passive else 2])
    return frame(50, 10, struct.pack(">H", 0) + short(queue) + bits + long(table))


def purge(queue):
    return frame(50, 30, struct.pack(">H", 0) + short(queue) + b"\0")


def settle_up_to(tag, requeue):
    return frame(60, 120, struct.pack(">QB", tag, 1 | (2 if requeue else 0)))


def acks_of_every_other():
    """What is left is in pieces: returning it takes the broker many steps."""
    return (frame(60, 80, struct.pack(">QB", tag, 0)) for tag in range(1, COUNT + 1, 2))


def reject(tag):
    return frame(60, 90, struct.pack(">QB", tag, 0))


CLOSE = frame(20, 40, struct.pack(">H", 200) + short("") + struct.pack(">HH", 0, 0))
OPEN = frame(20, 10, short(""))


class Peer(Raw):
    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def take(self, queue, count, acks=True):
        """Consumes so many messages, and no more; the numbers in their bodies."""
        self.method(1, 60, 20, struct.pack(">H", 0) + short(queue) + short("t") + bytes([0 if acks else 2]) + long(b""))
        self.expect(60, 21)
        numbers = [self.read_message() for _ in range(count)]
        self.method(1, 60, 30, short("t") + b"\0")
        self.expect(60, 31)
        return numbers

    def read_message(self):
        kinds = [self.read() for _ in range(3)]
        assert [kind for kind, _, _ in kinds] == [1, 2, 3], kinds
        return int(kinds[2][2])

    def answers(self, count):
        """What was answered, each with its arguments."""
        frames = [self.read() for _ in range(count)]
        return [(struct.unpack(">HH", payload[:4]), payload[4:]) for _, _, payload in frames]


@pytest.fixture
def peer(broker):
    it = Peer(broker)
    yield it
    it.close()


def fill(peer, queue, **arguments):
    """A queue with messages that say their numbers, all of them outstanding."""
    peer.send(declare(queue, **arguments))
    peer.expect(50, 11)
    peer.method(1, 85, 10, b"\0")
    peer.expect(85, 11)
    for number in range(COUNT):
        peer.publish(queue, struct.pack(">HB", 0x1000, 2), b"%d" % number)
    confirmed = 0
    while confirmed < COUNT:
        tag, multiple = struct.unpack(">QB", peer.expect(60, 80))
        confirmed = tag if multiple else confirmed + 1
    assert peer.take(queue, COUNT) == list(range(COUNT))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_dead_letters_come_in_the_order_in_which_they_were_rejected(peer, name, kind):
    queue, dead = name(), name()
    peer.send(declare(dead))
    peer.expect(50, 11)
    fill(peer, queue, x_queue_type=kind, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    one_by_one = range(COUNT - 500 + 1, COUNT + 1)
    peer.send(settle_up_to(COUNT - 500, requeue=False), *(reject(tag) for tag in one_by_one))
    assert peer.take(dead, COUNT, acks=False) == list(range(COUNT))


def test_what_follows_counts_with_what_was_sent_back(peer, name):
    queue = name()
    fill(peer, queue)
    peer.send(*acks_of_every_other(), settle_up_to(COUNT, requeue=True), purge(queue))
    assert peer.answers(1) == [(PURGED, struct.pack(">I", COUNT // 2))]


def test_close_ok_says_that_all_is_back(peer, broker, name):
    queue = name()
    fill(peer, queue)
    peer.send(*acks_of_every_other(), CLOSE)
    assert peer.answers(1)[0][0] == (20, 41)
    other = Peer(broker)
    other.send(purge(queue))
    assert other.answers(1) == [(PURGED, struct.pack(">I", COUNT // 2))]
    other.close()


def test_a_connection_that_is_lost_while_its_commands_wait_loses_nothing(peer, broker, name):
    queue, dead = name(), name()
    peer.send(declare(dead))
    peer.expect(50, 11)
    fill(peer, queue, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    lost = Peer(broker)
    peer.send(settle_up_to(COUNT, requeue=True), declare(queue, passive=True))
    peer.answers(1)
    assert sorted(lost.take(queue, COUNT)) == list(range(COUNT))
    lost.send(settle_up_to(COUNT // 2, requeue=False), *(reject(tag) for tag in range(COUNT // 2 + 1, COUNT - 100)))
    lost.socket.close()
    lost.file.close()
    found = []
    while len(found) < COUNT:
        for where in (queue, dead):
            peer.method(1, 60, 70, struct.pack(">H", 0) + short(where) + b"\1")
            [(method, _)] = peer.answers(1)
            if method == GOT:
                [_, (_, _, body)] = [peer.read(), peer.read()]
                found.append(int(body))
            else:
                assert method == EMPTY
    assert sorted(found) == list(range(COUNT))


def test_answers_come_in_the_order_of_what_they_answer(peer, name):
    flow, access = frame(20, 20, b"\1"), frame(30, 10, short("/") + b"\0")
    peer.send(declare(name()), flow, access)
    assert [method for method, _ in peer.answers(3)] == [DECLARED, (20, 21), (30, 11)]


@pytest.mark.parametrize("closer", ["broker", "client"])
def test_a_channel_whose_close_is_not_answered_is_not_opened_again(peer, name, closer):
    if closer == "broker":
        peer.send(declare(name(), passive=True))
        assert peer.answers(1)[0][0] == (20, 40)
        peer.send(OPEN)
    else:
        peer.send(CLOSE, OPEN)
    method, arguments = peer.answers(1)[0]
    if method == (20, 41):
        # RabbitMQ may leave it out
        method, arguments = peer.answers(1)[0]
    assert (method, arguments[:2]) == ((10, 50), struct.pack(">H", 504))
    peer.socket.close()
