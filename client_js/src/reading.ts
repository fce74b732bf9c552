// From what is heard to what the app has dealt with: each event once and in order, or a reset. What is doubled is
// dropped; a gap, and whatever did not fit into the queue, is read again from the server; positions move on only when
// the app's handlers have succeeded.

import { RequestError } from "./errors.js";
import { distance, formatChannel, formatCursor, parseCursor, type EventItem, type Heard, type Page, type Position, type Reset } from "./wire.js";

/** What may wait for a slow handler. Beyond it, the server keeps it. */
export const QUEUE = 256;
const PAGE = 100;

export type Item = EventItem | Reset;

/** A channel that is held. */
interface Held {
  /** How far it was heard, and how far the app has dealt with it; "" where it is not known yet. */
  heard: Position;
  dealt: Position;
  /** Something is to be read again; it is known to go as far as this. */
  behind?: Position | true;
  /** What comes of it may be heard: its link has it, or may. */
  open: boolean;
}

export interface Reading {
  /** What lies after a cursor, as the query string asks. */
  page(query: string): Promise<Page>;
  sleep(ms: number): Promise<void>;
  /** Everything new, as soon as it is known, whether or not its turn has come. */
  early(item: EventItem): void;
  /** Resolves when the app has dealt with it, well or not. */
  deal(item: Item): unknown;
  /** The positions that were dealt with have moved. */
  moved(): void;
  /** The server lets this channel be heard; or not. */
  opened(): void;
  refused(channel: string, error: unknown): void;
}

export interface Reader {
  hear(frame: Exclude<Heard, { op: "progress" }>): void;
  /** From where channels go on, or how far they are elsewhere. */
  locate(cursor: string): void;
  /** Hold a channel from a position on, or from now. With `ask`, the server is asked first. */
  hold(channel: string, position: Position, ask?: boolean): void;
  drop(channel: string): void;
  /** The channels that are held and allowed, and how far they were heard; or, with `dealt`, dealt with. */
  positions(dealt?: boolean): Record<string, Position>;
  stop(): void;
}

export function read(reading: Reading): Reader {
  const channels = new Map<string, Held>();
  const queue: Item[] = [];
  let busy = false;
  let asking = false;
  let over = false;

  /** How far a position lies ahead of what was heard: 0, old; 1, next; 2, something lies between. */
  const ahead = (channel: string, { heard }: Held, position: Position): number => {
    const by = heard ? distance(heard, position) : 1n;
    // A job's channel has no log: its next event says all there is.
    return by === undefined ? 2 : by <= 0n ? 0 : by === 1n || channel.startsWith("job:") ? 1 : 2;
  };

  const push = (held: Held, item: Item) => {
    held.heard = item.position;
    queue.push(item);
    void deal();
  };

  const lag = (held: Held, position: Position | true) => {
    held.behind = position;
    void catchUp();
  };

  async function deal(): Promise<void> {
    if (busy) return;
    busy = true;
    for (let item; !over && (item = queue[0]); queue.shift()) {
      const held = channels.get(item.channel);
      if (!held) continue;
      const done = reading.deal(item);
      if (done) await done;
      if (over) break;
      held.dealt = item.position;
      reading.moved();
      if (queue.length < QUEUE / 2) void catchUp();
    }
    busy = false;
  }

  /** Read what is behind, channel by channel and page by page, as long as there is room. */
  async function catchUp(): Promise<void> {
    if (asking) return;
    asking = true;
    for (;;) {
      const [channel, held] = [...channels].find(([, { behind }]) => behind) ?? [];
      if (over || !held || queue.length >= QUEUE) break;
      const from = held.heard && "&cursor=" + encodeURIComponent(formatCursor({ [channel!]: held.heard }));
      const names = encodeURIComponent(formatChannel(channel!));
      try {
        const page = await reading.page(`?wait=0&limit=${PAGE}&channels=${names}${from}`);
        if (!over && channels.get(channel!) === held) await take(page, channel!, held);
      } catch (error) {
        if (error instanceof RequestError) {
          channels.delete(channel!);
          reading.refused(channel!, error);
        } else await reading.sleep(1_000);
      }
    }
    asking = false;
  }

  async function take(page: Page, channel: string, held: Held): Promise<void> {
    const before = held.heard;
    page.resets.forEach((reset) => push(held, reset));
    for (const item of page.events) {
      if (!ahead(channel, held, item.position)) continue;
      reading.early(item);
      push(held, item);
    }
    const end = parseCursor(page.cursor)[channel];
    if (end && ahead(channel, held, end)) held.heard = end;
    held.dealt ||= held.heard;
    if (!page.up_to_date) return;
    const by = typeof held.behind === "string" ? distance(held.heard, held.behind) : 0n;
    if (!by || by < 0n) {
      held.behind = undefined;
      if (!held.open) {
        held.open = true;
        reading.opened();
      }
    } else if (held.heard === before) await reading.sleep(500);
  }

  return {
    hear({ op: _, id: __, ...item }) {
      const held = channels.get(item.channel);
      const where = held && !over ? ahead(item.channel, held, item.position) : 0;
      if (!held || !where) return;
      const full = held.behind || queue.length >= QUEUE;
      if ("event" in item) {
        reading.early(item);
        if (full || where > 1) lag(held, item.position);
        else push(held, item);
      } else if (full) lag(held, item.position);
      else push(held, item);
    },
    locate(cursor) {
      for (const [channel, position] of Object.entries(parseCursor(cursor))) {
        const held = channels.get(channel);
        if (held && !held.heard) held.heard = held.dealt = position;
        else if (held && ahead(channel, held, position)) lag(held, position);
      }
    },
    hold(channel, position, ask) {
      if (channels.has(channel)) return;
      const held: Held = { heard: position, dealt: position, open: !ask };
      channels.set(channel, held);
      if (ask) lag(held, true);
    },
    drop: (channel) => void channels.delete(channel),
    positions(dealt) {
      const found = [...channels].filter(([, held]) => held.open);
      return Object.fromEntries(found.map(([channel, held]) => [channel, dealt ? held.dealt : held.heard]));
    },
    stop() {
      over = true;
    },
  };
}
