// What is kept over reloads, in localStorage: for each tab the cursor that its app has dealt with, and a name for the
// browser profile. Written at once, so that what is lost in a crash is the event in hand at most.

import { randomId } from "./desk.js";
import type { Shelf } from "./core.js";
import { distance, formatCursor, parseCursor, type Position } from "./wire.js";

const TAB = "pushsvc:tab";
const DEVICE = "pushsvc:device";
/** Cursors of tabs that are closed, in ms: what they say is in the newer ones by then. */
const STALE = 86_400_000;

/** undefined where the browser keeps nothing. */
export function localShelf(): Shelf | undefined {
  let local: Storage;
  let tab: string;
  let device: string;
  try {
    local = localStorage;
    // While the page lives, no other has its name: a tab that is duplicated gets one of its own.
    tab = sessionStorage.getItem(TAB) ?? randomId();
    sessionStorage.removeItem(TAB);
    addEventListener("pagehide", () => sessionStorage.setItem(TAB, tab));
    addEventListener("pageshow", () => sessionStorage.removeItem(TAB));
    device = local.getItem(DEVICE) ?? randomId();
    local.setItem(DEVICE, device);
  } catch {
    return undefined;
  }

  const set = (name: string, value?: string) => {
    try {
      if (value === undefined) local.removeItem(name);
      else local.setItem(name, value);
    } catch {
      // Full: what was kept before stays, and more will come again.
    }
  };
  const at = (name: string) => name + ":at:";

  return {
    device,
    get: (name) => local.getItem(name),
    set,
    save: (name, cursor) => set(at(name) + tab, Date.now() + " " + cursor),
    load(name) {
      const own = local.getItem(at(name) + tab);
      if (own) return own.split(" ")[1] ?? "";
      const kept = Object.keys(local)
        .filter((key) => key.startsWith(at(name)))
        .map((key) => ({ key, value: local.getItem(key)!.split(" ") }))
        .sort((a, b) => +a.value[0]! - +b.value[0]!);
      const furthest: Record<string, Position> = {};
      for (const { key, value } of kept) {
        try {
          for (const [channel, position] of Object.entries(parseCursor(value[1] ?? ""))) {
            // Of two epochs the one that was written later is the newer.
            const by = furthest[channel] ? distance(furthest[channel], position) : undefined;
            if (by === undefined || by > 0n) furthest[channel] = position;
          }
        } catch {
          // Not ours.
        }
        if (Date.now() - +value[0]! > STALE) set(key);
      }
      const cursor = formatCursor(furthest);
      if (cursor) set(at(name) + tab, Date.now() + " " + cursor);
      return cursor;
    },
    clear(name) {
      for (const key of Object.keys(local)) if (key.startsWith(name + ":")) set(key);
    },
  };
}
