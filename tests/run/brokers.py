"""The broker under test as one object: ours from its binary, a private RabbitMQ, or one that runs elsewhere.

`make(directory)` picks by environment:

* AMQP_URL set: that broker, which can't be stopped, killed or configured from here
* BROKER=rabbitmq: a RabbitMQ of our own through rabbitmq.sh, to check the tests themselves
* otherwise: $HORNPIPE_BIN, or target/release/hornpipe of this checkout
"""

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Bounds a wait that would otherwise hang a run for ever; nothing measures or asserts a duration with it.
DEADLINE = float(os.environ.get("TEST_DEADLINE", "120"))


class NotHere(Exception):
    """This kind of broker can't do what the test needs."""


class BrokerFailed(Exception):
    """The broker didn't start, or ended by itself."""


def until(condition, what, deadline=None):
    """Polls until `condition()` is true and returns its value."""
    end = time.monotonic() + (deadline or DEADLINE)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"gave up waiting: {what}")
        time.sleep(0.01)


# Limits at their lowest: the log is copied forward, its database exchanged and body files change all the time, so that a
# kill or a cut falls into each of these.
RESTLESS = {
    "HORNPIPE_STORE_DB_MIN_BYTES": "1MiB",
    "HORNPIPE_STORE_DB_SLACK_BYTES": "8MiB",
    "HORNPIPE_STORE_BODY_FILE_BYTES": "1MiB",
    "HORNPIPE_STORE_MARK_EVERY_MS": "10",
    "HORNPIPE_STORE_BALLAST_BYTES": "8MiB",
    "HORNPIPE_LOG_RECORDS_SLACK": "8",
    "HORNPIPE_INLINE_LIVE_BYTES": "1MiB",
    "HORNPIPE_RESIDENT_BYTES": "1MiB",
}


