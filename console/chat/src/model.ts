// What the chat consists of, and how it is on the wire (docs/chat-model.md).

/** A publication's data in a conversation or in the personal channel. */
export interface Wire {
  type: "message" | "typing" | "read" | "joined" | "left" | "conversation";
  id?: string;
  from: string;
  name?: string;
  body?: unknown;
  time?: number;
  channel?: string;
  offset?: number;
}

/** A conversation as the rpc method `inbox` lists it. */
export interface InboxEntry {
  channel: string;
  kind: "dialog" | "group";
  with?: string;
  name: string;
  last?: { id: string; from: string; name: string; body: unknown; time: number } | null;
  unread: number;
  read: number;
  top: number;
  epoch: string;
}

/** A group anybody may join. */
export interface Group {
  group: string;
  name: string;
  members: number;
}

export interface Message {
  id: string;
  from: string;
  name: string;
  text: string;
  time: number;
  /** 0 until the node has numbered it. */
  offset: number;
  state: "pending" | "sent" | "failed";
}

export interface Conversation {
  channel: string;
  name: string;
  /** The other user, in a dialog. */
  with: string | null;
  /** The group's id, in a group. */
  group: string | null;
  messages: Message[];
  members: { user: string; name: string; online: boolean }[];
  /** Who is typing, with the timer that ends it. */
  typing: Map<string, number>;
  /** Dialogs: whether the other is connected. */
  online: boolean;
  loaded: boolean;
  loading: boolean;
  hasEarlier: boolean;
  epoch: string;
  preview: string;
  lastTime: number;
  unread: number;
  read: number;
  top: number;
}

export function fromWire(data: Omit<Wire, "type"> | NonNullable<InboxEntry["last"]>, offset: number): Message {
  const body = data.body as { text?: unknown } | string | null;
  const text = typeof body === "string" ? body : typeof body?.text === "string" ? body.text : JSON.stringify(body);
  return {
    id: data.id ?? "",
    from: data.from,
    name: data.name ?? data.from,
    text,
    time: data.time ?? 0,
    offset,
    state: "sent",
  };
}
