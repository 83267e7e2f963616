// The state of the chat and everything that changes it. The views draw it; they never talk to the node themselves.

import { Centrifuge, type PublicationContext, type Subscription, UnauthorizedError } from "centrifuge";

import { type Account, Refused, refresh } from "./account.ts";
import { type Conversation, type Group, type InboxEntry, type Message, type Wire, fromWire } from "./model.ts";

/** Messages loaded at a time. */
const PAGE = 50;
/** Messages kept of one conversation; earlier ones are read again when somebody scrolls up. */
const MESSAGES_MAX = 1000;
/** A repeated send has the same id, so it may be tried often: a failover takes a second or two. */
const SEND_ATTEMPTS = 6;
const SEND_PAUSE_MS = 1000;
/** Reconnects of all conversations within this time are told of together. */
const NOTICE_AFTER_MS = 400;
/** One sign of typing is shown this long, and sent this often at most. */
const TYPING_MS = 4000;

export type Link = "connecting" | "connected" | "disconnected";

export class Chat {
  link: Link = "connecting";
  /** Why there is no connection, in the node's words. */
  reason = "";
  /** Which transport carries it. */
  transport = "";
  conversations = new Map<string, Conversation>();
  selected: string | null = null;
  /** The last thing to tell the user, and how it is meant. */
  notice: { text: string; kind: "good" | "bad" } | null = null;
  /** The session has ended for good: back to the login. */
  onEnd: (why: string) => void = () => {};
  onChange: () => void = () => {};

  private readonly client: Centrifuge;
  private readonly subs = new Map<string, Subscription>();
  private reconnect: { recovered: number; lost: string[]; timer: number } | null = null;
  private noticeTimer = 0;
  private typingSentAt = 0;

  constructor(private account: Account) {
    const { host, protocol } = location;
    const [http, ws] = [`${protocol}//${host}`, `${protocol === "https:" ? "wss:" : "ws:"}//${host}`];
    // The second and third are for networks that let no WebSocket through.
    const transports = [
      { transport: "websocket" as const, endpoint: `${ws}/connection/websocket` },
      { transport: "http_stream" as const, endpoint: `${http}/connection/http_stream` },
      { transport: "sse" as const, endpoint: `${http}/connection/sse` },
    ];
    this.client = new Centrifuge(transports, {
      emulationEndpoint: `${http}/emulation`,
      token: account.token,
      name: "holdfast-chat",
      getToken: () => this.renew(),
    });
    this.client.on("connecting", (context) => this.setLink("connecting", context.reason));
    this.client.on("connected", (context) => {
      this.transport = context.transport;
      this.setLink("connected", "");
      void this.loadInbox();
    });
    this.client.on("disconnected", (context) => {
      this.setLink("disconnected", context.reason);
      if (context.code !== 0) this.onEnd(`The node ended the session: ${context.reason}.`);
    });
    // The personal channel, to which the node subscribes every user.
    this.client.on("publication", (context) => this.onPersonal(context.data as Wire));
  }

  get me(): string {
    return this.account.user;
  }

  get myName(): string {
    return this.account.name;
  }

  start(): void {
    this.client.connect();
  }

  stop(): void {
    this.onEnd = () => {};
    this.client.disconnect();
  }

  /** Conversations, the one with the newest message first. */
  sorted(): Conversation[] {
    const time = (conversation: Conversation) => conversation.messages.at(-1)?.time ?? conversation.lastTime;
    return [...this.conversations.values()].sort((a, b) => time(b) - time(a));
  }

  current(): Conversation | undefined {
    return this.selected === null ? undefined : this.conversations.get(this.selected);
  }

  async select(channel: string | null): Promise<void> {
    this.selected = channel;
    this.onChange();
    const conversation = this.current();
    if (!conversation) return;
    if (!conversation.loaded) await this.loadEarlier(conversation);
    await Promise.all([this.loadMembers(conversation), this.markRead(conversation)]);
  }

