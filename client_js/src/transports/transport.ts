// What a transport is: it opens, sends where it can, and closes. It knows nothing of retries, positions or jobs, and
// says everything in the frames of the WebSocket.

import { asProblem, jsonOf } from "../errors.js";
import type { ServerFrame } from "../wire.js";

/** What a connection is made of, and whom it tells. */
export interface Line {
  /** Where the API is, absolute and without a slash at the end. */
  url: string;
  channels: readonly string[];
  cursor: string;
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Frames may be sent. For transports that can be spoken to. */
  opened(): void;
  /** Without a frame: there is life in it, though nothing to say. */
  frame(frame?: ServerFrame): void;
  /** It is over; nothing is told after this. `code` is a close code; `retry` what the server advises, in ms. */
  closed(code?: number, retry?: readonly [number, number]): void;
}

export interface Connection {
  send?(frame: object): void;
  /** End it. Nothing is told any more. */
  close(): void;
}

export interface Transport {
  readonly name: string;
  /** Whether it can be spoken to: channels come and go, tokens are refreshed, and it answers. */
  readonly duplex: boolean;
  open(line: Line): Connection;
}

const TEMPORARY = [408, 425, 429];

/** An answer that is not 200, as a close code and advice. One that is none of our server's is no word of it. */
export async function refusal(response: Response): Promise<[code?: number, retry?: readonly [number, number]]> {
  if (!asProblem(await jsonOf(response))) return [];
  const { status } = response;
  if (status >= 400 && status < 500 && !TEMPORARY.includes(status)) return [4000 + status];
  const after = 1_000 * (Number(response.headers.get("retry-after")) || 1);
  return [4003, [after, after * 2]];
}
