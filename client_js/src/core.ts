// The client: who is here, one link to the server, and what is heard. Its parts come as arguments, so that what is not
// used is not bundled.

import { desk, directly, type Box, type Entry, type SubmitOptions, type Told } from "./desk.js";
import { errorOf, RequestError, type PushsvcError } from "./errors.js";
import { http, NO_ANSWER, type Access, type Http } from "./http.js";
import type { Job } from "./jobs.js";
import { connect, type Link, type Listener, type Means } from "./link.js";
import { read, type Item, type Reader } from "./reading.js";
import { backOff, type Status } from "./session.js";
import type { Transport } from "./transports/transport.js";
import type { JobName, JobParams, JobResult, SubmitArguments } from "./types.js";
import { distance, formatCursor, parseCursor, type Page, type Position, type Positions, type Progress, type PushEvent, type Reset } from "./wire.js";

/** Who the credentials stand for. */
export interface Identity {
  tenant: string;
  user: string;
  /** The groups that the credentials name. */
  channels: string[];
  expires_at: string | null;
}

export interface Where {
  channel: string;
  position: Position;
}

export interface Rejected {
  key: string;
  job: string;
  params: unknown;
  error: PushsvcError;
}

export interface Listeners {
  /** It counts as dealt with when the handler has succeeded; it is tried three times. */
  event: (event: PushEvent, where: Where) => unknown;
  reset: (reset: Reset) => unknown;
  progress: (progress: Progress) => unknown;
  status: (status: Status) => unknown;
  error: (error: unknown, event?: PushEvent) => unknown;
  rejected: (rejected: Rejected) => unknown;
}

export interface Core<Paths = unknown> {
  /** Submit a job, offline too. */
  submit<Name extends JobName<Paths>>(
    name: Name,
    ...rest: SubmitArguments<JobParams<Paths, Name>, SubmitOptions>
  ): Job<JobResult<Paths, Name>>;
  /** A job from elsewhere, by its id; also long after its end. */
  job<Result = unknown>(id: string): Job<Result>;
  /** Hear. Gives back what ends it. */
  on<Type extends keyof Listeners>(type: Type, handler: Listeners[Type]): () => void;
  /** Hear a channel, from `position` or from where it was left, else from now. Gives back what ends it. */
  subscribe(channel: string, handler: Listeners["event"], position?: Position): () => void;
  readonly status: Status;
  /** Who is here, once the server has said it. */
  readonly identity: Identity | undefined;
  /** Where the API is, absolute. */
  readonly url: string;
  /** A request with the credentials; a path that begins with `/v1/` is below the API. */
  fetch: Http["fetch"];
  /** Connect now rather than at the first use. */
  connect(): void;
  /** End all connections. What is kept stays. */
  close(): void;
}

// What may be added

/** What is kept over reloads, by names that hold the API, the tenant and the user. */
export interface Shelf {
  /** This tab's cursor, or else the furthest of all; "" where nothing is kept. */
  load(name: string): string;
  save(name: string, cursor: string): void;
  /** A name for this browser profile; undefined where nothing can be kept. */
  readonly device?: string;
  get(name: string): string | null;
  set(name: string, value?: string): void;
  /** Forget what is kept under this name. */
  clear(name: string): void;
}

/** What the parts see of the client. */
export interface Inside extends Means, Http {
  name: string;
  rights: string;
  shelf?: Shelf;
  reader: Reader;
  going(): boolean;
  /** Until there is an answer. Rejects when `still` says no. */
  send(entry: Entry, still?: () => boolean): Promise<Told>;
  /** For all tabs. */
  tell(told: Told): void;
  error(error: unknown): void;
}

export interface SharedListener extends Listener {
  /** This tab holds the connection, and sends what waits; or does not. */
  leads(yes: boolean): void;
  told(told: Told): void;
}

export interface SharedLink extends Link {
  /** Whoever leads is to look into the outbox. */
  kick(): void;
  tell(told: Told): void;
}

export interface Kept extends Box {
  /** Whether this tab is the one that sends. */
  leads(yes: boolean): void;
  /** There is a reason to look. */
  kick(): void;
  all(): Promise<Entry[]>;
  /** The job of this key, or of this id, has ended. */
  done(key: string | undefined, id?: string): void;
  clear(): Promise<void>;
  close(): void;
}

