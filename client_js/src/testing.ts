// A server for tests of your own: the protocol in memory, without network, and faults at your word.
//
//   const server = scriptedServer();
//   const client = createClient({ url: "http://test", ...server.parts });
//   const job = client.submit("report", { origin: "JFK" });
//   await server.submitted("report");
//   server.finish("report", { flights: 3 });
//   expect(await job).toEqual({ flights: 3 });

import type { Transport, Line } from "./transports/transport.js";
import { distance, parseCursor, type EventItem, type JobView, type Problem, type PushEvent, type Reset, type ServerFrame } from "./wire.js";

export interface ScriptedJob {
  id: string;
  key: string;
  name: string;
  params: unknown;
  view: JobView;
  result?: unknown;
}

export interface ScriptedOptions {
  user?: string;
  tenant?: string;
  /** The groups that may be heard. */
  channels?: string[];
  expires_at?: string | null;
  /** Milliseconds that each frame of a connection takes; they stay in order. */
  latency?: () => number;
}

interface Log {
  epoch: number;
  /** How many of the oldest events are gone. */
  floor: number;
  events: EventItem[];
}

interface Talk {
  line: Line;
  channels: Set<string>;
  last: number;
  closed: boolean;
}

export type ScriptedServer = ReturnType<typeof scriptedServer>;

