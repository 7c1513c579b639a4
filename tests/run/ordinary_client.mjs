// amqplib's part of ordinary_clients.py: ordinary_client.mjs flow|confirmed|single URL COUNT prints figures as JSON.
import { createRequire } from 'node:module'

const require = createRequire(new URL('../node/', import.meta.url))
const amqp = require('amqplib')

const [kind, url, text] = process.argv.slice(2)
const count = Number(text)
const body = Buffer.alloc(256, 'x')
const queue = 'ordinary'

const connection = await amqp.connect(url)
const admin = await connection.createChannel()
await admin.deleteQueue(queue)
await admin.assertQueue(queue, { durable: true })

const now = () => performance.now()
const figures = {}
if (kind === 'flow') {
  const other = await amqp.connect(url)
  const from = await other.createChannel()
  await from.prefetch(200)
  const begin = now()
  let seen = 0
  const all = new Promise((resolve) => {
    from.consume(queue, (message) => {
      from.ack(message)
      if (++seen === count) resolve()
    })
  })
  const to = await connection.createChannel()
  for (let sent = 0; sent < count; sent++) {
    if (!to.sendToQueue(queue, body)) await new Promise((resolve) => to.once('drain', resolve))
  }
  await all
  figures['messages/s'] = (count * 1000) / (now() - begin)
  await other.close()
} else {
  const outstanding = kind === 'single' ? 1 : 100
  const channel = await connection.createConfirmChannel()
  const waits = []
  const begin = now()
  let sent = 0
  const lane = async () => {
    while (sent < count) {
      sent++
      const at = now()
      await new Promise((resolve, reject) => {
        channel.sendToQueue(queue, body, { persistent: true }, (error) => (error ? reject(error) : resolve()))
      })
      waits.push(now() - at)
    }
  }
  await Promise.all(Array.from({ length: outstanding }, lane))
  figures['messages/s'] = (count * 1000) / (now() - begin)
  waits.sort((a, b) => a - b)
  figures['confirm p50, ms'] = waits[Math.floor(waits.length / 2)]
  const { messageCount } = await admin.checkQueue(queue)
  if (messageCount !== count) throw new Error(`${messageCount} messages wait, ${count} were confirmed`)
}
await admin.deleteQueue(queue)
await connection.close()
console.log(JSON.stringify(figures))
