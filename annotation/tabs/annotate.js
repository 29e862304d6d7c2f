// The Annotate tab's card: fills in texts, watches over double presses, offers the keys, and asks again while waiting.
// Gradio calls this once with `element`, `props`, `trigger` and `watch`.

// A comparison that has only just appeared can't have been read: a press meant for the one before must not count.
const UNREAD_MS = 300;
const DEBOUNCE_MS = 250;
const POLL_MS = 2000;
// Gradio shows nothing when a request outside its queue fails (server gone, signed out), so silence is noticed here.
const SILENCE_MS = 4000;
const SILENCE = "The server has not answered: your last press may not be saved. See that you are signed in, then press again.";
const TYPING = "input, textarea, select, [contenteditable], [role=listbox], [role=dialog]";

const find = (selector) => element.querySelector(selector);
const judging = find(".judging");
let nonce = null;
let shownAt = 0;
let pressedAt = -Infinity;
let silence = null;

function show() {
  const card = props.value;
  if (!card) return;
  clearTimeout(silence);
  judging.dataset.state = card.nonce ? "comparing" : "waiting";
  find(".status").textContent = `${card.notice} ${card.judged} judged by you.`.trim();
  document.querySelectorAll("button.verdict").forEach((button) => (button.inert = !card.nonce));
  if (card.nonce === nonce) return;
  nonce = card.nonce;
  shownAt = performance.now();
  if (nonce) fill(card);
}

function fill(card) {
  find(".conversation").replaceChildren(...card.messages.map(turn));
  element.querySelectorAll(".answer .text").forEach((box, place) => {
    box.textContent = card.answers[place];
    box.scrollTop = 0;
  });
}

function turn(message) {
  const section = document.createElement("div");
  const role = document.createElement("h2");
  const text = document.createElement("div");
  role.textContent = { user: "Prompt", assistant: "Earlier answer", system: "Instructions" }[message.role] || message.role;
  text.className = "text";
  text.dir = "auto";
  text.tabIndex = 0;
  text.textContent = message.content;
  section.append(role, text);
  return section;
}

function onClick(event) {
  const button = event.target.closest("[id^=key-]");
  if (!button) return;
  const time = performance.now();
  const unread = button.classList.contains("verdict") && (!nonce || time - shownAt < UNREAD_MS);
  if (unread || event.detail > 1 || time - pressedAt < DEBOUNCE_MS) {
    event.stopImmediatePropagation();
    event.preventDefault();
    return;
  }
  pressedAt = time;
  clearTimeout(silence);
  silence = setTimeout(() => (find(".status").textContent = SILENCE), SILENCE_MS);
}

function onKey(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest && event.target.closest(TYPING)) return;
  const button = document.getElementById(`key-${event.key.toLowerCase()}`);
  if (!button || button.disabled || button.offsetParent === null) return;
  event.preventDefault();
  button.click();
}

function poll() {
  if (judging.dataset.state === "waiting" && element.offsetParent !== null && !document.hidden) trigger("poll");
}

// If Gradio builds the card anew, the listeners of the old one go.
if (window.prefloopAnnotate) window.prefloopAnnotate.abort();
window.prefloopAnnotate = new AbortController();
const signal = window.prefloopAnnotate.signal;
document.addEventListener("click", onClick, { capture: true, signal });
document.addEventListener("keydown", onKey, { signal });
const timer = setInterval(poll, POLL_MS);
signal.addEventListener("abort", () => clearInterval(timer));
watch("value", show);
show();
