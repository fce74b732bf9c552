// The ways events come. Each runs until its connection ends or `signal` aborts, and reports through `on`:
//   on.live({ resumed, recovered })   on.event(item, bytes)   on.progress(item)   on.reset(item)
// It returns how long to wait before the next try ([least, most] in ms, or nothing), and throws an error
// with `fatal` when there is no point in another.

const size = (text) => new TextEncoder().encode(text).length;

export const transports = { websocket: overWebSocket, stream: overStream, longpoll: overLongPoll };
export const names = { websocket: "WebSocket", stream: "server-sent events", longpoll: "long-poll" };

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

async function overStream({ session, positions, signal, on }) {
  await session.open();
  const inbox = session.inbox;
  const resumed = positions.has(inbox);
  // An EventSource tells its id only with an event: where a first visit begins has to be known before one comes.
  if (!resumed) positions.adopt((await ask(session, positions, signal, 0)).cursor, { onlyNew: true });
  if (signal.aborted) return;
  const { ticket } = await (await session.request("/v1/tickets", { method: "POST", signal })).json();
  const query = new URLSearchParams({ channels: inbox, cursor: positions.cursor(inbox), ticket });
  const source = new EventSource(`/v1/events/stream?${query}`);
  let whole = true;

  return new Promise((resolve) => {
    const leave = () => (source.close(), resolve());
    if (signal.aborted) return leave();
    signal.addEventListener("abort", leave, { once: true });
    const listen = (type, handle) => {
      source.addEventListener(type, ({ data }) => signal.aborted || handle(JSON.parse(data), data));
    };
    listen("event", (item, text) => on.event(item, size(text)));
    listen("progress", on.progress);
    listen("reset", (item) => ((whole = false), on.reset(item)));
    source.onopen = () => on.live({ resumed, recovered: resumed && whole });
    source.onerror = () => {
      // It would come back by itself, with a ticket that is used up: the next try brings a new one.
      signal.removeEventListener("abort", leave);
      leave();
    };
  });
}

async function overLongPoll({ session, positions, signal, on }) {
  await session.open();
  const inbox = session.inbox;
  const resumed = positions.has(inbox);
  for (let first = true; !signal.aborted; first = false) {
    const answer = await ask(session, positions, signal, first ? 0 : 25);
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

async function ask(session, positions, signal, wait) {
  const query = new URLSearchParams({ channels: session.inbox, wait });
  if (positions.has(session.inbox)) query.set("cursor", positions.cursor(session.inbox));
  return (await session.request(`/v1/events?${query}`, { signal })).json();
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
