#!/usr/bin/env bash
# Runs every scenario against RabbitMQ and against our binary side by side and compares live.
#
#   run.sh [options of run.py, e.g. --only 's14*/*']
#
# HORNPIPE_BIN=path is the binary (target/release/hornpipe), KEEP=1 leaves the brokers' files for a look. RabbitMQ comes from the
# distribution's package and is installed when it is not there. Both brokers listen on free ports of loopback only.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=${HORNPIPE_BIN:-$root/target/release/hornpipe}
[ -x "$binary" ] || { echo "run.sh: no $binary: cargo build --release" >&2; exit 1; }

if [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    # The package would start a server of its own; ours are private.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then policy=; else printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"; fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends rabbitmq-server >&2
    [ -z "$policy" ] || rm -f "$policy"
fi

work=$(mktemp -d)
broker=
finish() {
    [ -z "$broker" ] || kill "$broker" 2>/dev/null || true
    "$root/tests/run/rabbitmq.sh" stop "$work/rabbitmq" || true
    [ -z "$broker" ] || wait "$broker" 2>/dev/null || true
    if [ -n "${KEEP:-}" ]; then echo "run.sh: files are in $work" >&2; else rm -rf "$work"; fi
}
trap finish EXIT

mkdir "$work/data"
"$binary" --data-dir "$work/data" --amqp 127.0.0.1:0 --http 127.0.0.1:0 --metrics 127.0.0.1:0 >"$work/hornpipe.log" 2>&1 &
broker=$!

theirs=$(MANAGEMENT=1 \
    PLUGINS=rabbitmq_consistent_hash_exchange,rabbitmq_random_exchange,rabbitmq_recent_history_exchange,rabbitmq_sharding \
    "$root/tests/run/rabbitmq.sh" start "$work/rabbitmq")
their_admin=http://guest:guest@127.0.0.1:$(cat "$work/rabbitmq/management_port")

# Wait for the ports file; the deadline only bounds a start that never gets there.
read -r amqp http < <(python3 - "$work/data/ports.json" "$broker" <<'PY'
import json, os, sys, time
path, pid = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        os.kill(pid, 0)
        ports = json.load(open(path))
        print(ports["amqp"], ports["http"])
        sys.exit(0)
    except (FileNotFoundError, ValueError):
        time.sleep(0.05)
    except ProcessLookupError:
        break
sys.exit("the broker did not start")
PY
) || { tail -50 "$work/hornpipe.log" >&2; exit 1; }

address() { # a port or an address:port
    case $1 in *:*) echo "$1" ;; *) echo "127.0.0.1:$1" ;; esac
}

# Not exec: the trap has to end both brokers.
python3 "$here/run.py" --broker "amqp://guest:guest@$(address "$amqp")/%2F" --admin "http://guest:guest@$(address "$http")" \
    --against "$theirs" --against-admin "$their_admin" "$@"
