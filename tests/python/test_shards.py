"""Two vhosts in two shards, seen through clients and the management API."""

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request

import pika
import pytest
from brokers import BrokerFailed, until
from conftest import parameters
from helpers import PERSISTENT, get_all, put, ready
from test_store import hornpipe, snapshot


@pytest.fixture(autouse=True)
def ours():
    if os.environ.get("AMQP_URL") or os.environ.get("BROKER") == "rabbitmq":
        pytest.skip("about Hornpipe's own shards")


def http(broker, verb, path, body=None, user=None):
    """Status and answer of the management API."""
    call = urllib.request.Request(f"http://127.0.0.1:{broker.http_port}/api/{path}", method=verb)
    login = user or f"{broker.user}:{broker.password}"
    call.add_header("authorization", "Basic " + base64.b64encode(login.encode()).decode())
    call.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(call, json.dumps(body).encode() if body is not None else None, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def names(broker, path):
    status, answer = http(broker, "GET", path)
    assert status == 200, answer
    return [it["name"] for it in answer]


def add_vhost(broker, name):
    status, answer = http(broker, "PUT", f"vhosts/{name}", {})
    assert status in (201, 204), answer


@pytest.fixture
def two(own_broker, connect):
    """A broker of two shards with `/` in the first and `b` in the second one, and a channel in each."""
    broker = own_broker(HORNPIPE_SHARDS="2")
    add_vhost(broker, "b")

    def channel(vhost, **changes):
        it = connect(broker, virtual_host=vhost, **changes).channel()
        it.confirm_delivery()
        return it

    return broker, channel


def fill(channel, vhost, count=50):
    """Declares the same names in a vhost, with messages that tell which one they are of."""
    channel.exchange_declare("x", "topic", durable=True)
    channel.queue_declare("q", durable=True)
    channel.queue_declare(f"only-{vhost.strip('/')}", durable=True)
    channel.queue_bind("q", "x", "#")
    for n in range(count):
        channel.basic_publish("x", "k", f"{vhost} {n}".encode(), PERSISTENT)


def expected(vhost, count=50):
    return [f"{vhost} {n}".encode() for n in range(count)]


def test_two_vhosts_carry_traffic_and_are_listed_as_one_broker(two):
    broker, channel = two
    channels = {vhost: channel(vhost) for vhost in ("/", "b")}
    for vhost, ch in channels.items():
        fill(ch, vhost)
    assert sorted(names(broker, "vhosts")) == ["/", "b"]
    assert sorted(names(broker, "queues")) == ["only-", "only-b", "q", "q"]
    assert sorted(names(broker, "queues/b")) == ["only-b", "q"]
    until(lambda: http(broker, "GET", "queues/b/q")[1]["messages"] == 50, "the statistics of a queue of the second shard")
    assert len(names(broker, "connections")) == 2
    assert [c["vhost"] for c in http(broker, "GET", "channels")[1]] == ["/", "b"]
    bound = [(b["vhost"], b["destination"]) for b in http(broker, "GET", "bindings")[1] if b["source"] == "x"]
    assert sorted(bound) == [("/", "q"), ("b", "q")]
    totals = http(broker, "GET", "overview")[1]["object_totals"]
    assert (totals["queues"], totals["connections"]) == (4, 2)
    until(lambda: http(broker, "GET", "overview")[1]["queue_totals"]["messages"] == 100, "the totals of both")
    for vhost, ch in channels.items():
        assert get_all(ch, "q") == expected(vhost), "each vhost has its own messages"
    assert {(p["vhost"], p["user"]) for p in http(broker, "GET", "permissions")[1]} == {("/", "guest"), ("b", "guest")}
    # One connection of each is closed by name, whichever shard has it.
    for name in names(broker, "connections"):
        status, _ = http(broker, "DELETE", "connections/" + urllib.parse.quote(name, safe=""))
        assert status == 204
    until(lambda: not names(broker, "connections"), "both to be closed")


def test_lists_longer_than_a_slice_go_on_in_the_next_shard(two):
    broker, channel = two
    made = []
    for vhost in ("/", "b"):
        ch = channel(vhost)
        for n in range(300):
            ch.queue_declare(f"{vhost.strip('/')}{n}", durable=True)
            made.append(f"{vhost.strip('/')}{n}")
    assert sorted(names(broker, "queues")) == sorted(made)


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_what_both_shards_confirmed_is_there_after(two, connect, end):
    broker, channel = two
    for vhost in ("/", "b"):
        fill(channel(vhost), vhost)
    assert http(broker, "PUT", "users/ann", {"password": "pw", "tags": "monitoring"})[0] == 201
    status, _ = http(broker, "PUT", "permissions/b/ann", {"configure": "", "write": "", "read": ".*"})
    assert status == 201
    if end == "kill":
        broker.kill()
        broker.start()
    else:
        broker.restart()
    assert sorted(names(broker, "vhosts")) == ["/", "b"]
    for vhost in ("/", "b"):
        assert get_all(channel(vhost), "q") == expected(vhost)
    ann = pika.PlainCredentials("ann", "pw")
    assert get_all(channel("b", credentials=ann), "only-b") == []
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError):
        channel("/", credentials=ann)


