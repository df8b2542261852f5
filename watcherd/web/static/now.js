// The first page by itself: each part is replaced when it has changed, and what has the focus keeps it.

const link = document.getElementById("link");
const hold = document.getElementById("hold");

function showHold() {
  const sentence = document.querySelector("#part-head .sentence");
  const known = sentence && "held" in sentence.dataset;
  const held = known && sentence.dataset.held === "1";
  hold.hidden = !known;
  hold.action = held ? "/resume" : "/pause";
  hold.querySelector("button").textContent = held ? "Go on" : "Pause";
}

function replace(part, html) {
  if (part.dataset.shown === html) return;
  const focused = part.contains(document.activeElement) ? document.activeElement.id || document.activeElement.getAttribute("href") : null;
  const parsed = new DOMParser().parseFromString(html, "text/html");
  part.replaceChildren(...parsed.body.childNodes);
  part.dataset.shown = html;
  if (focused) (part.querySelector(`[id="${focused}"]`) || part.querySelector(`[href="${focused}"]`))?.focus({ preventScroll: true });
}

function follow() {
  const events = new EventSource("/events");
  events.onmessage = (event) => {
    link.textContent = "";
    for (const [name, html] of Object.entries(JSON.parse(event.data))) replace(document.getElementById(`part-${name}`), html);
    showHold();
  };
  events.onerror = () => {
    link.textContent = "This is not live any more: the page does not answer. It is tried again.";
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
  };
}

showHold();
follow();
