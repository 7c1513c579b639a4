#!/usr/bin/env bash
# tree.sh BINARY DIR: the image's root file system. Needs no root; the owner of the data folder is set where it can be.
set -euo pipefail
binary=$1
tree=$2
mkdir -p "$tree"/{usr/bin,etc/hornpipe,var/lib/rabbitmq,tmp}
install -m 0755 "$binary" "$tree/usr/bin/hornpipe"
printf 'root:x:0:0:root:/:/sbin/nologin\nrabbitmq:x:999:999:hornpipe:/var/lib/rabbitmq:/sbin/nologin\n' >"$tree/etc/passwd"
printf 'root:x:0:\nrabbitmq:x:999:\n' >"$tree/etc/group"
chmod 1777 "$tree/tmp"
chmod 0750 "$tree/var/lib/rabbitmq"
if [ "$(id -u)" = 0 ]; then
    chown 999:999 "$tree/var/lib/rabbitmq"
fi
