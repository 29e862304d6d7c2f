// The script of the strip: shows it where it has changed, says in the title of the page what runs or that it ended, and
// tells of the end by a notification, where the person has asked for that.
const { address, follow } = window.prefloop;
const BUSY_MS = 2000; // between two questions, while a job is known to run or to wait
const UNSEEN_MS = 30000;
const NOTIFY = "prefloop.notify";

const open = new Set(); // jobs that were seen to run or wait
let newest = Infinity; // the last of those that are known
let saying = ""; // what the title says of what runs
let ended = ""; // until the person does something

const step = () => element.querySelector("a.button");

function show({ html, said, open: now, over }) {
  const onStep = step() !== null && document.activeElement === step();
  element.innerHTML = html;
  showNotifying();
  if (onStep) step()?.focus();
  leaveHere();
  for (const number of now) open.add(number);
  for (const number of Object.keys(over).map(Number)) {
    if (open.delete(number) || number > newest) end(number, over[number]); // it may have begun and ended meanwhile
  }
  standing.every(now.length ? BUSY_MS : 1000 * props.seconds);
  newest = Math.max(0, ...now, ...Object.keys(over));
  saying = said;
  address.title(saying || ended);
}

// A step that is done on the page one is on is told, and leads nowhere; the Overview names the steps itself.
function leaveHere() {
  const named = address.isHere("/overview");
  for (const one of element.querySelectorAll(".standing a, .standing > span")) one.hidden = named;
  for (const link of element.querySelectorAll("a")) {
    link.dataset.to ??= link.getAttribute("href");
    if (address.isHere(link.dataset.to)) leadNowhere(link);
    else {
      link.href = link.dataset.to;
      link.removeAttribute("tabindex");
    }
  }
}

// Whoever pressed it by keyboard goes on from it.
function leadNowhere(link) {
  const focused = document.activeElement === link;
  if (focused) link.tabIndex = -1;
  link.removeAttribute("href");
  if (focused) link.focus();
}

function end(number, words) {
  ended = words;
  try {
    if (notifies()) notify(number, words);
  } catch { /* Chrome on Android lets only service workers notify */ }
}

// Of all the pages that are open, one is heard: a notification takes the place of another with its tag.
function notify(number, body) {
  const shown = new Notification("Prefloop", { body, tag: `prefloop-${number}` });
  shown.onclick = () => {
    window.focus();
    address.go(`/runs/${number}`);
    shown.close();
  };
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
  address.title(saying);
}

for (const press of ["pointerdown", "keydown"]) document.addEventListener(press, seen, true);
const unseen = () => (open.size || notifies() ? UNSEEN_MS : null);
const standing = follow({ element, key: props.named, seconds: props.seconds, changed: show, unseen });
address.follow(() => {
  leaveHere();
  standing.soon(); // the page turns to a run that was started
});
