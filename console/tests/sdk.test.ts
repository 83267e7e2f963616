// The official Centrifuge client for JavaScript, unmodified, against a whole cluster.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Centrifuge, type PublicationContext, State, type Subscription } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import WebSocket from "ws";

import { type Cluster, startCluster, until } from "./cluster.ts";

const SOON_MS = 30_000;
let cluster: Cluster;
const clients: Centrifuge[] = [];

before(async () => {
  cluster = await startCluster();
});

after(async () => {
  clients.forEach((client) => client.disconnect());
  await cluster?.stop();
});

async function connect(user: string): Promise<Centrifuge> {
  const client = new Centrifuge(cluster.chatUrl, {
    websocket: WebSocket,
    getToken: async () => cluster.token(user),
  });
  clients.push(client);
  client.connect();
  await client.ready(SOON_MS);
  return client;
}

async function join(client: Centrifuge, channel: string): Promise<{ sub: Subscription; seen: PublicationContext[] }> {
  const seen: PublicationContext[] = [];
  const sub = client.newSubscription(channel, { joinLeave: true });
  sub.on("publication", (publication) => seen.push(publication));
  sub.subscribe();
  await sub.ready(SOON_MS);
  return { sub, seen };
}

test("two users talk, see each other and read the history", async () => {
  const [ann, bob] = [await connect("ann"), await connect("bob")];
  const here = await join(ann, "room");
  const joined: string[] = [];
  here.sub.on("join", (context) => joined.push(context.info.user));
  const there = await join(bob, "room");
  await until("the join of the other", SOON_MS, async () => (joined.includes("bob") ? true : undefined));

  await here.sub.publish({ text: "hello" });
  const message = await until("the message", SOON_MS, async () => there.seen[0]);
  assert.deepEqual(message.data, { text: "hello" });
  assert.equal(message.info?.user, "ann");

  const presence = await there.sub.presence();
  const users = Object.values(presence.clients).map((client) => client.user);
  assert.deepEqual(users.sort(), ["ann", "bob"]);
  const stats = await there.sub.presenceStats();
  assert.deepEqual([stats.numClients, stats.numUsers], [2, 2]);
  const history = await there.sub.history({ limit: 10 });
  assert.deepEqual(history.publications.map((item) => item.data), [{ text: "hello" }]);
});

test("in protobuf, payloads are bytes and the rest is the same", async () => {
  const client = new ProtobufCentrifuge(cluster.chatUrl, {
    websocket: WebSocket,
    getToken: async () => cluster.token("hank"),
  });
  clients.push(client as unknown as Centrifuge);
  client.connect();
  await client.ready(SOON_MS);
  const sub = client.newSubscription("binary", { joinLeave: true });
  const seen: Uint8Array[] = [];
  sub.on("publication", (publication) => seen.push(publication.data));
  sub.subscribe();
  await sub.ready(SOON_MS);
  await sub.publish(new TextEncoder().encode('{"text":"hello ✓"}'));
  const message = await until("the message", SOON_MS, async () => seen[0]);
  assert.equal(new TextDecoder().decode(message), '{"text":"hello ✓"}');
  assert.equal((await sub.presenceStats()).numClients, 1);
  const history = await sub.history({ limit: 10 });
  assert.equal(history.publications.length, 1);

  // Who speaks JSON reads the same message.
  const other = await join(await connect("iris"), "binary");
  const read = await other.sub.history({ limit: 10 });
  assert.deepEqual(read.publications.map((item) => item.data), [{ text: "hello ✓" }]);
});

test("where no WebSocket gets through, HTTP streaming does, over any node", async () => {
  const base = cluster.pageUrl;
  const client = new Centrifuge([{ transport: "http_stream", endpoint: `${base}/connection/http_stream` }], {
    emulationEndpoint: `${base}/emulation`,
    fetch,
    readableStream: ReadableStream,
    getToken: async () => cluster.token("jack"),
  });
  clients.push(client);
  client.connect();
  await client.ready(SOON_MS);
  const { sub, seen } = await join(client, "stream");
  // Each of these is a request of its own, which the balancer sends to any node.
  for (const number of [1, 2, 3, 4, 5, 6]) await sub.publish({ number });
  await until("the messages", SOON_MS, async () => (seen.length === 6 ? true : undefined));
  assert.deepEqual(seen.map((item) => item.data.number), [1, 2, 3, 4, 5, 6]);
});

test("a client whose node is killed comes back by itself and recovers what it missed", async () => {
  const senders = await Promise.all(["cleo", "dan", "eve", "finn"].map(connect));
  const members = await Promise.all(senders.map((client) => join(client, "crash")));
  const recovered: boolean[] = [];
  members.forEach(({ sub }) =>
    sub.on("subscribed", (context) => {
      if (context.wasRecovering) recovered.push(context.recovered);
    }),
  );
  const victim = (await cluster.status()).servers.nodes[0];
  assert.ok(victim);

  const acked: number[] = [];
  let number = 0;
  const send = async () => {
    const id = number++;
    const from = members[id % members.length];
    await from?.sub.publish({ id }).then(
      () => acked.push(id),
      () => undefined, // Not acknowledged: it may be there or not.
    );
  };
  while (number < 40) await send();
  process.kill(cluster.pid(victim.name), "SIGKILL");
  while (number < 120) await send();
  await until("the reconnects", SOON_MS, async () => (recovered.length > 0 ? true : undefined));
  assert.ok(recovered.every(Boolean), "the node could not say what was missed");
  assert.ok(acked.length > 80, `only ${acked.length} were acknowledged`);

  for (const { seen } of members) {
    await until("every acknowledged message, once", SOON_MS, async () => {
      const ids = seen.map((item) => item.data.id as number);
      const wrong = acked.filter((id) => ids.filter((other) => other === id).length !== 1);
      if (wrong.length > 0) throw new Error(`not once: ${wrong}`);
      return true;
    });
  }
});

test("a token is renewed before it expires, and the connection stays", async () => {
  let asked = 0;
  const client = new Centrifuge(cluster.chatUrl, {
    websocket: WebSocket,
    getToken: async () => {
      asked += 1;
      return cluster.token("gail", 3);
    },
  });
  clients.push(client);
  let losses = -1;
  client.on("connecting", () => (losses += 1));
  client.connect();
  await client.ready(SOON_MS);
  await until("three tokens", SOON_MS, async () => (asked >= 3 ? true : undefined));
  assert.equal(client.state, State.Connected);
  assert.equal(losses, 0);
});

test("a bad token is refused for good", async () => {
  const client = new Centrifuge(cluster.chatUrl, { websocket: WebSocket, token: `${cluster.token("x")}x` });
  clients.push(client);
  const code = new Promise<number>((resolve) => client.once("disconnected", (context) => resolve(context.code)));
  client.connect();
  assert.equal(await code, 3500);
});
