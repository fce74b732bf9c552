// A `fetch` for endpoints that may answer later: their `202` becomes the final answer, when that is pushed.

import type { Core, Insides } from "./core.js";
import { jsonOf } from "./errors.js";
import { aborted } from "./jobs.js";
import type { JobEvent, JobView } from "./wire.js";

/** The answer as an event has it: its body as JSON, as text or as base64. Cookies are in no event. */
interface Stored {
  status: number;
  headers: [string, string][];
  cookies?: true;
  encoding: "json" | "text" | "base64";
  body: any;
}

const PREFER = "respond-async, wait=2";

/** Resolves with the final answer. Abort ends the waiting, not the job. */
export function pushFetch(client: Pick<Core, "url" | "fetch"> & { insides: Insides }, ask = fetch): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    const { url, signal } = request;
    const api = client.url;
    // The API's own answers are what they are; other origins are none of ours.
    if (new URL(url).origin !== new URL(api).origin || url.startsWith(api + "/v1/")) return ask(request);
    if (!request.headers.has("Prefer")) request.headers.set("Prefer", PREFER);
    const answer = await ask(request);
    if (answer.status !== 202) return answer;
    const view = (await jsonOf(answer.clone())) as JobView | undefined;
    const result = view?.links?.["result"];
    if (typeof view?.id !== "string" || typeof result !== "string") return answer;
    const job = client.insides.job({ key: view.id, job: view.job, id: view.id }, true);
    const end = (await aborted(job.result(), signal)) as JobEvent<string, Stored> | undefined;
    const stored = end?.data;
    const final = stored?.encoding && !stored.cookies ? restored(stored) : await client.fetch(result, { signal });
    Object.defineProperty(final, "url", { value: url });
    return final;
  };
}

function restored({ status, headers, encoding, body }: Stored): Response {
  if (encoding === "json") body = JSON.stringify(body);
  if (encoding === "base64") body = Uint8Array.from(atob(body as string), (char) => char.charCodeAt(0));
  const empty = status === 204 || status === 205 || status === 304;
  return new Response(empty ? null : (body as BodyInit), { status, headers });
}

/** Put it in the place of the page's own `fetch`. Gives back what undoes that. */
export function installFetch(client: Parameters<typeof pushFetch>[0]): () => void {
  const before = globalThis.fetch;
  globalThis.fetch = pushFetch(client, (...given) => before(...given));
  return () => void (globalThis.fetch = before);
}
