// A paced drain of a chat node, seen by the official client: everybody moves, at the set pace, and nobody misses a message.
// `make drain-balancer` runs the same with 2,000 clients.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Centrifuge, State } from "centrifuge";
import WebSocket from "ws";

import { type Cluster, startCluster, until } from "./cluster.ts";

const CLIENTS = Number(process.env.DRAIN_CLIENTS ?? 90);
const RATE = Number(process.env.DRAIN_RATE ?? 10);
const CLIENTS_PER_ROOM = 30;
/** Long enough for a drain at the pace, on a busy machine. */
const SOON_MS = 60_000 + (CLIENTS / RATE) * 4_000;
const CONNECT_AT_ONCE = 50;

interface Member {
  client: Centrifuge;
  room: string;
  /** Numbers of the messages it has seen, in the order they came. */
  seen: number[];
  /** Milliseconds from publish to arrival, before and during the drain. */
  delays: { before: number[]; during: number[] };
  /** When it was told to leave. */
  told: number[];
}

let cluster: Cluster;
let draining = false;
const members: Member[] = [];

before(async () => {
  cluster = await startCluster();
});

after(async () => {
  members.forEach(({ client }) => client.disconnect());
  await cluster?.stop();
});

async function join(n: number): Promise<Member> {
  const room = `room-${Math.floor(n / CLIENTS_PER_ROOM)}`;
  const client = new Centrifuge(cluster.chatUrl, {
    websocket: WebSocket,
    getToken: async () => cluster.token(`user-${n}`),
    minReconnectDelay: 50,
    timeout: 30_000,
  });
  const member: Member = { client, room, seen: [], delays: { before: [], during: [] }, told: [] };
  client.on("connecting", () => {
    if (draining) member.told.push(performance.now());
  });
  const subscription = client.newSubscription(room);
  subscription.on("publication", ({ data }) => {
    member.seen.push(data.number);
    member.delays[draining ? "during" : "before"].push(performance.now() - data.at);
  });
  subscription.subscribe();
  client.connect();
  await subscription.ready(SOON_MS);
  return member;
}

function p99(values: number[]): number {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.floor(sorted.length * 0.99)] ?? 0;
}

test("a drained node's clients move at the set pace and miss nothing", { timeout: SOON_MS * 4 }, async () => {
  while (members.length < CLIENTS) {
    const next = Math.min(CONNECT_AT_ONCE, CLIENTS - members.length);
    members.push(...(await Promise.all(Array.from({ length: next }, (_, n) => join(members.length + n)))));
  }
  const rooms = [...new Set(members.map(({ room }) => room))];

  // One writer, whose own connection may be moved like any other: what it could not say it says again.
  let published = 0;
  let stop = false;
  const talking = (async () => {
    for (; !stop; published += 1) {
      const number = published;
      for (const room of rooms) {
        const message = { number, at: performance.now() };
        await until(`a message in ${room}`, SOON_MS, async () => {
          const writers = members.filter((member) => member.room === room);
          const sender = writers.find(({ client }) => client.state === State.Connected) ?? writers[0]!;
          await sender.client.publish(room, message);
          return true;
        });
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();
  await until("some messages", SOON_MS, async () => (published >= 10 ? true : undefined));

  const { pools } = await cluster.balancer("GET", "/pools");
  const pool = pools[0].name as string;
  const busiest = [...pools[0].servers].sort(
    (left: any, right: any) => right.active_connections - left.active_connections,
  )[0];
  assert.ok(busiest.active_connections >= CLIENTS / 4, JSON.stringify(busiest));
  const path = `/pools/${pool}/servers/${busiest.name}`;
  draining = true;
  const begun = performance.now();
  const { drain } = await cluster.balancer("PATCH", path, {
    state: "drain",
    reason: "a test",
    drain: { rate: RATE, deadline: "1h" },
  });
  await until("the end of the drain", SOON_MS, async () => {
    const servers = (await cluster.balancer("GET", `/pools/${pool}`)).servers as any[];
    return servers.find(({ name }) => name === busiest.name).drain.left === 0 ? true : undefined;
  });
  await Promise.all(members.map(({ client }) => client.ready(SOON_MS)));
  draining = false;
  stop = true;
  await talking;

  // Everybody has everything. A writer that was moved before it had its answer has said it twice.
  const distinct = (numbers: number[]) => new Set(numbers).size;
  await until("every message at every client", SOON_MS, async () =>
    members.every(({ seen }) => distinct(seen) === published) ? true : undefined,
  );
  const moved = members.filter(({ told }) => told.length > 0);
  const told = members.flatMap((member) => member.told).sort((left, right) => left - right);
  // From before the first could be told: a busy machine makes it slower, never faster.
  const pace = told.length / ((told.at(-1)! - begun) / 1_000);
  const others = members.filter(({ told }) => told.length === 0);
  const [p99Before, p99During] = (["before", "during"] as const).map((when) =>
    p99(others.flatMap(({ delays }) => delays[when])),
  ) as [number, number];
  const doubled = members.reduce((sum, { seen }) => sum + seen.length - distinct(seen), 0);
  console.log(
    `drain-balancer clients=${CLIENTS} moved=${moved.length} rate=${RATE} pace=${pace.toFixed(1)} messages=${published * rooms.length}` +
      ` lost=0 doubled=${doubled} p99_before_ms=${p99Before.toFixed(1)} p99_during_ms=${p99During.toFixed(1)}`,
  );
  // Requests in flight count as connections of the server as well.
  assert.ok(moved.length >= drain.total * 0.9, `${moved.length} of ${drain.total} were told`);
  assert.ok(pace <= RATE * 1.25, `${pace.toFixed(1)} a second`);
  assert.ok(others.length > 0);
});
