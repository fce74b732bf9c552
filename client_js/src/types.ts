// What `createClient<paths>()` makes of the types that `openapi-typescript` generates from `/openapi.json`.

import type { JobEvent } from "./wire.js";

type Body<Paths> = Paths extends {
  "/v1/jobs": { post: { requestBody: { content: { "application/json": infer Found } } } };
}
  ? Found
  : { job: string; params?: Record<string, unknown> };

type Event<Paths> = Paths extends {
  "/v1/events": { get: { responses: { 200: { content: { "application/json": { events: { event: infer Found }[] } } } } } };
}
  ? Found
  : JobEvent;

/** The names of the jobs. */
export type JobName<Paths> = Body<Paths> extends { job: infer Name extends string } ? Name : string;

/** What a job takes. */
export type JobParams<Paths, Name extends string> =
  Extract<Body<Paths>, { job: Name }> extends never
    ? Record<string, unknown>
    : Extract<Body<Paths>, { job: Name }> extends { params: infer Params }
      ? Params
      : Extract<Body<Paths>, { job: Name }> extends { params?: infer Params }
        ? Params
        : Record<string, unknown>;

/** What a job gives. */
export type JobResult<Paths, Name extends string> =
  Extract<Event<Paths>, { name: Name; type: "job.succeeded" }> extends { data?: infer Data } ? Data : unknown;

type Needed<T> = {} extends T ? false : true;

/** The parameters may be left out where all of them have defaults. */
export type SubmitArguments<Params, Options> =
  Needed<Params> extends true ? [params: Params, options?: Options] : [params?: Params, options?: Options];
