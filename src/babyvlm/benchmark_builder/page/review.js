// One item, one keystroke. The next item comes with the answer that says the verdict is on disk.
"use strict";
const KEYS = { y: "yes", n: "no", s: "skip", u: "undo", Backspace: "undo" };
const $ = (id) => document.getElementById(id);
let reviewer = "";
let item = null;
let waiting = false; // for an answer or an image: keys that come meanwhile are for no item, and are dropped

async function ask(action, body = {}) {
  waiting = true;
  let reply = { error: "The server does not answer; nothing was saved. Start it again and reload this page." };
  try {
    const response = await fetch(`/api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ reviewer, ...body }),
    });
    reply = await response.json();
  } catch { /* the message above says it */ }
  if (reply.error) $("message").textContent = reply.error;
  else await show(reply);
  waiting = false;
}

// Image and phrases change at once, when the image is there: nobody judges phrases with the image before.
async function show(reply) {
  let trouble = "";
  const image = new Image();
  if (reply.item !== null) {
    image.src = `/image/${encodeURIComponent(reply.item)}`;
    await image.decode().catch(() => { trouble = "The image cannot be shown; skip it."; });
  }
  item = reply.item;
  $("start").hidden = true;
  $("review").hidden = item === null;
  $("done").hidden = item !== null;
  $("progress").max = reply.total;
  $("progress").value = reply.done;
  $("message").textContent = trouble;
  if (item === null) return;
  $("count").textContent = `${reply.done} of ${reply.total} done, reviewer ${reviewer}`;
  $("positive").textContent = reply.positive;
  $("negative").textContent = reply.negative;
  $("class").textContent = `they differ in: ${reply.word_class}`;
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
