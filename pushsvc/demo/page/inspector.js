// What went over the wire, for those who want to see it.

import { format } from "./svg.js";
import { names } from "./network.js";

const SHOWN = 4000;

const by = (id) => document.getElementById(id);

export function showEvent(event, { channel, position }, transport, bytes) {
  const text = JSON.stringify({ channel, position, event }, null, 2);
  by("raw").textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)}\n…` : text;
  by("raw-size").textContent = `${format.bytes(bytes)} by ${names[transport]}`;
}

export function showCurl(job, params) {
  const body = JSON.stringify({ job, params }).replaceAll("'", "'\\''");
  by("curl").textContent = [
    `curl -X POST ${location.origin}/v1/jobs \\`,
    `  -H "Authorization: Bearer $TOKEN" \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -d '${body}'`,
  ].join("\n");
}

export function enableCopy() {
  by("copy").addEventListener("click", async () => {
    const selection = getSelection();
    selection.selectAllChildren(by("curl"));
    try {
      await navigator.clipboard.writeText(by("curl").textContent);
      by("copy").textContent = "Copied";
      setTimeout(() => (by("copy").textContent = "Copy"), 1500);
    } catch {
      by("copy").textContent = "Press Ctrl+C"; // no clipboard outside a secure context: it is selected
    }
  });
}

/** One tooltip for everything that has a `data-tip`. */
export function enableTips() {
  const tip = by("tip");
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest?.("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.style.top = `${event.clientY - height - 12 < 4 ? event.clientY + 18 : event.clientY - height - 12}px`;
  });
  document.addEventListener("pointerleave", () => (tip.hidden = true));
}
