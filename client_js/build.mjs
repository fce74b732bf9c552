// Makes `dist/`: ESM and CommonJS with types, one file for a script tag, and the sizes that must hold.

import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { brotliCompressSync } from "node:zlib";

/** Bytes, minified and brotli: each of what a page has to load, and what it may be at most. */
const SIZES = {
  "core with three transports": [
    8_700,
    `export { createCore } from "./src/core.js";
     export { websocket } from "./src/transports/websocket.js";
     export { sse } from "./src/transports/sse.js";
     export { longpoll } from "./src/transports/longpoll.js";`,
  ],
  "all of src/index.ts": [12_000, `export * from "./src/index.js";`],
  "react, besides": [1_500, `export * from "./src/react.js";`],
};

const OPTIONS = { bundle: true, minify: true, target: "es2022", mangleProps: /^_/, external: ["react"], logLevel: "warning" };
const ENTRIES = { pushsvc: "src/index.ts", react: "src/react.ts", testing: "src/testing.ts" };

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist/cjs", { recursive: true });
execFileSync("node_modules/.bin/tsc", ["--project", "tsconfig.build.json"], { stdio: "inherit" });
cpSync("dist/types", "dist/cjs/types", { recursive: true });
writeFileSync("dist/cjs/package.json", '{ "type": "commonjs" }\n');
await build({ ...OPTIONS, entryPoints: ENTRIES, outdir: "dist", format: "esm" });
await build({ ...OPTIONS, entryPoints: ENTRIES, outdir: "dist/cjs", format: "cjs" });
await build({ ...OPTIONS, entryPoints: { "pushsvc.global": ENTRIES.pushsvc }, outdir: "dist", format: "iife", globalName: "pushsvc" });

let fits = true;
for (const [name, [most, contents]] of Object.entries(SIZES)) {
  const stdin = { contents, resolveDir: import.meta.dirname, loader: "ts" };
  const made = await build({ ...OPTIONS, stdin, format: "esm", write: false });
  const size = brotliCompressSync(made.outputFiles[0].contents).length;
  console.log(`${name}: ${size} of ${most} bytes (brotli)`);
  fits &&= size <= most;
}
if (!fits) {
  console.error("larger than it may be");
  process.exit(1);
}
