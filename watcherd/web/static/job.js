// A scan's page: its viewer, and the log when somebody asks for it.
import { Viewer } from "/static/viewer.js";
import { ask, element } from "/static/words.js";

for (const root of document.querySelectorAll(".viewer")) new Viewer(root);

const log = document.getElementById("log");
log?.addEventListener("toggle", async () => {
  if (!log.open || log.dataset.asked) return;
  log.dataset.asked = "1";
  const told = log.querySelector(".hint");
  try {
    const { what, lines } = await (await ask(`/job/${log.dataset.job}/log`)).json();
    told.textContent = what;
    log.querySelector("ol").replaceChildren(...lines.map(({ at, text }) => element("li", {}, element("time", {}, at), element("span", {}, text))));
  } catch (error) {
    told.textContent = error.message;
    delete log.dataset.asked;
  }
});
