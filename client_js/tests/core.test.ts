// The client on a scripted server: each test states its fact.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createCore, type Core } from "../src/core.js";
import { JobError, RequestError } from "../src/errors.js";
import { scriptedServer, type ScriptedServer } from "../src/testing.js";

let server: ScriptedServer;
let client: Core;
const inbox = "user:me";

beforeEach(() => {
  vi.useFakeTimers();
  server = scriptedServer({ channels: ["group:ops"] });
  client = createCore({ url: "http://test", token: "t", ...server.parts });
});

afterEach(() => {
  client.close();
  vi.useRealTimers();
});

const settle = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

describe("a job", () => {
  it("has its key at once, its id once accepted, and its result when it is pushed", async () => {
    const job = client.submit("report", { origin: "JFK" });
    expect(job.key).toMatch(/^[0-9a-f]{32}$/);
    expect([job.id, job.status]).toEqual([undefined, "unsent"]);
    await settle();
    expect(job.id).toBe(server.jobs[0]!.id);
    expect(job.status).toBe("queued");
    expect(server.jobs[0]!.params).toEqual({ origin: "JFK" });
    server.finish("report", { flights: 3 });
    await settle();
    expect(await job).toEqual({ flights: 3 });
    expect(job.status).toBe("succeeded");
  });

  it("is found though it ended before the inbox was heard", async () => {
    const job = client.submit("report");
    await server.submitted("report");
    server.finish("report", 1);
    await settle(5_000);
    expect(await job).toBe(1);
  });

  it("tells its progress, the latest, and ends with it", async () => {
    const job = client.submit("report");
    const seen: number[] = [];
    const read = (async () => {
      for await (const { value } of job.progress()) seen.push(value);
    })();
    await settle();
    server.progress("report", 0.25);
    server.progress("report", 0.5);
    await settle();
    expect(job.status).toBe("running");
    server.finish("report", null);
    await settle();
    await read;
    expect(seen.at(-1)).toBe(0.5);
  });

  it("that fails rejects with the server's error, and is no unhandled rejection", async () => {
    const job = client.submit("report");
    await settle();
    server.fail("report");
    await settle();
    await expect(job.result()).rejects.toBeInstanceOf(JobError);
    await expect(job).rejects.toMatchObject({ code: "job_failed", status: 500 });
    expect(job.status).toBe("failed");
  });

  it("that is refused is rejected once, and told", async () => {
    const rejected = vi.fn();
    client.on("rejected", rejected);
    server.answer(/jobs$/, () => problem(422, "invalid_params"));
    const job = client.submit("report", { no: 1 });
    await settle();
    await expect(job).rejects.toBeInstanceOf(RequestError);
    expect(job.status).toBe("rejected");
    expect(rejected).toHaveBeenCalledOnce();
    expect(rejected.mock.calls[0]![0]).toMatchObject({ key: job.key, job: "report", params: { no: 1 } });
  });

  it.each([
    ["a captive portal's page", () => new Response("<html>Log in</html>", { headers: { "Content-Type": "text/html" } })],
    ["its 404", () => new Response("<html>", { status: 404, headers: { "Content-Type": "text/html" } })],
    ["a foreign JSON", () => Response.json({ ok: true })],
    ["a redirect", () => new Response(null, { status: 302, headers: { Location: "/login" } })],
    ["502", () => new Response("bad gateway", { status: 502 })],
    ["503", () => problem(503, "unavailable")],
    ["429", () => problem(429, "queue_full")],
    ["401", () => problem(401, "unauthorized")],
  ])("is sent again after %s, with the same key", async (_, answer) => {
    server.answer(/jobs$/, answer);
    const job = client.submit("report");
    await settle(10_000);
    expect(job.status).toBe("queued");
    const keys = server.requests.filter(({ method }) => method === "POST").map(({ headers }) => headers.get("idempotency-key"));
    expect(keys).toEqual([job.key, job.key]);
  });

  it("that is too large is fetched", async () => {
    const job = client.submit("report");
    await settle();
    server.finishLarge("report", [1, 2, 3]);
    await settle();
    expect(await job).toEqual([1, 2, 3]);
  });

  it("is picked up by its id, before and after its end", async () => {
    const first = client.submit("report");
    await settle();
    const again = createCore({ url: "http://test", ...server.parts });
    const found = again.job(first.id!);
    await settle();
    expect(found.status).toBe("queued");
    server.finish("report", 7);
    await settle();
    expect(await found).toBe(7);
    const late = again.job<number>(first.id!);
    await settle();
    expect(await late).toBe(7);
    const unknown = again.job("01JNONE");
    await settle();
    await expect(unknown).rejects.toMatchObject({ code: "not_found" });
    again.close();
  });

  it("does not fail because the token is no good for a while", async () => {
    const job = client.submit("report");
    await settle();
    server.answer(/result$/, () => problem(401, "unauthorized"));
    server.finishLarge("report", [1]);
    await settle(5_000);
    expect(await job).toEqual([1]);
    server.answer(/jobs\/\w+$/, () => problem(401, "unauthorized"));
    const again = client.job(job.id!);
    await settle(5_000);
    expect(await again).toEqual([1]);
  });

  it("is cancelled at the server, or taken back before it was sent", async () => {
    const job = client.submit("report");
    await settle();
    void job.cancel();
    await settle();
    await expect(job).rejects.toMatchObject({ code: "job_cancelled" });
    expect(job.status).toBe("cancelled");

    server.offline();
    await settle(100);
    const unsent = createCore({ url: "http://test", ...server.parts });
    const other = unsent.submit("report");
    void other.cancel().catch(() => {});
    server.offline(false);
    await settle(30_000);
    await expect(other).rejects.toMatchObject({ code: "job_cancelled" });
    unsent.close();
  });

  it("ends its waiting when the signal is aborted, and goes on", async () => {
    const stop = new AbortController();
    const job = client.submit("report", {}, { signal: stop.signal });
    await settle();
    stop.abort();
    await expect(job).rejects.toMatchObject({ name: "AbortError" });
    await settle();
    expect(server.jobs[0]!.view.status).toBe("queued");
  });

  it("is the same one under the same key", async () => {
    const [one, two] = [client.submit("report", {}, { key: "k" }), client.submit("report", {}, { key: "k" })];
    expect(one).toBe(two);
    await settle();
    expect(server.jobs).toHaveLength(1);
  });
});

