"""Two vhosts under load at once, with one shard and with two, in turns: what each gets, and what it costs.

`python two_vhosts.py [CASES] [ROUNDS]`: letters of the bench's cases, `a,c` and 2 by default. The bench runs twice at the
same time, once against each vhost; $HORNPIPE_BENCH names it, else target/release/hornpipe-bench.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import brokers

BENCH = os.environ.get("HORNPIPE_BENCH", str(brokers.ROOT / "target/release/hornpipe-bench"))


def load(broker, case):
    """Starts the bench against both vhosts and prints what each said."""
    running = {}
    for vhost in ("%2F", "b"):
        url = f"amqp://{broker.user}:{broker.password}@127.0.0.1:{broker.port}/{vhost}"
        command = [BENCH, "run", case, "--seconds", "5", "--url", url, "--pid", str(broker.process.pid)]
        running[vhost] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for vhost, process in running.items():
        said = process.communicate(timeout=brokers.DEADLINE)[0]
        if process.returncode != 0:
            sys.exit(f"the bench ended with {process.returncode}: {said}")
        print(f"  vhost {vhost}:", " | ".join(" ".join(line.split()) for line in said.strip().splitlines()[1:]))


def main():
    cases = (sys.argv[1:2] or ["a,c"])[0].split(",")
    rounds = int((sys.argv[2:3] or ["2"])[0])
    for case in cases:
        for _ in range(rounds):
            for shards in ("1", "2"):
                folder = Path(tempfile.mkdtemp(prefix="two-vhosts-"))
                broker = brokers.make(folder, {"HORNPIPE_SHARDS": shards}, private=True)
                try:
                    broker.start()
                    brokers.add_vhost(broker, "b")
                    print(f"case {case}, shards = {shards}", flush=True)
                    load(broker, case)
                    broker.stop()
                finally:
                    broker.cleanup()
                    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
