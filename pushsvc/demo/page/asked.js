// The jobs that this browser has asked for, in whichever window: what was asked, when, and how it stands. Kept, so that
// a reload still knows what is on the way; the submissions themselves are safe in the client's outbox.

const KEPT = "pushsvc.demo.asked";
const MOST = 60;
/** For how long a submission may be repeated with its key, in ms: the server knows keys a day longer. */
const KNOWN = 6 * 86_400_000;

/** Event: `change`. Entries are `{key, name, params, at, id, status, cancelled, done}`, by the job's key. */
export class Asked extends EventTarget {
  #client;
  #jobs = new Map(); // those that this window holds, by their key
  #entries = read();

  constructor(client) {
    super();
    this.#client = client;
    addEventListener("storage", ({ key }) => {
      if (key !== KEPT) return;
      this.#entries = read();
      this.#tell();
      this.resume();
    });
  }

  /** Submit a job, offline too. */
  submit(name, params) {
    const job = this.#client.submit(name, params);
    this.#entries.set(job.key, { key: job.key, name, params, at: Date.now(), status: job.status });
    this.#hold(job);
    this.#changed(job);
    return job;
  }

  /** Take it back; what may have reached the server already is cancelled there, as soon as it can be told. */
  cancel(key) {
    const job = this.#jobs.get(key);
    if (!job) return;
    job.cancel().catch(() => {}); // it has ended, and that is told anyway
    this.#entries.set(key, { ...this.#entries.get(key), cancelled: true });
    this.#save();
  }

  /** Hold again what is on the way: what was asked before a reload, or in another window. */
  async resume() {
    const found = await this.#client.pending();
    for (const job of found) this.#hold(job);
    const held = new Set(found.map((job) => job.key));
    for (const { key, name, params, id, at, cancelled } of this.waiting) {
      if (held.has(key) || this.#jobs.has(key)) continue;
      // It ended while nobody was here.
      if (id) this.#hold(this.#client.job(id), key);
      // Another window is just putting it into the outbox, and may be closed before it is sent. The same key is the
      // same job.
      else if (!cancelled && Date.now() - at < KNOWN) this.#hold(this.#client.submit(name, params, { key }));
      else this.#finish(key);
    }
  }

  /** The entry of a job's id. */
  get(id) {
    return [...this.#entries.values()].find((entry) => entry.id === id);
  }

  job(key) {
    return this.#jobs.get(key);
  }

  /** Its last event has come. */
  ended(id) {
    const key = this.get(id)?.key;
    if (key) this.#finish(key);
  }

  /** What is not done yet, the newest first. */
  get waiting() {
    return [...this.#entries.values()].filter((entry) => !entry.done).reverse();
  }

  #hold(job, key = job.key) {
    if (this.#jobs.has(key)) return;
    this.#jobs.set(key, job);
    job.watch(() => this.#changed(job, key));
    this.#changed(job, key);
  }

  #changed(job, key = job.key) {
    const entry = this.#entries.get(key) ?? { key, name: job.name, params: {}, at: Date.now() };
    const { id = entry.id, status } = job;
    const done = entry.done || job.ended;
    if (this.#entries.has(key) && entry.id === id && entry.status === status && entry.done === done) {
      return this.#tell(); // only its progress
    }
    this.#entries.set(key, { ...entry, id, status, done });
    if (job.ended) this.#jobs.delete(key);
    this.#save();
  }

  #finish(key) {
    this.#jobs.delete(key);
    this.#entries.set(key, { ...this.#entries.get(key), done: true });
    this.#save();
  }

  #save() {
    localStorage.setItem(KEPT, JSON.stringify([...this.#entries].slice(-MOST)));
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

function read() {
  try {
    return new Map(JSON.parse(localStorage.getItem(KEPT)) ?? []);
  } catch {
    return new Map();
  }
}
