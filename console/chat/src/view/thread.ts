// The selected conversation: who is there, the messages, and the line to write in.

import { type Chat, words } from "../chat.ts";
import { avatar, fill, h, hue } from "../dom.ts";
import type { Conversation, Message } from "../model.ts";

/** Near enough to the end of the messages to be kept there when another comes. */
const NEAR_END_PX = 80;
/** Messages of one person within this time stand together under one name. */
const TOGETHER_MS = 5 * 60_000;

export interface Thread {
  element: HTMLElement;
  draw(): void;
}

export function createThread(chat: Chat): Thread {
  const head = h("header", {});
  const log = h("ol", { class: "messages", role: "log", "aria-label": "Messages", tabindex: "0" });
  const typing = h("p", { class: "typing quiet", "aria-live": "polite" });
  const input = h("textarea", { id: "message", rows: "1", maxlength: "4000", placeholder: "Write a message", "aria-label": "Message" });
  const form = h("form", { class: "compose" }, input, h("button", { class: "primary" }, "Send"));
  const members = h("ul", { class: "members", "aria-label": "Members" });
  const body = h("div", { class: "body" }, h("div", { class: "talk" }, log, typing, form), members);
  const empty = h("p", { class: "quiet nothing" }, "Choose a conversation, write to somebody, or join a room.");
  const element = h("main", { class: "thread" });

  function send(): void {
    const conversation = chat.current();
    const text = input.value.trim();
    if (!conversation || text === "") return;
    input.value = "";
    void chat.send(conversation, text);
    log.scrollTop = log.scrollHeight;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  input.addEventListener("input", () => {
    const conversation = chat.current();
    if (conversation && input.value !== "") chat.typing(conversation);
  });
  log.addEventListener("scroll", () => {
    const conversation = chat.current();
    if (log.scrollTop === 0 && conversation?.hasEarlier) void chat.loadEarlier(conversation);
  });

  let shown: string | null = null;
  let drawn = "";

  function draw(): void {
    const conversation = chat.current();
    if (!conversation) {
      shown = null;
      fill(element, empty);
      return;
    }
    const isNew = shown !== conversation.channel;
    if (isNew) {
      shown = conversation.channel;
      drawn = "";
      input.value = "";
      fill(element, head, body);
    }
    drawHead(head, chat, conversation);
    const people = [...conversation.typing.keys()];
    typing.textContent = people.length > 0 ? `${people.join(", ")} ${people.length === 1 ? "is" : "are"} typing…` : "";
    drawMembers(members, conversation);
    drawMessages(conversation, isNew);
    if (isNew) input.focus();
  }

  function drawMessages(conversation: Conversation, isNew: boolean): void {
    const { messages, hasEarlier, loaded } = conversation;
    const state = JSON.stringify([loaded, hasEarlier, messages.map((one) => [one.id, one.state, one.offset])]);
    if (state === drawn) return;
    drawn = state;
    const fromEnd = log.scrollHeight - log.scrollTop - log.clientHeight;
    const before = log.scrollHeight - log.scrollTop;
    const start = !loaded ? "Loading…" : hasEarlier ? "Scroll up for earlier messages" : "This is where it begins.";
    fill(log, h("li", { class: "quiet start" }, start), ...messages.map((one, index) => row(chat, conversation, one, messages[index - 1])));
    // At the end one stays at the end; above it, what one reads stays where it is.
    log.scrollTop = isNew || fromEnd < NEAR_END_PX ? log.scrollHeight : log.scrollHeight - before;
  }

  return { element, draw };
}

function drawHead(head: HTMLElement, chat: Chat, conversation: Conversation): void {
  const there = conversation.group
    ? `${conversation.members.filter((member) => member.online).length} of ${conversation.members.length} online`
    : conversation.online ? "online" : "offline";
  const state = JSON.stringify([conversation.channel, conversation.name, there]);
  if (head.dataset["state"] === state) return;
  head.dataset["state"] = state;
  fill(
    head,
    h("button", { class: "plain back", "aria-label": "Back to the conversations", onclick: () => void chat.select(null) }, "‹"),
    avatar(conversation.name, conversation.with !== null && conversation.online),
    h("div", { class: "who" }, h("h2", {}, conversation.group ? `# ${conversation.name}` : conversation.name), h("p", { class: "quiet presence" }, there)),
    conversation.group !== null &&
      h("button", { class: "plain", onclick: () => void chat.leaveGroup(conversation).catch((error: unknown) => chat.tell(words(error), "bad")) }, "Leave"),
  );
}

function drawMembers(list: HTMLElement, conversation: Conversation): void {
  list.hidden = conversation.group === null;
  const sorted = [...conversation.members].sort((a, b) => Number(b.online) - Number(a.online) || a.name.localeCompare(b.name));
  const state = JSON.stringify(sorted);
  if (list.dataset["state"] === state) return;
  list.dataset["state"] = state;
  fill(
    list,
    ...sorted.map((member) =>
      h("li", {}, avatar(member.name, member.online), h("span", {}, member.name), h("span", { class: "hidden" }, member.online ? "online" : "offline")),
    ),
  );
}

function row(chat: Chat, conversation: Conversation, message: Message, previous: Message | undefined): HTMLElement {
  const mine = message.from === chat.me;
  const follows = previous?.from === message.from && message.time - previous.time < TOGETHER_MS;
  const time = new Date(message.time);
  const state = { pending: "sending…", sent: "", failed: "not sent" }[message.state];
  return h(
    "li",
    { class: `message${mine ? " mine" : ""}${follows ? " follows" : ""}`, "data-state": message.state },
    !follows &&
      h(
        "p",
        { class: "from" },
        h("strong", { class: `hue-${hue(message.name)}` }, mine ? "You" : message.name),
        " ",
        h("time", { datetime: time.toISOString() }, time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
      ),
    h("p", { class: "text" }, message.text),
    state !== "" && h("p", { class: "quiet state" }, state),
    message.state === "failed" && h("button", { class: "plain", onclick: () => void chat.deliver(conversation, message) }, "Send again"),
  );
}
