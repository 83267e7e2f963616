// The official Centrifuge client for JavaScript, unmodified, against a whole cluster.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Centrifuge, type PublicationContext, State, type Subscription } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
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

const fallbacks = [
  { name: "HTTP streaming", transport: "http_stream", path: "http_stream" },
  { name: "SSE", transport: "sse", path: "sse" },
] as const;

for (const { name, transport, path } of fallbacks) {
  test(`where no WebSocket gets through, ${name} does, over any node`, async () => {
    const base = cluster.pageUrl;
    const client = new Centrifuge([{ transport, endpoint: `${base}/connection/${path}` }], {
      emulationEndpoint: `${base}/emulation`,
      fetch,
      readableStream: ReadableStream,
      eventsource: EventSource,
      getToken: async () => cluster.token("jack"),
    });
    clients.push(client);
    const used = new Promise<string>((resolve) => client.once("connected", (context) => resolve(context.transport)));
    client.connect();
    await client.ready(SOON_MS);
    assert.equal(await used, transport);
    const { sub, seen } = await join(client, `over-${path}`);
    // Each of these is a request of its own, which the balancer sends to any node.
    for (const number of [1, 2, 3, 4, 5, 6]) await sub.publish({ number });
    await until("the messages", SOON_MS, async () => (seen.length === 6 ? true : undefined));
    assert.deepEqual(seen.map((item) => item.data.number), [1, 2, 3, 4, 5, 6]);
  });
}

test("a client that takes differences gets the whole messages out of them, live and after a reconnect", async () => {
  await cluster.addChannelRules(`
[[namespace]]
name = "delta"
history_size = 100
history_ttl = "1h"
force_positioning = true
force_recovery = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allowed_delta_types = ["fossil"]
delta_publish = true
`);
  const frames: string[] = [];
  class Overheard extends WebSocket {
    constructor(url: string, protocols?: string[]) {
      super(url, protocols);
      this.on("message", (frame) => frames.push(String(frame)));
    }
  }
  const client = new Centrifuge(cluster.chatUrl, {
    websocket: Overheard,
    getToken: async () => cluster.token("kate"),
  });
  clients.push(client);
  client.connect();
  await client.ready(SOON_MS);
  const seen: { number: number; text: string }[] = [];
  const sub = client.newSubscription("delta:document", { delta: "fossil" });
  sub.on("publication", (publication) => seen.push(publication.data));
  sub.subscribe();
  await sub.ready(SOON_MS);

  const other = await connect("liam");
  const text = "a text that stays the same but for its number, with a ✓ in it; ".repeat(20);
  const send = (number: number) => other.publish("delta:document", { number, text: `${number} ${text}` });
  const expect = async (numbers: number[]) => {
    await until("the messages", SOON_MS, async () => (seen.length === numbers.length ? true : undefined));
    assert.deepEqual(seen, numbers.map((number) => ({ number, text: `${number} ${text}` })));
  };
  for (const number of [1, 2, 3]) await send(number);
  await expect([1, 2, 3]);
  const whole = () => frames.join("").split(text).length - 1;
  assert.equal(whole(), 1, "the first is sent whole and no other");

  client.disconnect();
  for (const number of [4, 5]) await send(number);
  client.connect();
  await client.ready(SOON_MS);
  await expect([1, 2, 3, 4, 5]);
  assert.equal(whole(), 2, "the first of those that were missed is sent whole and no other");
  // Nobody else was in the channel, so the node has not heard what came before the next.
  for (const number of [6, 7]) await send(number);
  await expect([1, 2, 3, 4, 5, 6, 7]);
  assert.equal(whole(), 3, "the first that a node hears of a channel is sent whole and no other");
});

test("a client whose node is killed comes back by itself and recovers what it missed", async () => {
  // The node of each WebSocket there is, as the balancer knows it.
  const nodes = async (): Promise<Map<number, string>> => {
    const { sessions } = await cluster.balancer("GET", "/sessions?kind=websocket&limit=1000");
    return new Map(sessions.map(({ id, server }: { id: number; server: string }) => [id, server]));
  };
  const before = await nodes();
  const senders = await Promise.all(["cleo", "dan", "eve", "finn"].map(connect));
  const members = await Promise.all(senders.map((client) => join(client, "crash")));
  const recovered: boolean[] = [];
  members.forEach(({ sub }) =>
    sub.on("subscribed", (context) => {
      if (context.wasRecovering) recovered.push(context.recovered);
    }),
  );
  // Whom the balancer has given the most of them.
  const given = new Map<string, number>();
  for (const [id, node] of await nodes()) {
    if (!before.has(id)) given.set(node, (given.get(node) ?? 0) + 1);
  }
  const victim = [...given].sort(([, one], [, other]) => other - one)[0]?.[0];
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
  process.kill(cluster.pid(victim), "SIGKILL");
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
      return cluster.token("gail", 5);
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
