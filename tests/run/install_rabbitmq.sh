#!/usr/bin/env bash
# Installs the distribution's RabbitMQ if it isn't there, without starting its service: the bench starts private ones.
set -euo pipefail
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "RabbitMQ isn't here: apt-get install -y --no-install-recommends rabbitmq-server" >&2
    exit 1
fi
# Packages ask this before they start a service; 101 says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends rabbitmq-server; }
install >/dev/null 2>&1 || { apt-get update >/dev/null && install >/dev/null; }
# Where a service manager has it enabled all the same, it must not come up with the next boot either.
if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
    systemctl disable --now rabbitmq-server epmd.socket epmd.service >/dev/null 2>&1 || true
fi
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]
