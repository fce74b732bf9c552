import type { ServerFrame } from "../wire.js";
import type { Transport } from "./transport.js";

export const websocket: Transport = {
  name: "websocket",
  duplex: true,
  open(line) {
    let retry: [number, number] | undefined;
    const socket = new WebSocket(line.url.replace(/^http/, "ws") + "/v1/ws", "pushsvc.v1");
    const close = () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    };
    socket.onopen = line.opened;
    socket.onmessage = ({ data }) => {
      let frame: ServerFrame;
      try {
        frame = JSON.parse(data as string) as ServerFrame;
      } catch {
        // None of ours: whatever stands between does not leave it whole.
        close();
        return line.closed();
      }
      if (frame.op === "bye") retry = frame.retry_ms;
      line.frame(frame);
    };
    socket.onclose = ({ code }) => line.closed(code, retry ?? (code === 1012 ? [500, 20_000] : undefined));
    return { send: (frame) => socket.send(JSON.stringify(frame)), close };
  },
};
