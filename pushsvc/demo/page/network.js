// The network between this page and the server, as good or as bad as you set it. It is the browser's: what is set in
// one window holds in all of them, and over a reload.

import { longpoll, sse, websocket } from "./pushsvc.js";

const KEPT = "pushsvc.demo.network";
const GOOD = { transport: "websocket", offline: false, delay: false, loss: false, blocked: false };
/** How much later things arrive, in ms. */
const DELAY = [300, 900];
/** The share of frames and requests that never arrive. What is lost breaks its connection, as with TCP. */
const LOST = 0.1;

/** The transports, the best first. The page may be told to use no better one than this. */
const transports = { websocket, stream: sse, longpoll };
const order = Object.keys(transports);

export const names = { websocket: "WebSocket", sse: "server-sent events", longpoll: "long-poll" };

/** Event: `change`, in every window. */
export class Network extends EventTarget {
  settings = { ...GOOD, ...kept() };
  #cuts = new Set();
  #requests = new AbortController();

  constructor() {
    super();
    addEventListener("storage", ({ key }) => {
      if (key === KEPT) this.#apply({ ...GOOD, ...kept() });
    });
  }

  change(change) {
    const settings = { ...this.settings, ...change };
    localStorage.setItem(KEPT, JSON.stringify(settings));
    this.#apply(settings);
  }

  /** What `createClient` takes: each connection goes through this network. */
  get transports() {
    return order.map((way) => ({ ...transports[way], open: (line) => this.#open(way, line) }));
  }

  /** `fetch` through this network. */
  fetch = async (input, init) => {
    if (this.settings.delay) await new Promise((done) => setTimeout(done, latency()));
    if (this.settings.offline || this.#loses()) throw new TypeError("the network is away");
    const signals = [this.#requests.signal, init?.signal].filter(Boolean);
    return fetch(input, { ...init, signal: AbortSignal.any(signals) });
  };

  #apply(settings) {
    const before = this.settings;
    this.settings = settings;
    const other = ["transport", "offline", "blocked"].some((name) => settings[name] !== before[name]);
    if (other) {
      this.#requests.abort();
      this.#requests = new AbortController();
      for (const cut of [...this.#cuts]) cut();
    }
    this.dispatchEvent(new Event("change"));
    // What a browser says when its network comes back: the client tries at once, and the best transport first.
    if (other && !settings.offline) dispatchEvent(new Event("online"));
  }

  #lets(way) {
    const { transport, offline, blocked } = this.settings;
    return !offline && order.indexOf(way) >= order.indexOf(transport) && !(blocked && way === "websocket");
  }

  #loses() {
    return this.settings.loss && Math.random() < LOST;
  }

  #open(way, line) {
    let inner;
    let over = false;
    let before = Promise.resolve();
    const close = () => {
      over = true;
      this.#cuts.delete(cut);
      inner?.close();
    };
    const cut = () => {
      if (over) return;
      close();
      line.closed();
    };
    /** In order, however long each is delayed: timers that end in the same millisecond keep none. */
    const arrive = (act) => {
      const delayed = this.settings.delay && new Promise((done) => setTimeout(done, latency()));
      before = before.then(() => delayed).then(() => over || act()).catch(console.error);
    };
    this.#cuts.add(cut);
    if (!this.#lets(way)) setTimeout(cut);
    else {
      inner = transports[way].open({
        ...line,
        opened: () => arrive(line.opened),
        frame: (frame) => arrive(() => (this.#loses() ? cut() : line.frame(frame))),
        closed: (...why) => arrive(() => (close(), line.closed(...why))),
      });
    }
    return { close, send: (frame) => inner?.send(frame) };
  }
}

function latency() {
  const [least, most] = DELAY;
  return least + Math.random() * (most - least);
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {}; // not ours, or cut short: a good network
  }
}
