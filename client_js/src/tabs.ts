// One connection for all tabs of a browser that have the same API, user and rights. The leader has it and tells the
// others what it hears; each tab has positions of its own, and reads what it missed by itself.

import type { Inside, SharedLink, SharedListener } from "./core.js";
import { randomId, type Told } from "./desk.js";
import { decide, type Role, type RoleInput } from "./leader.js";
import { connect, type Link, type Listener } from "./link.js";
import type { Status } from "./session.js";
import { formatCursor, parseCursor, type Heard, type Positions } from "./wire.js";

const CHANNELS = 100;

interface Message {
  /** The term of the leader that says it. */
  term?: number;
  frame?: Heard;
  status?: Status;
  /** How far the connection is. */
  at?: string;
  refused?: [channel: string, error?: unknown];
  /** This tab has to connect for itself: there is no more room. */
  alone?: string;
  told?: Told;
  /** From the tabs that follow. */
  from?: string;
  want?: Positions;
  ask?: boolean;
  kick?: boolean;
}

/** undefined where tabs can't know of each other: each connects for itself. */
export function shareTabs(inside: Inside, listener: SharedListener): SharedLink | undefined {
  const locks = (globalThis.navigator as Navigator | undefined)?.locks;
  if (!locks || !globalThis.BroadcastChannel) return undefined;
  const name = inside.name + ":" + inside.rights;
  const id = randomId();
  const channel = new BroadcastChannel(name);
  const over = new AbortController();
  const { signal } = over;
  const timers: Record<string, ReturnType<typeof setTimeout>> = {};
  const wants = new Map<string, Positions>();
  let role: Role = { leads: false, term: 0, visible: false, due: 0 };
  let queued: AbortController | undefined;
  let release = () => {};
  let link: Link | undefined;
  let own: Positions = {};
  let at: Record<string, string> = {};
  let status: Status = { state: "connecting" };
  let alone = false;

  const post = (message: Message) => signal.aborted || channel.postMessage(message);
  const say = (message: Message) => post({ term: role.term, ...message });
  const here = () => say({ status, at: formatCursor(at) });
  const want = () => post({ from: id, want: own });

  /** What the connection says, while this tab leads. */
  const leading: Listener = {
    heard(frame) {
      if (!role.leads) return;
      if (frame.op !== "progress") at[frame.channel] = frame.position;
      say({ frame });
      listener.heard(frame);
    },
    located(cursor) {
      for (const [channel, position] of Object.entries(parseCursor(cursor))) at[channel] ||= position;
      here();
      listener.located(cursor);
    },
    refused(channel, error) {
      delete at[channel];
      say({ refused: [channel, error] });
      if (channel in own) listener.refused(channel, error);
    },
    status(to) {
      if (!role.leads) return;
      status = to;
      here();
      listener.status(to);
    },
  };

  const put = (...input: RoleInput) => {
    if (signal.aborted) return;
    const [after, effects] = decide(role, input, Date.now());
    role = after;
    for (const [effect, ...given] of effects) (run[effect] as (...given: unknown[]) => unknown)(...given);
  };

  const run = {
    lead() {
      at = inside.reader.positions();
      link = connect(inside, leading, at);
      here();
      listener.leads(true);
    },
    follow() {
      const before = link;
      // What its end says is of no interest to anybody.
      link = undefined;
      before?.stop();
      wants.clear();
      release();
      listener.leads(false);
    },
    acquire(steal?: boolean) {
      queued?.abort();
      const mine = (queued = new AbortController());
      const hold = () => {
        if (mine.signal.aborted) return;
        put("granted");
        return new Promise<void>((done) => (release = done));
      };
      locks.request(name, steal ? { steal: true } : { signal: mine.signal }, hold).catch(() => mine.signal.aborted || put("robbed"));
    },
    ask: () => post({ ask: true }),
    answer: here,
    timer(name: "silence" | "ask", ms: number) {
      clearTimeout(timers[name]);
      timers[name] = setTimeout(() => put("timer", name), ms);
    },
  };

  const union = (): Positions => Object.assign({}, ...wants.values(), own) as Positions;

  const share = () => {
    const all = union();
    for (const channel in all) at[channel] ??= all[channel]!;
    for (const channel in at) if (channel !== inside.inbox && !(channel in all)) delete at[channel];
    link?.want(all);
  };

  /** What a tab that follows wants, until it is closed. */
  const admit = (from: string, want: Positions) => {
    const before = wants.get(from);
    wants.set(from, want);
    if (Object.keys(union()).length >= CHANNELS) {
      wants.delete(from);
      say({ alone: from });
    }
    // It holds a lock as long as it lives.
    else if (!before) locks.request(name + ":" + from, { signal }, () => (wants.delete(from), share())).catch(() => {});
    share();
  };

  channel.onmessage = ({ data }: MessageEvent<Message>) => {
    const { term, frame, refused, told } = data;
    if (told) listener.told(told);
    if (data.ask) put("asked");
    if (data.kick && role.leads) listener.leads(true);
    if (data.want && role.leads) admit(data.from!, data.want);
    if (term === undefined) return;
    const news = term > role.term;
    put("heard", term);
    if (term < role.term || role.leads || alone) return;
    if (news) want();
    if (frame) listener.heard(frame);
    if (data.status) {
      listener.status({ ...data.status, shared: true });
      listener.located(data.at!);
    }
    if (refused && refused[0] in own) listener.refused(...refused);
    if (data.alone === id) {
      alone = true;
      queued?.abort();
      link = connect(inside, listener, inside.reader.positions());
    }
  };

  const seen = () => put("visible", document.visibilityState === "visible");
  document.addEventListener("visibilitychange", seen, { signal });
  locks.request(name + ":" + id, { signal }, () => new Promise<void>((done) => signal.addEventListener("abort", () => done()))).catch(() => {});
  run.acquire();
  seen();

  return {
    want(channels) {
      own = channels;
      if (role.leads) share();
      else if (alone) link!.want(channels);
      else want();
    },
    ack: (cursor) => link?.ack(cursor),
    wake(online) {
      if (link) link.wake(online);
      else seen();
    },
    token: () => link?.token(),
    kick: () => post({ kick: true }),
    tell(told) {
      post({ told });
      listener.told(told);
    },
    stop(code) {
      link?.stop(code);
      over.abort();
      queued?.abort();
      release();
      Object.values(timers).forEach(clearTimeout);
      channel.close();
    },
  };
}
