#!/usr/bin/env bash
# Off-the-shelf clients in other languages, each doing the round of a user. `run.sh` runs all, `run.sh php ruby` those.
#
# Clients come from Debian packages (apt-get, when run as root) and npm; what is fetched or built goes to .cache/clients.
# A client that cannot be had here is skipped with a word. BROKER=rabbitmq runs the same against a private RabbitMQ, which is the
# check of these scripts themselves. Each script prints `ok - what` or `not ok - what: expected …, got …`.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/.cache/clients
mkdir -p "$cache"
export PYTHONDONTWRITEBYTECODE=1
# Bounds a client that hangs; nothing is measured with it.
limit=${CLIENT_DEADLINE:-180}

work=$(mktemp -d)
cleanup() {
    "$here/broker.sh" stop "$work/broker" || true
    rm -rf "$work"
}
trap cleanup EXIT

packages() { # names: are they installed, or can they be?
    local missing=()
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${Status}' "$name" 2>/dev/null)" = "install ok installed" ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] || { echo "needs packages ${missing[*]}"; return 1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$work/apt.log" 2>&1 ||
        { echo "could not install ${missing[*]}: $(grep -m1 '^E:' "$work/apt.log")"; return 1; }
}

tools() { "$here/tools.sh"; }
tools_needs() { packages amqp-tools; }

php() { command php "$here/round.php"; }
php_needs() { packages php-cli php-amqplib; }

ruby() { command ruby "$here/round.rb"; }
ruby_needs() { packages ruby ruby-bunny; }

perl() { command perl "$here/round.pl"; }
perl_needs() { packages libanyevent-rabbitmq-perl; }

java() {
    local jars=/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar
    mkdir -p "$cache/java"
    javac -nowarn -d "$cache/java" -cp "$jars" "$here/Round.java" && command java -cp "$cache/java:$jars" Round
}
java_needs() {
    # Any JDK will do; Debian's is taken where none is.
    { command -v javac >/dev/null || packages default-jdk-headless; } && packages librabbitmq-client-java libslf4j-java
}

go() {
    mkdir -p "$cache/go"
    (cd "$here" && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$cache/go/build" command go build -o "$cache/go/round" round.go) &&
        "$cache/go/round"
}
go_needs() { packages golang-go golang-github-rabbitmq-amqp091-go-dev; }

# Built apart from the workspace, into the cache.
lapin() { CARGO_TARGET_DIR="$cache/lapin" cargo run -q --release --locked --manifest-path "$here/lapin/Cargo.toml"; }
lapin_needs() {
    CARGO_TARGET_DIR="$cache/lapin" cargo build -q --release --locked --manifest-path "$here/lapin/Cargo.toml" >"$work/lapin.log" 2>&1 ||
        { echo "cargo: $(grep -m1 '^error' "$work/lapin.log")"; return 1; }
}

manager() { (cd "$cache/node" && node round.mjs); }
manager_needs() {
    command -v npm >/dev/null || { echo "needs npm"; return 1; }
    mkdir -p "$cache/node"
    # Modules are looked up beside the script, and a folder of fetched modules has no place in the tree.
    cp "$here/package.json" "$here/package-lock.json" "$here/round.mjs" "$cache/node/" &&
        (cd "$cache/node" && npm ci --no-audit --no-fund --loglevel=error >"$work/npm.log" 2>&1) ||
        { echo "npm: $(tail -1 "$work/npm.log")"; return 1; }
}

admin() { "$here/admin.sh"; }
admin_needs() { packages rabbitmq-server; }

all=(tools php ruby perl java go lapin manager admin)
[ $# -gt 0 ] && wanted=("$@") || wanted=("${all[@]}")

"$here/broker.sh" start "$work/broker" || exit 1
AMQP_PORT=$(cat "$work/broker/amqp")
HTTP_PORT=$(cat "$work/broker/http")
RESTART="$here/broker.sh restart $work/broker"
WORK=$work
export AMQP_PORT HTTP_PORT RESTART WORK

passed=0 failed=0 skipped=0
for name in "${wanted[@]}"; do
    declare -F "${name}_needs" >/dev/null || { echo "no client $name; there are: ${all[*]}" >&2; exit 2; }
    if ! why=$("${name}_needs"); then
        echo "# $name skipped: $why"
        skipped=$((skipped + 1))
        continue
    fi
    echo "# $name"
    "$name" >"$work/out" 2>"$work/err" &
    pid=$!
    (sleep "$limit"; kill "$pid"; pkill -P "$pid") 2>/dev/null &
    guard=$!
    wait "$pid"
    code=$?
    pkill -P "$guard" 2>/dev/null
    kill "$guard" 2>/dev/null
    wait "$guard" 2>/dev/null
    grep -aE '^(not )?ok - ' "$work/out"
    good=$(grep -ac '^ok - ' "$work/out") bad=$(grep -ac '^not ok - ' "$work/out")
    # A script that breaks off, or says nothing, has failed, whatever it printed before.
    if [ "$code" -gt 1 ] || { [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; } || [ $((good + bad)) -eq 0 ]; then
        echo "not ok - $name ended with $code"
        grep -avE '^(not )?ok - ' "$work/out" | tail -20
        tail -20 "$work/err"
        bad=$((bad + 1))
    fi
    passed=$((passed + good)) failed=$((failed + bad))
done
[ "$skipped" -eq 0 ] || echo "$skipped clients skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
