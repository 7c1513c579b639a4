#!/usr/bin/env bash
# rabbitmqadmin, the Python tool of RabbitMQ's own package, against the HTTP API.
set -uo pipefail

bad=0
# Debian's package has the tool among the management plugin's files, unless it is linked into the path.
tool=$(command -v rabbitmqadmin || find /usr/lib/rabbitmq /var/lib/rabbitmq -name rabbitmqadmin -type f 2>/dev/null | head -1)
[ -n "$tool" ] || { echo "no rabbitmqadmin on this machine"; exit 3; }
admin() { HOME=$WORK python3 "$tool" -H 127.0.0.1 -P "$HTTP_PORT" "$@" 2>&1; }

same() { # what, expected, got
    if [ "$2" == "$3" ]; then
        echo "ok - admin: $1"
    else
        echo "not ok - admin: $1: expected $2, got $(head -c 600 <<<"$3")"
        bad=1
    fi
}

same "declare queue" "queue declared" "$(admin declare queue name=clients.admin durable=true arguments='{"x-max-length":100}')"
same "declare exchange" "exchange declared" "$(admin declare exchange name=clients.admin.x type=topic)"
same "declare binding" "binding declared" "$(admin declare binding source=clients.admin.x destination=clients.admin routing_key='a.#')"
same "publish, routed" "Message published" "$(admin publish exchange=clients.admin.x routing_key=a.b payload=hello)"
same "publish, not routed" "Message published but NOT routed" "$(admin publish exchange=clients.admin.x routing_key=none payload=hello)"
same "publish with properties" "Message published" \
    "$(admin publish exchange=amq.default routing_key=clients.admin payload=two properties='{"delivery_mode":2,"headers":{"a":1}}')"
same "get, put back" $'routing_key\texchange\tmessage_count\tpayload\tpayload_bytes\tpayload_encoding\tproperties\tredelivered\na.b\tclients.admin.x\t1\thello\t5\tstring\t\tFalse' \
    "$(admin -f tsv get queue=clients.admin ackmode=ack_requeue_true)"
same "get two, taken" $'routing_key\tpayload\tredelivered\na.b\thello\tTrue\nclients.admin\ttwo\tFalse' \
    "$(admin -f tsv get queue=clients.admin ackmode=ack_requeue_false count=2 | cut -f1,4,8)"
same "list queues" $'clients.admin\tTrue\tclassic' "$(admin -f tsv list queues name durable type | grep '^clients.admin')"
same "list exchanges" $'clients.admin.x\ttopic' "$(admin -f tsv list exchanges name type | grep '^clients.admin')"
same "list bindings" $'clients.admin.x\tclients.admin\ta.#' "$(admin -f tsv list bindings source destination routing_key | grep '^clients.admin.x')"
for what in vhosts users permissions nodes connections channels consumers policies parameters; do
    admin -f tsv list $what >/dev/null
    same "list $what" 0 $?
done
admin show overview >/dev/null
same "show overview" 0 $?
same "declare policy" "policy declared" "$(admin declare policy name=clients pattern='^clients' definition='{"message-ttl":60000}' apply-to=queues)"
same "declare user" "user declared" "$(admin declare user name=clients password=secret tags=monitoring)"
same "declare vhost" "vhost declared" "$(admin declare vhost name=clients)"
same "declare permission" "permission declared" "$(admin declare permission vhost=clients user=clients configure='.*' write='.*' read='.*')"
same "export" "Exported definitions for 127.0.0.1 to \"$WORK/definitions.json\"" "$(admin export "$WORK/definitions.json")"
same "delete queue" "queue deleted" "$(admin delete queue name=clients.admin)"
same "delete exchange" "exchange deleted" "$(admin delete exchange name=clients.admin.x)"
same "delete policy" "policy deleted" "$(admin delete policy name=clients)"
same "delete vhost" "vhost deleted" "$(admin delete vhost name=clients)"
same "delete user" "user deleted" "$(admin delete user name=clients)"
same "import" "Uploaded definitions from \"127.0.0.1\" to $WORK/definitions.json. The import process may take some time. Consult server logs to track progress." \
    "$(admin import "$WORK/definitions.json")"
same "import brought the binding back" $'clients.admin.x\tclients.admin\ta.#' \
    "$(admin -f tsv list bindings source destination routing_key | grep '^clients.admin.x')"
same "import brought the permission back" $'clients\tclients' "$(admin -f tsv list permissions vhost user | grep 'clients$')"
same "purge" "queue purged" "$(admin purge queue name=clients.admin)"
# RabbitMQ 3.10 gives the bare text, 4.x the code and its name before it, and so do we.
same "redeclare otherwise is refused" \
    "*** inequivalent arg 'x-max-length' for queue 'clients.admin' in vhost '/': received none but current is the value '100' of type 'long'" \
    "$(admin declare queue name=clients.admin durable=true | sed 's/^\*\*\* 406 PRECONDITION_FAILED - /*** /')"
same "delete of what is not there" "*** Not found: /api/queues/%2F/clients.none" "$(admin delete queue name=clients.none)"
same "a wrong password" "*** Access refused: /api/queues?columns=name" "$(admin -u guest -p wrong list queues name)"
admin delete queue name=clients.admin >/dev/null
admin delete exchange name=clients.admin.x >/dev/null
admin delete policy name=clients >/dev/null
admin delete vhost name=clients >/dev/null
admin delete user name=clients >/dev/null
exit $bad
