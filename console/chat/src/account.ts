// Who the user is: register, log in, renew, log out over plain HTTP, before there is a connection. docs/chat-model.md has the calls.

export interface Account {
  user: string;
  name: string;
  token: string;
}

/** The node refused, with words for the user. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const KEY = "holdfast-chat-account";

async function call(path: string, body?: object, token?: string): Promise<Response> {
  const headers: Record<string, string> = {};
  if (body) headers["Content-Type"] = "application/json";
  if (token) headers["Authorization"] = `Bearer ${token}`;
  const answer = await fetch(`/chat/${path}`, {
    method: "POST",
    headers,
    ...(body ? { body: JSON.stringify(body) } : {}),
  });
  if (answer.ok) return answer;
  if (answer.status === 404) throw new Refused(404, "This node has no accounts of its own ([accounts] builtin is off).");
  const text = await answer.text();
  let message = `The node answered with status ${answer.status}.`;
  try {
    message = (JSON.parse(text) as { error: { message: string } }).error.message;
  } catch {
    // Not from the node itself but from something between: the status says all there is to say.
  }
  throw new Refused(answer.status, message);
}

function keep(account: Account): Account {
  sessionStorage.setItem(KEY, JSON.stringify(account));
  return account;
}

/** The account of this tab from before a reload. */
export function remembered(): Account | null {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "null") as Account | null;
  } catch {
    return null;
  }
}

export function forget(): void {
  sessionStorage.removeItem(KEY);
}

export async function enter(how: "login" | "register", user: string, password: string): Promise<Account> {
  return keep((await (await call(how, { user, password })).json()) as Account);
}

/** A fresh token for the same session. */
export async function refresh(account: Account): Promise<Account> {
  return keep((await (await call("refresh", undefined, account.token)).json()) as Account);
}

export async function logout(account: Account): Promise<void> {
  forget();
  await call("logout", undefined, account.token);
}
