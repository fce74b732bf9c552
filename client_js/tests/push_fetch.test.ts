// A `fetch` for endpoints that may answer later, on a scripted server.

import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { createClient, type Client } from "../src/index.js";
import { scriptedServer, type ScriptedServer } from "../src/testing.js";

let server: ScriptedServer;
let client: Client;
const asked: Request[] = [];
const before = globalThis.fetch;

/** What the app's own endpoints answer. */
let endpoint: (request: Request) => Response | Promise<Response>;

beforeEach(() => {
  vi.useFakeTimers();
  asked.length = 0;
  server = scriptedServer();
  globalThis.fetch = async (input, init) => {
    const request = new Request(input, init);
    asked.push(request.clone());
    request.signal.throwIfAborted();
    return endpoint(request);
  };
  client = createClient({ url: "http://app.test/push", token: "t", ...server.parts });
  endpoint = async () => {
    const answer = await server.parts.fetch("http://app.test/push/v1/jobs", {
      method: "POST",
      body: JSON.stringify({ job: "GET /report", params: {} }),
      headers: { "Idempotency-Key": String(asked.length) },
    });
    return new Response(answer.body, { status: 202, headers: { ...Object.fromEntries(answer.headers), Location: "/push/v1/jobs/x" } });
  };
});

afterEach(() => {
  client.close();
  globalThis.fetch = before;
  vi.useRealTimers();
});

const settle = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

/** The endpoint's answer, once it is pushed. */
async function pushed(data: Record<string, unknown>, init?: RequestInit): Promise<Response> {
  const answer = client.pushFetch("http://app.test/report?of=JFK", init);
  await settle();
  server.finish("GET /report", data);
  await settle();
  return answer;
}

it.each([
  [{ encoding: "json", body: { flights: 3 } }, '{"flights":3}'],
  [{ encoding: "json", body: null }, "null"],
  [{ encoding: "text", body: "<h1>Zürich</h1>" }, "<h1>Zürich</h1>"],
  [{ encoding: "base64", body: "/9j/" }, "\ufffd\ufffd\ufffd"],
])("resolves with the stored answer: %j", async (body, text) => {
  const answer = await pushed({ status: 201, headers: [["content-type", "x/y"], ["x-report", "7"]], ...body });
  expect([answer.status, answer.headers.get("x-report"), answer.url]).toEqual([201, "7", "http://app.test/report?of=JFK"]);
  expect(await answer.text()).toBe(text);
  expect(asked[0]!.headers.get("prefer")).toContain("respond-async");
});

it("an answer without a body has none", async () => {
  const answer = await pushed({ status: 204, headers: [], encoding: "text", body: "" });
  expect([answer.status, answer.body]).toEqual([204, null]);
});

it("fetches an answer with cookies, which are in no event", async () => {
  const answer = await pushed({ status: 200, headers: [], cookies: true, encoding: "json", body: { in: "the event" } });
  expect(server.requests.at(-1)!.path).toMatch(/\/result$/);
  expect(answer.status).toBe(200);
});

it("fetches what is too large for an event", async () => {
  const answer = client.pushFetch("http://app.test/report");
  await settle();
  server.finishLarge("GET /report", { large: true });
  await settle();
  expect(await (await answer).json()).toEqual({ large: true });
});

it("gives the error of an endpoint that failed, as an answer", async () => {
  const answer = client.pushFetch("http://app.test/report");
  await settle();
  server.fail("GET /report", { code: "job_timed_out", title: "slow", status: 504 });
  await settle();
  expect((await answer).status).toBe(504);
});

it("passes any other answer, any other 202, other origins and the API's own untouched", async () => {
  endpoint = () => Response.json({ queued: true }, { status: 202 });
  expect(await (await client.pushFetch("http://app.test/mail")).json()).toEqual({ queued: true });
  endpoint = () => new Response("hello");
  expect(await (await client.pushFetch("http://app.test/")).text()).toBe("hello");
  expect(await (await client.pushFetch("http://other.test/")).text()).toBe("hello");
  await client.pushFetch("http://app.test/push/v1/jobs");
  expect(asked.map(({ headers }) => headers.has("prefer"))).toEqual([true, true, false, false]);
  await client.pushFetch("http://app.test/", { headers: { Prefer: "wait=9" } });
  expect(asked.at(-1)!.headers.get("prefer")).toBe("wait=9");
});

it("an abort ends the waiting, and not the job", async () => {
  const stop = new AbortController();
  const answer = client.pushFetch("http://app.test/report", { signal: stop.signal });
  answer.catch(() => {});
  await settle();
  stop.abort();
  await expect(answer).rejects.toMatchObject({ name: "AbortError" });
  expect(server.requests.filter(({ path }) => path.endsWith("/cancel"))).toEqual([]);
});

it("takes the place of the page's fetch, and gives it back", async () => {
  const own = globalThis.fetch;
  const undo = client.installFetch();
  const answer = fetch("http://app.test/report");
  await settle();
  server.finish("GET /report", { status: 200, headers: [], encoding: "json", body: 1 });
  await settle();
  expect(await (await answer).json()).toBe(1);
  undo();
  expect(globalThis.fetch).toBe(own);
});
