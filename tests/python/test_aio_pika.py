"""aio-pika: the round of an asyncio program, and its robust connection over a restart."""

import asyncio

import aio_pika
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message
from brokers import DEADLINE


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, DEADLINE))


def test_round(broker, name):
    queue_name, exchange_name = name(), name("x")

    async def body():
        connection = await aio_pika.connect(broker.url)
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.set_qos(prefetch_count=10)
            exchange = await channel.declare_exchange(exchange_name, ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(queue_name, durable=True)
            await queue.bind(exchange, "a.*")
            # Many confirms open at a time.
            await asyncio.gather(
                *(
                    exchange.publish(
                        Message(
                            str(n).encode(),
                            headers={"n": n, "nested": {"list": [1, "two", None]}},
                            delivery_mode=DeliveryMode.PERSISTENT,
                        ),
                        "a.b",
                    )
                    for n in range(300)
                )
            )
            got = []
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        assert message.headers == {
                            "n": int(message.body),
                            "nested": {"list": [1, "two", None]},
                        }
                        got.append(int(message.body))
                    if len(got) == 300:
                        break
            assert sorted(got) == list(range(300))
            assert (await channel.declare_queue(queue_name, passive=True)).declaration_result.message_count == 0

    run(body())


def test_unroutable_comes_back(broker, name):
    async def body():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.DeliveryError):
                await channel.default_exchange.publish(Message(b"x"), name("nowhere"), mandatory=True)

    run(body())


def test_error_codes_become_exceptions(broker, name):
    async def body():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await channel.declare_queue(name(), passive=True)
            channel = await connection.channel()
            queue = name()
            await channel.declare_queue(queue, durable=True)
            with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
                await channel.declare_queue(queue, durable=False)

    run(body())


def test_transaction(broker, name):
    queue_name = name()

    async def body():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(queue_name)
            async with channel.transaction():
                await channel.default_exchange.publish(Message(b"kept"), queue_name)
            with pytest.raises(ZeroDivisionError):
                async with channel.transaction():
                    await channel.default_exchange.publish(Message(b"dropped"), queue_name)
                    raise ZeroDivisionError
            assert (await queue.get(no_ack=True)).body == b"kept"
            assert await queue.get(no_ack=True, fail=False) is None

    run(body())


def test_robust_connection_goes_on_after_a_restart(own_broker):
    broker = own_broker()

    async def body():
        connection = await aio_pika.connect_robust(broker.url, reconnect_interval=0.1)
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            queue = await channel.declare_queue("robust", durable=True)
            got = asyncio.Queue()

            async def on_message(message):
                async with message.process():
                    got.put_nowait(message.body)

            await queue.consume(on_message)
            await channel.default_exchange.publish(
                Message(b"before", delivery_mode=DeliveryMode.PERSISTENT), "robust"
            )
            assert await got.get() == b"before"
            back = asyncio.Event()
            connection.reconnect_callbacks.add(lambda *_: back.set())
            await asyncio.to_thread(broker.restart)
            await back.wait()
            # Consumer and queue were restored by the library; whoever publishes sees the same names.
            async with await aio_pika.connect(broker.url) as other:
                sender = await other.channel()
                await sender.default_exchange.publish(Message(b"after"), "robust")
            while await got.get() != b"after":
                pass

    run(body())
