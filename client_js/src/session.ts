// One tab's connection as a pure machine: `(state, input) → (state, effects)`. No sockets, clocks, storage or chance
// in it: the time and a random number come with each input.
//
// At most two connections are known: the live one, and one that is being opened in its place or beside it. What any
// other connection still brings is ignored. `at` is how far connections have brought each channel; what the app has
// dealt with is another matter (`reading.ts`).
//
// Inputs and effects are tuples, a name and what belongs to it.

import { distance, formatCursor, parseCursor, type Heard, type Position, type Positions, type ServerFrame } from "./wire.js";

// Milliseconds. A connection has to deliver within OPENING; what is silent for QUIET is asked, and has to answer
// within ANSWER. One that lasted STEADY has worked; CUTS lives shorter than SHORT in a row, and it is given up.
export const OPENING = 4_000;
export const QUIET = 30_000;
export const ANSWER = 5_000;
export const LATE = 2_000;
export const STEADY = 5_000;
export const SHORT = 60_000;
export const CUTS = 3;
/** For how long a transport that is not the best is stayed with. */
export const STAY = 600_000;
const REOPEN = 20;
const FIRST_RETRY = 500;
const LAST_RETRY = 20_000;

export type TimerName = "retry" | "opening" | "quiet" | "answer" | "upwards" | "reopen";

export interface Status {
  /** `waiting` until `retryAt` (ms since 1970); `stopped` by `code`; `off` when nobody asked for a connection. */
  state: "connecting" | "live" | "waiting" | "stopped" | "off";
  transport?: string;
  retryAt?: number;
  /** The close code after which the server wants no more connections: 4400 to 4999. */
  code?: number;
  /** Another tab holds the connection. */
  shared?: boolean;
}

export interface State {
  on: boolean;
  inbox: string;
  ways: readonly { name: string; duplex: boolean }[];
  /** The way that is tried next. */
  way: number;
  /** How far each channel was heard; the inbox may be nowhere yet. */
  at: Positions;
  /** The number of the last connection, of the live one, of the one that is opening; or 0. */
  last: number;
  live: number;
  liveWay: number;
  next: number;
  nextWay: number;
  /** When the live connection began to deliver, and when it was heard last. */
  since: number;
  heard: number;
  /** Whether it has brought an event. */
  brought: boolean;
  /** Another token was asked for since a connection delivered. */
  renewed: boolean;
  fails: number;
  cuts: number;
  frame: number;
  /** Which channel's subscription an answer is about; "" for what else has to succeed. */
  asked: Readonly<Record<number, string>>;
  /** The frame by which the live connection was asked whether it is alive, and until when it has to answer. */
  probe: number;
  due: number;
}

export type Retry = readonly [least: number, most: number];

export type Input =
  | [input: "start", inbox: string, at: Positions, way?: number]
  | [input: "stop", code?: number]
  /** The network, or the page, came back. */
  | [input: "wake", online?: boolean]
  /** The channels besides the inbox, and where to begin in each. */
  | [input: "want", want: Positions]
  | [input: "opened", n: number]
  | [input: "frame", n: number, frame?: ServerFrame]
  | [input: "closed", n: number, code?: number, retry?: Retry]
  /** There is another token; or none can be had just now. */
  | [input: "token", failed?: boolean]
  | [input: "ack", cursor: string]
  | [input: "timer", name: TimerName];

export type Effect =
  | [effect: "open", n: number, way: number, channels: readonly string[], cursor: string]
  /** `hello` and `refresh` go with a token. */
  | [effect: "send", n: number, frame: { id: number; op: string; [member: string]: unknown }]
  | [effect: "close", n: number]
  /** Without `ms`, no more. */
  | [effect: "timer", name: TimerName, ms?: number]
  | [effect: "hear", frame: Heard]
  | [effect: "located", cursor: string]
  | [effect: "refused", channel: string, error?: unknown]
  | [effect: "renew"]
  | [effect: "ack", cursor: string]
  | [effect: "remember", way: number]
  | [effect: "status", status: Status];

export function idle(ways: State["ways"]): State {
  const none = { way: 0, last: 0, live: 0, liveWay: 0, next: 0, nextWay: 0, since: 0, heard: 0, probe: 0, due: 0 };
  return { ...none, fails: 0, cuts: 0, frame: 1, on: false, brought: false, renewed: false, inbox: "", ways, at: {}, asked: {} };
}

/** Full jitter, in ms: between nothing and a bound that doubles with each failure. */
export function backOff(fails: number, chance = Math.random()): number {
  return chance * Math.min(LAST_RETRY, FIRST_RETRY * 2 ** fails);
}

