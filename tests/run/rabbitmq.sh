#!/usr/bin/env bash
# A private RabbitMQ to compare against, from the distribution's package (apt-get install rabbitmq-server).
#
#   rabbitmq.sh start DIR   start one with all its files below DIR; the only line on stdout is its AMQP URL
#   rabbitmq.sh stop DIR    stop that one, and the epmd it brought with it
#   rabbitmq.sh url DIR     print the URL again
#   rabbitmq.sh ctl DIR …   rabbitmqctl on that one
#
# Every port is free at the time of the call and bound to loopback, so several can run side by side and beside
# a system-wide one. MANAGEMENT=1 adds the management plugin; its port is then in DIR/management_port.
# PLUGINS=a,b enables these as well.
# MAX_MESSAGE_SIZE=bytes sets max_message_size. Start again on the same DIR keeps the data and the AMQP port.
set -euo pipefail

fail() { echo "rabbitmq.sh: $*" >&2; exit 1; }

usage="usage: rabbitmq.sh start|stop|url DIR, or ctl DIR COMMAND…"
[ $# -eq 2 ] || [ "${1:-}" = ctl ] || fail "$usage"
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

server=/usr/lib/rabbitmq/bin/rabbitmq-server
plugins=/usr/lib/rabbitmq/bin/rabbitmq-plugins

free_ports() { # count: print that many distinct free loopback ports
    python3 - "$1" <<'PY'
import socket, sys
held = []
for _ in range(int(sys.argv[1])):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    held.append(s)
print(*(s.getsockname()[1] for s in held))
PY
}

alive() { # pid file: is that process there?
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

settings() {
    export HOME="$dir/home"
    export RABBITMQ_CONF_ENV_FILE=/dev/null
    export RABBITMQ_NODENAME="hp$dist_port@localhost"
    export RABBITMQ_MNESIA_BASE="$dir/mnesia"
    export RABBITMQ_LOG_BASE="$dir/log"
    export RABBITMQ_PID_FILE="$dir/pid"
    export RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins"
    export RABBITMQ_CONFIG_FILE="$dir/rabbitmq"
    export RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced"
    export RABBITMQ_DIST_PORT="$dist_port"
    export RABBITMQ_GENERATED_CONFIG_DIR="$dir/generated"
    export RABBITMQ_FEATURE_FLAGS_FILE="$dir/feature_flags"
    export ERL_EPMD_PORT="$epmd_port"
    export ERL_EPMD_ADDRESS=127.0.0.1
    export RABBITMQ_SERVER_START_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
}

case $command in
start)
    [ -x "$server" ] || fail "no $server: apt-get install -y --no-install-recommends rabbitmq-server"
    alive "$dir/pid" && fail "already running in $dir"
    mkdir -p "$dir/home" "$dir/mnesia" "$dir/log"
    if [ -s "$dir/ports" ]; then
        read -r amqp_port dist_port epmd_port management_port <"$dir/ports"
    else
        read -r amqp_port dist_port epmd_port management_port <<<"$(free_ports 4)"
        echo "$amqp_port $dist_port $epmd_port $management_port" >"$dir/ports"
    fi
    settings
    {
        echo "listeners.tcp.1 = 127.0.0.1:$amqp_port"
        echo "management.tcp.ip = 127.0.0.1"
        echo "management.tcp.port = $management_port"
        echo "log.console = false"
        echo "vm_memory_high_watermark.relative = 0.6"
        echo "disk_free_limit.absolute = 50MB"
        [ -z "${MAX_MESSAGE_SIZE:-}" ] || echo "max_message_size = $MAX_MESSAGE_SIZE"
    } >"$dir/rabbitmq.conf"
    if [ -n "${MANAGEMENT:-}" ]; then
        echo "[rabbitmq_management${PLUGINS:+,$PLUGINS}]." >"$dir/enabled_plugins"
        echo "$management_port" >"$dir/management_port"
        # A management key without its plugin would be refused, so it is only written with it.
    else
        echo "[${PLUGINS:-}]." >"$dir/enabled_plugins"
        sed -i '/^management\./d' "$dir/rabbitmq.conf"
    fi
    epmd -address 127.0.0.1 -port "$epmd_port" </dev/null >"$dir/epmd.log" 2>&1 &
    echo $! >"$dir/epmd.pid"
    setsid "$server" </dev/null >"$dir/out.log" 2>&1 &
    echo $! >"$dir/starter.pid"
    # Ready when the port answers a protocol header; the deadline only bounds a start that never gets there.
    python3 - "$amqp_port" "$(cat "$dir/starter.pid")" <<'PY' || { tail -50 "$dir/out.log" >&2; "$0" stop "$dir" || true; fail "did not start"; }
import os, socket, sys, time
port, starter = int(sys.argv[1]), int(sys.argv[2])
deadline = time.monotonic() + 180
while time.monotonic() < deadline:
    try:
        os.kill(starter, 0)
    except ProcessLookupError:
        sys.exit("the server process ended")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            s.sendall(b"AMQP\x00\x00\x09\x01")
            if s.recv(1) == b"\x01":
                sys.exit(0)
    except OSError:
        pass
    time.sleep(0.2)
sys.exit("no answer in time")
PY
    echo "amqp://guest:guest@127.0.0.1:$amqp_port/%2F"
    ;;
url)
    read -r amqp_port _ <"$dir/ports"
    echo "amqp://guest:guest@127.0.0.1:$amqp_port/%2F"
    ;;
ctl)
    read -r amqp_port dist_port epmd_port management_port <"$dir/ports"
    settings
    shift 2
    exec /usr/lib/rabbitmq/bin/rabbitmqctl "$@"
    ;;
stop)
    for file in "$dir/pid" "$dir/starter.pid" "$dir/epmd.pid"; do
        if alive "$file"; then
            pid=$(cat "$file")
            kill "$pid" 2>/dev/null || true
            for _ in $(seq 300); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
            kill -KILL "$pid" 2>/dev/null || true
        fi
        rm -f "$file"
    done
    ;;
*)
    fail "$usage"
    ;;
esac
