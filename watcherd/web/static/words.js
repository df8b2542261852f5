// What every page's script needs: asking the page's own addresses, with refusals in words.

export class Refused extends Error {}

export async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: { accept: "application/json", ...options.headers } });
  } catch {
    throw new Refused("The page does not answer: watcherd web has stopped, or the network has.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Refused("You are logged out: load the page again.");
  let said = {};
  try { said = await answer.json(); } catch { /* an answer of somebody between us */ }
  throw new Refused([said.error, said.hint].filter(Boolean).join(" ") || `Refused (${answer.status}).`);
}

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
