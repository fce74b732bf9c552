// The session machine, without sockets or clocks.

import { describe, expect, it } from "vitest";
import { ANSWER, CUTS, idle, LATE, OPENING, QUIET, step, STAY, STEADY, type Effect, type Input, type State, type TimerName } from "../src/session.js";

const WAYS = [
  { name: "websocket", duplex: true },
  { name: "sse", duplex: false },
  { name: "longpoll", duplex: false },
];

/** A machine, its clock, and what it asked for. */
function machine(way = 0, ways = WAYS) {
  let state: State = idle(ways);
  let effects: Effect[] = [];
  const self = {
    now: 1_000_000,
    timers: new Map<TimerName, number>(),
    put(...input: Input) {
      const frozen = JSON.stringify(state);
      const before = state;
      const [after, made] = step(state, input, self.now, 0.5);
      expect(JSON.stringify(before)).toBe(frozen); // what was is not changed
      state = after;
      effects = made;
      for (const effect of made) {
        if (effect[0] !== "timer") continue;
        if (effect[2] === undefined) self.timers.delete(effect[1]);
        else self.timers.set(effect[1], self.now + effect[2]);
      }
      return self;
    },
    /** Let a timer fire when it is due, or so much later. */
    fire(name: TimerName, late = 0) {
      const at = self.timers.get(name);
      if (at === undefined) throw new Error(`${name} is not set`);
      self.now = at + late;
      self.timers.delete(name);
      return self.put("timer", name);
    },
    after(ms: number) {
      self.now += ms;
      return self;
    },
    of<Do extends Effect[0]>(name: Do) {
      return effects.filter((effect): effect is Extract<Effect, [Do, ...unknown[]]> => effect[0] === name);
    },
    get opened() {
      return self.of("open").map(([, , way]) => WAYS[way]!.name);
    },
    get state() {
      return state;
    },
    live() {
      return self.put("frame", state.next, { id: 1, ok: { cursor: "user:me@k1.1" } });
    },
    cut(code?: number, retry?: [number, number]) {
      return self.put("closed", state.live || state.next, code, retry);
    },
  };
  return self.put("start", "user:me", { "user:me": "k1.1" }, way);
}

describe("a way that does not deliver", () => {
  it("is left for the next within seconds, and the one that delivers is stayed with for ten minutes", () => {
    const m = machine();
    expect(m.opened).toEqual(["websocket"]);
    m.put("opened", 1); // it opens, and swallows all
    expect(m.of("send")).toHaveLength(1);
    m.fire("opening");
    expect(m.of("close")).toEqual([["close", 1]]);
    m.fire("retry");
    expect(m.opened).toEqual(["sse"]);
    m.fire("opening").fire("retry");
    expect(m.opened).toEqual(["longpoll"]);
    expect(m.now - 1_000_000).toBeLessThan(3 * OPENING);
    m.live();
    expect(m.of("remember")).toEqual([["remember", 2]]);
    expect(m.timers.get("upwards")! - m.now).toBe(STAY);
  });

  it("is tried again beside the one that lives, which is left only when the better one delivers", () => {
    const m = machine(2).live();
    m.fire("upwards");
    expect(m.opened).toEqual(["websocket"]);
    expect(m.of("close")).toEqual([]);
    m.cut; // the live one stays
    m.put("closed", m.state.next);
    expect(m.opened).toEqual(["sse"]);
    m.fire("opening");
    expect(m.state.live).toBe(1);
    expect(m.timers.get("upwards")! - m.now).toBe(STAY);
    m.fire("upwards").live();
    expect(m.of("close")).toEqual([["close", 1]]);
    expect(m.of("remember")).toEqual([["remember", 0]]);
  });

  it("is forgotten when the network is another", () => {
    const m = machine(2).live().put("wake", true);
    expect(m.of("remember")).toEqual([["remember", 0]]);
    expect(m.opened).toEqual(["websocket"]);
  });

  it("after an outage of all, is no reason to stay with the one that came first", () => {
    const m = machine();
    for (let n = 0; n < 7; n++) m.cut().fire("retry");
    expect(m.state.nextWay).toBe(1);
    m.live();
    expect(m.timers.get("upwards")! - m.now).toBe(STEADY);
    expect(m.of("remember")).toEqual([["remember", 0]]);
  });

  it("may deliver and be cut again and again: then the next is tried too", () => {
    const m = machine();
    for (let n = 0; n < CUTS; n++) m.live().after(30_000).cut().fire("retry");
    expect(m.opened).toEqual(["sse"]);
    const quick = machine().live().after(200).cut().fire("retry");
    expect(quick.opened).toEqual(["sse"]);
  });

  it("may hold a stream open, and mute", () => {
    const m = machine(1).live();
    m.fire("quiet");
    expect(m.of("close")).toEqual([["close", 1]]);
    m.fire("retry");
    expect(m.opened).toEqual(["longpoll"]);
  });
});

