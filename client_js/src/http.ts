// Requests with the credentials of whoever is here, and what their answers mean.

import { asProblem, errorOf, jsonOf, RequestError, type PushsvcError } from "./errors.js";
import { backOff } from "./session.js";

export interface Access {
  /** Where the API is mounted: "" is the page's own origin, "/push" a path there, or a whole URL. */
  url?: string;
  /** A token, or what gives one; nothing with the page's own login. */
  token?: string | (() => string | undefined | Promise<string | undefined>);
  fetch?: typeof fetch;
}

export interface Http {
  /** Where the API is, absolute and without a slash at the end. */
  url(): string;
  token(): Promise<string | undefined>;
  /** Another token than `used`, or than any before: whether there is one. Several who ask at once get the same. */
  renew(used?: Promise<string | undefined>): Promise<boolean>;
  /** A path that begins with `/v1/` is below where the API is mounted, any other one of its origin. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** The JSON of an answer. Raises a RequestError, or Unavailable, also when the answer is none of ours. */
  json<T>(answer: Response | Promise<Response>): Promise<T>;
  /** Ask until there is an answer, or `going` says no. Raises the RequestErrors that no other token would mend. */
  insist<T>(ask: () => Promise<T>, going: () => boolean): Promise<T>;
  /** Wait, until `hurry` at the latest. */
  sleep(ms: number): Promise<void>;
  /** There is a reason to try again at once. */
  hurry(): void;
}

export const NO_ANSWER = { code: "unavailable", title: "There was no answer of the server." };

export function http({ url = "", token: source, fetch: ask }: Access): Http {
  let base: string | undefined;
  let token: Promise<string | undefined> | undefined;
  const sleepers = new Set<() => void>();

  const self: Http = {
    url: () => (base ??= new URL(url, globalThis.location?.origin).href.replace(/\/$/, "")),
    token() {
      token ??= Promise.resolve(typeof source === "function" ? source() : source);
      token.catch(() => (token = undefined));
      return token;
    },
    async renew(used = token) {
      if (typeof source !== "function") return false;
      if (token === used) token = undefined;
      return !!(await self.token());
    },
    async fetch(path, init) {
      for (let once = false; ; once = true) {
        const used = self.token();
        const bearer = await used;
        const headers = new Headers(init?.headers);
        if (bearer) headers.set("Authorization", "Bearer " + bearer);
        const target = new URL(path.startsWith("/v1/") ? self.url() + path : path, self.url());
        const answer = await (ask ?? fetch)(target.href, { cache: "no-store", ...init, headers });
        if (answer.status !== 401 || once || !(await self.renew(used))) return answer;
      }
    },
    async json<T>(answer: Response | Promise<Response>) {
      const { ok, status } = (answer = await answer);
      const body = await jsonOf(answer);
      if (ok && body) return body as T;
      const problem = asProblem(body);
      throw problem ? errorOf(problem, status) : errorOf(NO_ANSWER);
    },
    async insist(ask, going) {
      for (let fails = 0; ; fails++) {
        try {
          return await ask();
        } catch (error) {
          // Who may not ask just now may do so with another token.
          if ((error instanceof RequestError && error.status !== 401) || !going()) throw error;
          await self.sleep(backOff(fails) + 1_000 * ((error as Partial<PushsvcError>).problem?.retry_after ?? 0));
        }
      }
    },
    sleep: (ms) =>
      new Promise((done) => {
        const wake = () => {
          sleepers.delete(wake);
          clearTimeout(timer);
          done();
        };
        const timer = setTimeout(wake, ms);
        sleepers.add(wake);
      }),
    hurry: () => sleepers.forEach((wake) => wake()),
  };
  return self;
}

/** A request that brings JSON. */
export function post(body: unknown, headers?: Record<string, string>): RequestInit {
  return { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) };
}
