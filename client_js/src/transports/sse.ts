import { formatChannel, type ServerFrame } from "../wire.js";
import { refusal, type Transport } from "./transport.js";

/** Server-sent events by `fetch`, which can send headers. */
export const sse: Transport = {
  name: "sse",
  duplex: false,
  open(line) {
    const stop = new AbortController();
    void run().catch(() => stop.signal.aborted || line.closed());
    return { close: () => stop.abort() };

    async function run(): Promise<void> {
      const query = "?channels=" + encodeURIComponent(line.channels.map(formatChannel).join());
      const at = line.cursor && "&cursor=" + encodeURIComponent(line.cursor);
      const response = await line.fetch("/v1/events/stream" + query + at, {
        headers: { Accept: "text/event-stream" },
        signal: stop.signal,
      });
      if (response.status !== 200 || !response.body) {
        const refused = await refusal(response);
        return stop.signal.aborted ? undefined : line.closed(...refused);
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      const blocks = new Blocks(line.frame);
      for (;;) {
        const { done, value } = await reader.read();
        if (stop.signal.aborted) return;
        if (done) return line.closed(0, blocks.retry);
        blocks.take(decoder.decode(value, { stream: true }));
      }
    }
  },
};

/** From text to frames. The stream's first id says where it starts: that is the answer to `hello`. */
export class Blocks {
  retry: readonly [number, number] | undefined;
  private _rest = "";
  private _first = true;
  private _type = "";
  private _data = "";

  constructor(private _frame: (frame?: ServerFrame) => void) {}

  take(text: string): void {
    const lines = (this._rest + text).split("\n");
    this._rest = lines.pop()!;
    lines.forEach((line) => this._line(line));
    this._frame();
  }

  private _line(line: string): void {
    const [, name, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (name === "event") this._type = value!;
    else if (name === "data") this._data = value!;
    else if (name === "id" && this._first) {
      this._first = false;
      this._frame({ id: 1, ok: { cursor: value! } });
    } else if (name === "retry" && !this._first) {
      // The later one is a farewell: come back then, as one of many.
      this.retry = [Number(value), Number(value)];
    } else if (!line) {
      if (this._data) this._frame({ op: this._type, ...JSON.parse(this._data) } as ServerFrame);
      this._data = this._type = "";
    }
  }
}
