// Makes `dist/`: ESM and CommonJS with types, one file for a script tag, and the sizes that must hold.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { brotliCompressSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

/** Bytes, minified and brotli: each of what a page has to load, and what it may be at most. */
const SIZES = {
  "core with three transports": [
    8_200,
    `export { createCore } from "./src/core.js";
     export { websocket } from "./src/transports/websocket.js";
     export { sse } from "./src/transports/sse.js";
     export { longpoll } from "./src/transports/longpoll.js";`,
  ],
  "all of src/index.ts": [11_300, `export * from "./src/index.js";`],
  "react, besides": [1_500, `export * from "./src/react.js";`],
};

const ENTRIES = { pushsvc: "src/index.ts", react: "src/react.ts", testing: "src/testing.ts" };
/** Made anew each time: terser writes into what it is given. */
const small = (module) => ({
  module,
  ecma: 2022,
  compress: { passes: 4, unsafe_arrows: true, hoist_props: true, pure_getters: true, keep_fargs: false },
  // What begins with _ is of no interest to anybody else.
  mangle: { properties: { regex: /^_/ } },
});

/** One file of these options, as small as may be. */
async function bundle(options, module = true) {
  const made = await build({ bundle: true, target: "es2022", external: ["react"], logLevel: "warning", write: false, ...options });
  return (await minify(made.outputFiles[0].text, small(module))).code;
}

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist/cjs", { recursive: true });
execFileSync("node_modules/.bin/tsc", ["--project", "tsconfig.build.json"], { stdio: "inherit" });
cpSync("dist/types", "dist/cjs/types", { recursive: true });
writeFileSync("dist/cjs/package.json", '{ "type": "commonjs" }\n');
for (const [name, entry] of Object.entries(ENTRIES)) {
  writeFileSync(`dist/${name}.js`, await bundle({ entryPoints: [entry], format: "esm" }));
  writeFileSync(`dist/cjs/${name}.js`, await bundle({ entryPoints: [entry], format: "cjs", platform: "node" }));
}
const script = { entryPoints: [ENTRIES.pushsvc], format: "iife", globalName: "pushsvc" };
writeFileSync("dist/pushsvc.global.js", await bundle(script, false));

let fits = true;
for (const [name, [most, contents]] of Object.entries(SIZES)) {
  const stdin = { contents, resolveDir: import.meta.dirname, loader: "ts" };
  const size = brotliCompressSync(await bundle({ stdin, format: "esm" })).length;
  console.log(`${name}: ${size} of ${most} bytes (brotli)`);
  fits &&= size <= most;
}
if (!fits) {
  console.error("larger than it may be");
  process.exit(1);
}
