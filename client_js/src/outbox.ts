// Submissions on their way, kept in IndexedDB over reloads and crashes: sent in order and one at a time, by the tab
// that holds the connection. What the browser will not keep is sent by the tab that has it.

import type { Inside, Kept } from "./core.js";
import type { Entry } from "./desk.js";
import { StorageError } from "./errors.js";

/** How many may wait. */
export const MOST = 1_000;
/** Servers keep keys for 7 days, in ms: sent again later, it might run twice. */
const KNOWN = 6 * 86_400_000;
const UNKNOWN = { code: "unknown_outcome", title: "It was sent days ago, and whether it ran is not known.", status: 409 };

export function outbox(inside: Inside, kick: () => void): Kept {
  const unkept = new Map<string, Entry>();
  const ids = new Map<string, string>();
  let leading = false;
  let busy = false;
  let again = false;
  let opened: Promise<IDBDatabase> | undefined;

  const open = () =>
    (opened ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(inside.name, 1);
      request.onupgradeneeded = () => {
        const store = request.result.createObjectStore("out", { autoIncrement: true });
        store.createIndex("key", "key", { unique: true });
      };
      request.onsuccess = () => {
        const db = request.result;
        db.onversionchange = () => db.close();
        db.onclose = () => (opened = undefined);
        resolve(db);
      };
      request.onerror = () => reject(request.error as Error);
      request.onblocked = () => reject(new Error("blocked"));
    }).catch((error: unknown) => {
      opened = undefined;
      throw error;
    }));

  /** Run in a transaction, which is on disk when it resolves. Once more if the database was closed meanwhile. */
  async function within<T>(mode: IDBTransactionMode, run: (store: IDBObjectStore) => IDBRequest<T> | undefined): Promise<T> {
    for (let once = true; ; once = false) {
      const db = await open();
      try {
        const transaction = db.transaction("out", mode, { durability: "strict" });
        const request = run(transaction.objectStore("out"));
        return await new Promise<T>((resolve, reject) => {
          transaction.oncomplete = () => resolve(request?.result as T);
          transaction.onabort = () => reject((transaction.error ?? new Error("aborted")) as Error);
        });
      } catch (error) {
        if (!once || (error as Error).name !== "InvalidStateError") throw error;
        opened = undefined;
      }
    }
  }

  const kept = () => within<Entry[]>("readonly", (store) => store.getAll()).catch(() => []);
  const all = async () => [...unkept.values(), ...(await kept())];
  const get = async (key: string) =>
    unkept.get(key) ?? (await within<Entry | undefined>("readonly", (store) => store.index("key").get(key)).catch(() => {}));

  /** Put another in an entry's place, or nothing. */
  async function change(key: string, to?: Entry): Promise<void> {
    if (unkept.has(key)) return void (to ? unkept.set(key, to) : unkept.delete(key));
    const find = (store: IDBObjectStore) => {
      store.index("key").openCursor(key).onsuccess = ({ target }) => {
        const cursor = (target as IDBRequest<IDBCursorWithValue | null>).result;
        if (to) cursor?.update(to);
        else cursor?.delete();
      };
      return undefined;
    };
    // What stays by mistake is sent again with its key, and the server knows that.
    await within("readwrite", find).catch(() => {});
  }

  async function run(): Promise<void> {
    again = true;
    if (busy) return;
    busy = true;
    while (again) {
      again = false;
      const entries = [...unkept.values(), ...(leading ? await kept() : [])];
      for (const { key, id } of entries) {
        if (id) ids.set(id, key);
        else await deliver(key).catch(() => {});
      }
    }
    busy = false;
  }

  async function deliver(key: string): Promise<void> {
    const ours = () => inside.going() && (leading || unkept.has(key));
    let entry = await get(key);
    if (!entry || entry.id || !ours()) return;
    if (entry.sent && Date.now() - entry.sent > KNOWN) {
      await change(key);
      return inside.tell({ key, entry, problem: UNKNOWN });
    }
    if (!entry.sent) await change(key, (entry = { ...entry, sent: Date.now() }));
    const told = await inside.send(entry, ours);
    if ("view" in told) {
      ids.set(told.view.id, key);
      await change(key, { ...entry, params: undefined, id: told.view.id });
    } else await change(key);
    inside.tell(told);
  }

  return {
    async add(entry) {
      if ((await all()).length >= MOST) {
        throw new StorageError({ code: "outbox_full", title: `More than ${MOST} submissions wait to be sent.` });
      }
      try {
        await within("readwrite", (store) => store.add(entry));
      } catch (error) {
        // Another tab has the same key on its way.
        if ((error as Error).name !== "ConstraintError") {
          unkept.set(entry.key, entry);
          inside.error(storage(error));
        }
      }
      kick();
      void run();
    },
    async take(key) {
      const entry = await get(key);
      if (!entry || entry.sent) return false;
      await change(key);
      return true;
    },
    all,
    leads(yes) {
      leading = yes;
      if (yes) void run();
    },
    kick: () => void run(),
    done(key, id) {
      key ??= ids.get(id!);
      if (key) void change(key);
    },
    async clear() {
      unkept.clear();
      await within("readwrite", (store) => store.clear()).catch(() => {});
    },
    close() {
      leading = false;
      void opened?.then((db) => db.close()).catch(() => {});
      opened = undefined;
    },
  };
}

function storage(cause: unknown): StorageError {
  const { name, message } = cause as Error;
  return new StorageError({ code: "storage", title: `The browser did not keep a submission: ${name} ${message}` }, { cause });
}