  async openDialog(user: string): Promise<void> {
    await this.open({ user });
  }

  async openGroups(): Promise<Group[]> {
    return (await this.call<{ groups: Group[] }>("groups.list", { open: true })).groups;
  }

  async createGroup(name: string): Promise<void> {
    const { group } = await this.call<{ group: string }>("groups.create", { name, open: true });
    await this.open({ group });
  }

  async joinGroup(group: string): Promise<void> {
    await this.call("groups.join", { group });
    await this.open({ group });
  }

  async leaveGroup(conversation: Conversation): Promise<void> {
    await this.call("groups.leave", { group: conversation.group ?? "" });
    this.drop(conversation.channel);
  }

  /** Sends until the node has confirmed it or refused it for good; the id makes sure that it is there once. */
  async send(conversation: Conversation, text: string): Promise<void> {
    const message: Message = {
      id: crypto.randomUUID(),
      from: this.me,
      name: this.myName,
      text,
      time: Date.now(),
      offset: 0,
      state: "pending",
    };
    conversation.messages.push(message);
    this.onChange();
    await this.deliver(conversation, message);
  }

  async deliver(conversation: Conversation, message: Message): Promise<void> {
    message.state = "pending";
    this.onChange();
    for (let attempt = 1; ; attempt++) {
      try {
        const sent = await this.call<{ offset: number; time: number }>("send", {
          to: conversation.group ? { group: conversation.group } : { user: conversation.with },
          id: message.id,
          body: { text: message.text },
        });
        Object.assign(message, { state: "sent", offset: sent.offset, time: sent.time });
        break;
      } catch (error) {
        const { code, temporary } = error as { code?: number; temporary?: boolean };
        const mayWork = temporary || (code !== undefined && code < 100);
        if (!mayWork || attempt === SEND_ATTEMPTS) {
          message.state = "failed";
          this.tell(`Not sent: ${words(error)}`, "bad");
          break;
        }
        await new Promise((resolve) => setTimeout(resolve, SEND_PAUSE_MS));
      }
    }
    this.sort(conversation);
    this.onChange();
  }

  typing(conversation: Conversation): void {
    if (Date.now() - this.typingSentAt < TYPING_MS / 2) return;
    this.typingSentAt = Date.now();
    // A sign of typing that is lost is no loss.
    this.call("typing", { channel: conversation.channel }).catch(() => {});
  }

  async loadEarlier(conversation: Conversation): Promise<void> {
    const sub = this.subs.get(conversation.channel);
    if (!sub || conversation.loading) return;
    conversation.loading = true;
    try {
      await sub.ready();
      const first = conversation.messages.find((message) => message.offset > 0);
      const since = first && conversation.loaded ? { offset: first.offset, epoch: conversation.epoch } : undefined;
      const page = await sub.history({ limit: PAGE, reverse: true, ...(since ? { since } : {}) });
      conversation.epoch = page.epoch;
      conversation.loaded = true;
      conversation.hasEarlier = page.publications.length === PAGE;
      for (const publication of page.publications) this.add(conversation, publication);
    } catch (error) {
      this.tell(`The history cannot be read: ${words(error)}`, "bad");
    } finally {
      conversation.loading = false;
      this.onChange();
    }
  }

  async markRead(conversation: Conversation): Promise<void> {
    const top = conversation.messages.reduce((top, message) => Math.max(top, message.offset), conversation.top);
    conversation.unread = 0;
    this.onChange();
    if (top <= conversation.read || document.hidden) return;
    conversation.read = top;
    // The next message marks it again.
    await this.call("mark_read", { channel: conversation.channel, offset: top }).catch(() => {});
  }

  private setLink(link: Link, reason: string): void {
    this.link = link;
    this.reason = reason;
    this.onChange();
  }

