// The built bundle in a real Chromium, against a real server.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, type BrowserContext, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Client, Core, Status } from "../src/index.js";
import { mint, startProxy, startServer, until, type Mode, type Proxy, type Server } from "./server.js";

const CHROMIUM = [process.env["CHROMIUM"], "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(
  (path) => path && existsSync(path),
);
const FLAGS =
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --renderer-process-limit=30";
const BUNDLE = readFileSync(new URL("../dist/pushsvc.global.js", import.meta.url), "utf8");

declare global {
  interface Window {
    client: Client;
    heard: [channel: string, position: string, data: unknown][];
    states: Status[];
    errors: string[];
    boot(options: { token: string; url?: string; groups?: string[] }): void;
  }
  const pushsvc: typeof import("../src/index.js");
}

/** What the page does: it notes in localStorage what it has heard, at once, as an app that counts on it would. */
const PAGE = `<!doctype html><meta charset="utf-8"><title>test</title><script src="/bundle.js"></script><script>
  window.heard = []; window.states = []; window.errors = [];
  window.boot = ({token, url = "", groups = []}) => {
    const client = window.client = pushsvc.createClient({url, token});
    const note = (event, where) => {
      if (event.type !== "n") return;
      heard.push([where.channel, where.position, event.data]);
      localStorage.log = (localStorage.log ?? "") + event.id + " " + event.data + "\\n";
    };
    client.on("event", note);
    client.on("reset", (reset) => errors.push("reset " + JSON.stringify(reset)));
    client.on("status", (status) => states.push(status));
    client.on("error", (error) => errors.push(String(error)));
    client.on("rejected", ({error}) => errors.push("rejected " + error.code));
    for (const group of groups) client.subscribe(group, () => {});
  };
</script>`;

let server: Server;
let context: BrowserContext;
let profile: string;
let proxy: Proxy;
let users = 0;
/** Answer the page that waits for `/thaw`. */
let thaw = () => {};
const said: string[] = [];
const crashed = new Set<Page>();

const launch = async () => {
  context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    args: FLAGS.split(" "),
    headless: true,
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
  });
};

/** A page at the proxy's origin. Whatever goes wrong in it is noted. */
const open = async (path = "/page"): Promise<Page> => {
  const page = await context.newPage();
  page.on("crash", () => crashed.add(page));
  page.on("pageerror", (error) => said.push(String(error)));
  await page.goto(proxy.url + path);
  return page;
};

const boot = (page: Page, token: string, groups: string[] = []) =>
  page.evaluate(([token, groups]) => window.boot({ token, groups }), [token, groups] as const);
const status = (page: Page) => page.evaluate(() => window.client.status);
const live = (page: Page, shared?: boolean) =>
  until(async () => {
    const { state, shared: theirs } = await status(page);
    return state === "live" && (shared === undefined || !!theirs === shared);
  }, "it is live");
const numbers = (page: Page) => page.evaluate(() => window.heard.map(([, , data]) => data as number));
const submit = (page: Page, name: string, params: Record<string, unknown>) =>
  page.evaluate(([name, params]) => window.client.submit(name, params).result(), [name, params] as const);
/** Until what was submitted is in the outbox. */
const waiting = (page: Page) => until(() => page.evaluate(async () => (await window.client.pending()).length), "it is kept");
const count = (to: number, from = 0) => Array.from({ length: to - from }, (_, n) => n + from);
const user = () => `page${++users}`;

