// The waiting page: shows progress, and goes to the answer when it is there. Push first, polling behind it.
(() => {
  const { page, status, events } = document.body.dataset;
  const bar = document.querySelector("progress");
  const said = document.querySelector("[role=status]");
  let over = false;

  const go = () => {
    if (!over) {
      over = true;
      location.replace(page);
    }
  };
  const show = (progress) => {
    if (!progress) return;
    if (bar && progress.value > 0) bar.value = progress.value;
    if (said && progress.message) said.textContent = progress.message;
  };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  const poll = async () => {
    while (!over) {
      try {
        const answer = await fetch(`${status}?wait=20`, { headers: { Accept: "application/json" }, cache: "no-store" });
        if (answer.ok) {
          const job = await answer.json();
          if (job.finished_at) return go();
          show(job.progress);
        } else if (answer.status < 500 && answer.status !== 429) {
          return go();
        }
      } catch {
        // The network is away; it will be tried again.
      }
      await pause(1000);
    }
  };
  const listen = () => {
    if (!window.EventSource) return poll();
    const stream = new EventSource(events);
    stream.addEventListener("event", (message) => {
      if (JSON.parse(message.data).event.final) {
        stream.close();
        go();
      }
    });
    stream.addEventListener("progress", (message) => show(JSON.parse(message.data)));
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED) poll();
    };
  };
  if (page) listen();
})();
