// The broker under test: AMQP_URL, a private RabbitMQ (BROKER=rabbitmq), or the binary ($HORNPIPE_BIN or target/release/hornpipe).
import { spawn, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, '../..');
const script = path.join(root, 'tests/run/rabbitmq.sh');

/** Polls until the condition gives something truthy; the deadline only bounds a wait that would never end. */
export async function until(condition, what, deadline = 120_000) {
  const end = Date.now() + deadline;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`gave up waiting: ${what}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

class Broker {
  constructor() {
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hornpipe-node-'));
    this.data = path.join(this.directory, 'data');
    this.log = path.join(this.directory, 'broker.log');
    this.port = 0;
  }

  async start() {
    const binary = process.env.HORNPIPE_BIN ?? path.join(root, 'target/release/hornpipe');
    fs.mkdirSync(this.data, { recursive: true });
    const ports = path.join(this.data, 'ports.json');
    fs.rmSync(ports, { force: true });
    const log = fs.openSync(this.log, 'a');
    const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^(HORNPIPE|RABBITMQ)_/.test(key)));
    this.process = spawn(
      binary,
      ['--data-dir', this.data, '--amqp', `127.0.0.1:${this.port}`, '--http', '127.0.0.1:0', '--metrics', '127.0.0.1:0'],
      { env, stdio: ['ignore', log, log] },
    );
    fs.closeSync(log);
    this.exited = once(this.process, 'exit');
    const found = await until(() => {
      if (this.process.exitCode !== null) throw new Error(`ended with ${this.process.exitCode}\n${fs.readFileSync(this.log)}`);
      try {
        return JSON.parse(fs.readFileSync(ports, 'utf8'));
      } catch {
        return null;
      }
    }, `${ports} to appear`);
    this.port = found.amqp;
    this.url = `amqp://guest:guest@127.0.0.1:${this.port}/%2F`;
    return this;
  }

  /** Asks for a clean end and resolves to the exit code. */
  async stop() {
    this.process.kill('SIGTERM');
    const [code] = await this.exited;
    this.process = undefined;
    return code;
  }

  async cleanup() {
    if (this.process) {
      this.process.kill('SIGKILL');
      await this.exited;
    }
    fs.rmSync(this.directory, { recursive: true, force: true });
  }
}

class RabbitMq extends Broker {
  async start() {
    const env = { ...process.env, MAX_MESSAGE_SIZE: '16777216' };
    this.url = execFileSync(script, ['start', this.directory], { env, stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim();
    return this;
  }

  async stop() {
    const child = spawn(script, ['stop', this.directory], { stdio: 'ignore' });
    const [code] = await once(child, 'exit');
    return code;
  }

  async cleanup() {
    await this.stop();
    fs.rmSync(this.directory, { recursive: true, force: true });
  }
}

class External {
  constructor(url) {
    this.url = url;
    this.external = true;
  }

  async cleanup() {}
}

/** The broker the environment asks for, running. */
export async function startBroker() {
  if (process.env.AMQP_URL) return new External(process.env.AMQP_URL);
  return (process.env.BROKER === 'rabbitmq' ? new RabbitMq() : new Broker()).start();
}
