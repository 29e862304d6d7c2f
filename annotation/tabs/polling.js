// What on the page follows the server. Stands in the head of the page; a pulse or the strip calls `prefloop.follow`.
//
// Whatever is in view is asked for with one small request, ever more seldom while nothing has changed; only what has
// changed is fetched. Out of view nothing is asked, and in a page that nobody sees nothing but what has to be (`unseen`).
(function (sentences) {
const _ = (sentence) => sentences[sentence] ?? sentence;
const SLOWER = 1.25; // so a change is seen later by a quarter of the time before it in which nothing changed, at most
const SLOWEST_MS = { tab: 5000, strip: 15000 };
const PATIENCE_MS = 10000;
const TOGETHER_MS = 200; // what is due within this time is asked for together
const ACTED_MS = 1500; // after a click, until what it did may be said elsewhere on the page
const ADDRESS = "follow";

const all = new Set();
let timer = null;
let asking = false;
let signedOut = false;
let unheard = 0; // questions in a row without an answer
const signIn = document.createElement("a");
signIn.textContent = _("Sign in again.");
const signedOutNotice = notice(_("You are not signed in any more; what is shown here stands still."), " ", signIn);
const awayNotice = notice(
  _("The server does not answer; what is shown here may be out of date. It is tried again by itself."),
);

function notice(...said) {
  const made = document.createElement("p");
  made.className = "signed-out";
  made.setAttribute("role", "alert");
  made.append(...said);
  return made;
}

const random = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (one) => one.toString(36)).join("");

// `seconds` between two questions at first, or null where the answers say when. `ask` has the whole answer sent, which is
// told by `answered`; without it `changed` is told what there is now. `key`: a name that the server knows by itself.
// `unseen`: milliseconds between two questions while nobody sees the page, or null.
function follow({ element, seconds, ask = null, changed = null, key = random(), unseen = () => null }) {
  const panel = element.closest("[role=tabpanel]") ?? document.body;
  const first = seconds === null ? Infinity : 1000 * seconds;
  const one = { key, element, panel, first, ask, changed, unseen, told: seconds === null };
  // `whole`: whether what is known of it may be out of date, so that the whole answer is asked for.
  Object.assign(one, { wait: first, due: Infinity, mark: "", whole: ask !== null, waiting: false, shown: false, last: 0 });
  one.answered = (value) => answered(one, value);
  one.soon = () => soon(one);
  one.every = (ms) => (one.first = one.wait = ms);
  all.add(one);
  new ResizeObserver(() => look(one)).observe(panel);
  for (const press of ["click", "change", "keyup"]) panel.addEventListener(press, () => look(one, true));
  if (!ask) panel.addEventListener("click", () => soon(one, ACTED_MS));
  look(one);
  return one;
}

const inView = (one) => one.element.isConnected && one.panel.getClientRects().length > 0;
const seen = (one) => inView(one) && document.visibilityState === "visible";
const later = (ms) => performance.now() + ms;
const next = (one) => (signedOut ? Infinity : seen(one) ? later(one.wait) : unseenDue(one));

// It may have come into view or gone out of it, or something on it was pressed.
function look(one, pressed = false) {
  if (!one.element.isConnected) all.delete(one);
  const [before, now] = [one.shown, seen(one)];
  one.shown = now;
  if (now && (pressed || !before)) {
    one.whole = one.ask !== null;
    if (!one.told) one.wait = one.first;
  }
  if (one.waiting) return;
  if (!now) one.due = unseenDue(one);
  else if (pressed || !before) one.due = Math.min(one.due, later(before || opens(one) ? one.wait : 0));
  plan();
}

// Something else on the page has said that it may have changed.
function soon(one, ms = TOGETHER_MS) {
  if (one.waiting || !seen(one)) return;
  one.due = Math.min(one.due, later(ms));
  plan();
}

// Whether the tab's own opening is answered whenever it comes into view. Gradio tells no tab within a tab that its
// outer one has come back.
const opens = (one) => one.ask !== null && !(one.last > 0 && one.panel.parentElement?.closest("[role=tabpanel]"));

const unseenDue = (one) => (inView(one) && one.unseen() !== null ? later(one.unseen()) : Infinity);

function plan() {
  clearTimeout(timer);
  const due = Math.min(...[...all].map((one) => one.due));
  if (due !== Infinity && !asking) timer = setTimeout(tick, Math.max(0, due - performance.now()));
}

function tick() {
  const due = [...all].filter((one) => one.due <= later(TOGETHER_MS));
  for (const one of due.filter((one) => one.waiting)) late(one);
  const here = due.filter((one) => !one.waiting && (seen(one) || unseenDue(one) !== Infinity));
  for (const one of due.filter((one) => !one.waiting && !here.includes(one))) one.due = Infinity;
  // What is in view with it goes along, so that it says the same, and asks less by itself.
  const along = (one) => here.includes(one) || (seen(one) && !one.waiting && !one.told);
  const quick = here.every((one) => one.whole) ? [] : [...all].filter((one) => !one.whole && along(one));
  for (const one of here.filter((one) => one.whole)) askWhole(one);
  if (quick.length) askWhether(quick);
  else plan();
}

// ------------------------------------------------------------------------------------------------------ whole answers
function askWhole(one) {
  one.waiting = true;
  one.whole = false; // until something is pressed
  one.due = later(PATIENCE_MS);
  one.ask(one.key);
}

function answered(one, value) {
  const [number, word, mark = ""] = value.split(" ");
  const overtaken = Number(number) <= one.last; // by the answer to a button
  if (!overtaken) {
    one.last = Number(number);
    if (one.told) one.wait = 1000 * Number(word);
    else one.wait = mark === one.mark ? slower(one) : one.first;
    one.mark = mark;
    if (mark === "") one.whole = true;
  }
  one.waiting = false;
  one.due = next(one);
  plan();
}

const slower = (one) => Math.min(SLOWER * one.wait, one.ask ? SLOWEST_MS.tab : SLOWEST_MS.strip);

// The handler failed, or the server is slow or away, or the person was signed out, which is asked.
function late(one) {
  [one.waiting, one.whole] = [false, true];
  one.due = seen(one) ? later(one.wait) : Infinity;
  if (seen(one)) askWhether([]);
}

// -------------------------------------------------------------------------------------------------------- has it changed
async function askWhether(some) {
  asking = true;
  for (const one of some) one.due = Infinity; // unless something happens while the answer is on its way
  const query = new URLSearchParams(some.map((one) => ["of", `${one.key} ${one.mark}`]));
  const options = { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" };
  const answer = await fetch(`${ADDRESS}?${query}`, options).catch(() => null);
  const said = answer?.ok ? await answer.json().catch(() => null) : null;
  asking = false;
  tellTrouble(answer, said);
  for (const one of some) {
    if (signedOut) one.due = Infinity;
    else hear(one, said?.[one.key]);
  }
  plan();
}

// `said`: null, that it has not changed; undefined, that there was no answer.
function hear(one, said) {
  if (said === null && !one.told) one.wait = slower(one);
  one.due = seen(one) ? Math.min(one.due, later(one.wait)) : unseenDue(one);
  if (said === null || said === undefined) return;
  if (!one.told) one.wait = one.first;
  if (!one.ask) {
    one.mark = said.mark;
    one.changed(said);
    one.due = seen(one) ? Math.min(one.due, later(one.wait)) : unseenDue(one);
  } else if (seen(one)) askWhole(one);
}

// What the page can't know any more. One question without an answer is passed over: the server may be busy.
function tellTrouble(answer, said) {
  const away = answer === null || answer.status >= 500 || (answer.ok && said === null);
  unheard = away ? unheard + 1 : 0;
  put(awayNotice, unheard > 1 && !signedOut);
  if (away) return;
  window.prefloop.address.hear(answer);
  const before = signedOut;
  signedOut = answer.status === 401;
  signIn.href = `login?next=${encodeURIComponent(location.pathname + location.search)}`;
  put(signedOutNotice, signedOut);
  if (signedOut) for (const one of all) [one.whole, one.waiting, one.due] = [one.whole || one.waiting, false, Infinity];
  else if (before) for (const one of all) if (!one.waiting) one.due = next(one); // signed in again elsewhere
}

function put(one, there) {
  if (!there) one.remove();
  else if (!one.isConnected) document.getElementById("standing")?.before(one); // said once, not at each question
}

// -------------------------------------------------------------------------------------------------------------- start
window.prefloop = { ...window.prefloop, follow };
document.addEventListener("visibilitychange", () => all.forEach((one) => look(one)));
})
