// All of it: what `createCore` takes apart, put together, with what needs no connection of its own.

import { createCore, type Core, type CoreOptions, type Kept, type Listeners } from "./core.js";
import { aborted, type Job } from "./jobs.js";
import { outbox } from "./outbox.js";
import { installFetch, pushFetch } from "./push_fetch.js";
import { localShelf } from "./shelf.js";
import { shareTabs } from "./tabs.js";
import { longpoll } from "./transports/longpoll.js";
import { sse } from "./transports/sse.js";
import { websocket } from "./transports/websocket.js";
import { distance, formatChannel, parseCursor, type EventItem, type Page, type Position } from "./wire.js";

export interface EventsOptions {
  /** Without them, the inbox. */
  channels?: readonly string[];
  /** From where on; `start` for all that is kept. Without it, what comes from now on. */
  cursor?: string;
  signal?: AbortSignal;
}

export interface Client<Paths = unknown> extends Core<Paths> {
  /** One event after another. Each counts as dealt with when the next is asked for. */
  events(options?: EventsOptions): AsyncGenerator<EventItem, void, void>;
  /** What was submitted in this browser by who is here now, and has not ended. */
  pending(): Promise<Job[]>;
  /** At logout: end all connections, and forget what is kept of who is here. */
  forget(): Promise<void>;
  /** `fetch`, which waits for the final answer of an endpoint that answers later. */
  pushFetch: typeof fetch;
  /** Let all of the page's requests be like that. Gives back what undoes it. */
  installFetch(): () => void;
}

export type ClientOptions = Partial<CoreOptions>;

export function createClient<Paths = unknown>(options: ClientOptions = {}): Client<Paths> {
  const shelf = "shelf" in options ? options.shelf : localShelf();
  const core = createCore<Paths>({
    transports: [websocket, sse, longpoll],
    tabs: shareTabs,
    outbox: globalThis.indexedDB === undefined ? undefined : outbox,
    ...options,
    shelf,
  });
  const { insides } = core;
  const more = {
    events: (chosen: EventsOptions = {}) => iterate(core as Inner, chosen),
    async pending() {
      const { box } = await insides.entered();
      const entries = (await (box as Kept).all?.()) ?? [];
      return entries.map((entry) => insides.job(entry));
    },
    async forget() {
      const { box, inside } = await insides.entered();
      core.close();
      await (box as Kept).clear?.();
      shelf?.clear(inside.name);
      shelf?.set(inside.name.split(":").slice(0, 2).join(":"));
    },
    pushFetch: pushFetch(core as Inner),
    installFetch: () => installFetch(core as Inner),
  };
  return Object.defineProperties(core, Object.getOwnPropertyDescriptors(more)) as never;
}

type Inner = ReturnType<typeof createCore>;

async function* iterate(core: Inner, options: EventsOptions): AsyncGenerator<EventItem, void, void> {
  const { channels, signal } = options;
  let { cursor } = options;
  let at: Record<string, Position> = {};
  let come = () => {};
  let over = false;
  const next: { item: EventItem; dealt: () => void }[] = [];
  const leave: (() => void)[] = [];
  const { inbox } = await core.insides.entered();

  const handler: Listeners["event"] = (event, where) => {
    const by = at[where.channel] && distance(at[where.channel]!, where.position);
    if (over || (typeof by === "bigint" && by <= 0n)) return;
    return new Promise<void>((dealt) => {
      next.push({ item: { ...where, event }, dealt });
      come();
    });
  };
  const names = (channels ?? [inbox]).map(formatChannel).join();
  const join = () => leave.push(...(channels ?? [inbox]).map((channel) => core.subscribe(channel, handler, at[channel])));

  try {
    // What is older is read first, then, while what comes waits, what came meanwhile.
    for (let joined = false; cursor && !over; ) {
      const query = `/v1/events?wait=0&channels=${encodeURIComponent(names)}&cursor=${encodeURIComponent(cursor)}`;
      const page = await core.insides.http.json<Page>(core.fetch(query, { signal }));
      yield* page.events;
      ({ cursor } = page);
      at = parseCursor(cursor);
      if (!page.up_to_date) continue;
      if (joined) break;
      join();
      joined = true;
    }
    if (!cursor) join();
    for (;;) {
      const one = next.shift();
      if (one) {
        yield one.item;
        one.dealt();
      } else {
        const waiting = new Promise<void>((done) => (come = done));
        await (signal ? aborted(waiting, signal) : waiting);
      }
    }
  } finally {
    over = true;
    leave.forEach((each) => each());
    next.forEach(({ dealt }) => dealt());
  }
}
