# AnyEvent::RabbitMQ: the round of a user.
use strict;
use warnings;
use AnyEvent;
use AnyEvent::RabbitMQ;

my $bad = 0;

sub same {
    my ($what, $expected, $got) = @_;
    $got = 'undef' unless defined $got;
    if ($expected eq $got) { print "ok - perl: $what\n" }
    else { $bad = 1; print "not ok - perl: $what: expected $expected, got $got\n" }
}

# Runs one asynchronous method and waits for its answer.
sub wait_for {
    my ($object, $method, %arguments) = @_;
    my $done = AnyEvent->condvar;
    $object->$method(%arguments, on_success => sub { $done->send(@_) }, on_failure => sub { $done->croak("$method: " . (ref $_[0] ? 'failed' : $_[0])) });
    return $done->recv;
}

my $broker = AnyEvent::RabbitMQ->new->load_xml_spec;
sub connect_to {
    return wait_for($broker, 'connect', host => '127.0.0.1', port => $ENV{AMQP_PORT}, user => 'guest', pass => 'guest', vhost => '/',
        timeout => 20, on_close => sub { }, on_read_failure => sub { });
}
connect_to();
my $channel = wait_for($broker, 'open_channel', on_close => sub { });
my $name = 'clients.perl';
my $declared = wait_for($channel, 'declare_queue', queue => $name, durable => 1);
same('declare', "$name 0 0", join ' ', map { $declared->method_frame->$_ } qw(queue message_count consumer_count));
wait_for($channel, 'declare_exchange', exchange => 'clients.perl.x', type => 'fanout', durable => 1);
wait_for($channel, 'bind_queue', queue => $name, exchange => 'clients.perl.x', routing_key => '');
wait_for($channel, 'confirm');

sub publish {
    my (%arguments) = @_; # no returns: beside confirms this client doesn't tell of them
    my $done = AnyEvent->condvar;
    $channel->publish(%arguments, on_ack => sub { $done->send('ack') }, on_nack => sub { $done->send('nack') });
    return $done->recv;
}
same('a confirm', 'ack', publish(exchange => 'clients.perl.x', routing_key => '', body => 'one',
    header => { delivery_mode => 2, correlation_id => 'c', headers => { text => 'value', int => 7 } }));
same('a confirm of several frames', 'ack', publish(exchange => 'clients.perl.x', routing_key => '', body => 'z' x 300_000));

my $got = wait_for($channel, 'get', queue => $name, no_ack => 0);
same('get', 'one', $got->{body}->payload);
same('headers', 'value 7', join ' ', @{ $got->{header}->headers }{qw(text int)});
same('properties', '2 c', join ' ', $got->{header}->delivery_mode, $got->{header}->correlation_id);
$channel->reject(delivery_tag => $got->{ok}->method_frame->delivery_tag, requeue => 1);

wait_for($channel, 'qos', prefetch_count => 1);
my @seen;
my $three = AnyEvent->condvar;
my $consumer = wait_for($channel, 'consume', queue => $name, no_ack => 0, on_consume => sub {
    my $frame = $_[0]->{deliver}->method_frame;
    push @seen, length($_[0]->{body}->payload) . ($frame->redelivered ? ' again' : '');
    if (@seen == 1) { $channel->reject(delivery_tag => $frame->delivery_tag, requeue => 1) }
    else { $channel->ack(delivery_tag => $frame->delivery_tag) }
    $three->send if @seen == 3;
});
$three->recv;
same('consume with prefetch 1, reject, ack', '3 again,3 again,300000', join ',', @seen);
wait_for($channel, 'cancel', consumer_tag => $consumer->method_frame->consumer_tag);

my $tx = wait_for($broker, 'open_channel', on_close => sub { });
wait_for($tx, 'select_tx');
$tx->publish(exchange => '', routing_key => $name, body => 'undone');
wait_for($tx, 'rollback_tx');
$tx->publish(exchange => '', routing_key => $name, body => 'done', header => { delivery_mode => 2 });
wait_for($tx, 'commit_tx');
same('rollback leaves nothing, commit one', 1, wait_for($channel, 'declare_queue', queue => $name, passive => 1)->method_frame->message_count);

my $closed = AnyEvent->condvar;
my $other = wait_for($broker, 'open_channel', on_close => sub { $closed->send($_[0]->method_frame) });
$other->declare_queue(queue => 'clients.none', passive => 1, on_success => sub { $closed->croak('declared') }, on_failure => sub { });
my $close = $closed->recv;
same('404 of a missing queue', "404 NOT_FOUND - no queue 'clients.none' in vhost '/'", $close->reply_code . ' ' . $close->reply_text);

wait_for($channel, 'delete_queue', queue => $name);
wait_for($channel, 'delete_exchange', exchange => 'clients.perl.x');
wait_for($broker, 'close');
exit $bad;
