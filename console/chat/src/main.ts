// The demo chat page: a login, then the chat. A reload keeps the session of the tab.

import { type Account, Refused, forget, logout, refresh, remembered } from "./account.ts";
import { Chat } from "./chat.ts";
import { drawLogin } from "./view/login.ts";
import { drawChat } from "./view/chat.ts";

const app = document.getElementById("app");
if (!app) throw new Error("the page has no #app");

function showLogin(why?: string): void {
  drawLogin(app as HTMLElement, why, (account) => showChat(account));
}

function showChat(account: Account): void {
  const chat = new Chat(account);
  chat.onEnd = (why) => {
    chat.stop();
    forget();
    showLogin(why);
  };
  drawChat(app as HTMLElement, chat, () => {
    chat.stop();
    // The token is forgotten here either way; a node that cannot be reached lets it expire.
    logout(account).catch(() => {});
    showLogin();
  });
  chat.start();
}

const account = remembered();
if (account) {
  refresh(account).then(showChat, (error: unknown) => {
    // Only a refusal ends the session; while no node answers the client goes on trying with the token it has.
    if (error instanceof Refused && (error.status === 401 || error.status === 404)) {
      forget();
      showLogin();
    } else {
      showChat(account);
    }
  });
} else {
  showLogin();
}
