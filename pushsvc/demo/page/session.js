// Who this browser is: a guest with a random id, and the short-lived token that goes with it.

const VISITOR = "pushsvc.demo.visitor";

export class HttpError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem?.detail ?? problem?.title ?? `the server answered ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
    this.fatal = status >= 400 && status < 500 && status !== 408 && status !== 429;
  }
}

export class Session {
  token = null;
  user = null;
  #opening = null;

  /** A valid token; one request serves everybody who asks meanwhile. */
  async open() {
    if (this.token && Date.now() < this.expires) return this.token;
    this.#opening ??= this.#mint().finally(() => (this.#opening = null));
    return this.#opening;
  }

  /** The token was refused: the next `open` asks for another. */
  forget() {
    this.token = null;
  }

  get inbox() {
    return `user:${this.user}`;
  }

  /** `fetch` with the token; once more with a new one if it was refused. Throws HttpError. */
  async request(path, { headers, ...options } = {}, again = true) {
    const token = await this.open();
    const response = await fetch(path, {
      ...options,
      cache: "no-store",
      headers: { ...headers, Authorization: `Bearer ${token}` },
    });
    if (response.status === 401 && again) {
      this.forget();
      return this.request(path, { headers, ...options }, false);
    }
    return checked(response);
  }

  async #mint() {
    const response = await checked(
      await fetch("/demo/session", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ visitor: visitor() }),
      }),
    );
    const { token, user, expires_in: seconds } = await response.json();
    this.user = user;
    this.expires = Date.now() + seconds * 800; // renewed well before it runs out
    return (this.token = token);
  }
}

async function checked(response) {
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  throw new HttpError(response.status, problem, Number(response.headers.get("Retry-After")) || 0);
}

function visitor() {
  let id = localStorage.getItem(VISITOR);
  if (!id) localStorage.setItem(VISITOR, (id = randomId()));
  return id;
}

export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
