// Trying it: files that are dropped, pasted or chosen go to the inbox; what becomes of them is shown as it comes.
import { ask, element } from "/static/words.js";

const LOOK_MS = 700;
const form = document.getElementById("try");
const drop = document.getElementById("drop");
const chosen = document.getElementById("chosen");
const send = document.getElementById("send");
const told = document.getElementById("told");
const results = document.getElementById("results");
const profile = document.getElementById("profile");
const model = document.getElementById("model");
let files = [];

function choose(found) {
  files = [...found];
  chosen.replaceChildren(...files.map((file) => element("li", {}, file.name || "a pasted picture")));
  send.disabled = files.length === 0;
  told.textContent = "";
  const most = Number(form.dataset.most);
  if (files.reduce((sum, file) => sum + file.size, 0) > most * 2 ** 20) {
    told.textContent = `That is more than ${most} MiB.`;
    send.disabled = true;
  }
}

function offer() {
  const { models, speaks, threshold, prompt } = profile.selectedOptions[0].dataset;
  model.replaceChildren(...models.split(" ").map((name) => element("option", { value: name }, name)));
  document.getElementById("threshold").placeholder = threshold;
  const prompts = document.getElementById("prompts");
  prompts.placeholder = prompt;
  const ask = () => {
    const speaking = speaks.split(" ").includes(model.value);
    document.getElementById("prompts-label").hidden = !speaking;
    prompts.disabled = !speaking;
  };
  model.onchange = ask;
  ask();
}

document.getElementById("files").addEventListener("change", (event) => choose(event.target.files));
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); choose(event.dataTransfer.files); });
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault()); // a miss opens no file
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) choose(event.clipboardData.files);
});
profile.addEventListener("change", offer);
offer();

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!files.length) return;
  const body = new FormData(form);
  body.delete("scan");
  for (const file of files) body.append("scan", file, file.name || "pasted.png");
  send.disabled = true;
  told.textContent = "";
  try {
    const answer = await ask("/try", { method: "POST", body, headers: { "x-csrf": form.dataset.csrf } });
    const { batch, scans } = await answer.json();
    follow(batch, scans.map(begin));
  } catch (error) {
    told.textContent = error.message;
  }
  send.disabled = false;
});

function begin(scan) {
  const card = element("li", {}, element("div", { class: "shot" }, "…"), element("div", { class: "name" }), element("div", { class: "prompt" }),
    element("div", { class: "now" }), element("div", { class: "why" }));
  results.prepend(card);
  show(card, scan);
  return card;
}

function show(card, scan) {
  const text = JSON.stringify(scan);
  if (card.dataset.shown === text) return;
  card.dataset.shown = text;
  card.querySelector(".name").textContent = scan.name;
  card.querySelector(".prompt").textContent = scan.prompt ? `“${scan.prompt}”` : "";
  const now = [element("span", { class: `state ${scan.state}` }, scan.state)];
  if (scan.job) now.push(" ", element("a", { href: `/job/${scan.job}` }, `job ${scan.job}`), scan.model && scan.model !== "default" ? ` by ${scan.model}` : "");
  card.querySelector(".now").replaceChildren(...now);
  card.querySelector(".why").textContent = [scan.error, scan.advice].filter(Boolean).join(" ");
  if (scan.ended && scan.picture && !card.querySelector("img")) {
    const link = element("a", { href: `/job/${scan.job}` }, element("img", { src: `/job/${scan.job}/thumbnail`, alt: `The mask of ${scan.name}` }));
    card.querySelector(".shot").replaceChildren(link);
  } else if (scan.ended && !scan.picture) {
    card.querySelector(".shot").textContent = scan.state === "succeeded" ? "no small picture" : scan.state;
  }
}

async function follow(batch, cards) {
  for (;;) {
    await new Promise((done) => setTimeout(done, LOOK_MS));
    try {
      const { scans } = await (await ask(`/try/${batch}`)).json();
      scans.forEach((scan, place) => { cards[place] ??= begin(scan); show(cards[place], scan); });
      told.textContent = "";
      if (scans.every((scan) => scan.ended)) return;
    } catch (error) {
      told.textContent = error.message;
      await new Promise((done) => setTimeout(done, 5 * LOOK_MS));
    }
  }
}