  private async renew(): Promise<string> {
    try {
      this.account = await refresh(this.account);
      return this.account.token;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) throw new UnauthorizedError(error.message);
      throw error;
    }
  }

  private async call<T>(method: string, data: object): Promise<T> {
    return (await this.client.rpc(method, data)).data as T;
  }

  private async open(to: { user: string } | { group: string }): Promise<void> {
    const { channel } = await this.call<{ channel: string }>("open", { to });
    await this.loadInbox();
    await this.select(channel);
  }

  private async loadInbox(): Promise<void> {
    try {
      const { conversations } = await this.call<{ conversations: InboxEntry[] }>("inbox", {});
      const partners = conversations.filter((entry) => entry.with && !this.conversations.has(entry.channel));
      for (const entry of conversations) this.upsert(entry);
      // Presence is told of contacts only. Where it cannot be had, the other is shown as offline.
      await Promise.allSettled(partners.map((entry) => this.call("contacts.add", { user: entry.with })));
      await this.loadPresence();
    } catch (error) {
      if (this.link === "connected") this.tell(`The inbox cannot be read: ${words(error)}`, "bad");
    }
    this.onChange();
  }

  private async loadPresence(): Promise<void> {
    const { online } = await this.call<{ online: string[] }>("contacts.presence", {});
    for (const conversation of this.conversations.values()) {
      if (conversation.with) conversation.online = online.includes(conversation.with);
    }
    this.onChange();
  }

  private async loadMembers(conversation: Conversation): Promise<void> {
    try {
      if (conversation.group) {
        const found = await this.call<{ members: Conversation["members"] }>("groups.members", {
          group: conversation.group,
        });
        conversation.members = found.members;
      } else {
        await this.loadPresence();
      }
    } catch {
      // Without a connection the last known members stay.
    }
    this.onChange();
  }

  private upsert(entry: InboxEntry): void {
    const known = this.conversations.get(entry.channel);
    const conversation: Conversation = known ?? {
      channel: entry.channel,
      name: entry.name,
      with: entry.kind === "dialog" ? (entry.with ?? "") : null,
      group: entry.kind === "group" ? entry.channel.slice(entry.channel.indexOf(":") + 1) : null,
      messages: [],
      members: [],
      typing: new Map(),
      online: false,
      loaded: false,
      loading: false,
      hasEarlier: false,
      epoch: entry.epoch,
      preview: "",
      lastTime: 0,
      unread: 0,
      read: 0,
      top: 0,
    };
    conversation.name = entry.name;
    conversation.read = Math.max(conversation.read, entry.read);
    conversation.top = entry.top;
    conversation.unread = entry.channel === this.selected ? 0 : entry.unread;
    if (entry.last) {
      conversation.lastTime = entry.last.time;
      conversation.preview = fromWire(entry.last, 0).text;
    }
    this.conversations.set(entry.channel, conversation);
    if (!this.subs.has(entry.channel)) this.follow(conversation);
  }

  private follow(conversation: Conversation): void {
    const sub = this.client.newSubscription(conversation.channel, { joinLeave: true });
    this.subs.set(conversation.channel, sub);
    sub.on("publication", (publication) => this.onPublication(conversation, publication));
    for (const event of ["join", "leave"] as const) {
      sub.on(event, () => void this.loadMembers(conversation));
    }
    sub.on("subscribed", (context) => {
      if (!context.wasRecovering) return;
      this.onReconnect(context.recovered ? null : conversation);
    });
    sub.on("unsubscribed", (context) => {
      if (context.code !== 0) this.drop(conversation.channel);
    });
    sub.subscribe();
  }

  /** Counts what the conversations recover, and says it once for all of them. */
  private onReconnect(lost: Conversation | null): void {
    this.reconnect ??= { recovered: 0, lost: [], timer: 0 };
    const reconnect = this.reconnect;
    if (lost) {
      reconnect.lost.push(lost.name);
      // What is shown may have a hole: read it again.
      lost.messages = lost.messages.filter((message) => message.state !== "sent");
      lost.loaded = false;
      if (lost.channel === this.selected) void this.loadEarlier(lost);
    }
    clearTimeout(reconnect.timer);
    reconnect.timer = window.setTimeout(() => {
      this.reconnect = null;
      const { recovered, lost } = reconnect;
      if (lost.length > 0) {
        this.tell(`Reconnected; not everything missed in ${lost.join(", ")} could be recovered, so it was read again.`, "bad");
      } else {
        this.tell(`Reconnected, recovered ${recovered} ${recovered === 1 ? "message" : "messages"}.`, "good");
      }
    }, NOTICE_AFTER_MS);
  }

  private onPublication(conversation: Conversation, publication: PublicationContext): void {
    const data = publication.data as Wire;
    if (data.type === "typing") {
      if (data.from !== this.me) this.showTyping(conversation, data.name ?? data.from);
    } else if (data.type === "message") {
      if (this.reconnect) this.reconnect.recovered += 1;
      conversation.typing.delete(data.name ?? data.from);
      this.add(conversation, publication);
      if (conversation.channel === this.selected && !document.hidden) void this.markRead(conversation);
      else if (data.from !== this.me) conversation.unread += 1;
    } else if (data.type === "joined" || data.type === "left") {
      void this.loadMembers(conversation);
    }
    this.onChange();
  }

  private onPersonal(data: Wire): void {
    if (data.type === "conversation") void this.loadInbox();
    else if (data.type === "left") this.drop(data.channel ?? "");
    else if (data.type === "read") {
      const conversation = this.conversations.get(data.channel ?? "");
      if (conversation) Object.assign(conversation, { unread: 0, read: Math.max(conversation.read, data.offset ?? 0) });
    }
    this.onChange();
  }

  private add(conversation: Conversation, publication: PublicationContext): void {
    const data = publication.data as Wire;
    if (data.type !== "message") return;
    const message = fromWire(data, publication.offset ?? 0);
    conversation.preview = message.text;
    conversation.lastTime = Math.max(conversation.lastTime, message.time);
    const known = conversation.messages.find((one) => one.id === message.id);
    if (known) Object.assign(known, message);
    else conversation.messages.push(message);
    this.sort(conversation);
    if (conversation.channel !== this.selected && conversation.messages.length > MESSAGES_MAX) {
      conversation.messages.splice(0, conversation.messages.length - MESSAGES_MAX);
      conversation.hasEarlier = true;
    }
  }

  /** What the node has numbered, by number; what is not confirmed, last. */
  private sort(conversation: Conversation): void {
    const place = (message: Message) => (message.offset > 0 ? message.offset : Number.MAX_SAFE_INTEGER);
    conversation.messages.sort((a, b) => place(a) - place(b) || a.time - b.time);
    conversation.preview = conversation.messages.at(-1)?.text ?? conversation.preview;
  }

  private showTyping(conversation: Conversation, name: string): void {
    clearTimeout(conversation.typing.get(name));
    const end = () => {
      conversation.typing.delete(name);
      this.onChange();
    };
    conversation.typing.set(name, window.setTimeout(end, TYPING_MS));
  }

  private drop(channel: string): void {
    const sub = this.subs.get(channel);
    this.subs.delete(channel);
    this.conversations.delete(channel);
    if (this.selected === channel) this.selected = null;
    if (sub) {
      sub.removeAllListeners();
      sub.unsubscribe();
      this.client.removeSubscription(sub);
    }
    this.onChange();
  }

  tell(text: string, kind: "good" | "bad"): void {
    this.notice = { text, kind };
    clearTimeout(this.noticeTimer);
    this.noticeTimer = window.setTimeout(() => {
      this.notice = null;
      this.onChange();
    }, 10_000);
    this.onChange();
  }
}

/** What an error says to a user. */
export function words(error: unknown): string {
  const message = (error as { message?: string }).message;
  return message && message !== "" ? message : "the node did not say why";
}
