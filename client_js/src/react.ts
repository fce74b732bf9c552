// Hooks. Nothing happens while rendering: a server renders what is there, which is nothing yet.

import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { FunctionComponent, ReactNode } from "react";
import type { Client, EventItem, Job, JobName, JobParams, JobResult, JobState, Page, Progress, PushEvent, Status, SubmitOptions } from "./index.js";

const Context = createContext<Client | undefined>(undefined);
const OFF: Status = { state: "off" };

/** Gives the client to the hooks below. */
export const PushsvcProvider: FunctionComponent<{ client: Client<never>; children?: ReactNode }> = ({ client, children }) =>
  createElement(Context.Provider, { value: client as Client }, children);

/** The client. */
export function usePushsvc<Paths = unknown>(): Client<Paths> {
  const client = useContext(Context);
  if (!client) throw new Error("there is no <PushsvcProvider client={…}> around this component");
  return client as Client<Paths>;
}

/** How the connection is. */
export function useConnection(): Status {
  const client = usePushsvc();
  const subscribe = useCallback((changed: () => void) => client.on("status", changed), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.status,
    () => OFF,
  );
}

export interface JobSnapshot<Result> {
  job: Job<Result> | undefined;
  status: JobState | "idle";
  progress: Progress | undefined;
  result: Result | undefined;
  error: unknown;
}

const IDLE = { job: undefined, status: "idle", progress: undefined, result: undefined, error: undefined } as const;
const snapshots = new WeakMap<Job, JobSnapshot<unknown>>();

/** The same object as long as nothing has changed. */
function snapshot<Result>(job: Job<Result> | undefined): JobSnapshot<Result> {
  if (!job) return IDLE;
  const before = snapshots.get(job as Job) as JobSnapshot<Result> | undefined;
  const { status, latest: progress, value: result, error } = job;
  if (before?.status === status && before.progress === progress) return before;
  const now = { job, status, progress, result, error };
  snapshots.set(job as Job, now);
  return now;
}

/** A job as it is now. Of a name, `submit` starts one; of a job that there is already, follow it. */
export function useJob<Paths, Name extends JobName<Paths> & string = JobName<Paths> & string>(
  which: Name,
): JobSnapshot<JobResult<Paths, Name>> & {
  submit: (params?: JobParams<Paths, Name>, options?: SubmitOptions) => Job<JobResult<Paths, Name>>;
  cancel: () => void;
};
export function useJob<Result>(which: Job<Result> | undefined): JobSnapshot<Result> & { cancel: () => void };
export function useJob(which: string | Job | undefined) {
  const client = usePushsvc();
  const [own, setOwn] = useState<Job>();
  const name = typeof which === "string" ? which : undefined;
  const job = typeof which === "object" ? which : own;
  const subscribe = useCallback((changed: () => void) => job?.watch(changed) ?? (() => {}), [job]);
  const now = useSyncExternalStore(
    subscribe,
    () => snapshot(job),
    () => IDLE,
  );
  const submit = useCallback(
    (params?: Record<string, unknown>, options?: SubmitOptions) => {
      const job = client.submit(name!, params ?? {}, options);
      setOwn(job);
      return job;
    },
    [client, name],
  );
  const cancel = useCallback(() => void job?.cancel().catch(() => {}), [job]);
  return useMemo(() => ({ ...now, submit, cancel }), [now, submit, cancel]);
}

export interface InboxOptions {
  /** So many of the newest are kept. */
  limit?: number;
  /** Groups besides the inbox. */
  channels?: readonly string[];
  /** Begin with what the server still has. */
  history?: boolean;
  onEvent?: (event: PushEvent) => void;
}

/** The newest events, the newest first. */
export function useInbox({ limit = 50, channels = [], history = false, onEvent }: InboxOptions = {}): readonly EventItem[] {
  const client = usePushsvc();
  const [events, setEvents] = useState<readonly EventItem[]>([]);
  const latest = useRef(onEvent);
  useEffect(() => void (latest.current = onEvent));
  const names = channels.join("\n");
  useEffect(() => {
    let over = false;
    const groups = names ? names.split("\n") : [];
    const add = (items: readonly EventItem[]) => {
      if (over) return;
      setEvents((before) => {
        const known = new Set(before.map(({ event }) => event.id));
        const all = [...items.filter(({ event }) => !known.has(event.id)), ...before];
        return all.sort((a, b) => (a.event.at < b.event.at ? 1 : a.event.at > b.event.at ? -1 : 0)).slice(0, limit);
      });
    };
    const leave = [
      client.on("event", (event, where) => {
        if (where.channel !== "user:" + client.identity?.user && !groups.includes(where.channel)) return;
        add([{ ...where, event }]);
        latest.current?.(event);
      }),
      ...groups.map((name) => client.subscribe(name, () => {})),
    ];
    const load = async () => {
      for (let cursor = "start"; !over; ) {
        const answer = await client.fetch("/v1/events?wait=0&limit=1000&cursor=" + encodeURIComponent(cursor));
        if (!answer.ok) return;
        const page = (await answer.json()) as Page;
        add([...page.events].reverse());
        if (page.up_to_date) return;
        ({ cursor } = page);
      }
    };
    if (history) void load().catch(() => {});
    return () => {
      over = true;
      leave.forEach((each) => each());
    };
  }, [client, names, limit, history]);
  return events;
}

export interface Fetched<Data> {
  pending: boolean;
  data: Data | undefined;
  response: Response | undefined;
  error: unknown;
}

interface Shared {
  answer: Promise<[Response, unknown]>;
  users: number;
  stop: AbortController;
}

const flights = new WeakMap<Client, Map<string, Shared>>();
const NOTHING = { pending: false, data: undefined, response: undefined, error: undefined };

/** The final answer of an endpoint that may answer later; JSON as what it is, all else as text. Nothing for `null`. */
export function usePushFetch<Data = unknown>(input: string | URL | null | undefined, init?: RequestInit): Fetched<Data> {
  const client = usePushsvc();
  const [fetched, setFetched] = useState<Fetched<Data> & { key?: string }>(NOTHING);
  const { method, headers, body } = init ?? {};
  const key = input ? JSON.stringify([String(input), method, [...new Headers(headers)], body]) : "";
  const asked = useRef(init);
  useEffect(() => void (asked.current = init));
  useEffect(() => {
    if (!input) return;
    let over = false;
    // Effects run twice in StrictMode, and several components may ask the same: it is one request.
    const all = flights.get(client) ?? new Map<string, Shared>();
    flights.set(client, all);
    let shared = all.get(key);
    if (!shared) {
      const stop = new AbortController();
      shared = { users: 0, stop, answer: client.pushFetch(input, { ...asked.current, signal: stop.signal }).then(read) };
      all.set(key, shared);
      shared.answer.catch(() => {}).finally(() => all.delete(key));
    }
    const mine = shared;
    mine.users += 1;
    const tell = (to: Partial<Fetched<Data>>) => over || setFetched({ ...NOTHING, key, ...to });
    mine.answer.then(
      ([response, data]) => tell({ response, data: data as Data }),
      (error: unknown) => tell({ error }),
    );
    return () => {
      over = true;
      mine.users -= 1;
      setTimeout(() => mine.users || mine.stop.abort());
    };
    // The key says what the input and its options say.
  }, [client, key]);
  return useMemo(() => (fetched.key === key ? fetched : { ...NOTHING, pending: !!key }), [fetched, key]);
}

async function read(response: Response): Promise<[Response, unknown]> {
  const json = response.headers.get("content-type")?.includes("json");
  return [response, await (json ? response.clone().json() : response.clone().text())];
}
