// A real `pushsvc dev` for the tests, and what stands between it and a client.

import { spawn, type ChildProcess } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, request, type IncomingMessage } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const VENV = fileURLToPath(new URL("../../.venv/bin/python", import.meta.url));
const PYTHON = process.env["PUSHSVC_PYTHON"] ?? (existsSync(VENV) ? VENV : "python3");
const SECRET = "a secret for tests only, 32 chars";

export interface Server {
  url: string;
  port: number;
  /** SIGTERM, or SIGKILL, and wait for the end. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** Start again, on the same data and port. */
  again(): Promise<void>;
  /** For good: the data goes too. */
  end(): Promise<void>;
}

export async function startServer(settings: Record<string, string> = {}, target = "app:service"): Promise<Server> {
  const directory = mkdtempSync(join(tmpdir(), "pushsvc-client-"));
  let child: ChildProcess;
  let port = 0;

  const start = () =>
    new Promise<void>((ready, failed) => {
      const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PUSHSVC_")));
      const given = Object.fromEntries(Object.entries(settings).map(([name, value]) => ["PUSHSVC_" + name.toUpperCase(), value]));
      const args = ["-m", "pushsvc", "dev", target, "--port", String(port), "--data-dir", directory];
      child = spawn(PYTHON, args, { cwd: HERE, env: { ...inherited, PUSHSVC_SECRET: SECRET, ...given, PYTHONUNBUFFERED: "1" } });
      let said = "";
      const hear = (data: Buffer) => {
        said += String(data);
        const found = /ready http:\/\/127\.0\.0\.1:(\d+)/.exec(said);
        if (!found) return;
        port = Number(found[1]);
        ready();
      };
      child.stdout!.on("data", hear);
      child.stderr!.on("data", hear);
      child.once("exit", (code) => failed(new Error(`pushsvc dev ended with ${code}:\n${said}`)));
    });

  const stop = async (signal: NodeJS.Signals = "SIGTERM") => {
    if (child.exitCode !== null || child.signalCode) return;
    const ended = new Promise((done) => child.once("exit", done));
    child.kill(signal);
    await ended;
  };

  // Whatever becomes of the tests, it does not outlive them.
  process.once("exit", () => void child.kill("SIGTERM"));
  await start();
  return {
    get url() {
      return `http://127.0.0.1:${port}`;
    },
    get port() {
      return port;
    },
    stop,
    again: start,
    async end() {
      await stop();
      rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** A token as `pushsvc token` makes it; `ttl` in seconds. */
export function mint(sub: string, claims: Record<string, unknown> = {}, ttl = 3_600): string {
  const now = Date.now() / 1_000;
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = { sub, tenant: "default", scope: "read submit", iat: now, exp: Math.floor(now) + ttl, jti: randomBytes(8).toString("hex") };
  const signed = encode({ alg: "HS256", typ: "JWT" }) + "." + encode({ ...body, channels: ["group:ops"], ...claims });
  return signed + "." + createHmac("sha256", SECRET).update(signed).digest("base64url");
}

/** Ways to be in the way. */
export type Mode =
  | "open"
  /** Upgrades are refused. */
  | "no-upgrade"
  /** Upgrades are accepted, and cut 200 ms later. */
  | "cut"
  /** Upgrades are accepted, and nothing gets through. */
  | "mute"
  /** Upgrades are never answered. */
  | "black-hole"
  /** No upgrades, and an answer is handed on when it is whole. */
  | "buffer"
  /** Nothing gets through at all, and connections are refused. */
  | "down";

export interface Proxy {
  url: string;
  mode: Mode;
  /** Requests that came, by path. */
  seen: string[];
  /** Cut whatever is open. */
  cut(): void;
  close(): Promise<void>;
}

/** A proxy that serves these pages itself, by path, each as its type and its text, and `/thaw` when it is told to. */
export async function startProxy(
  to: () => number,
  pages: Record<string, readonly [type: string, text: string]> = {},
  thawed = () => Promise.resolve(),
): Promise<Proxy> {
  const open = new Set<Socket>();
  const server = createServer((incoming, outgoing) => {
    const own = pages[incoming.url!.split("?")[0]!];
    if (own) {
      outgoing.writeHead(200, { "Content-Type": own[0] });
      return void outgoing.end(own[1]);
    }
    if (incoming.url === "/thaw") return void thawed().then(() => outgoing.end());
    proxy.seen.push(`${incoming.method} ${incoming.url}`);
    if (proxy.mode === "down") return void incoming.socket.destroy();
    const { method, url: path, headers } = incoming;
    const onward = request({ host: "127.0.0.1", port: to(), method, path, headers }, (answer: IncomingMessage) => {
      if (proxy.mode === "buffer") {
        const parts: Buffer[] = [];
        answer.on("data", (part: Buffer) => parts.push(part));
        answer.on("end", () => {
          outgoing.writeHead(answer.statusCode!, answer.headers);
          outgoing.end(Buffer.concat(parts));
        });
      } else {
        outgoing.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(outgoing);
      }
      answer.on("error", () => outgoing.destroy());
    });
    onward.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onward.destroy());
    incoming.pipe(onward);
  });
  server.on("upgrade", (incoming: IncomingMessage, socket: Socket, head: Buffer) => {
    proxy.seen.push(`UPGRADE ${incoming.url}`);
    socket.on("error", () => {});
    if (proxy.mode === "black-hole") return;
    if (proxy.mode === "down") return socket.destroy();
    if (proxy.mode === "no-upgrade" || proxy.mode === "buffer") {
      return socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    const onward = connect(to(), "127.0.0.1");
    const lines = [`${incoming.method} ${incoming.url} HTTP/1.1`];
    for (let n = 0; n < incoming.rawHeaders.length; n += 2) lines.push(`${incoming.rawHeaders[n]}: ${incoming.rawHeaders[n + 1]}`);
    onward.write(lines.join("\r\n") + "\r\n\r\n");
    onward.write(head);
    socket.pipe(onward);
    if (proxy.mode === "mute") onward.once("data", (first: Buffer) => socket.write(String(first).split("\r\n\r\n")[0] + "\r\n\r\n"));
    else onward.pipe(socket);
    if (proxy.mode === "cut") setTimeout(() => socket.destroy(), 200);
    onward.on("error", () => socket.destroy());
    onward.on("close", () => socket.destroy());
    socket.on("close", () => onward.destroy());
  });
  server.on("connection", (socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const cut = () => open.forEach((socket) => socket.destroy());
  const proxy: Proxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    mode: "open",
    seen: [],
    cut,
    async close() {
      cut();
      await new Promise((done) => server.close(done));
    },
  };
  return proxy;
}

/** Ask again until it is so. Only a test that fails waits as long. */
export async function until<T>(ask: () => T | Promise<T>, what: string, ms = 30_000): Promise<NonNullable<T>> {
  for (const end = Date.now() + ms; ; ) {
    const found = await ask();
    if (found) return found as NonNullable<T>;
    if (Date.now() > end) throw new Error("it never came true: " + what);
    await new Promise((done) => setTimeout(done, 20));
  }
}