def test_users_and_their_permissions_reach_both_shards(two):
    broker, channel = two
    fill(channel("/"), "/", 1)
    fill(channel("b"), "b", 1)
    ann = pika.PlainCredentials("ann", "pw")
    assert http(broker, "PUT", "users/ann", {"password": "pw", "tags": ""})[0] == 201
    for vhost in ("%2F", "b"):
        assert http(broker, "PUT", f"permissions/{vhost}/ann", {"configure": "", "write": "", "read": ".*"})[0] == 201
    channels = {vhost: channel(vhost, credentials=ann) for vhost in ("/", "b")}
    for vhost, ch in channels.items():
        assert get_all(ch, "q", ack=False) == expected(vhost, 1)
    # A permission is of one vhost; the other is left as it is.
    assert http(broker, "PUT", "permissions/b/ann", {"configure": "", "write": "", "read": "^only"})[0] == 204
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="read access to queue 'q' in vhost 'b'"):
        channels["b"].basic_get("q")
    channels["/"].basic_get("q")
    # A user's limits hold in every shard.
    assert http(broker, "PUT", "user-limits/ann/max-channels", {"value": 1})[0] == 204
    for ch in channels.values():
        with pytest.raises((pika.exceptions.ConnectionClosedByBroker, pika.exceptions.AMQPError)):
            ch.connection.channel()
            ch.connection.channel()
    assert http(broker, "DELETE", "user-limits/ann/max-channels")[0] == 204
    # Connections count wherever they are: the two that failed are gone, so there is room for two.
    assert http(broker, "PUT", "user-limits/ann/max-connections", {"value": 2})[0] == 204
    until(lambda: not [c for c in http(broker, "GET", "connections")[1] if c["user"] == "ann"], "ann's connections to end")
    held = [channel(vhost, credentials=ann) for vhost in ("/", "b")]
    for vhost in ("/", "b"):
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            channel(vhost, credentials=ann)
    assert all(not closed(ch.connection) for ch in held)
    assert http(broker, "DELETE", "user-limits/ann/max-connections")[0] == 204
    for ch in held:
        ch.connection.close()
    # Whoever goes, goes everywhere, and comes back without what he had.
    held = [channel(vhost, credentials=ann) for vhost in ("/", "b")]
    assert http(broker, "DELETE", "users/ann")[0] == 204
    for ch in held:
        until(lambda: closed(ch.connection), "the connections of a user who is gone to be closed")
    with pytest.raises(pika.exceptions.AMQPError):
        channel("b", credentials=ann)
    assert http(broker, "PUT", "users/ann", {"password": "pw", "tags": ""})[0] == 201
    assert not [p for p in http(broker, "GET", "permissions")[1] if p["user"] == "ann"]
    for vhost in ("/", "b"):
        with pytest.raises(pika.exceptions.ProbableAccessDeniedError):
            channel(vhost, credentials=ann)


def closed(connection):
    try:
        connection.process_data_events(0)
    except pika.exceptions.AMQPError:
        return True
    return connection.is_closed


def test_a_vhost_of_the_second_shard_comes_and_goes(two):
    broker, channel = two
    held = channel("b")
    fill(held, "b")
    fill(channel("/"), "/")
    assert http(broker, "DELETE", "vhosts/b")[0] == 204
    until(lambda: closed(held.connection), "the connections of a vhost that is gone to be closed")
    assert names(broker, "vhosts") == ["/"]
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        channel("b")
    add_vhost(broker, "b")
    assert names(broker, "queues/b") == []
    broker.restart()
    assert names(broker, "queues/b") == []
    assert get_all(channel("/"), "q") == expected("/")


