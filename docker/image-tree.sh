#!/usr/bin/env bash
# image-tree.sh DIR: builds the image's root file system in DIR/rootfs without a container engine, starts the binary in it by
# chroot as the image's user, and checks that it serves, answers its health check and stops cleanly.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
mkdir -p "$1"
out=$(cd "$1" && pwd)
tree=$out/rootfs
rm -rf "$tree"
"$here/static-build.sh" "$out/hornpipe"
"$here/tree.sh" "$out/hornpipe" "$tree"
echo "tree: $(du -sh "$tree" | cut -f1) in $tree"
if [ "$(id -u)" != 0 ]; then
    echo "not root: the tree is built, but not started"
    exit 0
fi

chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)

inside() { # the image's user and environment, with ports that are free here
    env -i HORNPIPE_DATA_DIR=/var/lib/rabbitmq HORNPIPE_LOOPBACK_USERS= \
        HORNPIPE_AMQP=127.0.0.1:0 HORNPIPE_HTTP=127.0.0.1:0 HORNPIPE_METRICS=127.0.0.1:0 \
        "$chroot" --userspec=999:999 "$tree" /usr/bin/hornpipe "$@"
}

# What every engine puts into a container; the image itself has no /dev. A static program asks these files for randomness.
mkdir -p "$tree/dev"
mknod -m 666 "$tree/dev/null" c 1 3
mknod -m 666 "$tree/dev/random" c 1 8
mknod -m 666 "$tree/dev/urandom" c 1 9

inside >"$out/broker.log" 2>&1 &
pid=$!
trap 'kill -KILL $pid 2>/dev/null || true; rm -rf "$tree/dev"' EXIT
ports=$tree/var/lib/rabbitmq/ports.json
for _ in $(seq 600); do
    [ -s "$ports" ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.1
done
[ -s "$ports" ] || { cat "$out/broker.log"; echo "image tree: FAILED, it doesn't serve"; exit 1; }
inside healthcheck
amqp=$(sed -E 's/.*"amqp": *([0-9]+).*/\1/' <(tr -d '\n' <"$ports"))
if [ -x "$root/.cache/python" ]; then
    AMQP_URL="amqp://guest:guest@127.0.0.1:$amqp/%2F" "$root/.cache/python" -m pytest -q "$root/tests/python/test_publish.py" \
        -k "confirms_one_by_one or properties"
fi
# chroot replaces itself by the program, but `env -i` in a shell function ran in a subshell: the broker is its child or itself.
broker=$(pgrep -P $pid -x hornpipe || echo $pid)
kill -TERM "$broker"
code=0
wait $pid || code=$?
trap 'rm -rf "$tree/dev"' EXIT
[ $code = 0 ] || { cat "$out/broker.log"; echo "image tree: FAILED, exit code $code"; exit 1; }
echo "image tree: ok"
