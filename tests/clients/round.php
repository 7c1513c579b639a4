<?php
// php-amqplib: the round of a user.
require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPProtocolChannelException;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

$bad = 0;
function same(string $what, $expected, $got): void
{
    global $bad;
    if ($expected === $got) {
        echo "ok - php: $what\n";
    } else {
        $bad = 1;
        echo "not ok - php: $what: expected " . json_encode($expected) . ', got ' . json_encode($got) . "\n";
    }
}
function refused(string $what, int $code, string $text, callable $act): void
{
    try {
        $act();
        same($what, "$code $text", 'no error');
    } catch (AMQPProtocolChannelException $e) {
        same($what, "$code $text", $e->getCode() . ' ' . $e->getMessage());
    }
}
function connect(string $password = 'guest'): AMQPStreamConnection
{
    return new AMQPStreamConnection('127.0.0.1', (int) getenv('AMQP_PORT'), 'guest', $password);
}

$connection = connect();
$channel = $connection->channel();
$queue = 'clients.php';
same('declare', [$queue, 0, 0], $channel->queue_declare($queue, false, true, false, false, false, new AMQPTable(['x-max-priority' => 5])));
$channel->exchange_declare('clients.php.x', 'topic', false, true, false);
$channel->queue_bind($queue, 'clients.php.x', 'a.#');

$confirmed = $returned = 0;
$text = '';
$channel->confirm_select();
$channel->set_ack_handler(function () use (&$confirmed) { $confirmed++; });
$channel->set_return_listener(function ($code, $reason, $exchange, $key) use (&$text) { $text = "$code $reason $exchange $key"; });
$headers = ['int' => 7, 'neg' => -5, 'big' => 1 << 40, 'text' => 'ü', 'yes' => true, 'none' => null, 'float' => 1.5, 'list' => [1, 'two'], 'nested' => ['k' => ['v' => 1]]];
$message = new AMQPMessage('one', ['content_type' => 'text/plain', 'delivery_mode' => 2, 'correlation_id' => 'c', 'reply_to' => 'r', 'message_id' => 'm',
    'timestamp' => 1700000000, 'type' => 't', 'app_id' => 'a', 'expiration' => '60000', 'priority' => 3, 'application_headers' => new AMQPTable($headers)]);
$channel->basic_publish($message, 'clients.php.x', 'a.b');
$channel->basic_publish(new AMQPMessage(str_repeat('z', 300000)), 'clients.php.x', 'a');
$channel->basic_publish(new AMQPMessage('lost'), 'clients.php.x', 'none', true);
$channel->wait_for_pending_acks_returns(20);
same('three confirms', 3, $confirmed);
same('a return', '312 NO_ROUTE clients.php.x none', $text);

$got = $channel->basic_get($queue);
same('get', ['one', false, 1], [$got->getBody(), $got->isRedelivered(), $got->getMessageCount()]);
$properties = $got->get_properties();
$table = $properties['application_headers']->getNativeData();
unset($properties['application_headers']);
ksort($table);
$headers['float'] = '1.5'; // this client writes a float as text
ksort($headers);
same('headers of every type', $headers, $table);
same('properties', ['content_type' => 'text/plain', 'delivery_mode' => 2, 'priority' => 3, 'correlation_id' => 'c', 'reply_to' => 'r', 'expiration' => '60000',
    'message_id' => 'm', 'timestamp' => 1700000000, 'type' => 't', 'app_id' => 'a'], $properties);
$got->nack(true);

$seen = [];
$channel->basic_qos(0, 1, false);
$tag = $channel->basic_consume($queue, '', false, false, false, false, function (AMQPMessage $m) use (&$seen) {
    $seen[] = [strlen($m->getBody()), $m->isRedelivered()];
    if (count($seen) == 1) {
        $m->reject(true);
    } else {
        $m->ack();
    }
});
while (count($seen) < 3) {
    $channel->wait(null, false, 20);
}
same('consume with prefetch 1, reject, ack', [[3, true], [3, true], [300000, false]], $seen);
$channel->basic_cancel($tag);
same('empty get', null, $channel->basic_get($queue));

$tx = $connection->channel();
$tx->tx_select();
$tx->basic_publish(new AMQPMessage('undone'), '', $queue);
$tx->tx_rollback();
$tx->basic_publish(new AMQPMessage('done', ['delivery_mode' => 2]), '', $queue);
$tx->tx_commit();
same('rollback leaves nothing, commit one', 1, $channel->queue_declare($queue, true)[1]);

refused('404 of a missing queue', 404, "NOT_FOUND - no queue 'clients.none' in vhost '/'", function () use ($connection) {
    $connection->channel()->queue_declare('clients.none', true);
});
refused('406 of an inequivalent declare', 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'clients.php' in vhost '/': received 'false' but current is 'true'",
    function () use ($connection, $queue) { $connection->channel()->queue_declare($queue, false, false, false, false); });
refused('406 of an unknown delivery tag', 406, 'PRECONDITION_FAILED - unknown delivery tag 99', function () use ($connection) {
    $other = $connection->channel();
    $other->basic_ack(99);
    $other->queue_declare('', false, false, true);
});
refused('403 of a reserved name', 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", function () use ($connection) {
    $connection->channel()->queue_declare('amq.mine');
});
try {
    connect('wrong');
    same('a wrong password', 'refused', 'accepted');
} catch (\Exception $e) {
    same('a wrong password', 403, $e->getCode());
}

$cancelled = '';
$other = $connection->channel();
$other->queue_declare('clients.php.gone', false, false, true);
$other->basic_consume('clients.php.gone', 'watcher', false, true, false, false, function () {});
$channel->queue_delete('clients.php.gone');
try {
    $other->wait(null, false, 20);
} catch (\Exception $e) {
    $cancelled = get_class($e);
}
same('a deleted queue cancels its consumer', 'PhpAmqpLib\Exception\AMQPBasicCancelException', $cancelled);

shell_exec(getenv('RESTART'));
try {
    $channel->queue_declare($queue, true);
    same('a restart ends the connection', 'an error', 'none');
} catch (\Exception $e) {
    same('a restart ends the connection', true, true);
}
$connection = connect();
$channel = $connection->channel();
same('the committed message is there after a restart', 'done', $channel->basic_get($queue, true)->getBody());
same('purge', 0, $channel->queue_purge($queue));
$channel->queue_delete($queue);
$channel->exchange_delete('clients.php.x');
$connection->close();
exit($bad);