def test_shards_can_be_added_and_taken_away_while_they_are_empty(own_broker, connect):
    broker = own_broker()
    first = connect(broker).channel()
    first.confirm_delivery()
    fill(first, "/")
    assert http(broker, "PUT", "users/ann", {"password": "pw", "tags": ""})[0] == 201
    broker.stop()
    # As earlier versions left a folder of one shard.
    (broker.data / "shards").unlink()
    broker.extra["HORNPIPE_SHARDS"] = "3"
    broker.start()
    add_vhost(broker, "b")
    assert http(broker, "PUT", "permissions/b/ann", {"configure": ".*", "write": ".*", "read": ".*"})[0] == 201
    ann = connect(broker, virtual_host="b", credentials=pika.PlainCredentials("ann", "pw")).channel()
    ann.confirm_delivery()
    fill(ann, "b", 3)
    broker.stop()

    broker.extra["HORNPIPE_SHARDS"] = "1"
    with pytest.raises(BrokerFailed, match="shards = 1 is not allowed: vhost 'b' is in shard-1 .* at least 2"):
        broker.start()
    broker.extra["HORNPIPE_SHARDS"] = "2"
    broker.start()
    assert sorted(it.name for it in broker.data.glob("shard-*")) == ["shard-0", "shard-1"]
    again = connect(broker, virtual_host="b").channel()
    assert get_all(again, "q") == expected("b", 3)
    assert http(broker, "DELETE", "vhosts/b")[0] == 204
    broker.stop()
    broker.extra["HORNPIPE_SHARDS"] = "1"
    broker.start()
    assert get_all(connect(broker).channel(), "q") == expected("/")
    broker.stop()


def test_a_missing_shard_is_told(two):
    broker, channel = two
    fill(channel("b"), "b", 1)
    broker.stop()
    (broker.data / "shard-1").rename(broker.data / "elsewhere")
    with pytest.raises(BrokerFailed, match="there are 2 shards, and there is nothing in .*shard-1"):
        broker.start()
    (broker.data / "elsewhere").rename(broker.data / "shard-1")
    broker.start()


def test_a_snapshot_has_all_shards_and_opens_as_a_data_folder(two, own_broker, connect, tmp_path):
    broker, channel = two
    for vhost in ("/", "b"):
        fill(channel(vhost), vhost)
    made = snapshot(broker, tmp_path / "copy")
    assert made["folder"] == str(tmp_path / "copy")
    broker.stop()
    said = hornpipe("store", "verify", tmp_path / "copy")
    assert "100 messages in 4 queues" in said and "the store is whole" in said, said
    broker.data = tmp_path / "copy"
    broker.start()
    for vhost in ("/", "b"):
        assert get_all(connect(broker, virtual_host=vhost).channel(), "q") == expected(vhost)


def test_the_stopped_store_s_tools_know_all_shards(two, own_broker, connect, tmp_path):
    broker, channel = two
    for vhost in ("/", "b"):
        fill(channel(vhost), vhost)
    assert http(broker, "PUT", "users/ann", {"password": "pw", "tags": ""})[0] == 201
    assert http(broker, "PUT", "permissions/b/ann", {"configure": ".*", "write": ".*", "read": ".*"})[0] == 201
    broker.stop()
    assert "100 messages in 4 queues" in hornpipe("store", "verify", broker.data, "--all")
    assert "100 messages" in hornpipe("store", "compact", broker.data)
    assert "100 messages in 4 queues" in hornpipe("store", "verify", broker.data)
    file = tmp_path / "export.jsonl"
    assert "100 messages" in hornpipe("store", "export", broker.data, file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    users = [line["definition"]["User"]["name"] for line in lines if "User" in line.get("definition", {})]
    assert sorted(users) == ["ann", "guest"], "those that follow are not told again"

    # Into as many shards as before, and all into one: their queues have the same ids.
    for shards, folders in (("2", 2), ("1", 1)):
        data = tmp_path / f"import{shards}"
        assert "100 messages" in hornpipe("store", "import", file, data, env={"HORNPIPE_SHARDS": shards})
        assert len(list(data.glob("shard-*"))) == folders
        broker.data, broker.extra["HORNPIPE_SHARDS"] = data, shards
        broker.start()
        ann = pika.PlainCredentials("ann", "pw")
        assert ready(connect(broker, virtual_host="b", credentials=ann).channel(), "q") == 50
        for vhost in ("/", "b"):
            ch = connect(broker, virtual_host=vhost).channel()
            assert get_all(ch, "q") == expected(vhost)
            put(ch, f"only-{vhost.strip('/')}", b"new")
            ch.queue_declare("another", durable=True)
            assert ready(ch, "another") == 0
        broker.stop()


def turns(broker):
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("hornpipe_shard_turn_seconds_count")]
    return [float(line.split()[-1]) for line in lines]


def test_each_shard_has_an_owner_that_works_for_its_own_vhosts(two):
    broker, channel = two
    channels = [channel("/"), channel("b")]
    for ch in channels:
        ch.queue_declare("q", durable=True)
    before = turns(broker)
    assert len(before) == 2
    put(channels[1], "q", *[b"x"] * 200)
    after = turns(broker)
    assert after[1] - before[1] >= 200, "each confirmed publish takes a turn of the second owner"
    assert after[0] - before[0] < 100, "and none of the first one, but those that asked for the metrics"
