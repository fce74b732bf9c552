// Who this browser is: a guest with a random id, and the short-lived token that goes with it.

const VISITOR = "pushsvc.demo.visitor";

/** A new token. The client asks for one when it needs one, and again before it runs out. */
export async function token(fetch) {
  const response = await fetch("/demo/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ visitor: visitor() }),
  });
  if (!response.ok) throw new Error(`no session: the server answered ${response.status}`);
  return (await response.json()).token;
}

function visitor() {
  let id = localStorage.getItem(VISITOR);
  if (!id) localStorage.setItem(VISITOR, (id = randomId()));
  return id;
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
