// The table of comparisons: which rows are chosen, over several pages of one list, and what is asked to be done with
// them. Every button with `data-act` raises the box's event `act`, with the chosen ones.
const chosen = new Set();
let list = null; // the filter that the chosen ones were chosen in
let made = ""; // the number of the last change that was made of chosen ones
const LONGEST = 1800; // characters of an address

const part = (selector) => element.querySelector(selector);
const boxes = () => [...element.querySelectorAll("tbody input[type=checkbox]")];

function refresh() {
  const bench = part(".workbench");
  if (!bench || bench.dataset.filter === undefined) return;
  const done = bench.dataset.made || made;
  if (bench.dataset.filter !== list || done !== made) chosen.clear();
  [list, made] = [bench.dataset.filter, done];
  for (const box of boxes()) box.checked = chosen.has(box.value);
  const page = part("[data-page]");
  page.checked = boxes().length > 0 && boxes().every((box) => box.checked);
  page.indeterminate = !page.checked && boxes().some((box) => box.checked);
  const own = part("[data-scope] option[value=chosen]");
  const words = `${own.dataset.words} (${chosen.size})`;
  if (own.textContent !== words) own.textContent = words; // or `look` would be called for ever
  const none = part("[data-scope]").value === "chosen" && chosen.size === 0;
  for (const button of element.querySelectorAll(".bulk [data-act=plan]")) button.disabled = none;
}

let last = null; // the comparison that was pressed last, for a span of rows
function choose(box, event) {
  const all = boxes();
  const [from, to] = [all.findIndex((one) => one.value === last), all.indexOf(box)].sort((a, b) => a - b);
  const span = event.shiftKey && from >= 0 ? all.slice(from, to + 1) : [box];
  for (const one of span) chosen[box.checked ? "add" : "delete"](one.value);
  last = box.value;
  if (chosen.size) part("[data-scope]").value = "chosen";
}

element.addEventListener("click", (event) => {
  const box = event.target.closest("tbody input[type=checkbox]");
  if (box) choose(box, event);
  const page = event.target.closest("[data-page]");
  if (page) for (const one of boxes()) chosen[page.checked ? "add" : "delete"](one.value);
  const button = event.target.closest("button[data-act]");
  if (button?.dataset.act === "again") {
    again = true;
    trigger("again");
  } else if (button && !button.disabled) act(button);
  refresh();
});
element.addEventListener("change", refresh);

function act(button) {
  const bench = part(".workbench");
  const only = bench.dataset.only;
  const going = button.dataset.act === "go"; // what changes nothing is about all where none is chosen
  const all = !only && (part("[data-scope]").value === "all" || (going && chosen.size === 0));
  const ids = only ? [only] : all ? [] : [...chosen];
  const { act, subject } = button.dataset;
  if (going) {
    const query = all ? bench.dataset.filter : `ids=${ids.join(",")}`;
    const address = query ? `${subject.split("?")[0]}?${query}` : subject; // the subject is what is without a filter
    if (address.length < LONGEST) window.prefloop.address.go(address);
    else trigger("act", { act: "many", subject });
    return;
  }
  button.disabled = true;
  [window.prefloop.before, window.prefloop.pressed] = [window.prefloop.pressed, button]; // as in components.ACTING
  setTimeout(() => {
    button.disabled = false;
    refresh();
    const last = window.prefloop.pressed === button; // else what was pressed since leads on
    if (last && button.isConnected && document.activeElement === document.body) button.focus();
  }, 1000);
  trigger("act", { act, subject, ids, all, filter: bench.dataset.filter, whom: part("[data-whom]")?.value ?? "" });
}

// Of another list Gradio may write the words into the rows that are there, where the ticks of those before still stand.
let again = false; // whether it is drawn anew since "Refresh" was pressed, on which the focus stays
function look() {
  refresh();
  if (again && document.activeElement === document.body) part("[data-act=again]")?.focus();
  again = false;
}
new MutationObserver(look).observe(element, { childList: true, characterData: true, subtree: true });
look();

// What was asked to be done with the chosen ones is done, in the box above: they are chosen no more.
element.closest("[role=tabpanel]").addEventListener("click", ({ target }) => {
  if (!target.closest("[data-act=make]")) return;
  chosen.clear();
  refresh();
});

// What a person types, pastes or deletes in the fields above. Gradio tells of keys alone, or of every change: of one as
// well that the answer to a visit makes, before the other fields are filled.
const TYPED = "input[type=text]:not([role]), textarea";
element.closest("[role=tabpanel]").addEventListener("input", ({ target }) => {
  if (target.matches(TYPED)) setTimeout(() => trigger("typed")); // when Gradio has heard of it
});
