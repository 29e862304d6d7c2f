// The script of a place bar: triggers "visit" with its tab's part of the address, when the tab comes into view and when
// the address leads elsewhere in it; and writes into the address what the server says is looked at.
const { address } = window.prefloop;
const PATIENCE_MS = 10000;

const panel = element.closest("[role=tabpanel]") ?? document.body;
const seen = () => element.isConnected && panel.getClientRects().length > 0;
let shown = false;
let visited = null; // the part that was visited last, or told
let asking = null; // the timer of a visit that is not answered yet
let last = 0;
// What was typed while a visit is not answered yet, by field, and at which part: an answer fills fields as the address has
// them. Not what was typed of one subject: another one may be drawn.
const FIELD = ":is(textarea, input:is([type=text], [type=number]):not([role])):not(.of-subject *)";
const typed = new Map();
let visiting = null; // the part whose visit that is
let late = false; // whether the answer to an earlier visit has been drawn since

panel.addEventListener("input", ({ target }) => {
  if (visiting !== null && target.matches(FIELD)) typed.set(target, [target.value, address.part(props.tabs)]);
});

function putBack() {
  for (const [field, [text]] of typed) {
    if (!field.isConnected || field.value === text) continue;
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  typed.clear();
}

function visit() {
  visiting = visited = address.part(props.tabs);
  for (const [field, [, part]] of typed) if (part !== visiting) typed.delete(field); // in a place that was left
  late = false;
  clearTimeout(asking);
  asking = setTimeout(unanswered, PATIENCE_MS);
  trigger("visit", { part: visited });
}

function unanswered() {
  if (late) visited = null; // what is drawn is not what is looked at
  answered();
}

function answered() {
  clearTimeout(asking);
  asking = null;
  look();
}

function look() {
  const [before, now] = [shown, seen()];
  if (asking !== null) return;
  shown = now;
  if (now && (!before || address.part(props.tabs) !== visited)) visit();
}

watch("value", () => {
  const [number, how, part, shows, asked] = JSON.parse(props.value);
  if (how === "view" && part !== visited) return; // somebody has gone on since that was asked
  const answers = how === "visit";
  if (answers && visiting !== null && asked !== visiting) { // of a place that was left: that of the next one comes
    late = true;
    return;
  }
  const led = address.part(props.tabs) !== (answers ? asked : visited); // meanwhile, by a person
  if (answers && led) visited = null; // it has drawn what is looked at no more
  else if (answers) setTimeout(putBack); // when Gradio has filled the fields
  if (answers) visiting = null;
  if (number > last) {
    last = number;
    const replace = asking !== null || how !== "step";
    if (!led) address.tell(props.tabs, (visited = part), { replace, shows });
  }
  panel.dispatchEvent(new Event("change")); // what the tab follows may be another thing now
  answered();
});

new ResizeObserver(look).observe(panel);
const leave = address.follow(() => (element.isConnected ? look() : leave()));
