// The script of a pulse: triggers "beat" again and again, while its tab can be seen. There is one timer at most, either
// of the next beat or of the answer to the last one; while the tab is hidden there is none.
const _ = (sentence) => props.sentences[sentence] ?? sentence;
const SLOWER = 1.25; // so a change is seen later by a quarter of the time before it in which nothing changed, at most
const SLOWEST_MS = 15000;
const PATIENCE_MS = 10000;

const panel = element.closest("[role=tabpanel]") ?? document.body;
const seen = () => element.isConnected && document.visibilityState === "visible" && panel.getClientRects().length > 0;
const told = props.seconds === null; // the answers say when to ask again; else it slows down while they stay the same
const FIRST_MS = told ? Infinity : 1000 * props.seconds;
let wait = FIRST_MS;
let mark = "";
let last = 0;
let shown = false;
let asking = false;
let timer = null;
let due = Infinity;
const notice = document.createElement("p");
notice.className = "signed-out";
notice.setAttribute("role", "alert");
const signIn = document.createElement("a");
signIn.href = "login";
signIn.textContent = _("Sign in again.");
notice.append(_("You are not signed in any more; what is shown here stands still."), " ", signIn);

function next(act, ms) {
  rest();
  if (ms === Infinity) return;
  due = performance.now() + ms;
  timer = setTimeout(act, ms);
}

function rest() {
  clearTimeout(timer);
  timer = null;
  due = Infinity;
}

function goOn() {
  asking = false;
  if (seen()) next(beat, wait);
  else rest();
}

function beat() {
  if (!seen()) return rest();
  asking = true;
  next(unanswered, PATIENCE_MS);
  trigger("beat");
}

watch("value", () => {
  notice.remove();
  const [number, word] = props.value.split(" ");
  if (Number(number) > last) {
    if (told) wait = 1000 * Number(word);
    else wait = word === mark ? Math.min(SLOWER * wait, SLOWEST_MS) : FIRST_MS;
    [last, mark] = [Number(number), word];
  } // else it was overtaken by the answer to a button
  goOn();
});

// The handler failed, or the server is slow or away: it is asked again. Or the person was signed out: then it is not.
async function unanswered() {
  rest();
  if (seen() && (await signedOut())) {
    asking = false;
    panel.prepend(notice);
  } else if (timer === null) goOn();
}

async function signedOut() {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("annotate/safety", { method: "POST", headers, body: "{}" }).catch(() => null);
  return answer?.status === 401;
}

// The tab may have come into view or gone out of it, or something on it was pressed.
function look({ pressed = false } = {}) {
  const [before, now] = [shown, seen()];
  shown = now;
  if (asking) return;
  if (!now) rest();
  else if (pressed || !before) {
    if (!told) wait = FIRST_MS;
    if (due > performance.now() + wait) goOn();
  }
}

new ResizeObserver(() => look()).observe(panel);
document.addEventListener("visibilitychange", () => look());
for (const press of ["click", "change"]) panel.addEventListener(press, () => look({ pressed: true }));
