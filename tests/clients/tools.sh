#!/usr/bin/env bash
# librabbitmq's command-line tools: amqp-publish, amqp-get, amqp-consume, amqp-declare-queue, amqp-delete-queue.
set -uo pipefail

url="amqp://guest:guest@127.0.0.1:$AMQP_PORT/%2F"
queue=clients.tools
bad=0

same() { # what, expected, got
    if [ "$2" == "$3" ]; then
        echo "ok - tools: $1"
    else
        echo "not ok - tools: $1: expected $2, got $3"
        bad=1
    fi
}

holds() { # what, part, got
    case $3 in
    *"$2"*) echo "ok - tools: $1" ;;
    *)
        echo "not ok - tools: $1: expected …$2…, got $3"
        bad=1
        ;;
    esac
}

same "declare prints the name" "$queue" "$(amqp-declare-queue -u "$url" -d -q $queue 2>&1)"
holds "declare without a name gets one" "amq.gen-" "$(amqp-declare-queue -u "$url" -q '' 2>&1)"
amqp-publish -u "$url" -r $queue -p -C text/plain -b "first"
same "publish ends with 0" 0 $?
printf 'from stdin' | amqp-publish -u "$url" -r $queue -p -H 'x-a: b'
same "publish from stdin ends with 0" 0 $?
printf 'one\ntwo\n' | amqp-publish -u "$url" -r $queue -l
same "publish line by line ends with 0" 0 $?
same "get" first "$(amqp-get -u "$url" -q $queue 2>&1)"
same "consume with prefetch and acks" "from stdin" "$(amqp-consume -u "$url" -q $queue -p 1 -c 1 cat 2>&1)"
same "consume two without acks" "$(printf 'one\ntwo')" "$(amqp-consume -u "$url" -q $queue -A -c 2 cat 2>&1)"
out=$(amqp-get -u "$url" -q $queue 2>&1)
same "get of an empty queue ends with 2" "2:" "$?:$out"
holds "redeclare as transient is refused" "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '$queue' in vhost '/'" \
    "$(amqp-declare-queue -u "$url" -q $queue 2>&1)"
holds "get of a missing queue is 404" "server channel error 404, message: NOT_FOUND - no queue 'clients.none' in vhost '/'" \
    "$(amqp-get -u "$url" -q clients.none 2>&1)"
holds "a wrong password is refused" "403" "$(amqp-get -u "amqp://guest:wrong@127.0.0.1:$AMQP_PORT/%2F" -q $queue 2>&1)"
holds "an unknown vhost is refused" "NOT_ALLOWED - vhost none not found" \
    "$(amqp-get -u "amqp://guest:guest@127.0.0.1:$AMQP_PORT/none" -q $queue 2>&1)"

# A queue bound to an exchange: the tool makes a queue of its own when given an exchange.
amqp-consume -u "$url" -e amq.topic -r 'clients.*' -c 1 cat >"$WORK/bound" 2>&1 </dev/null &
consumer=$!
for _ in $(seq 200); do
    amqp-publish -u "$url" -e amq.topic -r clients.tools -b bound
    kill -0 $consumer 2>/dev/null || break
    sleep 0.05
done
kill $consumer 2>/dev/null
wait $consumer 2>/dev/null
holds "consume from an exchange" "bound" "$(cat "$WORK/bound")"

# 300 kB is several frames.
head -c 300000 /dev/zero | tr '\0' z >"$WORK/large"
amqp-publish -u "$url" -r $queue <"$WORK/large"
amqp-get -u "$url" -q $queue >"$WORK/larger" 2>/dev/null
cmp -s "$WORK/large" "$WORK/larger"
same "a body of several frames comes back whole" 0 $?

amqp-publish -u "$url" -r $queue -p -b "kept" && $RESTART
same "a persistent message is there after a restart" kept "$(amqp-get -u "$url" -q $queue 2>&1)"
amqp-publish -u "$url" -r $queue -b "rest"
same "delete prints the number of messages" 1 "$(amqp-delete-queue -u "$url" -q $queue 2>&1)"
exit $bad
