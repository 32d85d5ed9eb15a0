// One keystroke per item. The next item arrives with the response that confirms that the verdict is on disk.
"use strict";
const KEYS = { y: "yes", n: "no", s: "skip", u: "undo", Backspace: "undo" };
const $ = (id) => document.getElementById(id);
let reviewer = "";
let item = null;
let waiting = false; // for a response or an image; keys are ignored meanwhile, since no item is shown

async function ask(action, body = {}) {
  waiting = true;
  let reply = { error: "The server does not respond. The answer was not saved. Restart the server and reload this page." };
  try {
    const response = await fetch(`/api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ reviewer, ...body }),
    });
    reply = await response.json();
  } catch { /* keep the error above */ }
  if (reply.error) $("message").textContent = reply.error;
  else await show(reply);
  waiting = false;
}

// Image and phrases change together once the image is loaded, so phrases never appear with the previous image.
async function show(reply) {
  let problem = "";
  const image = new Image();
  if (reply.item !== null) {
    image.src = `/image/${encodeURIComponent(reply.item)}`;
    await image.decode().catch(() => { problem = "The image cannot be displayed. Skip this item."; });
  }
  item = reply.item;
  $("start").hidden = true;
  $("review").hidden = item === null;
  $("done").hidden = item !== null;
  $("progress").max = reply.total;
  $("progress").value = reply.done;
  $("message").textContent = problem;
  if (item === null) return;
  $("count").textContent = `${reply.done} of ${reply.total} reviewed by ${reviewer}`;
  $("positive").textContent = reply.positive;
  $("negative").textContent = reply.negative;
  $("class").textContent = `difference: ${reply.word_class}`;
  image.id = "image";
  image.alt = "The image to judge";
  $("image").replaceWith(image);
}

function press(verdict) {
  if (waiting || !reviewer) return;
  if (verdict === "undo") ask("undo");
  else if (item !== null) ask("verdict", { item, verdict });
}

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  if (waiting) return;
  reviewer = $("reviewer").value;
  $("reviewer").blur();
  ask("next");
});
for (const button of document.querySelectorAll("[data-verdict]"))
  button.addEventListener("click", () => { press(button.dataset.verdict); button.blur(); });
document.addEventListener("keydown", (event) => {
  const verdict = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!verdict || event.repeat || event.ctrlKey || event.metaKey || event.altKey || $("review").hidden && $("done").hidden) return;
  event.preventDefault();
  press(verdict);
});
