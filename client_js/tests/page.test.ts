// The demo's page ships the built client, so that `make demo` needs no Node.

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";

const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");

it("the demo's page has the client as it is built from this source", () => {
  const same = read("../dist/pushsvc.js") === read("../../pushsvc/demo/page/pushsvc.js");
  expect(same, "run: npm run build && cp dist/pushsvc.js ../pushsvc/demo/page/").toBe(true);
});
