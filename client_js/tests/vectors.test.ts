// `tests/vectors/` of the repository, which Python is tested against too.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { errorOf, JobError, RequestError, Unavailable } from "../src/errors.js";
import { idle, step, type Effect, type Input, type State } from "../src/session.js";
import { Blocks } from "../src/transports/sse.js";
import { distance, formatCursor, parseCursor, parsePosition, type ServerFrame } from "../src/wire.js";

const vectors = (name: string): any => JSON.parse(readFileSync(new URL(`../../tests/vectors/${name}.json`, import.meta.url), "utf8"));

describe("positions", () => {
  const { valid, invalid } = vectors("positions");
  it.each<[string, any]>(valid.map((each: { text: string }) => [each.text, each]))("%s is one", (text, { epoch, offset, canonical }) => {
    expect(parsePosition(text)).toEqual([epoch, BigInt(offset)]);
    expect(parsePosition(text)!.join(".")).toBe(canonical ?? text);
  });
  it.each<string>(invalid)("%j is none", (text) => expect(parsePosition(text)).toBeUndefined());
  it("of 18 digits are told apart", () => {
    expect(distance("k1.999999999999999998", "k1.999999999999999999")).toBe(1n);
    expect(distance("k1.1", "k2.2")).toBeUndefined();
  });
});

describe("cursors", () => {
  const { valid, invalid } = vectors("cursors");
  const anchors = ["now", "start"];
  it.each<[string, any]>(valid.map((each: { text: string }) => [each.text, each]))("%j is one", (text, { positions, canonical }) => {
    if (anchors.includes(text)) return expect(() => parseCursor(text)).toThrow(RangeError);
    expect(parseCursor(text)).toEqual(positions);
    if (canonical) expect(formatCursor(parseCursor(text))).toBe(canonical);
  });
  it.each<[string, any]>(invalid.map((each: { text: string; why: string }) => [each.why, each.text]))("%s: none", (_, text) => {
    expect(() => parseCursor(text)).toThrow(RangeError);
  });
});

describe("frames of a client", () => {
  // What the machine says, in the circumstances in which it says it, is among what the server understands.
  const { valid } = vectors("client_frames");
  const known = new Set(valid.map(({ means }: { means: { op: string } }) => means.op));
  const members = Object.fromEntries(valid.map(({ means }: { means: { op: string } }) => [means.op, Object.keys(means)]));

  it("are understood", () => {
    let state: State = idle([{ name: "websocket", duplex: true }]);
    const sent: { op: string }[] = [];
    const put = (...input: Input) => {
      const [after, effects] = step(state, input, 0, 0);
      state = after;
      effects.filter((effect): effect is Extract<Effect, ["send", ...unknown[]]> => effect[0] === "send").forEach((effect) => sent.push(effect[2]));
    };
    put("start", "user:me", { "user:me": "k3.40", "group:ops": "k9f.7" });
    put("opened", 1);
    put("frame", 1, { id: 1, ok: { cursor: "user:me@k3.40" } });
    put("want", {});
    put("token");
    put("ack", "user:me@k3.41");
    put("wake");
    expect(new Set(sent.map(({ op }) => op))).toEqual(new Set(["hello", "subscribe", "unsubscribe", "refresh", "ack"]));
    for (const frame of sent) {
      expect(known).toContain(frame.op);
      for (const member in frame) if (member !== "device") expect(members[frame.op]).toContain(member);
    }
  });
});

describe("frames of the server", () => {
  const { frames } = vectors("server_frames");
  it.each<[string, any]>(frames.map((each: { make: string; bytes: string }) => [each.make, each]))("%s is heard or answered", (make, { bytes, ...about }) => {
    const frame = JSON.parse(bytes) as ServerFrame & Record<string, unknown>;
    if (make === "event" || make === "reset") {
      expect(parsePosition(frame["position"] as string)!.join(".")).toBe(about.position);
      expect(frame["channel"]).toBe(about.channel);
      const [, effects] = step(liveAt("k0.0"), ["frame", 1, frame], 0, 0);
      expect(effects).toEqual([["hear", frame]]);
    } else if (make === "bye") expect(frame).toMatchObject({ op: "bye", code: about.code });
    else if (make === "error") expect(errorOf(frame["error"] as never, 400).code).toBe(about.error);
    else if (make === "ok") expect(frame).toMatchObject({ id: about.id, ok: about.ok });
  });

  function liveAt(position: string): State {
    const [opening] = step(idle([{ name: "w", duplex: true }]), ["start", "user:me", { "user:me": position }], 0, 0);
    return step(opening, ["frame", 1, { id: 1, ok: {} }], 0, 0)[0];
  }
});

describe("events", () => {
  const { events } = vectors("events");
  it.each<[string, string]>(events.map((each: { title: string; bytes: string }) => [each.title, each.bytes]))("%s: the same in a stream", (_, bytes) => {
    const heard: unknown[] = [];
    const blocks = new Blocks((frame) => frame && heard.push(frame));
    const text = `: recovered\nretry: 1834\nid: user:me@k3.40\n\nid: user:me@k3.41\nevent: event\ndata: {"channel":"user:me","position":"k3.41","event":${bytes}}\n\n:\n\n`;
    // However it is cut.
    for (let at = 0; at < text.length; at += 7) blocks.take(text.slice(at, at + 7));
    expect(heard).toEqual([
      { id: 1, ok: { cursor: "user:me@k3.40" } },
      { op: "event", channel: "user:me", position: "k3.41", event: JSON.parse(bytes) },
    ]);
  });
});

it("errors are told apart by what they mean", () => {
  const of = (code: string, status: number) => errorOf({ code, title: code, status });
  expect(of("job_timed_out", 504)).toBeInstanceOf(JobError);
  expect(of("worker_lost", 500)).toBeInstanceOf(JobError);
  expect(of("invalid_params", 422)).toBeInstanceOf(RequestError);
  expect(of("queue_full", 429)).toBeInstanceOf(Unavailable);
  expect(of("unavailable", 503)).toBeInstanceOf(Unavailable);
});
