#!/usr/bin/env bash
# Starts the built broker on free ports and a temporary folder, runs a command against it, stops it by its pid.
# The command finds AMQP_URL, HORNPIPE_AMQP, HORNPIPE_HTTP, HORNPIPE_METRICS and ADMIN_URL (with the
# user) in its environment.
set -euo pipefail
bin=${HORNPIPE_BIN:-$(dirname "$0")/../../target/release/hornpipe}
dir=$(mktemp -d)
# every HORNPIPE_ variable is a setting to the broker
env -u HORNPIPE_BIN "$bin" --data-dir "$dir/data" --amqp 127.0.0.1:0 --http 127.0.0.1:0 --metrics 127.0.0.1:0 --log-level warn >"$dir/log" 2>&1 &
pid=$!
finish() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT
until [ -s "$dir/data/ports.json" ]; do
    if ! kill -0 "$pid" 2>/dev/null; then
        cat "$dir/log" >&2
        echo "the broker did not start" >&2
        exit 1
    fi
    sleep 0.05
done
port() { sed -E "s/.*\"$1\":([0-9]+).*/\1/" "$dir/data/ports.json"; }
export AMQP_URL="amqp://guest:guest@127.0.0.1:$(port amqp)/"
export HORNPIPE_AMQP="$AMQP_URL"
export HORNPIPE_HTTP="http://127.0.0.1:$(port http)"
export ADMIN_URL="http://guest:guest@127.0.0.1:$(port http)"
export HORNPIPE_METRICS="http://127.0.0.1:$(port metrics)"
"$@"
