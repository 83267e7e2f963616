// Asking for a person to write to, or a room to enter.

import { type Chat, words } from "../chat.ts";
import { fill, h } from "../dom.ts";

function show(title: string, ...content: Node[]): HTMLDialogElement {
  const close = h("button", { class: "plain", type: "button", "aria-label": "Close" }, "✕");
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    h("header", {}, h("h2", { id: "dialog-title" }, title), close),
    ...content,
  );
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A form with one text field; what `done` throws is shown. */
function ask(label: string, button: string, done: (value: string) => Promise<void>): HTMLFormElement {
  const input = h("input", { id: `ask-${button}`, required: true, maxlength: 64, autocapitalize: "none", spellcheck: "false" });
  const problem = h("p", { class: "problem", role: "alert" });
  const submit = h("button", { class: "primary" }, button);
  const form = h("form", {}, h("label", { for: `ask-${button}` }, label), h("div", { class: "row" }, input, submit), problem);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit.disabled = true;
    done(input.value.trim())
      .catch((error: unknown) => {
        problem.textContent = words(error);
        input.focus();
      })
      .finally(() => {
        submit.disabled = false;
      });
  });
  return form;
}

export function askForPerson(chat: Chat): void {
  const form = ask("User name", "Write", async (user) => {
    await chat.openDialog(user.toLowerCase());
    dialog.close();
  });
  const dialog = show("New message", form);
}

export function askForRoom(chat: Chat): void {
  const rooms = h("ul", { class: "rooms" }, h("li", { class: "quiet" }, "Looking…"));
  const form = ask("Or make one", "Create", async (name) => {
    await chat.createGroup(name);
    dialog.close();
  });
  const dialog = show("Rooms", rooms, form);
  chat.openGroups().then(
    (groups) => {
      const rows = groups.map((group) => {
        const people = `${group.members} ${group.members === 1 ? "person" : "people"}`;
        const enter = async () => {
          try {
            await chat.joinGroup(group.group);
            dialog.close();
          } catch (error) {
            chat.tell(`Not joined: ${words(error)}`, "bad");
          }
        };
        const button = h("button", { onclick: () => void enter() }, h("strong", {}, `# ${group.name}`), h("span", { class: "quiet" }, people));
        return h("li", {}, button);
      });
      fill(rooms, ...(rows.length > 0 ? rows : [h("li", { class: "quiet" }, "There are no rooms yet.")]));
    },
    (error: unknown) => fill(rooms, h("li", { class: "problem" }, words(error))),
  );
}
