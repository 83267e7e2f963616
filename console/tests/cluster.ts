// A whole cluster by `holdfast up`, on free ports and in a temporary folder. It ends with this process, even when that is killed:
// setpriv lets the kernel end `holdfast up`, which takes everything it started with it.

import { type ChildProcess, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const READY_WITHIN_MS = 120_000;
const RELOAD_WITHIN_MS = 30_000;

export interface Cluster {
  /** WebSocket address through the balancer. */
  chatUrl: string;
  /** Base URL of the demo chat page, through the balancer. */
  pageUrl: string;
  /** Base URL of the supervisor. */
  supervisorUrl: string;
  /** A connection token for a user, good for an hour unless said otherwise. */
  token(user: string, lifetimeSeconds?: number): string;
  /** Process id of a program such as `chatnode-1`. */
  pid(program: string): number;
  /** Gives all chat nodes more channel rules, which they take without a restart. */
  addChannelRules(toml: string): Promise<void>;
  /** Asks the balancer's operator API. */
  balancer(method: string, path: string, body?: object): Promise<any>;
  /** The supervisor's status. */
  status(): Promise<Status>;
  stop(): Promise<void>;
}

export interface Status {
  health: string;
  problems: string[];
  servers: { nodes: { name: string; up: boolean | null; connections: number | null }[] };
}

/** Looks until `look` returns something; throws after the deadline with what was seen last. */
export async function until<T>(what: string, deadlineMs: number, look: () => Promise<T | undefined>): Promise<T> {
  const begun = Date.now();
  for (;;) {
    let seen: unknown;
    try {
      const value = await look();
      if (value !== undefined) return value;
    } catch (error) {
      seen = error;
    }
    if (Date.now() - begun > deadlineMs) throw new Error(`waited ${deadlineMs} ms for ${what}; seen last: ${seen}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

export async function startCluster(): Promise<Cluster> {
  const binary = resolve(import.meta.dirname, "../../target/debug/holdfast");
  const folder = mkdtempSync(join(tmpdir(), "holdfast-console-"));
  let output = "";
  const up: ChildProcess = spawn(
    "setpriv",
    ["--pdeathsig", "TERM", "--", binary, "up", "--ports", "free", "--state-dir", folder],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  up.stdout?.on("data", (data) => (output += data));
  up.stderr?.on("data", (data) => (output += data));
  const ended = new Promise<void>((resolve) => up.once("exit", () => resolve()));
  const latest = join(folder, "latest");
  const read = (name: string) => readFileSync(join(latest, name), "utf8");
  const key = (file: string, section: string, name: string) => {
    const text = read(file).split(section)[1] ?? "";
    return new RegExp(`^${name} = "(.*)"$`, "m").exec(text)?.[1] ?? "";
  };

  const cluster: Cluster = {
    chatUrl: "",
    pageUrl: "",
    supervisorUrl: "",
    token(user, lifetimeSeconds = 3600) {
      const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
      const exp = Math.floor(Date.now() / 1000) + lifetimeSeconds;
      const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: user, exp })}`;
      const secret = read("secrets/chat.secret").trim();
      return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
    },
    pid: (program) => Number(read(`pids/${program}.pid`)),
    async addChannelRules(toml) {
      const nodes = (await cluster.status()).servers.nodes.map(({ name }) => name);
      for (const node of nodes) {
        const metrics = `http://${key(`etc/${node}.toml`, "[node]", "admin_listen")}/metrics`;
        appendFileSync(join(latest, `etc/${node}.toml`), toml);
        const successAt = async () => {
          const text = await (await fetch(metrics)).text();
          const seconds = /^chatnode_config_last_reload_success_timestamp_seconds (.*)$/m.exec(text)?.[1];
          return Number(seconds);
        };
        const before = await successAt();
        // The time is in whole seconds.
        await until("the next second", RELOAD_WITHIN_MS, async () => (Date.now() / 1000 > before + 1 ? true : undefined));
        process.kill(cluster.pid(node), "SIGHUP");
        await until("the reload", RELOAD_WITHIN_MS, async () => ((await successAt()) > before ? true : undefined));
      }
    },
    async balancer(method, path, body) {
      const file = key("etc/balancer.toml", "[admin]", "token_file");
      const token = readFileSync(file, "utf8").trim();
      const response = await fetch(`http://${key("etc/balancer.toml", "[admin]", "listen")}/api/v1${path}`, {
        method,
        headers: { Authorization: `Bearer ${token}` },
        ...(body && { body: JSON.stringify(body) }),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status}: ${JSON.stringify(answer)}`);
      return answer;
    },
    async status() {
      const response = await fetch(`${cluster.supervisorUrl}/operator/v1/status`);
      return (await response.json()) as Status;
    },
    async stop() {
      up.kill("SIGTERM");
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };

  try {
    await until("the settings of the cluster", READY_WITHIN_MS, async () =>
      existsSync(join(latest, "client.toml")) ? true : undefined,
    );
    const chat = key("etc/balancer.toml", "[[listener]]", "listen");
    cluster.chatUrl = `ws://${chat}/connection/websocket`;
    cluster.pageUrl = `http://${chat}`;
    cluster.supervisorUrl = `http://${key("etc/holdfast.toml", "[supervisor]", "listen")}`;
    await until("a healthy cluster", READY_WITHIN_MS, async () => {
      const status = await cluster.status();
      if (status.health !== "ok") throw new Error(JSON.stringify(status.problems));
      return true;
    });
  } catch (error) {
    await cluster.stop();
    throw new Error(`${error}\n${output}`);
  }
  return cluster;
}
