"""The tasks the worker of test_celery runs; broker and backend come from the environment."""

import os
from datetime import datetime, timezone

from celery import Celery

app = Celery("celery_app", broker=os.environ["CELERY_BROKER"], backend=os.environ["CELERY_BACKEND"])
app.conf.update(
    task_default_queue=os.environ["CELERY_QUEUE"],
    task_acks_late=True,
    worker_prefetch_multiplier=2,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    result_chord_retry_interval=0.2,
    worker_hijack_root_logger=False,
)


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=5)
def unsteady(self, failures):
    """Fails that many times before it succeeds; each retry is a new message with an ETA."""
    if self.request.retries < failures:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def now():
    return datetime.now(timezone.utc).isoformat()
