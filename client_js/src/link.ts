// Runs the session machine: its effects become sockets, timers and calls; what comes of them goes in again.

import { post, type Http } from "./http.js";
import { idle, step, type Effect, type Input, type State, type Status, type TimerName } from "./session.js";
import type { Connection, Transport } from "./transports/transport.js";
import type { Heard, Positions } from "./wire.js";

/** Whom a link tells. A tab's own session is one kind of link, the tab that holds the connection another. */
export interface Listener {
  heard(frame: Heard): void;
  /** From where channels go on, as a cursor. */
  located(cursor: string): void;
  refused(channel: string, error?: unknown): void;
  status(status: Status): void;
}

export interface Link {
  /** The channels besides the inbox, and where to begin in each. */
  want(channels: Positions): void;
  ack(cursor: string): void;
  /** The network or the page came back. */
  wake(online?: boolean): void;
  /** There is another token. */
  token(): void;
  stop(code?: number): void;
}

/** What a session needs of the client. */
export interface Means extends Pick<Http, "url" | "fetch" | "token" | "renew"> {
  inbox: string;
  device?: string;
  transports: readonly Transport[];
  /** Which transport is to be tried first, or, with `way`, will be. */
  remember(way?: number): number;
}

/** A session of this tab's own, from these positions. */
export function connect(means: Means, listener: Listener, at: Positions): Link {
  const connections: Record<number, Connection | undefined> = {};
  const timers: { [Name in TimerName]?: ReturnType<typeof setTimeout> } = {};
  let state: State = idle(means.transports);

  const put = (...input: Input): void => {
    const [after, effects] = step(state, input, Date.now(), Math.random());
    state = after;
    for (const [name, ...given] of effects) (run[name] as (...given: unknown[]) => void)(...given);
  };

  const close = (n: number) => {
    connections[n]?.close();
    delete connections[n];
  };

  const run: { [Do in Effect[0]]: (...given: Rest<Extract<Effect, [Do, ...unknown[]]>>) => void } = {
    open(n, way, channels, cursor) {
      const closed: Parameters<Transport["open"]>[0]["closed"] = (code, retry) => {
        delete connections[n];
        put("closed", n, code, retry);
      };
      try {
        connections[n] = means.transports[way]!.open({
          url: means.url(),
          channels,
          cursor,
          fetch: means.fetch,
          opened: () => put("opened", n),
          frame: (frame) => put("frame", n, frame),
          closed,
        });
      } catch {
        // Not to be had at all here. To be told after the step that asked for it.
        setTimeout(closed);
      }
    },
    async send(n, frame) {
      try {
        if (frame.op === "hello") frame = { ...frame, device: means.device, token: await means.token() };
        if (frame.op === "refresh") frame = { ...frame, token: await means.token() };
        connections[n]?.send!(frame);
      } catch {
        close(n);
        put("closed", n);
      }
    },
    close,
    timer(name, ms) {
      clearTimeout(timers[name]);
      if (ms !== undefined) timers[name] = setTimeout(() => put("timer", name), ms);
    },
    hear: listener.heard,
    located: listener.located,
    refused: listener.refused,
    status: listener.status,
    remember: means.remember,
    ack(cursor) {
      if (means.device) means.fetch("/v1/ack", post({ cursor, device: means.device })).catch(() => {});
    },
    renew() {
      means.renew().then(
        (another) => (another ? put("token") : put("stop", 4401)),
        () => put("token", true),
      );
    },
  };

  put("start", means.inbox, at, means.remember());
  return {
    want: (channels) => put("want", channels),
    ack: (cursor) => put("ack", cursor),
    wake: (online) => put("wake", online),
    token: () => put("token"),
    stop: (code) => put("stop", code),
  };
}

type Rest<T extends unknown[]> = T extends [unknown, ...infer R] ? R : never;
