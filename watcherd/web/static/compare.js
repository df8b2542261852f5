// Two jobs of one scan: moved together, frame by frame, with how far their masks agree.
import { Viewer } from "/static/viewer.js";

const viewers = [...document.querySelectorAll(".viewer")].map((root) => new Viewer(root));
const told = document.getElementById("agreement");

function dice(one, other) {
  if (one.values.length !== other.values.length) return null;
  let both = 0;
  let sum = 0;
  for (let i = 0; i < one.values.length; i++) {
    const [a, b] = [one.values[i] > 0, other.values[i] > 0];
    both += a && b;
    sum += a + b;
  }
  return sum ? (2 * both) / sum : 1;
}

function compare() {
  if (viewers.length < 2 || viewers.some((viewer) => !viewer.shown) || viewers[0].frame !== viewers[1].frame) return;
  const [one, other] = viewers.map((viewer) => viewer.labels());
  const value = one && other ? dice(one, other) : null;
  told.textContent = value === null ? "There are no two masks to compare."
    : `The two masks${viewers[0].frames > 1 ? " of this frame" : ""} agree with a Dice of ${value.toFixed(3)}.`;
}

for (const viewer of viewers) {
  viewer.addEventListener("view", () => viewers.filter((other) => other !== viewer).forEach((other) => other.look(viewer.view, true)));
  viewer.addEventListener("frame", () => {
    viewers.filter((other) => other !== viewer && other.frame !== viewer.frame).forEach((other) => other.show(viewer.frame));
    compare();
  });
}
