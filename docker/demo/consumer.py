"""Takes messages a little slower than they come, so that the queue's length is worth a graph."""

import os
import time

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.queue_declare("demo", durable=True)
channel.basic_qos(prefetch_count=20)


def on_message(channel, method, _properties, _body):
    time.sleep(0.025)
    channel.basic_ack(method.delivery_tag)


channel.basic_consume("demo", on_message)
print("consuming", flush=True)
channel.start_consuming()
