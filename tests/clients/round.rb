# Bunny: the round of a user.
require "bunny"

$bad = 0
def same(what, expected, got)
  if expected == got
    puts "ok - ruby: #{what}"
  else
    $bad = 1
    puts "not ok - ruby: #{what}: expected #{expected.inspect}, got #{got.inspect}"
  end
end

def refused(what, kind, text)
  yield
  same(what, text, "no error")
rescue kind => e
  same(what, text, e.message)
end

$stdout.sync = true
port = Integer(ENV["AMQP_PORT"])
quiet = { host: "127.0.0.1", port: port, log_level: :fatal, recover_from_connection_close: true, network_recovery_interval: 0.2 }
connection = Bunny.new(quiet)
connection.start
channel = connection.create_channel
name = "clients.ruby"
queue = channel.queue(name, durable: true, arguments: { "x-max-length" => 1000 })
exchange = channel.headers("clients.ruby.x", durable: true)
queue.bind(exchange, arguments: { "x-match" => "all", "kind" => "a" })

returned = Queue.new
exchange.on_return { |info, _properties, body| returned << [info.reply_code, info.reply_text, body] }
channel.confirm_select
now = Time.at(1_700_000_000)
headers = { "kind" => "a", "int" => 7, "neg" => -5, "big" => 1 << 40, "text" => "ü".b, "yes" => true, "none" => nil, "float" => 1.5, "list" => [1, "two"],
            "nested" => { "k" => { "v" => 1 } }, "time" => now }
exchange.publish("one", headers: headers, persistent: true, content_type: "text/plain", correlation_id: "c", reply_to: "r", message_id: "m",
                        timestamp: now.to_i, type: "t", app_id: "a", expiration: "60000", priority: 3)
exchange.publish("z" * 300_000, headers: { "kind" => "a" })
exchange.publish("lost", headers: { "kind" => "b" }, mandatory: true)
same("confirms", true, channel.wait_for_confirms)
same("a return", [312, "NO_ROUTE", "lost"], returned.pop)

delivery, properties, body = queue.pop(manual_ack: true)
same("get", ["one", false], [body, delivery.redelivered?])
same("headers of every type", headers, properties.headers)
same("properties", ["text/plain", 2, "c", "r", "m", now, "t", "a", "60000", 3],
     [properties.content_type, properties.delivery_mode, properties.correlation_id, properties.reply_to, properties.message_id, properties.timestamp,
      properties.type, properties.app_id, properties.expiration, properties.priority])
channel.nack(delivery.delivery_tag, false, true)

seen = Queue.new
channel.prefetch(1)
count = 0
consumer = queue.subscribe(manual_ack: true) do |info, _properties, text|
  count += 1
  seen << [text.bytesize, info.redelivered?]
  count == 1 ? channel.reject(info.delivery_tag, true) : channel.ack(info.delivery_tag)
end
same("consume with prefetch 1, reject, ack", [[3, true], [3, true], [300_000, false]], Array.new(3) { seen.pop })
consumer.cancel
same("empty get", [nil, nil, nil], queue.pop)

tx = connection.create_channel
tx.tx_select
tx.default_exchange.publish("undone", routing_key: name)
tx.tx_rollback
tx.default_exchange.publish("done", routing_key: name, persistent: true)
tx.tx_commit
same("rollback leaves nothing, commit one", 1, queue.message_count)

refused("404 of a missing queue", Bunny::NotFound, "NOT_FOUND - no queue 'clients.none' in vhost '/'") do
  connection.create_channel.queue("clients.none", passive: true)
end
refused("406 of an inequivalent declare", Bunny::PreconditionFailed,
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'clients.ruby' in vhost '/': received none but current is the value '1000' of type 'long'") do
  connection.create_channel.queue(name, durable: true)
end
refused("403 of a reserved name", Bunny::AccessRefused, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'") do
  connection.create_channel.direct("amq.mine")
end
other = Bunny.new(quiet)
other.start
connection.create_channel.queue("clients.ruby.mine", exclusive: true)
refused("405 of another's exclusive queue", Bunny::ResourceLocked,
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'clients.ruby.mine' in vhost '/'. It could be originally declared on another connection " \
        "or the exclusive property value does not match that of the original declaration.") do
  other.create_channel.queue("clients.ruby.mine", passive: true)
end
other.close
begin
  Bunny.new(quiet.merge(password: "wrong", recover_from_connection_close: false)).start
  same("a wrong password", "refused", "accepted")
rescue Bunny::AuthenticationFailureError, Bunny::PossibleAuthenticationFailureError => e
  same("a wrong password", Bunny::AuthenticationFailureError, e.class)
end

cancelled = Queue.new
gone = channel.queue("clients.ruby.gone", exclusive: true)
watcher = Bunny::Consumer.new(channel, gone)
watcher.on_cancellation { cancelled << true }
gone.subscribe_with(watcher)
connection.create_channel.queue_delete("clients.ruby.gone")
same("a deleted queue cancels its consumer", true, cancelled.pop)

system(ENV["RESTART"], exception: false)
text = nil
200.times do
  _info, _properties, text = queue.pop
  break
rescue Bunny::Exception, Timeout::Error
  sleep 0.1
end
same("recovers by itself; the committed message is there after a restart", "done", text)
channel = connection.create_channel
channel.queue_delete(name)
channel.exchange_delete("clients.ruby.x")
connection.close
exit $bad
