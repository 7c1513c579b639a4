// amqplib against the broker: the same round as tests/python, through another library's eyes.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import crypto from 'node:crypto';
import { connect } from 'amqplib';
import { startBroker, until } from './broker.mjs';

const name = (stem = 't') => `${stem}-${crypto.randomUUID().slice(0, 13)}`;

/** Waits for the error a channel or connection gets from the broker. */
function failure(emitter) {
  return new Promise((done) => emitter.once('error', done));
}

/** Consumes `count` messages, acknowledges and returns them. */
async function collect(channel, queue, count, options = {}) {
  const got = [];
  const { consumerTag } = await channel.consume(
    queue,
    (message) => {
      if (message === null || got.length >= count) return;
      got.push(message);
      if (!options.noAck) channel.ack(message);
    },
    options,
  );
  await until(() => got.length >= count, `${count} messages from ${queue}, got ${got.length}`);
  await channel.cancel(consumerTag);
  return got;
}

describe('one broker', () => {
  let broker, connection, channel, made;

  before(async () => {
    broker = await startBroker();
  });
  after(async () => {
    await broker.cleanup();
  });
  beforeEach(async () => {
    made = [];
    connection = await connect(broker.url);
    connection.on('error', () => {});
    channel = await connection.createConfirmChannel();
  });
  afterEach(async () => {
    await connection.close().catch(() => {});
    const tidy = await connect(broker.url);
    const ch = await tidy.createChannel();
    for (const it of made) {
      await ch.deleteQueue(it);
      await ch.deleteExchange(it);
    }
    await tidy.close();
  });

  const fresh = (stem) => {
    made.push(name(stem));
    return made.at(-1);
  };
  const send = async (queue, ...bodies) => {
    for (const body of bodies) channel.sendToQueue(queue, Buffer.from(body), { persistent: true });
    await channel.waitForConfirms();
  };
  const bodies = (messages) => messages.map((message) => message.content.toString());

  test('publish with confirms, consume in order with prefetch', async () => {
    const queue = fresh();
    await channel.assertQueue(queue, { durable: true });
    const sent = Array.from({ length: 500 }, (_, n) => `${n}`);
    await send(queue, ...sent);
    await channel.prefetch(10);
    const got = await collect(channel, queue, 500);
    assert.deepEqual(bodies(got), sent);
    assert.ok(got.every((message) => !message.fields.redelivered));
    assert.equal((await channel.checkQueue(queue)).messageCount, 0);
  });

  test('prefetch bounds what is out', async () => {
    const queue = fresh();
    await channel.assertQueue(queue);
    await send(queue, ...'abcdefgh');
    const ch = await connection.createChannel();
    await ch.prefetch(3);
    const got = [];
    await ch.consume(queue, (message) => got.push(message));
    await until(() => got.length === 3, 'three deliveries');
    assert.deepEqual(await channel.checkQueue(queue), { queue, messageCount: 5, consumerCount: 1 });
    ch.ack(got[2], true);
    await until(() => got.length === 6, 'three more');
    assert.equal((await channel.checkQueue(queue)).messageCount, 2);
  });

  test('every exchange type', async () => {
    for (const [type, bindingKey, bindingArguments, key, headers, stray] of [
      ['direct', 'k', {}, 'k', {}, 'other'],
      ['fanout', '', {}, 'anything', {}, null],
      ['topic', 'a.*.#', {}, 'a.b.c', {}, 'a'],
      ['headers', '', { 'x-match': 'all', a: 1 }, '', { a: 1 }, 'no-headers'],
    ]) {
      const exchange = fresh('x');
      const queue = fresh();
      await channel.assertExchange(exchange, type, { durable: true });
      await channel.assertQueue(queue);
      await channel.bindQueue(queue, exchange, bindingKey, bindingArguments);
      if (stray !== null) channel.publish(exchange, stray, Buffer.from('stray'));
      channel.publish(exchange, key, Buffer.from(type), { headers });
      await channel.waitForConfirms();
      assert.deepEqual(bodies(await collect(channel, queue, 1)), [type]);
      assert.equal((await channel.checkQueue(queue)).messageCount, 0);
    }
  });

  test('exchange-to-exchange binding', async () => {
    const [first, second, queue] = [fresh('x'), fresh('y'), fresh()];
    await channel.assertExchange(first, 'topic');
    await channel.assertExchange(second, 'fanout');
    await channel.assertQueue(queue);
    await channel.bindExchange(second, first, '#.x');
    await channel.bindQueue(queue, second, '');
    channel.publish(first, 'a.x', Buffer.from('yes'));
    channel.publish(first, 'a.y', Buffer.from('no'));
    await channel.waitForConfirms();
    await channel.unbindExchange(second, first, '#.x');
    channel.publish(first, 'a.x', Buffer.from('late'));
    await channel.waitForConfirms();
    assert.deepEqual(bodies(await collect(channel, queue, 1)), ['yes']);
    assert.equal((await channel.checkQueue(queue)).messageCount, 0);
  });

  test('mandatory and unroutable: the return comes before the confirm', async () => {
    const events = [];
    channel.on('return', (message) => events.push(['return', message.fields.replyCode, message.fields.replyText, message.content.toString()]));
    channel.publish('amq.direct', name('nowhere'), Buffer.from('back'), { mandatory: true }, (error) => events.push(['confirm', error]));
    await channel.waitForConfirms();
    assert.deepEqual(events, [
      ['return', 312, 'NO_ROUTE', 'back'],
      ['confirm', null],
    ]);
  });

  test('nack puts back in place, reject drops', async () => {
    const queue = fresh();
    await channel.assertQueue(queue);
    await send(queue, 'a', 'b', 'c');
    const [a, b] = [await channel.get(queue), await channel.get(queue)];
    channel.nack(b);
    channel.reject(a, false);
    await until(async () => (await channel.checkQueue(queue)).messageCount === 2, 'the message to come back');
    const got = await collect(channel, queue, 2);
    assert.deepEqual(got.map((message) => [message.content.toString(), message.fields.redelivered]), [['b', true], ['c', false]]);
    assert.equal(await channel.get(queue), false);
  });

  test('a rejected publish is nacked', async () => {
    const queue = fresh();
    await channel.assertQueue(queue, { maxLength: 1, arguments: { 'x-overflow': 'reject-publish' } });
    const outcome = () => new Promise((done) => channel.sendToQueue(queue, Buffer.from('x'), {}, done));
    assert.equal(await outcome(), null);
    assert.ok((await outcome()) instanceof Error);
  });

  test('properties and header types', async () => {
    const queue = fresh();
    await channel.assertQueue(queue);
    const headers = {
      yes: true,
      int: 7,
      negative: -70000,
      big: 2 ** 40,
      float: 0.5,
      text: 'grüße',
      nothing: null,
      bytes: Buffer.from([0, 255, 1]),
      list: [1, 'two', [3]],
      table: { deep: { deeper: false } },
      stamp: { '!': 'timestamp', value: 1700000000 },
      decimal: { '!': 'decimal', value: { digits: 314, places: 2 } },
      int8: { '!': 'int8', value: -8 },
      int16: { '!': 'int16', value: -1600 },
      single: { '!': 'float', value: 1.5 },
    };
    const properties = {
      contentType: 'application/json',
      contentEncoding: 'utf-8',
      deliveryMode: 2,
      priority: 3,
      correlationId: 'c',
      replyTo: 'r',
      expiration: '3600000',
      messageId: 'm',
      timestamp: 1700000000,
      type: 't',
      userId: 'guest',
      appId: 'a',
    };
    channel.sendToQueue(queue, Buffer.from('{}'), { ...properties, headers });
    await channel.waitForConfirms();
    const [{ properties: got }] = await collect(channel, queue, 1);
    for (const [key, value] of Object.entries(properties)) assert.equal(got[key], value, key);
    assert.deepEqual(got.headers, {
      ...headers,
      int8: -8,
      int16: -1600,
      single: 1.5,
    });
  });

  test('bodies: none, around a frame, many frames', async () => {
    const queue = fresh();
    await channel.assertQueue(queue, { durable: true });
    for (const size of [0, 1, 4088, 4089, 131063, 131064, 131065, 5_000_000]) {
      const body = crypto.randomBytes(size);
      channel.sendToQueue(queue, body, { persistent: true });
      await channel.waitForConfirms();
      const [message] = await collect(channel, queue, 1);
      assert.ok(message.content.equals(body), `${size} octets`);
    }
  });

  test('frames as small as they get', async () => {
    const queue = fresh();
    await channel.assertQueue(queue);
    const narrow = await connect(`${broker.url}?frameMax=8192&channelMax=10`);
    const ch = await narrow.createConfirmChannel();
    const body = crypto.randomBytes(100_000);
    ch.sendToQueue(queue, body);
    await ch.waitForConfirms();
    assert.ok((await collect(ch, queue, 1))[0].content.equals(body));
    await narrow.close();
  });

  test('server-named, exclusive and auto-delete queues', async () => {
    const { queue } = await channel.assertQueue('', { exclusive: true });
    assert.match(queue, /^amq\.gen-/);
    const other = await connect(broker.url);
    const ch = await other.createChannel();
    const locked = failure(ch);
    await assert.rejects(ch.checkQueue(queue), /405/);
    assert.equal((await locked).code, 405);
    await other.close();

    const fleeting = fresh();
    await channel.assertQueue(fleeting, { autoDelete: true, durable: false });
    const { consumerTag } = await channel.consume(fleeting, () => {});
    await channel.cancel(consumerTag);
    const gone = failure(channel);
    await assert.rejects(channel.checkQueue(fleeting), /404/);
    assert.equal((await gone).code, 404);
  });

  test('error codes and texts', async () => {
    const queue = fresh();
    await channel.assertQueue(queue, { durable: true });
    for (const [call, code, text] of [
      [(ch) => ch.checkQueue(name()), 404, /NOT_FOUND - no queue/],
      [(ch) => ch.checkExchange(name()), 404, /NOT_FOUND - no exchange/],
      [(ch) => ch.assertQueue(queue, { durable: false }), 406, /PRECONDITION_FAILED - inequivalent arg 'durable' for queue/],
      [(ch) => ch.assertExchange(`amq.${name()}`, 'direct'), 403, /ACCESS_REFUSED/],
      [(ch) => ch.assertQueue(name(), { messageTtl: -1 }), 406, /PRECONDITION_FAILED - invalid arg 'x-message-ttl'/],
    ]) {
      const ch = await connection.createChannel();
      const failed = failure(ch);
      await assert.rejects(call(ch), text);
      assert.equal((await failed).code, code);
    }
    const ch = await connection.createChannel();
    const failed = failure(ch);
    ch.ack({ fields: { deliveryTag: 99 } });
    const error = await failed;
    assert.equal(error.code, 406);
    assert.match(error.message, /unknown delivery tag 99/);
  });

  test('wrong password and unknown vhost', async () => {
    await assert.rejects(connect(broker.url.replace('guest:guest@', 'guest:wrong@')), /ACCESS[_-]REFUSED/);
    await assert.rejects(connect(broker.url.replace('%2F', 'nowhere')), /NOT[_-]ALLOWED|got <ConnectionClose/);
  });

  test('a consumer hears that its queue is gone', async () => {
    const queue = fresh();
    await channel.assertQueue(queue);
    const ch = await connection.createChannel();
    let cancelled = false;
    await ch.consume(queue, (message) => {
      if (message === null) cancelled = true;
    });
    await channel.deleteQueue(queue);
    await until(() => cancelled, 'a null message');
  });

  test('request and reply over direct reply-to', async () => {
    const queue = fresh('rpc');
    await channel.assertQueue(queue);
    await channel.consume(queue, (request) => {
      channel.sendToQueue(request.properties.replyTo, Buffer.from(`re: ${request.content}`), {
        correlationId: request.properties.correlationId,
      });
      channel.ack(request);
    });
    const client = await connection.createChannel();
    const answers = [];
    await client.consume('amq.rabbitmq.reply-to', (message) => answers.push(message), { noAck: true });
    client.sendToQueue(queue, Buffer.from('hello'), { replyTo: 'amq.rabbitmq.reply-to', correlationId: '1' });
    await until(() => answers.length === 1, 'the answer');
    assert.equal(answers[0].content.toString(), 're: hello');
    assert.equal(answers[0].properties.correlationId, '1');
  });

  test('dead-lettering by rejection and by time', async () => {
    const [queue, dead, exchange] = [fresh(), fresh('dead'), fresh('dlx')];
    await channel.assertExchange(exchange, 'fanout');
    await channel.assertQueue(dead);
    await channel.bindQueue(dead, exchange, '');
    await channel.assertQueue(queue, { deadLetterExchange: exchange });
    await send(queue, 'rejected');
    channel.nack(await channel.get(queue), false, false);
    channel.sendToQueue(queue, Buffer.from('expired'), { expiration: '10' });
    await channel.waitForConfirms();
    const got = await collect(channel, dead, 2);
    assert.deepEqual(
      got.map((message) => [message.content.toString(), message.properties.headers['x-death'][0].reason]),
      [['rejected', 'rejected'], ['expired', 'expired']],
    );
    assert.equal(got[1].properties.expiration, undefined);
    assert.equal(got[1].properties.headers['x-death'][0]['original-expiration'], '10');
  });

  test('heartbeats keep an idle connection', async () => {
    const idle = await connect(`${broker.url}?heartbeat=1`);
    let closed = false;
    idle.on('error', () => (closed = true));
    idle.on('close', () => (closed = true));
    // Four beats from the broker, each due after half an interval of silence.
    let beats = 0;
    idle.connection.stream.on('data', (data) => {
      if (data[0] === 8) beats += 1;
    });
    await until(() => beats >= 6 || closed, 'six heartbeats');
    assert.equal(closed, false);
    await idle.close();
  });
});

describe('a broker of its own', () => {
  test('persistent messages survive a restart; the stop is a 320 and exit code 0', async (t) => {
    const broker = await startBroker();
    try {
      if (broker.external) return t.skip('AMQP_URL names a broker that is not ours to stop');
      let connection = await connect(broker.url);
      let channel = await connection.createConfirmChannel();
      await channel.assertQueue('kept', { durable: true });
      for (let n = 0; n < 100; n++) channel.sendToQueue('kept', Buffer.from(`${n}`), { persistent: true });
      await channel.waitForConfirms();
      // amqplib tells a forced close by the argument of its 'close' event, not by an 'error'.
      connection.on('error', () => {});
      const closed = new Promise((done) => connection.once('close', done));
      const code = await broker.stop();
      assert.equal(code, 0);
      assert.match(String(await closed), /320|CONNECTION[_-]FORCED/);
      await broker.start();
      connection = await connect(broker.url);
      channel = await connection.createChannel();
      const got = await collect(channel, 'kept', 100);
      assert.deepEqual(got.map((message) => message.content.toString()), Array.from({ length: 100 }, (_, n) => `${n}`));
      await connection.close();
    } finally {
      await broker.cleanup();
    }
  });
});
