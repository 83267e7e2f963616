// The frame of the page: conversations on one side, the selected one beside it. On a phone one at a time.

import type { Chat } from "../chat.ts";
import { avatar, fill, h } from "../dom.ts";
import { askForPerson, askForRoom } from "./dialogs.ts";
import { createThread } from "./thread.ts";

const LINKS = { connecting: "Connecting…", connected: "Connected", disconnected: "Disconnected" };

export function drawChat(app: HTMLElement, chat: Chat, leave: () => void): void {
  const link = h("p", { class: "link", role: "status" });
  const list = h("ul", { class: "conversations" });
  const notice = h("div", { class: "notice", role: "status" });
  const thread = createThread(chat);
  const frame = h(
    "div",
    { class: "frame" },
    h(
      "nav",
      { class: "side", "aria-label": "Conversations" },
      h(
        "header",
        {},
        avatar(chat.myName),
        h("div", { class: "who" }, h("strong", {}, chat.myName), link),
        h("button", { class: "plain", onclick: leave }, "Log out"),
      ),
      h(
        "div",
        { class: "row actions" },
        h("button", { onclick: () => askForPerson(chat) }, "New message"),
        h("button", { onclick: () => askForRoom(chat) }, "Rooms"),
      ),
      list,
    ),
    thread.element,
    notice,
  );
  fill(app, frame);

  chat.onChange = () => {
    link.textContent = LINKS[chat.link];
    link.dataset["state"] = chat.link;
    link.title = chat.link === "connected" ? `over ${chat.transport}` : chat.reason;
    notice.textContent = chat.notice?.text ?? "";
    notice.dataset["kind"] = chat.notice?.kind ?? "";
    frame.classList.toggle("reading", chat.selected !== null);
    const unread = [...chat.conversations.values()].reduce((sum, one) => sum + one.unread, 0);
    document.title = unread > 0 ? `(${unread}) Holdfast chat` : "Holdfast chat";
    drawList(list, chat);
    thread.draw();
  };
  document.addEventListener("visibilitychange", () => {
    const current = chat.current();
    if (!document.hidden && current) void chat.markRead(current);
  });
  chat.onChange();
}

/** Draws the list anew, keeping the focus where it was. */
function drawList(list: HTMLElement, chat: Chat): void {
  const focused = (document.activeElement as HTMLElement | null)?.dataset["channel"];
  const rows = chat.sorted().map((conversation) => {
    const { channel, name, unread, preview, online } = conversation;
    const label = unread > 0 ? `${name}, ${unread} unread` : name;
    return h(
      "li",
      {},
      h(
        "button",
        {
          class: "conversation",
          "data-channel": channel,
          "aria-current": channel === chat.selected ? "true" : null,
          "aria-label": label,
          onclick: () => void chat.select(channel),
        },
        avatar(name, conversation.with !== null && online),
        h("span", { class: "name" }, conversation.group ? `# ${name}` : name),
        h("span", { class: "preview" }, preview),
        unread > 0 && h("span", { class: "badge" }, String(unread)),
      ),
    );
  });
  const empty = h("li", { class: "quiet empty" }, "No conversations yet. Write to somebody, or join a room.");
  fill(list, ...(rows.length > 0 ? rows : [empty]));
  if (focused) list.querySelector<HTMLElement>(`[data-channel="${CSS.escape(focused)}"]`)?.focus();
}
