// @vitest-environment happy-dom
// The hooks, in StrictMode, on a scripted server.

import { act, StrictMode, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { createClient, type Client, type Job } from "../src/index.js";
import { PushsvcProvider, useConnection, useInbox, useJob, usePushFetch, type InboxOptions } from "../src/react.js";
import { scriptedServer, type ScriptedServer } from "../src/testing.js";

let server: ScriptedServer;
let client: Client;
let root: Root;
let renders = 0;

beforeEach(() => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  server = scriptedServer({ channels: ["group:ops"] });
  client = createClient({ url: "http://app.test", token: "t", ...server.parts, tabs: undefined, outbox: undefined, shelf: undefined });
  document.body.innerHTML = "<main></main>";
  root = createRoot(document.querySelector("main")!);
  renders = 0;
});

afterEach(async () => {
  await act(async () => root.unmount());
  client.close();
});

const shown = () => document.body.textContent;
const show = (children: ReactNode) =>
  act(async () => {
    root.render(
      <StrictMode>
        <PushsvcProvider client={client}>{children}</PushsvcProvider>
      </StrictMode>,
    );
  });
/** Until the page says so. */
const says = (text: string) =>
  vi.waitFor(async () => {
    await act(async () => {});
    expect(shown()).toContain(text);
  });

it("useConnection says how the connection is", async () => {
  const seen: string[] = [];
  const Light = () => {
    const { state } = useConnection();
    seen.push(state);
    return <b>{state}</b>;
  };
  await show(<Light />);
  await says("live");
  seen.length = 0;
  await act(async () => server.cut());
  // It may have come back before anybody looks at the page.
  await vi.waitFor(async () => {
    await act(async () => {});
    expect(seen).toContain("waiting");
  });
});

it("useJob submits once, follows progress, and gives the result", async () => {
  const Report = () => {
    const { status, progress, result, submit } = useJob("report");
    return (
      <button onClick={() => submit({ origin: "JFK" })}>
        {status} {progress?.value} {JSON.stringify(result)}
      </button>
    );
  };
  await show(<Report />);
  expect(shown()).toContain("idle");
  await act(async () => document.querySelector("button")!.click());
  await says("queued");
  await act(async () => server.progress("report", 0.5));
  await says("running 0.5");
  await act(async () => void server.finish("report", { flights: 3 }));
  await says('succeeded 0.5 {"flights":3}');
  expect(server.jobs).toHaveLength(1);
});

it("useJob follows a job that there is already, and says why it failed", async () => {
  const Follow = ({ job }: { job: Job }) => {
    const { status, error } = useJob(job);
    return <b>{status + String(error ?? "")}</b>;
  };
  await show(<Follow job={client.submit("report", {})} />);
  await says("queued");
  await act(async () => void server.fail("report"));
  await says("failedJobError: job_failed");
});

it("useInbox has the newest first; inline options and callbacks cause nothing", async () => {
  const heard: unknown[] = [];
  const List = (options: InboxOptions) => {
    renders += 1;
    const events = useInbox({ ...options, channels: ["group:ops"], onEvent: (event) => heard.push(event.data) });
    return <b>{events.map(({ event }) => event.data as number).join()}</b>;
  };
  server.publish("user:me", "n", 0);
  await show(<List limit={3} history />);
  await says("0");
  const first = renders;
  await act(async () => {});
  expect(renders).toBe(first);
  const asked = server.requests.length;
  await show(<List limit={3} history />);
  expect(server.requests.length).toBe(asked);
  await act(async () => {
    for (const n of [1, 2]) server.publish("user:me", "n", n);
    server.publish("group:ops", "n", 3);
  });
  await vi.waitFor(() => expect(heard).toEqual([1, 2, 3]));
  await says("3,2,1");
});

it("usePushFetch asks once, in StrictMode and for two components, and drops what is not wanted any more", async () => {
  const asked: string[] = [];
  client.pushFetch = async (input) => (asked.push(String(input)), Response.json({ of: String(input) }));
  const Answer = ({ url }: { url: string }) => {
    const { pending, data } = usePushFetch<{ of: string }>(url, { headers: { Accept: "application/json" } });
    return <b>{pending ? "pending" : data?.of}</b>;
  };
  await show([<Answer key="1" url="/a" />, <Answer key="2" url="/a" />]);
  await says("/a/a");
  expect(asked).toEqual(["/a"]);
  await show(<Answer key="1" url="/b" />);
  await says("/b");
  expect(asked).toEqual(["/a", "/b"]);
});

it("a server renders what is there, and connects to nothing", () => {
  const All = () => {
    const [{ state }, { status }, events, { pending }] = [useConnection(), useJob("report"), useInbox(), usePushFetch("/x")];
    return <b>{[state, status, events.length, String(pending)].join()}</b>;
  };
  const html = renderToString(
    <PushsvcProvider client={client}>
      <All />
    </PushsvcProvider>,
  );
  expect(html).toBe("<b>off,idle,0,true</b>");
  expect(server.requests).toEqual([]);
});
