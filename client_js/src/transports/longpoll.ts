import { formatChannel, formatCursor, parseCursor, type Page } from "../wire.js";
import { refusal, type Transport } from "./transport.js";

const WAIT = 25;
/** What a poll may take longer than it waits, in ms. */
const SLACK = 10_000;
/** Progress alone is no reason to hurry, in ms. */
const PAUSE = 100;

export const longpoll: Transport = {
  name: "longpoll",
  duplex: false,
  open(line) {
    const stop = new AbortController();
    const over = () => stop.signal.aborted;
    void run().catch(() => over() || line.closed());
    return { close: () => stop.abort() };

    async function run(): Promise<void> {
      const query = "/v1/events?channels=" + encodeURIComponent(line.channels.map(formatChannel).join());
      let { cursor } = line;
      // The first one answers at once, which is how it is known that it works.
      for (let wait = 0; ; wait = WAIT) {
        const response = await poll(`${query}&wait=${wait}${cursor && "&cursor=" + encodeURIComponent(cursor)}`, wait);
        if (response.status !== 200) {
          const refused = await refusal(response);
          return over() ? undefined : line.closed(...refused);
        }
        const page = (await response.json()) as Page;
        if (over()) return;
        if (!wait) {
          const start = formatCursor({ ...parseCursor(page.cursor), ...parseCursor(cursor) });
          line.frame({ id: 1, ok: { cursor: start } });
        }
        line.frame();
        page.resets.forEach((reset) => line.frame({ op: "reset", ...reset }));
        page.events.forEach((item) => line.frame({ op: "event", ...item }));
        page.progress.forEach((progress) => line.frame({ op: "progress", ...progress }));
        ({ cursor } = page);
        if (page.progress.length && !page.events.length) await new Promise((done) => setTimeout(done, PAUSE));
        if (over()) return;
      }
    }

    async function poll(path: string, wait: number): Promise<Response> {
      const timer = setTimeout(() => {
        stop.abort();
        line.closed();
      }, wait * 1_000 + SLACK);
      try {
        return await line.fetch(path, { signal: stop.signal });
      } finally {
        clearTimeout(timer);
      }
    }
  },
};
