// The script of the strip: shows it where it has changed, says in the title of the page what runs or that it ended, and
// tells of the end by a notification, where the person has asked for that.
const { address, follow } = window.prefloop;
const UNSEEN_MS = 30000;
const NOTIFY = "prefloop.notify";

const open = new Set(); // jobs that were seen to run
let running = null;
let ended = ""; // until the person does something

function show({ html, job, said, over }) {
  element.innerHTML = html;
  showNotifying();
  running = job;
  if (job !== null) open.add(job);
  for (const [number, words] of Object.entries(over)) if (open.delete(Number(number))) end(words);
  address.title(said || ended);
}

function end(words) {
  ended = words;
  try {
    if (notifies()) new Notification("Prefloop", { body: words });
  } catch { /* Chrome on Android lets only service workers notify */ }
}

// ------------------------------------------------------------------------------------------------------- notifications
const able = () => window.Notification !== undefined && window.isSecureContext && Notification.permission !== "denied";

function notifies() {
  try {
    return able() && Notification.permission === "granted" && localStorage.getItem(NOTIFY) === "on";
  } catch {
    return false; // no storage
  }
}

function showNotifying() {
  for (const button of element.querySelectorAll("[data-notify]")) {
    button.hidden = !able() || (button.dataset.notify === "on") === notifies();
  }
}

element.addEventListener("click", async (event) => {
  const wanted = event.target.closest("[data-notify]")?.dataset.notify;
  if (!wanted) return;
  if (wanted === "on" && (await Notification.requestPermission()) !== "granted") return showNotifying();
  try {
    localStorage.setItem(NOTIFY, wanted);
  } catch { /* no storage */ }
  showNotifying();
});

function seen(event) {
  if (!event.isTrusted || !ended) return;
  ended = "";
  if (running === null) address.title("");
}

for (const press of ["pointerdown", "keydown"]) document.addEventListener(press, seen, true);
const unseen = () => (running === null ? null : UNSEEN_MS);
follow({ element, key: props.named, seconds: props.seconds, changed: show, unseen });