describe.skipIf(!CHROMIUM)("in a browser", () => {
  beforeAll(async () => {
    profile = mkdtempSync(join(tmpdir(), "pushsvc-profile-"));
    server = await startServer();
    const pages = { "/page": ["text/html", PAGE], "/bundle.js": ["text/javascript", BUNDLE] } as const;
    proxy = await startProxy(() => server.port, pages, () => new Promise<void>((done) => (thaw = done)));
    await launch();
  });

  afterEach(async () => {
    for (const page of context.pages()) await page.close();
    proxy.mode = "open";
    expect(said.splice(0)).toEqual([]);
  });

  afterAll(async () => {
    await context?.close();
    await proxy?.close();
    await server?.end();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  });

  const CASES: [Mode, string][] = [
    ["open", "websocket"],
    ["no-upgrade", "sse"],
    ["cut", "sse"],
    ["mute", "sse"],
    ["black-hole", "sse"],
    ["buffer", "longpoll"],
  ];
  it.each(CASES)("behind a proxy that is %s it ends on %s within seconds, and loses nothing", async (mode, transport) => {
    proxy.mode = mode;
    const page = await open();
    await page.evaluate(() => Object.keys(localStorage).forEach((key) => key.includes("way") && localStorage.removeItem(key)));
    const name = user();
    const began = Date.now();
    await boot(page, mint(name));
    await live(page);
    await submit(page, "burst", { channel: "user:" + name, count: 20 });
    await until(async () => (await status(page)).transport === transport, `it is ${transport}`);
    expect(Date.now() - began).toBeLessThan(20_000);
    await submit(page, "burst", { channel: "user:" + name, count: 20, start: 20 });
    await until(async () => (await numbers(page)).length >= 40, "all were heard");
    expect(await numbers(page)).toEqual(count(40));
    expect(await page.evaluate(() => window.errors)).toEqual([]);
  });

  it("what was missed while the network was away comes when it is back, and what was submitted runs", async () => {
    const page = await open();
    const name = user();
    await boot(page, mint(name));
    await live(page);
    proxy.mode = "down";
    proxy.cut();
    await until(async () => (await status(page)).state !== "live", "it is noticed");
    const job = submit(page, "burst", { channel: "user:" + name, count: 3, start: 3 });
    await waiting(page);
    proxy.mode = "open";
    await page.evaluate(() => dispatchEvent(new Event("online")));
    await job;
    await until(async () => (await numbers(page)).length >= 3, "all were heard");
    expect(await numbers(page)).toEqual(count(6, 3));
  });

  it("a page that is reloaded again and again in the midst of 1,000 events loses none, and hears at most the one in hand twice", async () => {
    const page = await open();
    const name = user();
    const token = mint(name);
    await page.evaluate(() => localStorage.removeItem("log"));
    await boot(page, token);
    await live(page);
    await page.evaluate((name) => void window.client.submit("burst", { channel: "user:" + name, count: 1_000, each: 0.004 }), name);
    let reloads = 0;
    const lines = async () => ((await page.evaluate(() => localStorage["log"] as string | undefined)) ?? "").trim().split("\n");
    while ((await lines()).length < 990 && reloads < 25) {
      const before = (await lines()).length;
      await until(async () => (await lines()).length > before + 30 || (await lines()).length > 990, "more was heard");
      await page.reload();
      reloads += 1;
      await boot(page, token);
    }
    await until(async () => (await lines()).some((line) => line.endsWith(" 999")), "the last was heard");
    const all = (await lines()).map((line) => line.split(" ") as [string, string]);
    const data = all.map(([, number]) => Number(number));
    expect([...new Set(data)]).toEqual(count(1_000));
    expect(data.length - 1_000).toBeLessThanOrEqual(reloads);
    expect(new Set(all.map(([id]) => id)).size).toBe(1_000);
    expect(reloads).toBeGreaterThan(2);
  });

  it("five tabs have one connection, and each hears each event once, whoever is closed, crashes or freezes", { timeout: 120_000 }, async () => {
    const name = user();
    const token = mint(name);
    const tabs: Page[] = [];
    const join = async () => {
      const page = await open();
      await boot(page, token, ["group:ops"]);
      await live(page);
      tabs.push(page);
      return page;
    };
    proxy.seen = [];
    for (let n = 0; n < 5; n++) await join();
    expect(proxy.seen.filter((line) => line.startsWith("UPGRADE"))).toHaveLength(1);
    const leader = async () => {
      for (const page of tabs) if (!(await status(page)).shared) return page;
      throw new Error("nobody leads");
    };
    let sent = 0;
    const from = new Map<Page, number>(tabs.map((page) => [page, 0]));
    const burst = async () => {
      const body = JSON.stringify({ job: "burst", params: { channel: "group:ops", count: 10, start: sent } });
      const headers = { Authorization: "Bearer " + token, "Content-Type": "application/json", Prefer: "wait=30" };
      sent += 10;
      expect((await fetch(server.url + "/v1/jobs", { method: "POST", headers, body })).status).toBe(200);
    };
    await burst();
    for (const how of ["close", "freeze", "crash", "freeze", "close"] as const) {
      const leads = await leader();
      const going = burst();
      if (how === "freeze") {
        // Neither its timers nor its messages come to their turn, and it keeps its lock.
        await leads.evaluate(() => {
          setTimeout(() => {
            const request = new XMLHttpRequest();
            request.open("GET", "/thaw", false);
            request.send();
          });
        });
        await going;
        await burst();
        const rest = tabs.filter((page) => page !== leads);
        await until(async () => (await Promise.all(rest.map(status))).some(({ shared }) => !shared), "another leads");
        for (const page of rest) await until(async () => (await numbers(page)).at(-1) === sent - 1, "it was heard without it");
        thaw();
      } else {
        if (how === "close") await leads.close();
        else {
          const session = await context.newCDPSession(leads);
          // Who is dead does not answer.
          void session.send("Page.crash").catch(() => {});
          await until(() => crashed.has(leads), "it has crashed");
        }
        await going;
        await burst();
        // A browser may run several tabs in one process: they die together.
        for (const page of [...tabs]) if (page === leads || crashed.has(page)) tabs.splice(tabs.indexOf(page), 1);
        while (tabs.length < 3) from.set(await join(), sent);
      }
    }
    await burst();
    for (const page of tabs) {
      await until(async () => (await numbers(page)).at(-1) === sent - 1, "the last was heard");
      const heard = await numbers(page);
      expect(heard).toEqual(count(sent, heard[0]));
      expect(heard[0]).toBeLessThanOrEqual(from.get(page)!);
      expect(await page.evaluate(() => window.errors)).toEqual([]);
    }
    expect((await Promise.all(tabs.map(status))).filter(({ shared }) => !shared)).toHaveLength(1);
  });

  it("what a follower submitted survives the leader's death", async () => {
    const token = mint(user());
    const first = await open();
    await boot(first, token);
    await live(first, false);
    const second = await open();
    await boot(second, token);
    await live(second, true);
    proxy.mode = "down";
    proxy.cut();
    await second.evaluate(() => {
      (window as unknown as { job: unknown }).job = window.client.submit("echo", { value: 7 });
    });
    await waiting(second);
    await first.close();
    proxy.mode = "open";
    await second.evaluate(() => dispatchEvent(new Event("online")));
    expect(await second.evaluate(() => (window as unknown as { job: PromiseLike<unknown> }).job)).toBe(7);
  });

  it("what was submitted offline is sent once when the browser is opened again", async () => {
    const token = mint(user());
    let page = await open();
    await boot(page, token);
    await live(page);
    proxy.mode = "down";
    proxy.cut();
    await until(async () => (await status(page)).state !== "live", "it is noticed");
    const key = await page.evaluate(() => window.client.submit("echo", { value: "kept" }).key);
    await waiting(page);
    await context.close();
    await launch();
    proxy.mode = "open";
    proxy.seen = [];
    page = await open();
    await boot(page, token);
    const found = await page.evaluate(async () => {
      const jobs = await window.client.pending();
      return Promise.all(jobs.map(async (job) => [job.key, await job]));
    });
    expect(found).toEqual([[key, "kept"]]);
    expect(proxy.seen.filter((line) => line === "POST /v1/jobs")).toHaveLength(1);
    expect(await page.evaluate(() => window.client.pending().then((jobs) => jobs.length))).toBe(0);
  });

  it("what the server refuses leaves the outbox, told once; what was sent days ago is told as unknown", async () => {
    const token = mint(user());
    const page = await open();
    await boot(page, token);
    await live(page);
    await page.evaluate(() => window.client.submit("echo", { wrong: 1 }).result().catch(() => {}));
    expect(await page.evaluate(() => window.errors)).toEqual(["rejected invalid_params"]);
    expect(await page.evaluate(async () => (await window.client.pending()).length)).toBe(0);
    proxy.mode = "down";
    proxy.cut();
    await page.evaluate(() => void window.client.submit("echo", { value: "old" }));
    await waiting(page);
    await page.evaluate(async () => {
      // As if it had been sent a week ago, and no answer had come.
      const { user } = window.client.identity!;
      window.client.close();
      const { name } = (await indexedDB.databases()).find(({ name }) => name!.endsWith(":" + user))!;
      const opened = indexedDB.open(name!);
      await new Promise((done) => (opened.onsuccess = done));
      const store = opened.result.transaction("out", "readwrite").objectStore("out");
      const cursor = store.openCursor();
      await new Promise<void>((done) => {
        cursor.onsuccess = () => {
          if (!cursor.result) return done();
          cursor.result.update({ ...(cursor.result.value as object), sent: Date.now() - 7 * 86_400_000 });
          cursor.result.continue();
        };
      });
      opened.result.close();
    });
    proxy.mode = "open";
    proxy.seen = [];
    await page.reload();
    await boot(page, token);
    await until(() => page.evaluate(() => window.errors.length), "it was told");
    expect(await page.evaluate(() => window.errors)).toEqual(["rejected unknown_outcome"]);
    expect(proxy.seen.filter((line) => line.startsWith("POST /v1/jobs"))).toEqual([]);
  });

  it("where the browser keeps nothing, all else works", async () => {
    const page = await open();
    await page.evaluate(() => {
      const forbidden = { get: () => { throw new DOMException("no", "SecurityError"); } };
      for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(window, name, forbidden);
      indexedDB.open = () => { throw new DOMException("no", "SecurityError"); };
      Object.defineProperty(navigator, "locks", { value: undefined });
    });
    const name = user();
    await page.evaluate((token) => {
      const client = (window.client = pushsvc.createClient({ token }));
      client.on("event", (event, where) => void (event.type === "n" && window.heard.push([where.channel, where.position, event.data])));
      client.on("error", (error) => window.errors.push((error as { code: string }).code));
    }, mint(name));
    await live(page);
    await submit(page, "burst", { channel: "user:" + name, count: 3 });
    await until(async () => (await numbers(page)).length >= 3, "it heard");
    expect(await numbers(page)).toEqual(count(3));
    expect(await page.evaluate(() => window.errors)).toEqual(["storage"]);
  });

  it("a page that is left open does not grow", async () => {
    const page = await open();
    const name = user();
    await page.evaluate(() => (window.boot = ({ token }) => void (window.client = pushsvc.createClient({ token })).on("event", ({ type, data }) => void (type === "n" && (window.states = [data as never])))));
    await boot(page, mint(name));
    await live(page);
    const session = await context.newCDPSession(page);
    const heap = async () => {
      await session.send("HeapProfiler.collectGarbage");
      return (await session.send("Runtime.getHeapUsage")).usedSize;
    };
    const hear = async (n: number) => {
      await submit(page, "burst", { channel: "user:" + name, count: 1_000, start: n });
      await until(() => page.evaluate((last) => (window.states[0] as unknown) === last, n + 999), "the last was heard");
    };
    for (let n = 0; n < 2; n++) await hear(n * 1_000);
    const before = await heap();
    for (let n = 2; n < 5; n++) await hear(n * 1_000);
    // 3,000 events of which each left 150 bytes would be 450 kB.
    expect((await heap()) - before).toBeLessThan(300_000);
  });

  it("the page comes back from the back/forward cache, and hears what it missed", async () => {
    const name = user();
    const page = await open();
    await boot(page, mint(name));
    await live(page);
    await page.goto(proxy.url + "/page?elsewhere");
    await boot(page, mint(name));
    await submit(page, "burst", { channel: "user:" + name, count: 3 });
    await page.goBack({ waitUntil: "commit" });
    const restored = await page.evaluate(() => window.client !== undefined);
    if (!restored) await boot(page, mint(name));
    expect(restored).toBe(true);
    await live(page);
    await until(async () => (await numbers(page)).length >= 3, "it heard");
    expect(await numbers(page)).toEqual(count(3));
  });

  it("two users in one browser have nothing of each other", async () => {
    const [one, two] = [user(), user()];
    const first = await open();
    await boot(first, mint(one));
    await live(first, false);
    const second = await open();
    await boot(second, mint(two));
    await live(second, false);
    await submit(first, "burst", { channel: "user:" + one, count: 2 });
    await submit(second, "burst", { channel: "user:" + two, count: 2, start: 10 });
    await until(async () => (await numbers(second)).length >= 2, "it heard");
    expect([await numbers(first), await numbers(second)]).toEqual([
      [0, 1],
      [10, 11],
    ]);
    await first.evaluate(() => window.client.forget());
    expect(await first.evaluate((name) => Object.keys(localStorage).filter((key) => key.includes(name)), one)).toEqual([]);
  });
});

export type { Core };
