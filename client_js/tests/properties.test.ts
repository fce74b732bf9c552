// Whatever is dropped, doubled, delayed, cut or forgotten: an app hears each event once, in order, or a reset.

import fc from "fast-check";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { createCore } from "../src/core.js";
import { scriptedServer } from "../src/testing.js";
import { distance } from "../src/wire.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

// The gate tries the same programs each time; `RUNS=20000` as many others, at random.
const RUNS = Number(process.env["RUNS"] ?? 0);
const CHANNELS = ["user:me", "group:ops"];
const channel = fc.constantFrom(...CHANNELS);
const act = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("publish" as const), channel, times: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("pass" as const), ms: fc.integer({ min: 0, max: 8_000 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("cut" as const), code: fc.constantFrom(undefined, 4001, 4029) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("repeat" as const), channel }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("mute" as const), on: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("offline" as const), on: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("forget" as const), channel, but: fc.integer({ min: 0, max: 3 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("rewrite" as const), channel }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("burst" as const), channel }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("fail" as const), path: fc.constantFrom("events", "me") }) },
);

it("each event is heard once, in order, or a reset", { timeout: 60_000 + 50 * RUNS }, async () => {
  const program = fc.record({
    acts: fc.array(act, { maxLength: 40 }),
    latencies: fc.array(fc.integer({ min: 0, max: 3_000 }), { minLength: 1, maxLength: 5 }),
    slow: fc.constantFrom(0, 0, 30, 900),
    clumsy: fc.integer({ min: 0, max: 7 }),
  });
  await fc.assert(
    fc.asyncProperty(program, async ({ acts, latencies, slow, clumsy }) => {
      let calls = 0;
      const server = scriptedServer({ channels: ["group:ops"], latency: () => latencies[calls++ % latencies.length]! });
      const client = createCore({ url: "http://test", ...server.parts });
      const heard: Record<string, { position: string; reset?: boolean }[]> = { "user:me": [], "group:ops": [] };
      const published = new Map<string, Set<string>>(CHANNELS.map((name) => [name, new Set()]));
      const failed = new Set<string>();
      let handled = 0;
      client.on("event", async (event, { channel, position }) => {
        if (slow) await new Promise((done) => setTimeout(done, slow));
        // A handler that throws once is asked again.
        if (clumsy && ++handled % 8 === clumsy && !failed.has(event.id)) {
          failed.add(event.id);
          throw new Error("once");
        }
        heard[channel]!.push({ position });
      });
      client.on("reset", ({ channel, position }) => void heard[channel]!.push({ position, reset: true }));
      client.subscribe("group:ops", () => {});
      await vi.advanceTimersByTimeAsync(60_000);
      const start = Object.fromEntries(CHANNELS.map((name) => [name, server.top(name)]));

      for (const each of acts) {
        if (each.do === "publish") for (let n = 0; n < each.times; n++) publish(each.channel);
        else if (each.do === "burst") for (let n = 0; n < 300; n++) publish(each.channel);
        else if (each.do === "pass") await vi.advanceTimersByTimeAsync(each.ms);
        else if (each.do === "cut") server.cut(each.code, each.code ? [500, 2_000] : undefined);
        else if (each.do === "fail") server.answer(new RegExp(each.path), () => new Response("<html>", { status: 502 }));
        else if (each.do === "forget") server.forget(each.channel, each.but);
        else if (each.do === "mute" || each.do === "offline") server[each.do](each.on);
        else server[each.do](each.channel);
        if (each.do === "rewrite") published.get(each.channel)!.clear();
      }
      server.mute(false);
      server.offline(false);
      await vi.advanceTimersByTimeAsync(120_000);
      // What shows a silent gap, if there were one.
      for (const name of CHANNELS) publish(name);
      const behind = () => CHANNELS.some((name) => heard[name]!.at(-1)?.position !== server.top(name));
      for (let waits = 0; behind() && waits < 200; waits++) await vi.advanceTimersByTimeAsync(60_000);
      client.close();

      for (const name of CHANNELS) {
        let at = start[name]!;
        for (const { position, reset } of heard[name]!) {
          const by = distance(at, position);
          if (!reset) expect([name, at, position, by]).toEqual([name, at, position, 1n]);
          else if (by !== undefined) expect(by >= 0n).toBe(true);
          at = position;
        }
        expect([name, at]).toEqual([name, server.top(name)]);
      }

      function publish(name: string) {
        published.get(name)!.add(server.publish(name, "n", 0).position);
      }
    }),
    RUNS ? { numRuns: RUNS } : { numRuns: 100, seed: 1 },
  );
});
