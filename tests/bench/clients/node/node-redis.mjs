// node-redis with its Sentinel client.
import { createSentinel } from "redis";
import { writes } from "./writes.mjs";

const [host, port, name, key] = process.argv.slice(2);
const client = createSentinel({
  name,
  sentinelRootNodes: [{ host, port: Number(port) }],
  commandOptions: { timeout: 500 },
});
// Told by the attempts that fail.
client.on("error", () => {});
await client.connect();
await writes((value) => client.set(key, value));
