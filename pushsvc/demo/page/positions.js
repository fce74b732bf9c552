// How far this browser has read in each channel: kept in localStorage, so that a reload resumes.

const STORED = "pushsvc.demo.positions";

export class Positions {
  #at = read();

  has(channel) {
    return channel in this.#at;
  }

  /** The cursor of one channel, or null on a first visit, which begins at now. */
  cursor(channel) {
    return this.has(channel) ? `${encodeURIComponent(channel)}@${this.#at[channel]}` : null;
  }

  /** Move on to an event's position. Says "duplicate" if it was seen before, "gap" if one is missing. */
  take(channel, position) {
    const before = this.#at[channel] && split(this.#at[channel]);
    const { epoch, offset } = split(position);
    if (before && before.epoch === epoch && offset <= before.offset) return "duplicate";
    this.set(channel, position);
    return before && before.epoch === epoch && offset > before.offset + 1 ? "gap" : "next";
  }

  set(channel, position) {
    this.#at[channel] = position;
    localStorage.setItem(STORED, JSON.stringify(this.#at));
  }

  /** Where the server says we stand; with `onlyNew`, only in channels that had no position yet. */
  adopt(cursor, { onlyNew }) {
    for (const part of (cursor ?? "").split(",").filter((text) => text.includes("@"))) {
      const at = part.lastIndexOf("@");
      const channel = decodeURIComponent(part.slice(0, at));
      if (!onlyNew || !this.has(channel)) this.set(channel, part.slice(at + 1));
    }
  }
}

function split(position) {
  const dot = position.lastIndexOf(".");
  return { epoch: position.slice(0, dot), offset: Number(position.slice(dot + 1)) };
}

function read() {
  try {
    const stored = Object.entries(JSON.parse(localStorage.getItem(STORED)) ?? {});
    return Object.fromEntries(stored.filter(([, position]) => /^[0-9a-z]+\.\d+$/.test(position)));
  } catch {
    return {}; // not ours, or cut short: a first visit
  }
}