export function scriptedServer(options: ScriptedOptions = {}) {
  const { latency = () => 0 } = options;
  const me = { tenant: "default", user: "me", channels: [] as string[], expires_at: null as string | null, ...options };
  const logs = new Map<string, Log>();
  const jobs: ScriptedJob[] = [];
  const talks = new Set<Talk>();
  const polls = new Set<() => void>();
  const waiting = new Set<() => void>();
  const requests: { method: string; path: string; headers: Headers; body: unknown }[] = [];
  let offline = false;
  let mute = false;
  let ids = 0;
  /** Answers that come instead of the server's own, first come first served. */
  const answers: { path: RegExp; answer: () => Response | Promise<Response> }[] = [];

  const log = (channel: string): Log => {
    if (!logs.has(channel)) logs.set(channel, { epoch: 1, floor: 0, events: [] });
    return logs.get(channel)!;
  };
  const epochOf = (channel: string, { epoch }: Log) => (channel.startsWith("job:") ? "1" : "k" + epoch);
  const top = (channel: string) => {
    const found = log(channel);
    return `${epochOf(channel, found)}.${found.floor + found.events.length}`;
  };
  const may = (channel: string) =>
    channel === "user:" + me.user || channel.startsWith("job:") || me.channels.includes(channel);

  /** What lies after a position: events, or a reset and what follows. */
  const after = (channel: string, position = top(channel)): { reset?: Reset; events: EventItem[] } => {
    const found = log(channel);
    const floor = `${epochOf(channel, found)}.${found.floor}`;
    const by = distance(floor, position);
    const ahead = distance(top(channel), position);
    if (by === undefined || by < 0n || ahead! > 0n) {
      return { reset: { channel, position: floor, links: { jobs: "/v1/jobs" } }, events: found.events };
    }
    return { events: found.events.slice(Number(by)) };
  };

  const tell = (talk: Talk, frame: ServerFrame) => {
    if (mute) return;
    // In order, however long each takes; also after the client has closed, as what is in the pipe does.
    talk.last = Math.max(talk.last, Date.now() + latency());
    const ms = talk.last - Date.now();
    if (ms) setTimeout(() => talk.line.frame(frame), ms);
    else queueMicrotask(() => talk.line.frame(frame));
  };

  const join = (talk: Talk, channel: string, cursor: string | undefined, id: number, about = {}) => {
    const position = cursor ? parseCursor(cursor)[channel] : undefined;
    const { reset, events } = after(channel, position);
    tell(talk, { id, ok: { ...about, cursor: `${encodeURIComponent(channel).replaceAll("%3A", ":")}@${position ?? top(channel)}` } });
    talk.channels.add(channel);
    if (reset) tell(talk, { op: "reset", ...reset });
    events.forEach((item) => tell(talk, { op: "event", ...item }));
  };

  const transport: Transport = {
    name: "scripted",
    duplex: true,
    open(line) {
      const talk: Talk = { line, channels: new Set(), last: 0, closed: false };
      if (offline) setTimeout(() => line.closed(), 1);
      else {
        talks.add(talk);
        queueMicrotask(() => talk.closed || line.opened());
      }
      return {
        close() {
          talk.closed = true;
          talks.delete(talk);
        },
        send(said) {
          if (!talks.has(talk) || mute) return;
          const frame = said as { id: number; op: string; channels?: string[]; cursor?: string };
          if (frame.op === "hello") return join(talk, "user:" + me.user, frame.cursor, frame.id, { user: me.user });
          for (const channel of frame.channels ?? []) {
            if (frame.op === "unsubscribe") talk.channels.delete(channel);
            else if (may(channel)) return join(talk, channel, frame.cursor, frame.id);
            else return tell(talk, { id: frame.id, error: { ...problem("forbidden", 403), temporary: false } });
          }
          if (frame.op !== "subscribe") tell(talk, { id: frame.id, ok: {} });
        },
      };
    },
  };

  const cut = (code?: number, retry?: [number, number]) => {
    for (const talk of [...talks]) {
      talks.delete(talk);
      talk.closed = true;
      setTimeout(() => talk.line.closed(code, retry), Math.max(0, talk.last - Date.now()));
    }
  };

  const publish = (channel: string, type: string, data: unknown, more: Partial<PushEvent> = {}): EventItem => {
    const event = { id: `evt_${++ids}`, type, at: new Date(0).toISOString(), final: false, data, ...more } as PushEvent;
    const found = log(channel);
    const offset = found.floor + found.events.length + 1;
    const item: EventItem = { channel, position: `${epochOf(channel, found)}.${offset}`, event };
    found.events.push(item);
    for (const talk of talks) if (talk.channels.has(channel)) tell(talk, { op: "event", ...item });
    [...polls].forEach((poll) => poll());
    return item;
  };

  const find = (which: string) => {
    const job = jobs.find(({ id, key }) => id === which || key === which) ?? jobs.findLast(({ name }) => name === which);
    if (!job) throw new Error(`no job ${which} was submitted`);
    return job;
  };

  const end = (which: string, status: "succeeded" | "failed" | "cancelled", more: Partial<PushEvent>) => {
    const job = find(which);
    job.view = { ...job.view, status, version: job.view.version + 1, finished_at: new Date().toISOString() };
    if (status !== "succeeded") job.view.error = more.error ?? null;
    const about = { job: job.id, name: job.name, version: job.view.version, final: true, data: undefined, ...more };
    publish("job:" + job.id, "job." + status, undefined, about as Partial<PushEvent>);
    return publish("user:" + me.user, "job." + status, undefined, about as Partial<PushEvent>);
  };

  async function answer(method: string, url: URL, headers: Headers, body: unknown): Promise<Response> {
    const path = url.pathname.slice(url.pathname.indexOf("/v1/"));
    const [, id, what] = /^\/v1\/jobs\/([^/]+)\/?(\w*)$/.exec(path) ?? [];
    const query = url.searchParams;
    if (path === "/v1/me") return reply(200, { tenant: me.tenant, user: me.user, channels: me.channels, expires_at: me.expires_at });
    if (path === "/v1/jobs" && method === "POST") return submit(headers, body as { job: string; params: unknown });
    if (path === "/v1/ack") return new Response(null, { status: 204 });
    if (path === "/v1/events") return poll(query);
    const job = jobs.find((each) => each.id === id);
    if (!job) return reply(404, problem("not_found", 404));
    if (what === "cancel") {
      end(job.id, "cancelled", { error: problem("job_cancelled", 410) });
      return reply(202, job.view);
    }
    if (what !== "result") return reply(200, job.view);
    return job.view.error ? reply(job.view.error.status ?? 500, job.view.error) : reply(200, job.result ?? null);
  }

  function submit(headers: Headers, { job: name, params }: { job: string; params: unknown }): Response {
    const key = headers.get("idempotency-key") ?? "";
    let job = jobs.find((each) => each.key === key);
    if (!job) {
      const id = "01J" + String(jobs.length + 1).padStart(23, "0");
      const links = { self: `/v1/jobs/${id}`, result: `/v1/jobs/${id}/result`, cancel: `/v1/jobs/${id}/cancel` };
      const cursor = `job:${id}@1.1,user:${encodeURIComponent(me.user)}@${top("user:" + me.user)}`;
      const view: JobView = { id, job: name, status: "queued", version: 1, progress: null, error: null, links, cursor };
      jobs.push((job = { id, key, name, params, view }));
      log("job:" + id).floor = 1;
      [...waiting].forEach((look) => look());
    }
    return reply(202, job.view);
  }

  async function poll(query: URLSearchParams): Promise<Response> {
    const names = (query.get("channels") ?? "").split(",").filter(Boolean).map(decodeURIComponent);
    const channels = names.length ? names : ["user:" + me.user];
    const refused = channels.find((channel) => !may(channel));
    if (refused) return reply(403, problem("forbidden", 403));
    const text = query.get("cursor") ?? "";
    const from = text && text !== "start" ? parseCursor(text) : {};
    const limit = Number(query.get("limit") ?? 100);
    const started: Record<string, string> = {};
    for (const channel of channels) {
      started[channel] = from[channel] ?? (text === "start" ? `${epochOf(channel, log(channel))}.${log(channel).floor}` : top(channel));
    }
    const look = () => channels.map((channel) => after(channel, started[channel]));
    const something = () => look().some(({ reset, events }) => reset || events.length);
    if (!something() && Number(query.get("wait") ?? 25)) {
      await new Promise<void>((done) => {
        const timer = setTimeout(done, Number(query.get("wait") ?? 25) * 1_000);
        const poll = () => {
          polls.delete(poll);
          clearTimeout(timer);
          done();
        };
        polls.add(poll);
      });
    }
    const found = look();
    const resets = found.flatMap(({ reset }) => reset ?? []);
    const all = found.flatMap(({ events }) => events);
    const events = all.slice(0, limit);
    const at = { ...started };
    for (const { channel, position } of [...resets, ...events]) at[channel] = position;
    const cursor = Object.entries(at).map(([channel, position]) => `${encodeURIComponent(channel).replaceAll("%3A", ":")}@${position}`);
    return reply(200, { events, progress: [], resets, cursor: cursor.join(), up_to_date: events.length === all.length, closed: false });
  }

  const request: typeof fetch = async (input, init = {}) => {
    const given = new Request(input, init);
    const url = new URL(given.url);
    const text = await given.text();
    const body: unknown = text && JSON.parse(text);
    requests.push({ method: given.method, path: url.pathname + url.search, headers: given.headers, body });
    const ms = latency();
    if (ms) await new Promise((done) => setTimeout(done, ms));
    if (offline) throw new TypeError("Failed to fetch");
    given.signal.throwIfAborted();
    const scripted = answers.findIndex(({ path }) => path.test(url.pathname));
    if (scripted >= 0) return answers.splice(scripted, 1)[0]!.answer();
    return answer(given.method, url, given.headers, body);
  };

  return {
    /** What `createClient` and `createCore` take. */
    parts: { fetch: request, transports: [transport] as readonly Transport[] },
    /** Who is here. Change it, and the next who asks hears of it. */
    me,
    jobs,
    requests,
    /** The job of this name, as soon as it was submitted. */
    async submitted(name: string): Promise<ScriptedJob> {
      for (;;) {
        const job = jobs.findLast((each) => each.name === name);
        if (job) return job;
        await new Promise<void>((done) => {
          const look = () => {
            waiting.delete(look);
            done();
          };
          waiting.add(look);
        });
      }
    },
    publish,
    /** A job, by its id, its key, or the name of the last one of it, has succeeded. */
    finish(which: string, result: unknown): EventItem {
      find(which).result = result;
      return end(which, "succeeded", { data: result } as Partial<PushEvent>);
    },
    /** As `finish`, with a result that is too large for an event. */
    finishLarge(which: string, result: unknown): EventItem {
      const job = find(which);
      job.result = result;
      return end(which, "succeeded", { ref: { href: `/v1/jobs/${job.id}/result`, bytes: 1, sha256: "" } });
    },
    fail(which: string, error: Problem = problem("job_failed", 500)): EventItem {
      return end(which, "failed", { error });
    },
    progress(which: string, value: number, message = ""): void {
      const { id } = find(which);
      for (const talk of talks) tell(talk, { op: "progress", job: id, value, message, queries: [] });
    },
    /** Forget the oldest events of a channel, all but so many. */
    forget(channel: string, but = 0): void {
      const found = log(channel);
      found.floor += found.events.splice(0, found.events.length - but).length;
    },
    /** Its history is another from now on. */
    rewrite(channel: string): void {
      const found = log(channel);
      logs.set(channel, { epoch: found.epoch + 1, floor: 0, events: [] });
    },
    /** Break each connection; with a code, say so. */
    cut,
    /** Send each connection the last event of a channel once more. */
    repeat(channel: string): void {
      const item = log(channel).events.at(-1);
      for (const talk of talks) if (item && talk.channels.has(channel)) tell(talk, { op: "event", ...item });
    },
    /** Nothing gets through, in either direction, and nothing ends. */
    mute(on = true): void {
      mute = on;
    },
    /** No network. */
    offline(on = true): void {
      offline = on;
      if (on) cut();
    },
    /** The next request of this path is answered so. */
    answer(path: RegExp, answer: () => Response | Promise<Response>): void {
      answers.push({ path, answer });
    },
    get connections() {
      return talks.size;
    },
    /** What a channel has, as clients hear it. */
    events: (channel: string): readonly EventItem[] => log(channel).events,
    top,
  };
}

function reply(status: number, body: unknown): Response {
  const kind = status >= 400 ? "application/problem+json" : "application/json";
  return new Response(JSON.stringify(body), { status, headers: { "Content-Type": kind } });
}

function problem(code: string, status: number): Problem {
  return { type: "urn:pushsvc:error:" + code, code, title: code, status };
}
