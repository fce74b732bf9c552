// The jobs that this page holds: submitted here, found again, or picked up by their id.

import { errorOf, PushsvcError, RequestError } from "./errors.js";
import { post, type Http } from "./http.js";
import { Job } from "./jobs.js";
import type { JobEvent, JobView, Progress } from "./wire.js";

/** A submission. `at` and `sent` in ms since 1970; `id` once it is accepted. */
export interface Entry {
  key: string;
  job: string;
  params: unknown;
  at: number;
  /** When it was first sent: from then on the server may know it. */
  sent?: number;
  id?: string;
}

/** What came of a submission. */
export type Told = { key: string; view: JobView } | { key: string; entry: Entry; problem: PushsvcError["problem"] };

/** Where submissions wait until the server has answered. */
export interface Box {
  /** Resolves when it is kept, and will be sent. */
  add(entry: Entry): Promise<void>;
  /** Take back what was not sent yet: whether it was there. */
  take(key: string): Promise<boolean>;
}

export interface SubmitOptions {
  /** By which the server knows it again: the same key is the same job. */
  key?: string;
  /** Ends the waiting, and takes back what was not sent yet. */
  signal?: AbortSignal;
}

export interface Desk {
  submit(box: Promise<Box>, name: string, params: unknown, options?: SubmitOptions): Job;
  /** The job of this key; with an id, what the server says of it. */
  job(key: string, name: string, id?: string, raw?: boolean): Job;
  /** Send a submission, until there is an answer; what came of it. */
  send(entry: Entry, still?: () => boolean): Promise<Told>;
  told(told: Told): Job | undefined;
  event(event: JobEvent): void;
  progress(progress: Progress): void;
  /** Ask how each job stands: something may have been missed. */
  refresh(): void;
  /** None of them are of whoever is here now. */
  abandon(): void;
}

const NO = [400, 403, 404, 410, 413, 422];
/** Ends that came before their job's id did. */
const EARLY = 200;
const TAKEN_BACK = { code: "job_cancelled", title: "It was taken back before it was sent." };

