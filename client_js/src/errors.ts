// One tree of errors, which mirrors the server's: `code` is the server's code.
//
//   PushsvcError
//   ├── RequestError     the request was refused, and changed nothing: 4xx
//   ├── Unavailable      the server can't, just now: 429, 5xx, or no answer
//   ├── JobError         the job was accepted and did not succeed
//   └── StorageError     the browser would not keep something

import type { Problem } from "./wire.js";

export type RequestCode =
  | "bad_request"
  | "bad_cursor"
  | "bad_frame"
  | "unauthorized"
  | "forbidden"
  | "not_found"
  | "unknown_job"
  | "invalid_params"
  | "key_reused"
  | "already_finished"
  | "gone"
  | "too_large"
  | "too_many_channels"
  | "too_many_devices"
  /** Sent six days ago or longer, and never answered: whether it ran can't be said any more. */
  | "unknown_outcome"
  /** The one who submitted it is not the one who is here now. */
  | "other_user";
export type UnavailableCode = "unavailable" | "queue_full" | "rate_limited" | "too_many_connections" | "internal";
export type JobCode = "job_failed" | "job_timed_out" | "worker_lost" | "job_cancelled" | "job_expired";
export type StorageCode = "outbox_full" | "storage";
export type ErrorCode = RequestCode | UnavailableCode | JobCode | StorageCode | (string & {});

/** Something went wrong. `problem` is what the server said of it. */
export class PushsvcError extends Error {
  override name = "PushsvcError";
  readonly code: ErrorCode;
  readonly status?: number;
  readonly problem: Problem;

  constructor(problem: Problem, options?: ErrorOptions) {
    super(problem.detail ?? problem.title, options);
    this.problem = problem;
    this.code = problem.code;
    this.status = problem.status;
  }
}

/** The request was refused, and changed nothing. */
export class RequestError extends PushsvcError {
  override name = "RequestError";
}

/** The server can't, just now; the same may succeed later. */
export class Unavailable extends PushsvcError {
  override name = "Unavailable";
}

/** The job was accepted, and did not succeed. */
export class JobError extends PushsvcError {
  override name = "JobError";
}

/** The browser would not keep something: it is full, locked, or forbids it. */
export class StorageError extends PushsvcError {
  override name = "StorageError";
}

/** The error of a problem. */
export function errorOf(problem: Problem, status = problem.status ?? 0): PushsvcError {
  if (/^(job_|worker_lost)/.test(problem.code)) return new JobError(problem);
  return new (status >= 400 && status < 500 && status !== 429 ? RequestError : Unavailable)(problem);
}

/** What says what went wrong; undefined when it is none of ours: a proxy's page, a captive portal's. */
export function asProblem(body: unknown): Problem | undefined {
  return typeof (body as Problem | undefined)?.code === "string" ? (body as Problem) : undefined;
}

/** The JSON object of an answer; undefined when it holds anything else. */
export async function jsonOf(answer: Response): Promise<object | undefined> {
  if (!answer.headers.get("content-type")?.includes("json")) return undefined;
  const body: unknown = await answer.json().catch(() => undefined);
  return body && typeof body === "object" ? body : undefined;
}
