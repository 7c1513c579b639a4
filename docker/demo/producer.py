"""Publishes a persistent message under confirms every now and then, for as long as it is let."""

import os
import time

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("demo", durable=True)
number = 0
while True:
    channel.basic_publish("", "demo", f"message {number}".encode(), pika.BasicProperties(delivery_mode=2))
    number += 1
    if number % 100 == 0:
        print(f"{number} confirmed", flush=True)
    connection.process_data_events(0)
    time.sleep(0.02)
