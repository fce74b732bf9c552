// A user's project with the packed package: its types, its bundle, the server that renders.

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync } from "node:zlib";
import openapiTS, { astToString } from "openapi-typescript";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { snippets } from "./docs.js";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const VENV = join(ROOT, "../.venv/bin/python");
const PYTHON = process.env["PUSHSVC_PYTHON"] ?? (existsSync(VENV) ? VENV : "python3");
let project: string;

const run = (command: string, ...args: string[]) => {
  try {
    return execFileSync(command, args, { cwd: project, encoding: "utf8", stdio: "pipe", timeout: 60_000 });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(stdout + stderr);
  }
};
const tool = (name: string, ...args: string[]) => run(join(ROOT, "node_modules/.bin", name), ...args);

const APP = `
import { createClient, type Job } from "pushsvc";
import type { paths } from "./api.js";

const client = createClient<paths>({ url: "/push", token: async () => "t" });
const report = client.submit("airport_report", { origin: "JFK" }, { key: "k" });
export async function flights(): Promise<number> {
  const { flights } = await report;
  return flights;
}
export const any: Job = report;
client.submit("tick");
client.submit("echo", { value: [1] });
// @ts-expect-error no such job
client.submit("airport_reports", { origin: "JFK" });
// @ts-expect-error no such airport
client.submit("airport_report", { origin: "MIA" });
// @ts-expect-error no such parameter
client.submit("airport_report", { origin: "JFK", moth: 1 });
// @ts-expect-error one is needed
client.submit("airport_report");
// @ts-expect-error another type
export const wrong: Promise<string> = report.result().then(({ flights }) => flights);

const untyped = createClient();
untyped.submit("whatever", { any: 1 }).then((result: unknown) => result);
client.on("event", async (event, { channel }) => void [event.id, channel]);
client.on("rejected", ({ error }) => void error.code);
`;
const HOOKS = `
import { PushsvcProvider, useInbox, useJob } from "pushsvc/react";
import type { paths } from "./api.js";
export function Report() {
  const { result, submit } = useJob<paths, "airport_report">("airport_report");
  submit({ origin: "LGA" });
  // @ts-expect-error
  submit({ origin: "MIA" });
  const flights: number | undefined = result?.flights;
  return [flights, useInbox({ limit: 3 }).length, PushsvcProvider];
}
`;
const TESTS = `
import { createClient } from "pushsvc";
import { scriptedServer } from "pushsvc/testing";
export const server = scriptedServer();
export const client = createClient({ url: "http://test", ...server.parts });
`;

beforeAll(async () => {
  project = mkdtempSync(join(tmpdir(), "pushsvc-consumer-"));
  execFileSync("npm", ["pack", "--silent", "--pack-destination", project], { cwd: ROOT });
  const tarball = readdirSync(project).find((name) => name.endsWith(".tgz"))!;
  run("tar", "-xzf", tarball);
  mkdirSync(join(project, "node_modules/@types"), { recursive: true });
  cpSync(join(project, "package"), join(project, "node_modules/pushsvc"), { recursive: true });
  for (const name of ["react", "@types/react", "csstype"]) {
    if (existsSync(join(ROOT, "node_modules", name))) symlinkSync(join(ROOT, "node_modules", name), join(project, "node_modules", name));
  }
  const code = "import app, json; from pushsvc.web.openapi import document; print(json.dumps(document(app.service.jobs)))";
  const env = { ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PUSHSVC_"))), PUSHSVC_SECRET: "a secret for tests only, 32 chars" };
  const document = execFileSync(PYTHON, ["-c", code], { cwd: join(ROOT, "tests"), encoding: "utf8", env });
  const write = (name: string, text: string) => writeFileSync(join(project, name), text);
  write("api.ts", astToString(await openapiTS(document, { defaultNonNullable: false })));
  write("app.ts", APP);
  for (const [name, text] of Object.entries(snippets())) write(name, text);
  write("hooks.ts", HOOKS);
  write("tests.ts", TESTS);
  write("old.cts", 'import { createClient, JobError } from "pushsvc";\nexport const client = createClient({ url: "" });\nexport { JobError };\n');
  write("package.json", '{ "type": "module" }');
  write("small.js", 'import { createCore, websocket, sse, longpoll } from "pushsvc";\nwindow.client = createCore({ transports: [websocket, sse, longpoll] });\n');
}, 120_000);

afterAll(() => rmSync(project, { recursive: true, force: true }));

describe("a user's project", () => {
  it("has types: a wrong name or parameter is a compile error, for ESM and for CommonJS", { timeout: 120_000 }, () => {
    const strict = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--types", "react", "--skipDefaultLibCheck"];
    tool("tsc", ...strict, "--module", "nodenext", "--jsx", "react-jsx", "app.ts", "hooks.ts", "tests.ts", "old.cts", ...Object.keys(snippets()));
  });

  it("can do what the documentation says of tests of its own", () => {
    const found = Object.entries(snippets()).filter(([, text]) => text.includes("scriptedServer"));
    expect(found).toHaveLength(1);
    expect(run("node", "--input-type=module", "-e", found[0]![1])).toBe("{ flights: 3 }\n");
  });

  it("bundles only what it uses", () => {
    tool("vite", "build", "--logLevel", "error", "--outDir", "out", "--minify", "esbuild", "--target", "es2022", "--emptyOutDir", "--config", config());
    const size = (name: string) => brotliCompressSync(readFileSync(join(project, "out", name))).length;
    expect(size("small.js")).toBeLessThan(0.85 * brotliCompressSync(readFileSync(join(ROOT, "dist/pushsvc.js"))).length);
  });

  it("is imported on a server without a window, by import and by require", () => {
    const use = "const c = createClient({ url: 'http://x' }); console.log(c.status.state, typeof c.submit)";
    expect(run("node", "--input-type=module", "-e", `import { createClient } from "pushsvc"; ${use}`)).toBe("off function\n");
    expect(run("node", "--input-type=commonjs", "-e", `const { createClient } = require("pushsvc"); ${use}`)).toBe("off function\n");
  });
});

function config(): string {
  const file = join(project, "vite.config.js");
  const options = { build: { rollupOptions: { input: join(project, "small.js"), output: { entryFileNames: "small.js" } }, modulePreload: false } };
  writeFileSync(file, `export default ${JSON.stringify(options)}`);
  return file;
}