/** `changed` is told of each job that is asked for and has not ended, and of each that has. */
export function desk(http: Http, going: () => boolean, changed: (job: Job, view?: JobView) => void): Desk {
  const byKey = new Map<string, Job>();
  const byId = new Map<string, Job>();
  const ends = new Map<string, JobEvent>();
  let box: Promise<Box>;

  const handle = (key: string, name: string): Job => {
    const job = byKey.get(key) ?? new Job(key, name, cancel);
    byKey.set(key, job);
    return job;
  };

  const identify = (job: Job, id: string) => {
    job.id = id;
    byId.set(id, job);
    if (ends.has(id)) settle(job, ends.get(id)!);
  };

  const ended = (job: Job) => {
    byKey.delete(job.key);
    byId.delete(job.id!);
    changed(job);
  };

  const fail = (job: Job, status: Job["status"], error: Parameters<Job["_fail"]>[1]) => {
    job._fail(status, error);
    ended(job);
  };

  const succeed = (job: Job, result?: unknown) => {
    job._succeed(result);
    ended(job);
  };

  const takeBack = async (job: Job) => {
    if (await (await box).take(job.key)) fail(job, "cancelled", TAKEN_BACK);
  };

  async function cancel(job: Job): Promise<void> {
    if (!job.id) await takeBack(job);
    while (!job.id && !job.ended) await new Promise<void>((done) => job.watch(done));
    if (job.ended) return;
    const answer = await http.fetch(`/v1/jobs/${job.id}/cancel`, { method: "POST" });
    if (answer.status !== 409) update(job, await http.json<JobView>(answer));
  }

  const update = (job: Job, view: JobView) => {
    identify(job, view.id);
    if (job.ended) return;
    if (job._raw && view.finished_at) succeed(job);
    else if (view.status === "succeeded") void fetchResult(job, `/v1/jobs/${view.id}/result`);
    else if (view.status === "queued" || view.status === "running") job._set(view.status, view.progress ?? undefined);
    else fail(job, view.status, view.error ?? { code: "job_" + view.status, title: "It was " + view.status + "." });
  };

  const settle = (job: Job, event: JobEvent) => {
    const status = event.type.slice(4) as Job["status"];
    if (event.final && job._raw) succeed(job, event);
    else if (!event.final) job._set(event.type === "job.started" ? "running" : "queued");
    else if (event.ref) void fetchResult(job, event.ref.href);
    else if (status !== "succeeded") fail(job, status, event.error ?? { code: "job_" + status, title: event.type });
    else succeed(job, event.data);
  };

  async function fetchResult(job: Job, href: string): Promise<void> {
    try {
      const ask = async () => {
        const answer = await http.fetch(href);
        return answer.status === 200 ? ((await answer.json()) as unknown) : http.json(answer);
      };
      succeed(job, await http.insist(ask, going));
    } catch (error) {
      if (error instanceof RequestError) fail(job, "expired", error);
    }
  }

  async function ask(job: Job): Promise<void> {
    try {
      const view = await http.insist(() => http.json<JobView>(http.fetch("/v1/jobs/" + job.id)), () => going() && !job.ended);
      update(job, view);
      if (!job.ended) changed(job, view);
    } catch (error) {
      if (error instanceof RequestError) fail(job, "expired", error);
    }
  }

  return {
    submit(into, name, params, { key = randomId(), signal } = {}) {
      box = into;
      const known = byKey.get(key);
      const job = handle(key, name);
      if (signal?.aborted) fail(job, "cancelled", TAKEN_BACK);
      else if (!known) {
        into
          .then((box) => box.add({ key, job: name, params, at: Date.now() }))
          .then(
            () => (signal?.aborted ? takeBack(job) : undefined),
            (error: unknown) => fail(job, "rejected", error as PushsvcError),
          );
      }
      signal?.addEventListener("abort", () => {
        job._abandon(signal.reason);
        if (!job.id) void takeBack(job);
      });
      return job;
    },
    job(key, name, id, raw) {
      const known = byKey.get(key) ?? byId.get(id!);
      if (known) return known;
      const job = handle(key, name);
      job._raw = raw;
      if (id) {
        identify(job, id);
        void ask(job);
      }
      return job;
    },
    async send(entry, still = going) {
      const { key, job, params = {} } = entry;
      const ask = async () => {
        const answer = await http.fetch("/v1/jobs", { ...post({ job, params }, { "Idempotency-Key": key }), redirect: "manual" });
        const view = await http.json<JobView>(answer).catch((error: PushsvcError) => {
          // Whatever else it may be, it is no word on this submission.
          throw NO.includes(answer.status) ? error : errorOf({ ...error.problem, status: 0 });
        });
        if (!view.id) throw new Error("an answer of somebody else");
        return { key, view };
      };
      return http.insist(ask, still).catch((error: unknown) => {
        if (error instanceof RequestError) return { key, entry, problem: error.problem };
        throw error;
      });
    },
    told(told) {
      const job = byKey.get(told.key);
      if (job && "view" in told) update(job, told.view);
      else if (job && "problem" in told) fail(job, "rejected", errorOf(told.problem, 400));
      return job;
    },
    event(event) {
      const job = byId.get(event.job);
      if (job) return settle(job, event);
      if (!event.final) return;
      ends.set(event.job, event);
      if (ends.size > EARLY) ends.delete(ends.keys().next().value!);
    },
    progress: (progress) => byId.get(progress.job)?._set("running", progress),
    refresh: () => byId.forEach((job) => void ask(job)),
    abandon() {
      for (const job of byKey.values()) {
        if (job.id) fail(job, "rejected", errorOf({ code: "other_user", title: "Another user is here now." }, 403));
      }
      ends.clear();
    },
  };
}

/** Sends at once, in order, and keeps nothing. */
export function directly(send: (entry: Entry) => Promise<unknown>): Box {
  const waiting = new Set<string>();
  let before: Promise<unknown> = Promise.resolve();
  return {
    async add(entry) {
      waiting.add(entry.key);
      before = before.then(() => waiting.delete(entry.key) && send(entry)).catch(() => {});
    },
    take: async (key) => waiting.delete(key),
  };
}

/** 128 bits at random, also where the page is not secure. */
export function randomId(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