describe("events", () => {
  const heard: unknown[] = [];
  beforeEach(() => {
    heard.length = 0;
    client.on("event", (event) => void heard.push(event.data));
  });

  it("come once and in order, over a cut, a doubled frame and 300 missed", async () => {
    await settle();
    server.publish(inbox, "n", 0);
    server.repeat(inbox);
    await settle();
    server.cut();
    for (let n = 1; n <= 300; n++) server.publish(inbox, "n", n);
    await settle(30_000);
    server.publish(inbox, "n", 301);
    await settle();
    expect(heard).toEqual(Array.from({ length: 302 }, (_, n) => n));
  });

  it("that are gone are a reset, and what follows goes on", async () => {
    const resets = vi.fn();
    client.on("reset", resets);
    await settle();
    server.publish(inbox, "n", 0);
    await settle();
    server.cut();
    server.publish(inbox, "n", 1);
    server.publish(inbox, "n", 2);
    server.forget(inbox, 1);
    await settle(30_000);
    expect(resets).toHaveBeenCalledOnce();
    expect(heard).toEqual([0, 2]);
    server.rewrite(inbox);
    server.cut();
    server.publish(inbox, "n", 3);
    await settle(30_000);
    expect(resets).toHaveBeenCalledTimes(2);
    expect(heard).toEqual([0, 2, 3]);
  });

  it("of a group are heard by who subscribes, until it leaves", async () => {
    const group: unknown[] = [];
    const leave = client.subscribe("group:ops", (event) => void group.push(event.data));
    await settle();
    server.publish("group:ops", "n", 1);
    await settle();
    leave();
    await settle();
    server.publish("group:ops", "n", 2);
    await settle();
    expect(group).toEqual([1]);
  });

  it("of a group that is forbidden are an error, and harm no other", async () => {
    const errors = vi.fn();
    client.on("error", errors);
    client.subscribe("group:secret", () => {});
    await settle();
    server.publish(inbox, "n", 1);
    await settle();
    expect(errors).toHaveBeenCalledOnce();
    expect(errors.mock.calls[0]![0]).toMatchObject({ code: "forbidden" });
    expect(heard).toEqual([1]);
  });

  it("are dealt with one after another, as slowly as the handler is, and none is lost", async () => {
    const slow: unknown[] = [];
    client.on("event", async (event) => {
      await new Promise((done) => setTimeout(done, 10));
      slow.push(event.data);
    });
    await settle();
    for (let n = 0; n < 1_000; n++) server.publish(inbox, "n", n);
    await settle(20_000);
    expect(slow).toEqual(Array.from({ length: 1_000 }, (_, n) => n));
  });

  it("whose handler throws are tried three times, then told as an error, and the next come", async () => {
    const tries: unknown[] = [];
    const errors: unknown[] = [];
    client.on("error", (error, event) => void errors.push([(error as Error).message, event?.data]));
    client.on("event", (event) => {
      tries.push(event.data);
      if (event.data === 1) throw new Error("no");
    });
    await settle();
    server.publish(inbox, "n", 1);
    server.publish(inbox, "n", 2);
    await settle(5_000);
    expect(tries).toEqual([1, 1, 1, 2]);
    expect(errors).toEqual([["no", 1]]);
  });

  it("may be awaited within a handler: a job's end waits for no other event", async () => {
    const results: unknown[] = [];
    client.on("event", async (event) => {
      if (event.type === "go") results.push(await client.submit("inner"));
    });
    await settle();
    server.publish(inbox, "go", 1);
    await settle();
    server.finish("inner", 42);
    await settle();
    expect(results).toEqual([42]);
  });
});

describe("who is here", () => {
  it("is asked with a token that is fetched once for several reasons, and anew after 401", async () => {
    client.close();
    let made = 0;
    const token = vi.fn(async () => `t${++made}`);
    client = createCore({ url: "http://test", token, ...server.parts });
    server.answer(/me$/, () => problem(401, "unauthorized"));
    client.submit("report");
    client.connect();
    await settle();
    expect(client.status.state).toBe("live");
    expect(token).toHaveBeenCalledTimes(2);
    expect(server.requests.at(-1)!.headers.get("authorization")).toBe("Bearer t2");
  });

  it("stops with an error where the token is no good and there is no other", async () => {
    const errors = vi.fn();
    client.on("error", errors);
    server.answer(/me$/, () => problem(401, "unauthorized"));
    await settle();
    expect(client.status).toEqual({ state: "stopped", code: 4401 });
    expect(errors).toHaveBeenCalledOnce();
  });

  it("gets another token before the first one ends, by the server's clock", async () => {
    client.close();
    let made = 0;
    server.me.expires_at = new Date(Date.now() + 3_600_000).toISOString();
    client = createCore({ url: "http://test", token: () => `t${++made}`, ...server.parts });
    client.connect();
    await settle(3_539_000);
    expect(made).toBe(1);
    await settle(2_000);
    expect(made).toBe(2);
    expect(server.connections).toBe(1);
  });
});

function problem(status: number, code: string): Response {
  return Response.json({ code, title: code, status }, { status, headers: { "Content-Type": "application/problem+json" } });
}
