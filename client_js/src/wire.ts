// What goes over the wire, and what it means: positions, cursors, frames. No sockets, no clocks.
// `tests/vectors/` of the repository holds the examples that Python is tested against too.

/** A place in one channel: `epoch.offset`. Offsets of different epochs do not compare. */
export type Position = string;

/** Positions by channel. */
export type Positions = Readonly<Record<string, Position>>;

const POSITION = /^([0-9a-z]{1,16})\.([0-9]{1,18})$/;
const CHANNEL = /^(job|user|group):[^\x00-\x1f\x7f]{1,200}$/u;

/** Epoch and offset; undefined when the text is no position. */
export function parsePosition(text: string): [epoch: string, offset: bigint] | undefined {
  const match = POSITION.exec(text);
  return match ? [match[1]!, BigInt(match[2]!)] : undefined;
}

/** How far `to` lies after `from`: negative or zero when it was passed already; undefined in another epoch. */
export function distance(from: Position, to: Position): bigint | undefined {
  const [a, b] = [parsePosition(from), parsePosition(to)];
  return a && b && a[0] === b[0] ? b[1] - a[1] : undefined;
}

/** The positions of a cursor in its order, written in their shortest way. Raises RangeError on what is none. */
export function parseCursor(text: string): Record<string, Position> {
  const found: Record<string, Position> = {};
  for (const part of text ? text.split(",") : []) {
    const at = part.lastIndexOf("@");
    const position = parsePosition(part.slice(at + 1));
    let channel = "";
    try {
      channel = decodeURIComponent(part.slice(0, Math.max(at, 0)));
    } catch {
      // Not percent-encoded as it should be: no channel.
    }
    if (!position || !CHANNEL.test(channel) || channel in found) {
      throw new RangeError("no cursor: " + part);
    }
    found[channel] = position.join(".");
  }
  return found;
}

/** A cursor of these positions; channels that are nowhere yet are left out. */
export function formatCursor(positions: Positions): string {
  return Object.entries(positions)
    .filter(([, position]) => position)
    .map(([channel, position]) => formatChannel(channel) + "@" + position)
    .join(",");
}

/** A channel's name as cursors and query strings have it: percent-encoded, but for letters, digits and `-._~:`. */
export function formatChannel(channel: string): string {
  return encodeURIComponent(channel)
    .replace(/[!'()*]/g, (char) => "%" + char.charCodeAt(0).toString(16).toUpperCase())
    .replaceAll("%3A", ":");
}

// What the server sends

/** An error object (RFC 9457), as answers and failed jobs carry it. */
export interface Problem {
  code: string;
  title: string;
  status?: number;
  detail?: string;
  type?: string;
  retry_after?: number;
  [member: string]: unknown;
}

/** Where a result is that is too large for an event. */
export interface Reference {
  href: string;
  bytes: number;
  sha256: string;
}

/** A change of a job. `data` is the result; `error` or `ref` may stand in its place. */
export interface JobEvent<Name extends string = string, Data = unknown> {
  id: string;
  type: `job.${"queued" | "started" | "retrying" | "succeeded" | "failed" | "cancelled" | "expired"}`;
  job: string;
  name: Name;
  version: number;
  at: string;
  final: boolean;
  data?: Data;
  error?: Problem;
  ref?: Reference;
}

/** What an app published. */
export interface AppEvent<Data = unknown> {
  id: string;
  type: string;
  at: string;
  final: false;
  data: Data;
  job?: undefined;
  name?: undefined;
  error?: undefined;
  ref?: undefined;
}

export type PushEvent = JobEvent | AppEvent;

export interface EventItem {
  channel: string;
  position: Position;
  event: PushEvent;
}

/** What lay between is gone: read the state at `links`; what comes next follows `position`. */
export interface Reset {
  channel: string;
  position: Position;
  links: Record<string, string>;
}

/** How far a job is, from 0 to 1. The latest wins; it is in no log. */
export interface Progress {
  job: string;
  value: number;
  message: string;
  queries: Record<string, unknown>[];
}

export type JobStatus = "queued" | "running" | "succeeded" | "failed" | "cancelled" | "expired";

/** A job as the server shows it. */
export interface JobView {
  id: string;
  job: string;
  status: JobStatus;
  version: number;
  progress: Progress | null;
  error: Problem | null;
  links: Record<string, string>;
  cursor: string;
  [member: string]: unknown;
}

/** The answer of `GET /v1/events`. */
export interface Page {
  events: EventItem[];
  progress: Progress[];
  resets: Reset[];
  cursor: string;
  up_to_date: boolean;
  closed: boolean;
}

/** Whatever the server says, on every transport in the form that the WebSocket has. */
export type ServerFrame =
  | ({ op: "event"; id?: undefined } & EventItem)
  | ({ op: "reset"; id?: undefined } & Reset)
  | ({ op: "progress"; id?: undefined } & Progress)
  | { op: "bye"; code: number; retry_ms?: [number, number]; id?: undefined }
  | { op?: undefined; id: number | null; ok: { cursor?: string; unsubscribed?: string[] }; error?: undefined }
  | { op?: undefined; id: number | null; error: Problem & { temporary?: boolean }; ok?: undefined };

/** What says that something is to be heard. */
export type Heard = Extract<ServerFrame, { op: "event" | "reset" | "progress" }>;

/** What a client says. What is undefined is left out. */
export type ClientFrame = { id: number } & (
  | { op: "hello"; token?: string; device?: string; channels?: string[]; cursor?: string }
  | { op: "subscribe"; channels: string[]; cursor?: string }
  | { op: "unsubscribe"; channels: string[] }
  | { op: "ack"; cursor: string }
  | { op: "refresh"; token: string }
);
