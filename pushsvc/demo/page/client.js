// The connection as the page sees it: always trying to be live, over the transport of your choice.

import { Positions } from "./positions.js";
import { randomId, Session } from "./session.js";
import { transports } from "./transports.js";

const FIRST_RETRY = 500;
const LAST_RETRY = 20_000;

/** Events: `state` {state, detail, until}, `live` {resumed, recovered}, `event`, `progress`, `reset`. */
export class Client extends EventTarget {
  session = new Session();
  positions = new Positions();
  transport = "websocket";
  state = "offline";
  #stop = null;

  /** Connect, and stay connected until `goOffline`. */
  goOnline() {
    this.#stop?.abort();
    this.#stop = new AbortController();
    this.#run(this.#stop.signal);
  }

  /** Drop the connection at once, as a tunnel would. */
  goOffline() {
    this.#stop?.abort();
    this.#stop = null;
    this.#say("offline");
  }

  use(transport) {
    this.transport = transport;
    if (this.#stop) this.goOnline();
  }

  /** Submit a job over HTTP; its result comes as an event. Returns the accepted job. */
  async submit(job, params) {
    const response = await this.session.request("/v1/jobs", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": randomId() },
      body: JSON.stringify({ job, params }),
    });
    return response.json();
  }

  /** An event's data, fetched if it was too large to travel inside. */
  async data(event) {
    if (!event.ref) return event.data;
    return (await this.session.request(event.ref.href)).json();
  }

  async #run(signal) {
    for (let failures = 0; !signal.aborted; failures += 1) {
      this.#say("connecting");
      let wait;
      try {
        wait = await transports[this.transport](this.#connection(signal, () => (failures = -1)));
      } catch (error) {
        if (error.fatal && !signal.aborted) return this.#say("stopped", { detail: error.message });
        wait = error.retryAfter && [error.retryAfter * 1000, error.retryAfter * 1500];
      }
      if (!signal.aborted) await this.#backOff(wait || limits(Math.max(failures, 0)), signal);
    }
  }

  #connection(signal, succeeded) {
    const transport = this.transport;
    const { session, positions } = this;
    const on = {
      live: (detail) => {
        succeeded();
        this.#say("live", { transport });
        this.#tell("live", { ...detail, transport });
      },
      event: (item, bytes) => {
        const order = positions.take(item.channel, item.position);
        this.#tell("event", { ...item, bytes, order, transport });
      },
      progress: (item) => this.#tell("progress", item),
      reset: (item) => {
        positions.set(item.channel, item.position);
        this.#tell("reset", { ...item, transport });
      },
      trouble: (detail) => this.#say("connecting", { detail }),
    };
    return { session, positions, signal, on };
  }

  async #backOff([least, most], signal) {
    // The jitter is the point: a thousand browsers that lost one server must not come back as one.
    const ms = least + Math.random() * (most - least);
    this.#say("waiting", { until: Date.now() + ms });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }

  #say(state, detail = {}) {
    this.state = state;
    this.#tell("state", { state, ...detail });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function limits(failures) {
  return [FIRST_RETRY / 2, Math.min(FIRST_RETRY * 2 ** failures, LAST_RETRY)];
}
