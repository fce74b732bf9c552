// The snippets of docs/client.md and README.md.

import { readFileSync } from "node:fs";

/** Each snippet of these languages, by a file name that says where it stands. */
export function snippets(): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of ["docs/client.md", "README.md"]) {
    const text = readFileSync(new URL("../../" + name, import.meta.url), "utf8");
    for (const match of text.matchAll(/^```(ts|tsx|js)\n(.*?)^```$/gms)) {
      const line = text.slice(0, match.index).split("\n").length;
      found[`${name.replace(/\W/g, "_")}_${line}.${match[1] === "js" ? "ts" : match[1]}`] = match[2]!;
    }
  }
  return found;
}
