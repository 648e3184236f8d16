// Listens by node-postgres and says what it hears, a line for each notification.

const pg = require("pg");

function say(channel, payload) {
  const at = Math.round((performance.timeOrigin + performance.now()) * 1000);
  console.log(JSON.stringify([at, channel, payload]));
}

async function listen(folder, database, ...channels) {
  const client = new pg.Client({ host: folder, user: "postgres", database, connectionTimeoutMillis: 5000 });
  client.on("notification", ({ channel, payload }) => say(channel, payload ?? ""));
  const lost = new Promise((resolve) => client.on("end", resolve).on("error", resolve));
  await client.connect();
  for (const channel of channels) {
    await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`);
  }
  say(null, "");
  await lost;
  process.exit();
}

listen(...process.argv.slice(1)).catch(() => process.exit(1));
