// ioredis with the failover detector that its documentation recommends beside Sentinel.
import { Redis } from "ioredis";
import { writes } from "./writes.mjs";

const [host, port, name, key] = process.argv.slice(2);
const client = new Redis({
  sentinels: [{ host, port: Number(port) }],
  name,
  failoverDetector: true,
  commandTimeout: 500,
  // How long it waits for a server that hangs to close the connection; 2000 otherwise.
  disconnectTimeout: 100,
});
// Told by the attempts that fail.
client.on("error", () => {});
await writes((value) => client.set(key, value));
