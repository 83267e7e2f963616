// Logging in and registering: one form, two buttons.

import { type Account, enter } from "../account.ts";
import { words } from "../chat.ts";
import { fill, h } from "../dom.ts";

export function drawLogin(app: HTMLElement, why: string | undefined, done: (account: Account) => void): void {
  const user = h("input", {
    id: "user",
    name: "username",
    autocomplete: "username",
    required: true,
    minlength: 2,
    maxlength: 32,
    pattern: "[a-z0-9._\\-]+",
    title: "2 to 32 of a-z 0-9 . _ -",
    autocapitalize: "none",
    spellcheck: "false",
  });
  const password = h("input", {
    id: "password",
    name: "password",
    type: "password",
    autocomplete: "current-password",
    required: true,
    minlength: 8,
  });
  const problem = h("p", { class: "problem", role: "alert" }, why);
  const login = h("button", { type: "submit", class: "primary" }, "Log in");
  const register = h("button", { type: "button" }, "Register");

  const form = h(
    "form",
    { class: "card", "aria-labelledby": "title" },
    h("h1", { id: "title" }, h("span", { class: "mark", "aria-hidden": "true" }), "Holdfast chat"),
    h("p", { class: "quiet" }, "A demonstration. Kill the node that serves you: you will be back in a second, with nothing missing."),
    h("label", { for: "user" }, "User name"),
    user,
    h("label", { for: "password" }, "Password"),
    password,
    problem,
    h("div", { class: "row" }, login, register),
  );

  async function submit(how: "login" | "register"): Promise<void> {
    if (!form.reportValidity()) return;
    login.disabled = register.disabled = true;
    problem.textContent = "";
    try {
      done(await enter(how, user.value, password.value));
    } catch (error) {
      problem.textContent = words(error);
      password.focus();
    } finally {
      login.disabled = register.disabled = false;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void submit("login");
  });
  register.addEventListener("click", () => void submit("register"));
  fill(app, h("main", { class: "login" }, form));
  user.focus();
}
