// One client against a real server, over each transport.

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { createCore, JobError, longpoll, RequestError, sse, websocket, type Core, type CoreOptions, type Transport } from "../src/index.js";
import { mint, startServer, until, type Server } from "./server.js";

let server: Server;
const clients: Core[] = [];

beforeAll(async () => {
  // Node 22 has one of its own; before, a test's WebSocket is Node's undici's.
  globalThis.WebSocket ??= (await import("undici")).WebSocket as unknown as typeof WebSocket;
  server = await startServer();
});
afterEach(() => clients.splice(0).forEach((client) => client.close()));
afterAll(() => server.end());

let users = 0;
function connect(transport: Transport | readonly Transport[], options: Partial<CoreOptions> = {}): Core & { user: string } {
  const user = `user${++users}`;
  const transports = [transport].flat() as Transport[];
  const client = createCore({ url: server.url, token: mint(user), transports, ...options });
  clients.push(client);
  return Object.assign(client, { user });
}

const live = (client: Core) => until(() => client.status.state === "live", "it is live");

describe.each([websocket, sse, longpoll])("over $name", (transport) => {
  it("a job's result comes, and its failure, and what is too large for an event", async () => {
    const client = connect(transport);
    const [echo, failing, big] = [
      client.submit("echo", { value: { ü: ["🚀", null] } }),
      client.submit("failing", { message: "no" }),
      client.submit("big", { size: 100_000 }),
    ];
    expect(await echo).toEqual({ ü: ["🚀", null] });
    await expect(failing).rejects.toBeInstanceOf(JobError);
    expect(await big).toHaveLength(100_000);
    expect(client.status.transport).toBe(transport.name);
    await expect(client.submit("nothing", {})).rejects.toMatchObject({ code: "unknown_job", status: 404 });
    await expect(client.submit("big", { size: "?" })).rejects.toBeInstanceOf(RequestError);
  });

  it("progress comes, the latest last", async () => {
    const client = connect(transport);
    await live(client.on("status", () => {}) && client);
    const job = client.submit("stepping", { steps: 4, pause: 0.15 });
    const seen: number[] = [];
    for await (const { value } of job.progress()) seen.push(value);
    expect(await job).toBe(4);
    expect(seen.length).toBeGreaterThan(0);
    expect(seen).toEqual([...seen].sort());
  });

  it("300 events of a group come once and in order", async () => {
    const client = connect(transport);
    const heard: unknown[] = [];
    client.subscribe("group:ops", (event) => void heard.push(event.data));
    await live(client.on("status", () => {}) && client);
    const start = Math.floor(Math.random() * 1e9);
    await until(async () => heard.length || !(await client.submit("burst", { channel: "group:ops", count: 1, start: -1 })), "it hears");
    heard.length = 0;
    await client.submit("burst", { channel: "group:ops", count: 300, start });
    await until(() => heard.length >= 300, "all were heard");
    expect(heard).toEqual(Array.from({ length: 300 }, (_, n) => start + n));
  });

  it("a group that the token does not name is refused, and nothing else", async () => {
    const errors: unknown[] = [];
    const client = connect(transport);
    client.on("error", (error) => void errors.push((error as RequestError).code));
    client.subscribe("group:secret", () => {});
    expect(await client.submit("echo", { value: 1 })).toBe(1);
    await until(() => errors.length, "it was told");
    expect(errors).toEqual(["forbidden"]);
  });
});

it("a token that ends is replaced in its connection, which goes on", async () => {
  const user = `user${++users}`;
  let made = 0;
  const token = () => (made++, mint(user, {}, made === 1 ? 3 : 3_600));
  const states: string[] = [];
  const client = connect(websocket, { token });
  client.on("status", ({ state }) => void states.push(state));
  await live(client);
  await until(() => made === 2, "another was asked for");
  expect(await client.submit("echo", { value: 1 })).toBe(1);
  await new Promise((done) => setTimeout(done, 2_500));
  expect(await client.submit("echo", { value: 2 })).toBe(2);
  expect(states.filter((state) => state === "live")).toHaveLength(1);
});

it("a server that goes and comes back, in peace or killed, loses nothing", { timeout: 120_000 }, async () => {
  const client = connect([websocket, sse, longpoll]);
  const heard: unknown[] = [];
  client.on("event", (event) => void (event.type === "n" && heard.push(event.data)));
  await live(client);
  await client.submit("burst", { channel: "user:" + client.user, count: 5 });
  for (const [signal, start] of [["SIGTERM", 5], ["SIGKILL", 10]] as const) {
    await server.stop(signal);
    await until(() => client.status.state !== "live", "it is noticed");
    // Submitted while nobody is there.
    const job = client.submit("burst", { channel: "user:" + client.user, count: 5, start });
    await server.again();
    expect(await job).toBe(5);
  }
  await until(() => heard.length >= 15, "all were heard");
  expect(heard).toEqual(Array.from({ length: 15 }, (_, n) => n));
});