def add_vhost(broker, name):
    """Makes a vhost by HTTP; with several shards it goes to the one with the fewest."""
    login = base64.b64encode(f"{broker.user}:{broker.password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{broker.http_port}/api/vhosts/{name}"
    urllib.request.urlopen(urllib.request.Request(url, b"{}", headers, method="PUT")).close()


class Snapshot(threading.Thread):
    """Asks a broker for a snapshot; `whole` once it said that there is one."""

    def __init__(self, broker, folder):
        super().__init__(daemon=True)
        self.folder, self.whole = Path(folder), False
        login = base64.b64encode(f"{broker.user}:{broker.password}".encode()).decode()
        self.request = urllib.request.Request(
            f"http://127.0.0.1:{broker.http_port}/api/hornpipe/snapshot",
            json.dumps({"folder": str(folder)}).encode(),
            {"Authorization": f"Basic {login}"},
        )
        self.refused = None

    def run(self):
        try:
            with urllib.request.urlopen(self.request) as answer:
                self.whole = answer.status == 200
        except urllib.error.HTTPError as error:
            self.refused = error.read().decode()
        except (OSError, http.client.HTTPException):
            pass

    def problems(self):
        """Checks what was made, and removes it."""
        found = [f"no snapshot: {self.refused}"] if self.refused else []
        if self.whole:
            done = subprocess.run(
                [Hornpipe.binary(), "store", "verify", str(self.folder)],
                env=Hornpipe.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                found.append(f"a snapshot is not whole: {done.stdout}")
        shutil.rmtree(self.folder, ignore_errors=True)
        return found


class Broker:
    """What every kind offers."""

    kind = "external"
    http_port = None
    metrics_port = None
    host = "127.0.0.1"
    port = None
    user = "guest"
    password = "guest"
    vhost = "/"

    @property
    def url(self):
        quote = lambda text: urllib.parse.quote(text, safe="")
        return f"amqp://{quote(self.user)}:{quote(self.password)}@{self.host}:{self.port}/{quote(self.vhost)}"

    def start(self):
        raise NotHere("an external broker isn't started from here")

    def stop(self):
        """Asks for a clean end and returns the exit code (None where it can't be told)."""
        raise NotHere("an external broker isn't stopped from here")

    def kill(self):
        raise NotHere("an external broker isn't killed from here")

    def cleanup(self):
        """Leaves nothing running."""

    def restart(self):
        self.stop()
        self.start()

    def log_tail(self, lines=40):
        return ""


class External(Broker):
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 5672
        self.user = urllib.parse.unquote(parts.username or "guest")
        self.password = urllib.parse.unquote(parts.password or "guest")
        self.vhost = urllib.parse.unquote(parts.path[1:]) or "/"


class Hornpipe(Broker):
    kind = "hornpipe"

    def __init__(self, directory, env=None, data=None):
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.data = Path(data) if data else directory / "data"
        self.log = directory / "broker.log"
        self.extra = dict(env or {})
        self.process = None
        self.port = 0
        # Whether a later start listens for HTTP where the one before did, so that it can be asked before it is ready.
        self.keep_http = False

    @staticmethod
    def binary():
        path = Path(os.environ.get("HORNPIPE_BIN", ROOT / "target/release/hornpipe"))
        if not path.exists():
            raise BrokerFailed(f"no binary at {path}: run `make build` or set HORNPIPE_BIN")
        return str(path)

    @staticmethod
    def environment():
        """Ours, without settings meant for another broker."""
        return {key: value for key, value in os.environ.items() if not key.startswith(("HORNPIPE_", "RABBITMQ_"))}

    def spawn(self):
        """Starts the process without waiting for it to serve."""
        self.data.mkdir(parents=True, exist_ok=True)
        # Left behind by a killed process, it would say "serving" before it is true.
        (self.data / "ports.json").unlink(missing_ok=True)
        env = {**self.environment(), **self.extra}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    self.binary(),
                    "--data-dir",
                    str(self.data),
                    # The port of the first start again, so that clients which reconnect find it.
                    "--amqp",
                    f"127.0.0.1:{self.port}",
                    "--http",
                    f"127.0.0.1:{self.http_port if self.keep_http else 0}",
                    "--metrics",
                    "127.0.0.1:0",
                ],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_serving(self):
        path = self.data / "ports.json"

        def ports():
            if self.process.poll() is not None:
                raise BrokerFailed(f"ended with {self.process.returncode} before serving\n{self.log_tail()}")
            try:
                return json.loads(path.read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                return None

        found = until(ports, f"{path} to appear")
        self.port = found["amqp"]
        self.http_port = found.get("http")
        self.metrics_port = found.get("metrics")

    def start(self):
        def serves():
            self.spawn()
            try:
                self.wait_serving()
            except BrokerFailed:
                # Between two starts the port may have been given to a connection of some other program.
                if self.port and "Address already in use" in self.log_tail(3):
                    return False
                raise
            return True

        until(serves, f"port {self.port} to be free")
        return self

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE)
        self.process = None
        return code

    def kill(self):
        self.process.kill()
        self.process.wait(DEADLINE)
        self.process = None

    def cleanup(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def log_tail(self, lines=40):
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class RabbitMq(Broker):
    kind = "rabbitmq"
    script = Path(__file__).with_name("rabbitmq.sh")

    def __init__(self, directory, env=None):
        self.directory = Path(directory) / "rabbitmq"
        # The default of RabbitMQ 4, whatever release stands in.
        self.env = dict(os.environ, MAX_MESSAGE_SIZE="16777216", MANAGEMENT="1")
        for key, value in (env or {}).items():
            if key == "HORNPIPE_MAX_MESSAGE_SIZE":
                self.env["MAX_MESSAGE_SIZE"] = value
            else:
                raise NotHere(f"no counterpart of {key} for RabbitMQ")

    def start(self):
        done = subprocess.run(
            [self.script, "start", self.directory], env=self.env, stdout=subprocess.PIPE, check=True, text=True
        )
        self.port = urllib.parse.urlsplit(done.stdout.strip()).port
        self.http_port = int((self.directory / "management_port").read_text())
        return self

    def ctl(self, *arguments):
        """Runs rabbitmqctl against this node."""
        subprocess.run([self.script, "ctl", self.directory, *arguments], check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        subprocess.run([self.script, "stop", self.directory], env=self.env, check=True)

    def kill(self):
        os.kill(int((self.directory / "pid").read_text()), signal.SIGKILL)
        self.stop()

    def cleanup(self):
        self.stop()


def make(directory, env=None, private=False, data=None):
    """The broker the environment asks for, not started yet. `private`: the caller means to stop, kill or configure it;
    `data`: where ours keeps its data, if not below `directory`."""
    if os.environ.get("AMQP_URL"):
        if private:
            raise NotHere("needs a broker of its own, and AMQP_URL names one that isn't ours")
        return External(os.environ["AMQP_URL"])
    if os.environ.get("BROKER") == "rabbitmq":
        return RabbitMq(directory, env)
    return Hornpipe(directory, env, data)