/** `now` in ms since 1970; `chance` at random from 0 to 1. */
export function step(before: State, [is, ...given]: Input, now: number, chance: number): [State, Effect[]] {
  const s = { ...before };
  const effects: Effect[] = [];
  const act = (...effect: Effect) => void effects.push(effect);
  const duplex = (way = s.liveWay) => s.ways[way]!.duplex;

  const connecting = () => act("status", { state: "connecting" });

  const open = (way: number) => {
    if (s.next) act("close", s.next);
    s.next = ++s.last;
    s.nextWay = way;
    act("timer", "retry");
    act("timer", "opening", OPENING);
    act("open", s.next, way, Object.keys(s.at), formatCursor(s.at));
    if (!s.live) connecting();
  };

  const wait = (ms: number) => {
    act("timer", "retry", ms);
    act("status", { state: "waiting", retryAt: now + ms });
  };

  const send = (op: string, members: object, about?: string) => {
    const id = ++s.frame;
    if (about !== undefined) s.asked = { ...s.asked, [id]: about };
    act("send", s.live, { id, op, ...members });
    return id;
  };

  const cursor = (channel: string) => formatCursor({ [channel]: s.at[channel]! }) || undefined;

  const subscribe = (channel: string) =>
    channel === s.inbox || send("subscribe", { channels: [channel], cursor: cursor(channel) }, channel);

  const move = (channel: string, position: Position) => {
    const by = s.at[channel] && distance(s.at[channel]!, position);
    if (!(typeof by === "bigint" && by <= 0n)) s.at = { ...s.at, [channel]: position };
  };

  const refuse = (channel: string, error?: unknown) => {
    const { [channel]: _, ...rest } = s.at;
    s.at = rest;
    act("refused", channel, error);
  };

  /** This connection is no more. */
  const gone = (n: number) => {
    if (n === s.live) {
      s.live = s.probe = 0;
      s.asked = {};
      for (const name of ["quiet", "answer", "reopen"] as const) act("timer", name);
    } else {
      s.next = 0;
      act("timer", "opening");
    }
  };

  const end = (n: number) => {
    if (n) act("close", n);
    if (n) gone(n);
  };

  const stop = (code?: number) => {
    end(s.live);
    end(s.next);
    s.on = false;
    act("timer", "retry");
    act("timer", "upwards");
    act("status", code ? { state: "stopped", code } : { state: "off" });
  };

  const probe = () => {
    if (s.probe) return;
    s.probe = send("unsubscribe", { channels: [] }, "");
    s.due = now + ANSWER;
    act("timer", "answer", ANSWER);
  };

  const delivers = (cursor: string) => {
    const outage = s.fails > s.ways.length;
    const n = s.next;
    // Where everything had failed, the way that came first when that was over says little about the others.
    if (!s.live || s.liveWay !== s.nextWay) act("timer", "upwards", outage ? STEADY : STAY);
    end(s.live);
    s.live = n;
    s.liveWay = s.way = s.nextWay;
    s.next = 0;
    s.since = s.heard = now;
    s.brought = s.renewed = false;
    act("timer", "opening");
    act("timer", "quiet", QUIET);
    act("remember", outage ? 0 : s.liveWay);
    act("status", { state: "live", transport: s.ways[s.liveWay]!.name });
    located(cursor);
    if (duplex()) Object.keys(s.at).forEach(subscribe);
  };

  const located = (cursor: string) => {
    act("located", cursor);
    for (const [channel, position] of Object.entries(parseCursor(cursor))) move(channel, position);
  };

  const answered = ({ id, ok, error }: Extract<ServerFrame, { op?: undefined }>) => {
    const { [id!]: about, ...rest } = s.asked;
    if (about === undefined) return;
    s.asked = rest;
    if (id === s.probe) {
      s.probe = 0;
      act("timer", "answer");
      // Answers come in order: what was asked before and has none never arrived.
      if (Object.keys(rest).some((before) => +before < id)) return lost(s.live);
    }
    ok?.unsubscribed?.forEach((channel) => refuse(channel));
    if (ok?.cursor) located(ok.cursor);
    if (error && about && !error.temporary) refuse(about, error);
    else if (error) {
      const ms = (error.retry_after ?? 1) * 1_000;
      lost(s.live, [ms, ms * 2]);
    }
  };

  /** It ended, or has to: what now. */
  const lost = (n: number, retry?: Retry, code = 0) => {
    const wasLive = n === s.live;
    const way = wasLive ? s.liveWay : s.nextWay;
    end(n);
    if (s.next) return connecting();
    if (s.live) {
      // It was to take the place of the live one, or to better it.
      if (way >= s.liveWay) act("timer", "reopen", ANSWER);
      else if (way + 1 < s.liveWay) open(way + 1);
      else act("timer", "upwards", STAY);
      return;
    }
    if (code >= 4400 && code < 5000) {
      if (code !== 4401 || s.renewed) return stop(code);
      s.renewed = true;
      return act("renew");
    }
    const steady = wasLive && (s.brought || now - s.since >= STEADY);
    if (steady) s.fails = 0;
    s.cuts = wasLive && now - s.since < SHORT ? s.cuts + 1 : 0;
    const stays = retry ?? (steady && s.cuts < CUTS);
    s.way = stays ? way : (way + 1) % s.ways.length;
    if (!stays) s.cuts = 0;
    wait(retry ? retry[0] + chance * (retry[1] - retry[0]) : backOff(s.fails, chance));
    s.fails += 1;
  };

  const timers: Record<TimerName, () => void> = {
    retry: () => s.live || s.next || open(s.way),
    opening: () => s.next && lost(s.next),
    quiet() {
      const left = s.heard + QUIET - now;
      act("timer", "quiet", left > 1_000 ? left : QUIET);
      if (left > 1_000) return;
      if (duplex()) return probe();
      // A stream that is open and mute.
      s.cuts = CUTS;
      lost(s.live);
    },
    answer() {
      if (!s.probe) return;
      s.probe = 0;
      // A page that was throttled or frozen: its own timer was late, which says nothing of the server.
      if (now - s.due > LATE) probe();
      else lost(s.live);
    },
    upwards: () => s.live && s.liveWay && !s.next && open(0),
    reopen: () => open(s.next ? s.nextWay : s.liveWay),
  };

  const inputs: { [Is in Input[0]]: (...given: Rest<Extract<Input, [Is, ...unknown[]]>>) => void } = {
    start(inbox, at, way = 0) {
      s.on = true;
      s.inbox = inbox;
      s.at = { [inbox]: "", ...at };
      s.fails = s.cuts = 0;
      s.renewed = false;
      open((s.way = Math.min(way, s.ways.length - 1)));
    },
    stop,
    wake(online) {
      if (online) {
        s.way = s.fails = s.cuts = 0;
        act("remember", 0);
        if (s.liveWay) end(s.live);
      }
      if (s.live && duplex()) probe();
      else if (s.live || !s.next || online) open(s.live ? s.liveWay : s.way);
    },
    want(want) {
      const all: Record<string, Position> = { [s.inbox]: "", ...want };
      const added = Object.keys(all).filter((channel) => !(channel in s.at));
      const removed = Object.keys(s.at).filter((channel) => !(channel in all));
      if (!added.length && !removed.length) return;
      for (const channel in all) all[channel] = s.at[channel] ?? all[channel]!;
      s.at = all;
      if (s.live && duplex()) {
        if (removed.length) send("unsubscribe", { channels: removed });
        added.forEach(subscribe);
      } else if (s.live || (s.next && !duplex(s.nextWay))) act("timer", "reopen", REOPEN);
    },
    opened(n) {
      if (n === s.next) act("send", n, { id: 1, op: "hello", cursor: cursor(s.inbox) });
    },
    frame(n, frame) {
      if (n === s.next && frame?.id === 1 && frame.ok) delivers(frame.ok.cursor ?? "");
      if (n !== s.live) return;
      s.heard = now;
      if (frame?.op === "event" || frame?.op === "reset") {
        s.brought = true;
        if (frame.op === "reset") s.at = { ...s.at, [frame.channel]: frame.position };
        else move(frame.channel, frame.position);
      }
      if (!frame || frame.op === "bye") return;
      if (frame.op) act("hear", frame);
      else answered(frame);
    },
    closed(n, code, retry) {
      if (n && (n === s.live || n === s.next)) lost(n, retry, code);
    },
    token(failed) {
      if (failed && !s.live && !s.next) {
        s.renewed = false;
        wait(backOff(s.fails++, chance));
      } else if (!failed && s.live && duplex()) send("refresh", {}, "");
      else if (!failed) open(s.live ? s.liveWay : s.way);
    },
    ack(cursor) {
      if (s.live && duplex()) send("ack", { cursor });
      else act("ack", cursor);
    },
    timer: (name) => void timers[name](),
  };
  if (s.on || is === "start" || is === "stop") (inputs[is] as (...given: unknown[]) => void)(...given);
  return [s, effects];
}

type Rest<T extends unknown[]> = T extends [unknown, ...infer R] ? R : never;