describe("coming back", () => {
  it("takes longer each time, as long as nothing is delivered, and never in step with others", () => {
    const m = machine(0, WAYS.slice(0, 1));
    const waits: number[] = [];
    for (let n = 0; n < 8; n++) {
      m.cut();
      waits.push(m.timers.get("retry")! - m.now);
      m.fire("retry");
    }
    expect(waits).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    m.live().put("frame", m.state.live, { op: "reset", channel: "user:me", position: "k2.0", links: {} }).cut();
    expect(m.timers.get("retry")! - m.now).toBe(250);
  });

  it("is when the server says, by the same way", () => {
    const m = machine().live().cut(4001, [500, 20_000]);
    expect(m.timers.get("retry")! - m.now).toBe(10_250);
    m.fire("retry");
    expect(m.opened).toEqual(["websocket"]);
  });

  it("is not, after 44xx", () => {
    const m = machine().live().cut(4403);
    expect(m.of("status").at(-1)).toEqual(["status", { state: "stopped", code: 4403 }]);
    m.put("wake", true);
    expect(m.opened).toEqual([]);
  });

  it("after 4401 is with another token, once", () => {
    const m = machine().live().cut(4401);
    expect(m.of("renew")).toHaveLength(1);
    m.put("token");
    expect(m.opened).toEqual(["websocket"]);
    m.cut(4401);
    expect(m.of("renew")).toEqual([]);
    expect(m.of("status").at(-1)).toEqual(["status", { state: "stopped", code: 4401 }]);
  });

  it("goes on where the connection was, channel by channel", () => {
    const m = machine().live();
    m.put("want", { "group:ops": "k9.1" });
    expect(m.of("send").map(([, , frame]) => frame)).toMatchObject([{ op: "subscribe", channels: ["group:ops"], cursor: "group:ops@k9.1" }]);
    m.put("frame", 1, { op: "event", channel: "group:ops", position: "k9.2", event: {} as never });
    m.cut().fire("retry");
    expect(m.of("open")[0]![4]).toBe("user:me@k1.1,group:ops@k9.2");
    m.put("opened", 2).live();
    expect(m.of("send").map(([, , frame]) => frame)).toMatchObject([{ op: "subscribe", cursor: "group:ops@k9.2" }]);
  });
});

it("leaves no timer behind when it is stopped, whatever it was doing", () => {
  const states = [machine(), machine(2).live(), machine().live().put("wake"), machine().cut(), machine(1).live().put("want", { "group:a": "k1.1" })];
  for (const m of states) expect([...m.put("stop").timers.keys()]).toEqual([]);
});

describe("whether it is alive", () => {
  it("is asked after thirty seconds of silence; no answer in five, and another takes its place", () => {
    const m = machine().live();
    m.fire("quiet");
    const [, n, frame] = m.of("send")[0]!;
    expect([n, frame.op, frame["channels"]]).toEqual([1, "unsubscribe", []]);
    m.put("frame", 1, { id: frame.id, ok: {} });
    expect(m.timers.has("answer")).toBe(false);
    m.fire("quiet").fire("answer");
    expect(m.of("close")).toEqual([["close", 1]]);
    m.fire("retry");
    expect(m.opened).toEqual(["websocket"]);
  });

  it("has lost a subscription when it answers what was asked later", () => {
    const m = machine().put("opened", 1).live().put("want", { "group:ops": "k1.1" });
    const [[, , subscribe]] = m.of("send") as [Extract<Effect, ["send", ...unknown[]]>];
    m.fire("quiet");
    const [[, , probe]] = m.of("send") as [Extract<Effect, ["send", ...unknown[]]>];
    expect(m.put("frame", 1, { id: probe.id, ok: {} }).of("close")).toEqual([["close", 1]]);

    const answered = machine().put("opened", 1).live().put("want", { "group:ops": "k1.1" });
    answered.put("frame", 1, { id: subscribe.id, ok: { cursor: "group:ops@k1.1" } }).fire("quiet");
    expect(answered.put("frame", 1, { id: probe.id, ok: {} }).of("close")).toEqual([]);
  });

  it("is not asked while it is heard", () => {
    const m = machine().live();
    m.after(20_000).put("frame", 1, { op: "progress", job: "j", value: 0, message: "", queries: [] });
    m.fire("quiet");
    expect(m.of("send")).toEqual([]);
    expect(m.timers.get("quiet")! - m.now).toBe(QUIET - 10_000);
  });

  it("is asked when the page comes back, once", () => {
    const m = machine().live().put("wake");
    expect(m.of("send")).toHaveLength(1);
    m.put("wake").put("wake");
    expect(m.of("send")).toEqual([]);
  });

  it("is not denied by a timer of this page that was late: then it is asked again", () => {
    const m = machine().live().put("wake");
    m.fire("answer", LATE + 1);
    expect(m.of("close")).toEqual([]);
    expect(m.of("send")).toHaveLength(1);
    m.fire("answer");
    expect(m.of("close")).toEqual([["close", 1]]);
    expect(ANSWER).toBe(5_000);
  });

  it("says nothing any more once another has taken its place", () => {
    const m = machine().live().cut().fire("retry").live();
    m.put("frame", 1, { op: "event", channel: "user:me", position: "k1.2", event: {} as never });
    expect(m.of("hear")).toEqual([]);
    m.put("closed", 1, 4403);
    expect(m.state.on).toBe(true);
  });
});
