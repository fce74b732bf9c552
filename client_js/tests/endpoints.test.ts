// `pushFetch` against a real app whose endpoints answer later.

import { afterAll, beforeAll, expect, it } from "vitest";
import { createClient, type Client } from "../src/index.js";
import { mint, startServer, type Server } from "./server.js";

let server: Server;
let client: Client;

beforeAll(async () => {
  globalThis.WebSocket ??= (await import("undici")).WebSocket as unknown as typeof WebSocket;
  server = await startServer({}, "slow_app:service");
  client = createClient({ url: server.url + "/push", token: mint("alice") });
});
afterAll(async () => {
  client.close();
  await server.end();
});

it("gives the endpoint's own answer: status, headers and body", async () => {
  const answer = await client.pushFetch(server.url + "/report?of=JFK", { method: "POST", body: "order", headers: { Prefer: "respond-async" } });
  expect([answer.status, answer.headers.get("x-report"), answer.url]).toEqual([201, "7", server.url + "/report?of=JFK"]);
  expect(await answer.json()).toEqual({ of: "JFK", sent: "order" });
});

it("gives bytes as they are", async () => {
  const answer = await client.pushFetch(server.url + "/picture", { headers: { Prefer: "respond-async" } });
  expect(answer.headers.get("content-type")).toBe("image/jpeg");
  expect([...new Uint8Array(await answer.arrayBuffer())]).toEqual([0xff, 0xd8, 0xff]);
});

it("fetches what is too large for an event", async () => {
  const answer = await client.pushFetch(server.url + "/large", { headers: { Prefer: "respond-async" } });
  expect(await answer.text()).toHaveLength(200_000);
});

it("fetches an answer with cookies, so that the browser gets them", async () => {
  const answer = await client.pushFetch(server.url + "/basket", { headers: { Prefer: "respond-async" } });
  expect(await answer.json()).toEqual({ things: 3 });
});

it("gives the app's own 500 of an endpoint that raised", async () => {
  const answer = await client.pushFetch(server.url + "/broken", { headers: { Prefer: "respond-async" } });
  expect(answer.status).toBe(500);
});