export interface CoreOptions extends Access {
  /** In the order of preference. */
  transports: readonly Transport[];
  tabs?: (inside: Inside, listener: SharedListener) => SharedLink | undefined;
  outbox?: (inside: Inside, kick: () => void) => Kept;
  shelf?: Shelf;
  /** No connection while the page has been hidden for half a minute. */
  pauseWhenHidden?: boolean;
}

/** The parts that `createClient` builds upon. */
export interface Insides {
  http: Http;
  /** The realm of who is here, once that is known. */
  entered(): Promise<Realm>;
  /** With `raw`, it resolves with its last event, however it ended, or with nothing. */
  job(entry: Pick<Entry, "key" | "job" | "id">, raw?: boolean): Job;
}

/** Everything that belongs to one identity. */
export interface Realm {
  inbox: string;
  who: Identity;
  inside: Inside;
  reader: Reader;
  box: Box | Kept;
  kept: Record<string, Position>;
  link?: Link | SharedLink;
  /** Where the inbox began to be heard. */
  start?: Position;
}

const TRIES = 3;
const ACK_EVERY = 1_000;
const HIDDEN = 30_000;
const ASK_AGAIN = 5_000;
const LONGEST = 86_400_000;

export function createCore<Paths = unknown>(options: CoreOptions): Core<Paths> & { readonly insides: Insides } {
  const { shelf, pauseWhenHidden } = options;
  const web = http(options);
  const page = globalThis as unknown as Partial<Window>;
  const handlers: { [Type in keyof Listeners]?: Set<Listeners[Type]> } = {};
  const channels = new Map<string, Set<Listeners["event"]>>();
  const timers: { [Name in "token" | "ack" | "hidden"]?: ReturnType<typeof setTimeout> } = {};
  let realm: Realm | undefined;
  let status: Status = { state: "off" };
  let running = false;
  let suspended = false;
  let leading = false;
  let asked = 0;
  let asking: Promise<void> | undefined;
  let entered = () => {};
  let known = new Promise<void>((done) => (entered = done));

  const going = () => running && !suspended;
  const jobs = desk(web, going, (job, view) => {
    const channel = "job:" + job.id;
    if (job.ended) {
      drop(channel);
      (realm?.box as Kept | undefined)?.done?.(job.key);
    } else if (view && realm && job.key === job.id) {
      // It may be of somebody else, so that the inbox does not tell.
      realm.reader.hold(channel, parseCursor(view.cursor)[channel]!, true);
    }
  });

  // Telling

  const tell = <Type extends keyof Listeners>(type: Type, ...what: Parameters<Listeners[Type]>) => {
    for (const handler of handlers[type] ?? []) void attempt(1, () => (handler as (...what: unknown[]) => unknown)(...what));
  };

  const setStatus = (to: Status) => tell("status", (status = to));

  /** Run a handler, in so many tries; then it is an error. */
  async function attempt(tries: number, run: () => unknown, event?: PushEvent): Promise<void> {
    for (let pause = 200; ; pause *= 4) {
      try {
        return void (await run());
      } catch (error) {
        if (--tries > 0) await web.sleep(pause);
        else if (!handlers.error?.size) return console.error(error);
        else return handlers.error.forEach((handler) => handler(error, event));
      }
    }
  }

  async function deal(item: Item): Promise<void> {
    if ("event" in item) {
      const { event, ...where } = item;
      for (const handler of [...(handlers.event ?? []), ...(channels.get(item.channel) ?? [])]) {
        await attempt(TRIES, () => handler(event, where), event);
      }
    } else {
      jobs.refresh();
      for (const handler of handlers.reset ?? []) await attempt(TRIES, () => handler(item));
    }
  }

  // Who is here

  const nameOf = (...more: string[]) => ["pushsvc", web.url(), ...more].map(encodeURIComponent).join(":");

  async function ask(): Promise<void> {
    asked = Date.now();
    const answer = await web.fetch("/v1/me");
    const who = await web.json<Identity>(answer);
    expires(who, answer.headers.get("date"));
    if (realm && nameOf(realm.who.tenant, realm.who.user) !== nameOf(who.tenant, who.user)) leave();
    if (realm && "" + realm.who.channels !== "" + who.channels) unlink();
    if (realm) realm.who = who;
    else enter(who);
    shelf?.set(nameOf(), JSON.stringify(who));
    if (going()) relink(realm!);
  }

  /** Ask who is here until there is an answer. */
  function recognize(): void {
    asking ??= (async () => {
      try {
        for (let fails = 0; going(); fails++) {
          try {
            return await ask();
          } catch (error) {
            if (error instanceof RequestError) throw error;
          }
          // Offline: what is kept of whoever was here last is theirs, and nothing is sent before it is certain.
          const kept = shelf?.get(nameOf());
          if (!realm && kept) enter(JSON.parse(kept) as Identity);
          const ms = backOff(fails);
          if (!realm?.link) setStatus({ state: "waiting", retryAt: Date.now() + ms });
          await web.sleep(ms);
        }
      } catch (error) {
        unlink();
        setStatus({ state: "stopped", code: 4000 + (error as PushsvcError).status! });
        tell("error", error);
      } finally {
        asking = undefined;
      }
    })();
  }

  /** Get another token in time, by the server's clock. */
  function expires(who: Identity, date: string | null): void {
    clearTimeout(timers.token);
    if (!who.expires_at || typeof options.token !== "function") return;
    // The header has whole seconds: it may be one later by now.
    const left = Date.parse(who.expires_at) - (date ? Date.parse(date) + 1_000 : Date.now());
    const ms = Math.max(1_000, left - Math.min(60_000, left / 5));
    const due = async () => {
      if (ms < LONGEST && (await web.renew().catch(() => {}))) realm?.link?.token();
      recognize();
    };
    timers.token = setTimeout(due, Math.min(ms, LONGEST));
  }

  function enter(who: Identity): void {
    const name = nameOf(who.tenant, who.user);
    const inbox = "user:" + who.user;
    let kept: Record<string, Position> = {};
    try {
      kept = parseCursor(shelf?.load(name) ?? "");
    } catch {
      // Not ours, or cut short: as on a first visit.
    }
    const reader = read({
      page: (query) => web.json<Page>(web.fetch("/v1/events" + query)),
      sleep: web.sleep,
      early: ({ event }) => {
        if (event.job === undefined) return;
        jobs.event(event);
        if (event.final && leading) (realm?.box as Kept | undefined)?.done?.(undefined, event.job);
      },
      deal,
      moved,
      opened: () => realm?.link?.want(wanted()),
      refused,
    });
    const inside: Inside = {
      ...web,
      name,
      inbox,
      shelf,
      reader,
      going,
      rights: "" + [...who.channels].sort(),
      device: shelf?.device,
      transports: options.transports,
      send: jobs.send,
      async renew() {
        const another = await web.renew();
        recognize();
        return another;
      },
      remember(way) {
        const at = nameOf("way");
        if (way !== undefined) shelf?.set(at, way ? `${way}@${Date.now() + 600_000}` : undefined);
        const [kept, until] = (shelf?.get(at) ?? "").split("@");
        return +until! > Date.now() ? +kept! : 0;
      },
      tell(told) {
        if (realm?.link && "tell" in realm.link) realm.link.tell(told);
        else hearTold(told);
      },
      error: (error) => tell("error", error),
    };
    const kick = () => realm?.link && "kick" in realm.link && realm.link.kick();
    const box = options.outbox?.(inside, kick) ?? directly(async (entry) => inside.tell(await jobs.send(entry)));
    realm = { inbox, who, inside, reader, box, kept, start: kept[inbox] };
    reader.hold(inbox, kept[inbox] ?? "");
    for (const channel of channels.keys()) if (channel !== inbox) hold(channel);
    entered();
  }

  function leave(): void {
    unlink();
    realm?.reader.stop();
    (realm?.box as Kept | undefined)?.close?.();
    realm = undefined;
    known = new Promise((done) => (entered = done));
    jobs.abandon();
  }

  // The link

  function relink(at: Realm): void {
    if (at.link) return;
    const listener: SharedListener = {
      heard(frame) {
        if (frame.op !== "progress") return at.reader.hear(frame);
        jobs.progress(frame);
        tell("progress", frame);
      },
      located(cursor) {
        at.reader.locate(cursor);
        if (at.start || !(at.start = at.reader.positions()[at.inbox])) return;
        // What ended before was not heard.
        jobs.refresh();
      },
      refused,
      status: setStatus,
      leads(yes) {
        leading = yes;
        (at.box as Kept).leads?.(yes);
      },
      told: hearTold,
    };
    const shared = options.tabs?.(at.inside, listener);
    at.link = shared ?? connect(at.inside, listener, at.reader.positions());
    if (!shared) listener.leads(true);
    at.link.want(wanted());
  }

  function unlink(): void {
    const link = realm?.link;
    if (!link) return;
    delete realm!.link;
    leading = false;
    (realm!.box as Kept).leads?.(false);
    link.stop();
  }

  function hearTold(told: Told): void {
    const job = jobs.told(told);
    if ("view" in told) {
      const from = parseCursor(told.view.cursor)[realm!.inbox];
      // Submitted before the inbox was heard: its end may have been missed.
      if (job && !job.ended && from && realm!.start && distance(from, realm!.start) !== 0n) jobs.refresh();
    } else if (told.problem.code !== "gone") {
      const { key, job, params } = told.entry;
      tell("rejected", { key, job, params, error: errorOf(told.problem, 400) });
    }
  }

  // Channels

  const wanted = (): Positions => {
    const { [realm!.inbox]: _, ...rest } = realm!.reader.positions();
    return rest;
  };

  const hold = (channel: string, position?: Position) => {
    realm?.reader.hold(channel, position ?? realm.kept[channel] ?? "", true);
  };

  const drop = (channel: string) => {
    if (!realm || channel === realm.inbox) return;
    realm.reader.drop(channel);
    delete realm.kept[channel];
    realm.link?.want(wanted());
  };

  const refused = (channel: string, error?: unknown) => {
    channels.delete(channel);
    drop(channel);
    const problem = (error as typeof NO_ANSWER) ?? { code: "forbidden", title: "The token does not name " + channel };
    tell("error", error instanceof RequestError ? error : errorOf(problem, 403));
  };

  /** Keep how far the app is; tell the server once a second at most. */
  function moved(): void {
    const at = realm!;
    const dealt = Object.entries(at.reader.positions(true)).filter(([channel]) => channel[0] !== "j");
    const cursor = { ...at.kept, ...Object.fromEntries(dealt) };
    shelf?.save(at.inside.name, formatCursor(cursor));
    if (!shelf?.device || !leading) return;
    timers.ack ??= setTimeout(() => {
      timers.ack = undefined;
      const dealt = Object.entries(at.reader.positions(true)).filter(([channel]) => channel[0] !== "j");
      at.link?.ack(formatCursor(Object.fromEntries(dealt)));
    }, ACK_EVERY);
  }

  // The page

  const suspend = () => {
    suspended = true;
    unlink();
  };

  const back = (online?: boolean) => {
    clearTimeout(timers.hidden);
    web.hurry();
    if (suspended) {
      suspended = false;
      recognize();
    } else realm?.link?.wake(online);
  };

  const events: Record<string, () => void> = {
    online: () => back(true),
    pageshow: () => suspended && back(),
    pagehide: suspend,
    focus: () => Date.now() - asked > ASK_AGAIN && recognize(),
    visibilitychange() {
      if (page.document!.visibilityState === "visible") back();
      else if (pauseWhenHidden) timers.hidden = setTimeout(suspend, HIDDEN);
    },
  };

  const listen = (how: "addEventListener" | "removeEventListener") => {
    for (const type in events) (type[0] === "v" ? page.document : page)?.[how]?.(type, events[type]!);
  };

  const start = () => {
    if (running) return;
    running = true;
    listen("addEventListener");
    // After what registers its handlers in the same turn.
    queueMicrotask(recognize);
  };

  const self: Core<Paths> & { readonly insides: Insides } = {
    submit(name, ...[params, options]) {
      start();
      return jobs.submit(known.then(() => realm!.box), name, params, options) as never;
    },
    job(id) {
      start();
      return jobs.job(id, "", id) as never;
    },
    on(type, handler) {
      start();
      const all = ((handlers[type] as Set<unknown>) ??= new Set()) as Set<unknown>;
      all.add(handler);
      return () => void all.delete(handler);
    },
    subscribe(channel, handler, position) {
      start();
      const all = channels.get(channel) ?? new Set();
      channels.set(channel, all.add(handler));
      hold(channel, position);
      return () => {
        all.delete(handler);
        if (all.size || channels.get(channel) !== all) return;
        channels.delete(channel);
        drop(channel);
      };
    },
    get status() {
      return status;
    },
    get identity() {
      return realm?.who;
    },
    get url() {
      return web.url();
    },
    fetch: web.fetch,
    connect: start,
    close() {
      running = false;
      listen("removeEventListener");
      Object.values(timers).forEach(clearTimeout);
      leave();
      web.hurry();
      setStatus({ state: "off" });
    },
    insides: {
      http: web,
      entered: () => (start(), known.then(() => realm!)),
      job: ({ key, job, id }, raw) => (start(), jobs.job(key, job, id, raw)),
    },
  };
  return self;
}
