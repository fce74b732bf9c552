// A job as its submitter holds it.

import { errorOf, PushsvcError } from "./errors.js";
import type { JobStatus, Problem, Progress } from "./wire.js";

/** `unsent` until the server has accepted it; `rejected` when it would not. */
export type JobState = JobStatus | "unsent" | "rejected";

const FINAL: readonly string[] = ["succeeded", "failed", "cancelled", "expired", "rejected"];

/** One job. Await it for its result; letting go of it is not cancelling. */
export class Job<Result = unknown> implements PromiseLike<Result> {
  /** By which the server knows it again, however often it is sent. */
  readonly key: string;
  readonly name: string;
  /** Known once it is accepted. */
  id: string | undefined;
  status: JobState = "unsent";
  /** The last progress that was heard. */
  latest: Progress | undefined;
  /** What it gave, or why it gave nothing, once it has ended. */
  value: Result | undefined;
  error: unknown;
  /** @internal Its last event is its result. */
  _raw?: boolean;
  private _result: Promise<Result>;
  // As a method, which lets a Job<Flight> be a Job<unknown>.
  private _resolve!: { (result: unknown): void };
  private _reject!: (error: unknown) => void;
  private _watchers = new Set<() => void>();
  private _cancel: (job: Job) => Promise<void>;

  /** @internal */
  constructor(key: string, name: string, cancel: (job: Job) => Promise<void>) {
    this.key = key;
    this.name = name;
    this._cancel = cancel;
    this._result = new Promise((resolve, reject) => {
      this._resolve = resolve as (result: unknown) => void;
      this._reject = reject;
    });
    // Nobody has to await it.
    this._result.catch(() => {});
  }

  /** The result. Rejects with a JobError, a RequestError that refused it, or the reason of an aborted signal. */
  result({ signal }: { signal?: AbortSignal } = {}): Promise<Result> {
    return signal ? aborted(this._result, signal) : this._result;
  }

  then<A = Result, B = never>(
    done?: ((result: Result) => A | PromiseLike<A>) | null,
    failed?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this._result.then(done, failed);
  }

  /** Its progress, the latest as often as you ask, until it has ended. How it ended, `await` says. */
  async *progress(): AsyncGenerator<Progress, void, void> {
    for (let seen: Progress | undefined; ; ) {
      if (this.latest && this.latest !== seen) yield (seen = this.latest);
      else if (this.ended) return;
      else {
        await new Promise<void>((resolve) => {
          const stop = this.watch(() => {
            stop();
            resolve();
          });
        });
      }
    }
  }

  /** Cancel the work. Resolves when the server has taken it; a job that has ended stays as it is. */
  cancel(): Promise<void> {
    return this.ended ? Promise.resolve() : this._cancel(this);
  }

  get ended(): boolean {
    return FINAL.includes(this.status);
  }

  /** Be told of each change of `id`, `status` and `latest`. Gives back what ends it. */
  watch(changed: () => void): () => void {
    this._watchers.add(changed);
    return () => void this._watchers.delete(changed);
  }

  /** @internal */
  _set(status: JobState, latest = this.latest): void {
    if (this.ended) return;
    this.status = status;
    this.latest = latest;
    [...this._watchers].forEach((changed) => changed());
  }

  /** @internal */
  _succeed(result: Result): void {
    this._resolve((this.value = result));
    this._set("succeeded");
  }

  /** @internal */
  _fail(status: JobState, problem: Problem | PushsvcError): void {
    this._reject((this.error = problem instanceof PushsvcError ? problem : errorOf(problem)));
    this._set(status);
  }

  /** @internal End the waiting, not the job. */
  _abandon(reason: unknown): void {
    this._reject(reason);
  }
}

/** The promise, or the signal's reason when it is aborted first. */
export function aborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
