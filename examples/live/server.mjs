// A live page of pgmq's queues, without polling: one LISTEN for all browsers, which get server-sent events.
//
// DATABASE_URL names the database, HOST and PORT where the page is (127.0.0.1:8000), NAMES what a proxy in front of it
// is called, QUEUES which queues are shown ("emails,reports"; all realtime ones if left out).
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { follow, refresh, state, stop } from './queues.mjs';

const HOST = process.env.HOST || '127.0.0.1';
const PORT = Number(process.env.PORT || 8000);
const HEARTBEAT = 15_000; // milliseconds: a proxy in between then keeps the connection
const BACKLOG = 1 << 20; // bytes: a browser that is so far behind begins again

const browsers = new Set();
const event = (data) => `data: ${JSON.stringify(data)}\n\n`;
const LOCAL = ['127.0.0.1', 'localhost', '[::1]'];
const NAMES = [...LOCAL, ...(process.env.NAMES?.split(',') ?? []).map((name) => name.trim())];
const page = await readFile(new URL('index.html', import.meta.url));
const server = createServer((request, response) => {
  // Another site's name that was made to point here must not read it.
  const name = request.headers.host?.replace(/:\d+$/, '');
  if (LOCAL.includes(HOST) && !NAMES.includes(name)) return response.writeHead(421).end('See NAMES in README.md\n');
  if (request.method !== 'GET') return response.writeHead(405).end();
  if (request.url === '/') {
    return response.writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy':
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    }).end(page);
  }
  if (request.url !== '/events') return response.writeHead(404).end();
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.write(`retry: 1000\n\n${event(state())}`);
  browsers.add(response);
  refresh();
  response.on('close', () => browsers.delete(response));
});

setInterval(() => browsers.forEach((browser) => browser.write(': still here\n\n')), HEARTBEAT);
process.on('SIGTERM', async () => {
  await stop();
  process.exit(0);
});
server.listen(PORT, HOST, () => console.log(`http://${HOST}:${server.address().port}/`));
follow((change) => {
  const text = event(change);
  for (const browser of browsers) {
    // One that is too slow connects again, and gets the state instead of what has piled up.
    if (browser.writableLength > BACKLOG) browser.destroy();
    else browser.write(text);
  }
});
