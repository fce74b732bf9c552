// The two ways events come. Each runs until its connection ends or `signal` aborts, and reports through `on`:
//   on.live({ resumed, recovered })   on.event(item, bytes)   on.progress(item)   on.reset(item)
// It returns how long to wait before the next try ([least, most] in ms, or nothing), and throws an error
// with `fatal` when there is no point in another.

const size = (text) => new TextEncoder().encode(text).length;

export const transports = { websocket: overWebSocket, longpoll: overLongPoll };

async function overWebSocket({ session, positions, signal, on }) {
  const token = await session.open();
  const cursor = positions.cursor(session.inbox);
  const socket = new WebSocket(new URL("/v1/ws", location.href.replace(/^http/, "ws")), "pushsvc.v1");
  let retry;
  const handlers = {
    ok({ ok }) {
      positions.adopt(ok.cursor, { onlyNew: true }); // what lies between is still to come as events
      on.live({ resumed: cursor !== null, recovered: cursor !== null && ok.recovered });
    },
    error({ error }) {
      on.trouble(error.detail ?? error.title);
    },
    event: (frame, text) => on.event(frame, size(text)),
    progress: on.progress,
    reset: on.reset,
    bye: (frame) => (retry = frame.retry_ms),
  };

  return new Promise((resolve, reject) => {
    const leave = () => (socket.close(), resolve());
    if (signal.aborted) return leave();
    signal.addEventListener("abort", leave, { once: true });
    socket.onopen = () => {
      socket.send(JSON.stringify({ id: 1, op: "hello", token, ...(cursor && { cursor }) }));
    };
    socket.onmessage = ({ data }) => {
      if (signal.aborted) return; // offline means offline: what is still in the pipe is not heard
      const frame = JSON.parse(data);
      handlers[frame.op ?? (frame.ok ? "ok" : "error")]?.(frame, data);
    };
    socket.onclose = ({ code, reason }) => {
      signal.removeEventListener("abort", leave);
      if (code === 4401) session.forget(); // the token ran out: the next try brings a new one
      else if (code >= 4400 && code < 5000) {
        return reject(Object.assign(new Error(reason || `closed with ${code}`), { fatal: true }));
      }
      resolve(retry);
    };
  });
}

async function overLongPoll({ session, positions, signal, on }) {
  await session.open();
  const inbox = session.inbox;
  const resumed = positions.has(inbox);
  for (let first = true; !signal.aborted; first = false) {
    const query = new URLSearchParams({ channels: inbox, wait: first ? 0 : 25 });
    if (positions.has(inbox)) query.set("cursor", positions.cursor(inbox));
    const response = await session.request(`/v1/events?${query}`, { signal });
    const answer = await response.json();
    if (signal.aborted) return;
    if (first) on.live({ resumed, recovered: resumed && answer.resets.length === 0 });
    answer.resets.forEach(on.reset);
    answer.events.forEach((item) => on.event(item, size(JSON.stringify(item))));
    answer.progress.forEach(on.progress);
    positions.adopt(answer.cursor, { onlyNew: false });
    if (answer.closed) return;
    if (!first && answer.events.length === 0) await pause(100); // progress alone is no reason to hurry
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
