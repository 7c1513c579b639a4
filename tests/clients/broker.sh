#!/usr/bin/env bash
# The broker the client rounds talk to.
#
#   broker.sh start DIR     start it with all its files below DIR, wait until it serves
#   broker.sh restart DIR   stop it cleanly and start it again on the same data and AMQP port
#   broker.sh stop DIR
#
# DIR/amqp and DIR/http then hold the port numbers. BROKER=rabbitmq takes a private RabbitMQ instead of
# $HORNPIPE_BIN (target/release/hornpipe when unset).
set -euo pipefail

fail() { echo "broker.sh: $*" >&2; exit 1; }

[ $# -eq 2 ] || fail "usage: broker.sh start|restart|stop DIR"
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$2"
dir=$(cd "$2" && pwd)
rabbitmq=$root/tests/run/rabbitmq.sh

ended() { ! kill -0 "$1" 2>/dev/null; }

start() {
    if [ "${BROKER:-}" = rabbitmq ]; then
        url=$(MANAGEMENT=1 "$rabbitmq" start "$dir/rabbitmq")
        port=${url##*:}
        echo "${port%%/*}" >"$dir/amqp"
        cp "$dir/rabbitmq/management_port" "$dir/http"
        return
    fi
    local bin=${HORNPIPE_BIN:-$root/target/release/hornpipe} ports=$dir/data/ports.json
    [ -x "$bin" ] || fail "no binary at $bin: run \`make build\` or set HORNPIPE_BIN"
    mkdir -p "$dir/data"
    # Left behind by a killed process, it would say "serving" before it is true.
    rm -f "$ports"
    # In the broker's own environment every HORNPIPE_… is a setting.
    env -u HORNPIPE_BIN "$bin" --data-dir "$dir/data" \
        --amqp "127.0.0.1:$(cat "$dir/amqp" 2>/dev/null || echo 0)" \
        --http "127.0.0.1:$(cat "$dir/http" 2>/dev/null || echo 0)" --metrics 127.0.0.1:0 \
        </dev/null >>"$dir/broker.log" 2>&1 &
    local pid=$!
    echo "$pid" >"$dir/pid"
    until [ -s "$ports" ]; do
        ended "$pid" && { tail -40 "$dir/broker.log" >&2; fail "the broker ended before it served"; }
        sleep 0.02
    done
    python3 - "$ports" "$dir" <<'PY'
import json, sys
ports = json.load(open(sys.argv[1]))
for name in ("amqp", "http"):
    open(f"{sys.argv[2]}/{name}", "w").write(str(ports[name]))
PY
}

stop() {
    if [ "${BROKER:-}" = rabbitmq ]; then
        "$rabbitmq" stop "$dir/rabbitmq"
    elif [ -s "$dir/pid" ]; then
        local pid
        pid=$(cat "$dir/pid")
        kill "$pid" 2>/dev/null || true
        until ended "$pid"; do sleep 0.02; done
        rm -f "$dir/pid"
    fi
}

case $1 in
start) start ;;
restart) stop; start ;;
stop) stop ;;
*) fail "usage: broker.sh start|restart|stop DIR" ;;
esac
