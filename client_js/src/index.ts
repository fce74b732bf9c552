export { createClient, type Client, type ClientOptions, type EventsOptions } from "./client.js";
export {
  createCore,
  type Core,
  type CoreOptions,
  type Identity,
  type Listeners,
  type Rejected,
  type Where,
} from "./core.js";
export type { SubmitOptions } from "./desk.js";
export {
  JobError,
  PushsvcError,
  RequestError,
  StorageError,
  Unavailable,
  type ErrorCode,
  type JobCode,
  type RequestCode,
  type StorageCode,
  type UnavailableCode,
} from "./errors.js";
export type { Job, JobState } from "./jobs.js";
export { outbox } from "./outbox.js";
export { installFetch, pushFetch } from "./push_fetch.js";
export type { Status } from "./session.js";
export { localShelf } from "./shelf.js";
export { shareTabs } from "./tabs.js";
export { longpoll } from "./transports/longpoll.js";
export { sse } from "./transports/sse.js";
export type { Connection, Line, Transport } from "./transports/transport.js";
export { websocket } from "./transports/websocket.js";
export type { JobName, JobParams, JobResult } from "./types.js";
export type {
  AppEvent,
  EventItem,
  JobEvent,
  JobStatus,
  JobView,
  Page,
  Position,
  Problem,
  Progress,
  PushEvent,
  Reference,
  Reset,
} from "./wire.js";
