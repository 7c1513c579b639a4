// amqp-connection-manager: a wrapper that holds what it is told until a broker is there.
import { exec } from 'node:child_process';
import { isDeepStrictEqual } from 'node:util';
import { once } from 'node:events';
import amqp from 'amqp-connection-manager';

let bad = 0;
function same(what, expected, got) {
  if (isDeepStrictEqual(expected, got)) console.log(`ok - manager: ${what}`);
  else {
    bad = 1;
    console.log(`not ok - manager: ${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(got)}`);
  }
}

const connection = amqp.connect([`amqp://guest:guest@127.0.0.1:${process.env.AMQP_PORT}/`], { reconnectTimeInSeconds: 0.1 });
const name = 'clients.manager';
const seen = [];
const waiters = [];
const channel = connection.createChannel({
  confirm: true,
  setup: async (ch) => {
    await ch.assertQueue(name, { durable: true });
    await ch.assertExchange('clients.manager.x', 'direct', { durable: true });
    await ch.bindQueue(name, 'clients.manager.x', 'k');
  },
});
const arrived = async (count) => {
  while (seen.length < count) await new Promise((wake) => waiters.push(wake));
};
await channel.waitForConnect();
const headers = { int: 7, big: 2 ** 40, text: 'ü', yes: true, none: null, float: 1.5, list: [1, 'two'], nested: { k: { v: 1 } } };
await channel.publish('clients.manager.x', 'k', Buffer.from('one'), { headers, persistent: true, correlationId: 'c', priority: 3, timestamp: 1700000000 });
await channel.publish('clients.manager.x', 'k', Buffer.alloc(300000), { persistent: true });
let first = true;
await channel.consume(
  name,
  (message) => {
    if (first) {
      first = false;
      same('headers of every type', headers, message.properties.headers);
      channel.nack(message, false, true);
      return;
    }
    seen.push([message.content.length, message.fields.redelivered]);
    channel.ack(message);
    waiters.splice(0).forEach((wake) => wake());
  },
  { prefetch: 1 },
);
await arrived(2);
same('consume with prefetch 1, nack, ack', [[3, true], [300000, false]], seen);

const lost = once(connection, 'disconnect');
const restarted = new Promise((done) => exec(process.env.RESTART, done));
const [{ err }] = await lost;
// Held by the wrapper until the channel is set up anew.
const held = channel.sendToQueue(name, Buffer.from('after'), { persistent: true });
same('a restart ends the connection', 320, err.code);
await restarted;
await held;
await arrived(3);
same('reconnects, sets up and consumes by itself', [5, false], seen[2]);
await channel.cancelAll();
await channel.deleteQueue(name);
await connection.close();
process.exit(bad);
