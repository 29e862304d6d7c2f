// The Annotate tab: asks the server for comparisons, shows them, and sends what the annotator did with them.
// Gradio calls this once with `element`. What strangers wrote goes into text nodes; as HTML only what the server's
// `markdown.to_html` in annotation/ui made of it (the `html` of a text).

// Every sentence goes through `_`, which says it in the page's language, one with a count through `ngettext`; then
// `filled` fills its gaps in.
const LANGUAGE = readable(props.language);
const NUMBERS = new Intl.NumberFormat(LANGUAGE);
const _ = (sentence) => props.sentences[sentence] ?? sentence;
const ngettext = (one, several, count) =>
  props.sentences[several]?.[props.plurals[count > 200 ? 100 + count % 100 : count]] ?? (count === 1 ? one : several);
const written = (value) => typeof value === "number" ? NUMBERS.format(value) : value;
const filled = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (gap, name) => written(values[name]));

// The code of a language as browsers take it; the browser's own language in place of one that they don't know as such.
function readable(code) {
  try {
    return Intl.getCanonicalLocales(code)[0];
  } catch {
    return undefined;
  }
}

// A comparison that has only just appeared can't have been read: a press meant for the one before must not count.
const UNREAD_MS = 300;
const DEBOUNCE_MS = 250;
const TOO_SOON = _("Pressed too soon: not counted. Press again.");
const WAITING_MS = 2000;
const LOOK_MS = 200; // whether anything is due
const WRITING_MS = 400;
const PATIENCE_MS = 15000;
const SAFETY_MS = 10000;
const KEPT_DRAFTS_MS = 7 * 24 * 3600 * 1000;
const TYPING = "input, textarea, select, [contenteditable], [role=listbox], [role=dialog]";
const STORE = "prefloop.";
const HERE = ["annotate"]; // the tab, as addresses name it
const { address } = window.prefloop;

const ROLES = { user: _("User"), assistant: _("Assistant"), system: _("Instructions") };
const QUESTIONS = {
  pair: _("Which answer is better, and by how much?"),
  best: _("Which answer is the best?"),
  rank: _("Rank the answers, best first."),
};
const STATES = { writing: _("Still being written …"), failed: _("Could not be written to its end."), done: "" };
const FLAGS = [
  ["H", "harmful", _("Harmful")], ["P", "personal-data", _("Personal data")], ["B", "broken", _("Broken")],
];
// The verdicts on a pair, by side and strength, as they stand within a sentence; and what is on their buttons.
const BETTER = {
  left: ["", _("left slightly better"), _("left clearly better"), _("left much better")],
  right: ["", _("right slightly better"), _("right clearly better"), _("right much better")],
};
const DEGREES = {
  left: ["", _("Left slightly better"), _("Left clearly better"), _("Left much better")],
  right: ["", _("Right slightly better"), _("Right clearly better"), _("Right much better")],
};
const ORDINALS = [_("1st"), _("2nd"), _("3rd"), _("4th"), _("5th"), _("6th"), _("7th"), _("8th")];

const find = (selector) => element.querySelector(selector);
const judging = find(".judging");

// ------------------------------------------------------------------------------------------------------------- state
let card = null; // what the server sent last
let me = ""; // who is signed in, as the server said last: people who share a browser share nothing that is kept in it
let draft = newDraft(); // what the annotator has done with it so far
let listing = false; // whether the own judgements are on the screen instead
let armed = false; // whether the next digit chooses the answer to edit
let busy = false; // whether a request that changes something is under way
let missed = false; // whether something was pressed meanwhile, which does not count
let shownAt = 0;
let keyAt = null; // when the key was pressed that is being obeyed
let pressedAt = -Infinity;
let polledAt = -Infinity;
let away = false; // whether the page has been out of sight since it was last asked for
let signedOut = false; // whether the server has said so: then nothing is asked until the person does something
let unheard = 0; // polls in a row without an answer
let guidelines = ""; // those in the panel
let unasked = false; // whether that has opened by itself
let arrived = false; // whether the first comparison has come
let judged = null; // the latest judgement's id and the draft that went with it, for Undo

function newDraft() {
  return { tags: [], note: "", flag: null, edits: {}, editing: null, groups: [], tie: false };
}

// ------------------------------------------------------------------------------------------------- kept in the browser
const keysOf = (name) => `${STORE}${encodeURIComponent(name)}/`; // the encoding leaves no "/" in the name
const kept = (name) => (me ? read(keysOf(me) + name) : null);

function keep(name, value) {
  if (me) write(keysOf(me) + name, value);
}

// Storage can be forbidden; then nothing is kept, and everything else works.
function inStorage(use, otherwise) {
  try {
    return use(localStorage);
  } catch {
    return otherwise;
  }
}

const read = (key) => inStorage((box) => JSON.parse(box.getItem(key)), null);
const write = (key, value) =>
  inStorage((box) => (value === null ? box.removeItem(key) : box.setItem(key, JSON.stringify(value))));
const storedKeys = () => inStorage((box) => Object.keys(box).filter((key) => key.startsWith(STORE)), []);

// Old drafts go, whoever began them.
function purgeDrafts() {
  for (const key of storedKeys().filter((key) => key.includes("/draft."))) {
    const draft = read(key);
    if (!draft || Date.now() - draft.at > KEPT_DRAFTS_MS) write(key, null);
  }
}

// The own drafts of comparisons in hand, not those of changes to earlier judgements.
function draftNames() {
  const own = storedKeys().filter((key) => key.startsWith(keysOf(me))).map((key) => key.slice(keysOf(me).length));
  return own.filter((name) => name.startsWith("draft.") && !name.startsWith("draft.change-"));
}

// Notices who is signed in now.
function meet(name) {
  if (name === me) return;
  const first = !me;
  me = name;
  judged = null;
  refreshKeys();
  guidelines = ""; // so that it is looked up whether this person has read them
  const field = find("#own-prompt"), own = kept(OWN_PROMPT);
  if (!first || !field.value) field.value = own ? own.text : ""; // what another was writing is not theirs
  if (own) find(".ask").open = true;
  else keepOwnPrompt();
}

// The own prompt that is being written outlives a reload, and a sign-in between.
function keepOwnPrompt() {
  const text = find("#own-prompt").value;
  keep(OWN_PROMPT, text.trim() ? { text, at: Date.now() } : null);
}

const OWN_PROMPT = "draft.own-prompt";
const draftName = (of) => `draft.${of.revising ? `change-${of.revising.id}` : of.nonce}`;

function saveDraft() {
  const empty = JSON.stringify(draft) === JSON.stringify(newDraft());
  keep(draftName(card), empty ? null : withTexts());
}

const withTexts = () => ({ ...draft, at: Date.now(), texts: card.answers.map((answer) => answer.text) });

// The draft for what is shown. One left from an earlier hand-out of the same answers (the time ran out, or it was
// undone) is taken over; if the answers have changed places, without its ranking.
function keptDraft() {
  const own = kept(draftName(card));
  if (own || card.revising) return own;
  const texts = card.answers.map((answer) => answer.text);
  const sorted = (all) => [...all].sort().join("\0");
  const same = (draft) => draft && draft.texts && sorted(draft.texts) === sorted(texts);
  const left = draftNames().find((name) => same(kept(name)));
  if (!left) return null;
  const old = kept(left);
  keep(left, null);
  if (old.texts.join("\0") === texts.join("\0")) return old;
  const moved = (place) => texts.indexOf(old.texts[place]);
  const edits = Object.fromEntries(Object.entries(old.edits).map(([place, text]) => [moved(place), text]));
  return { ...old, edits, editing: old.editing === null ? null : moved(old.editing), groups: [], tie: false };
}

// ------------------------------------------------------------------------------------------------------------ requests
// What went wrong, in words. `again`: whether the same press may well succeed now.
class Problem extends Error {
  constructor(message, { again = false, signedOut = false } = {}) {
    super(message);
    Object.assign(this, { again, signedOut });
  }
}

const UNHEARD = {
  TimeoutError: _("The server does not answer."),
  SyntaxError: _("The server's answer can't be read."),
};

async function ask(name, body = {}) {
  const terms = { rendered: kept("rendered"), utc_offset_minutes: -new Date().getTimezoneOffset() };
  let answer, said;
  try {
    answer = await fetch(`annotate/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...terms, ...body }),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    said = await answer.json().catch((error) => (answer.ok ? Promise.reject(error) : {}));
  } catch (error) {
    throw new Problem(UNHEARD[error.name] || _("The server can't be reached."), { again: true });
  }
  signedOut = answer.status === 401;
  address.hear(answer);
  if (signedOut) throw new Problem(_("You are not signed in any more."), { signedOut });
  const failure = filled(_("The server failed ({status})."), answer);
  if (!answer.ok) throw new Problem(said.error || failure, { again: !said.error });
  return said;
}

// A request for a person, who is told at once if it fails.
async function attempt(name, body, failed) {
  try {
    return await ask(name, body);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (!signal.aborted) complain(failed, error);
    return null;
  }
}

// A request that changes what is shown: one at a time.
async function act(name, body, failed = NOT_SAVED) {
  if (occupied()) return null;
  busy = true;
  missed = false;
  judging.setAttribute("aria-busy", "true");
  try {
    const said = await attempt(name, body, failed);
    if (said === null) [pressedAt, missed] = [-Infinity, false]; // the page says "Press again."
    return said;
  } finally {
    busy = false;
    setTimeout(() => { missed &&= busy; }); // what came of this is told by then, if anything is
    judging.removeAttribute("aria-busy");
    polledAt = performance.now();
  }
}

function say(text, bad = false) {
  find(".status").textContent = text;
  find(".status").classList.toggle("bad", bad);
  if (busy || !missed) return;
  missed = false;
  tellTooSoon();
}

// Whether a press comes while another is on its way, and so does not count; that is said now, and with what came of it.
function occupied() {
  if (busy) tellTooSoon();
  missed = busy;
  return busy;
}

// A press that does not count is not passed over in silence; what the page says, and offers, stays.
const tellTooSoon = () => remark(TOO_SOON);

// When a person pressed what an event comes of: on a slow machine the page gets to it later, and may have shown something
// else meanwhile.
const madeAt = (event) => keyAt ?? event.timeStamp;

// What a press on something of a comparison, or of what was offered `since`, does: nothing while that can't have been
// read.
const onceRead = (act, since = () => shownAt) => (event) =>
  (madeAt(event) - since() < UNREAD_MS ? tellTooSoon() : act(event));

function remark(words) {
  const status = find(".status");
  if (!status.textContent.endsWith(words)) status.append(` ${words}`);
}

// What is said of a request that failed. Where no answer came it may have been obeyed all the same: then `unsure` is
// said; pressed again, it is obeyed once.
const NOT_SAVED = { sure: _("Not saved."), unsure: _("Perhaps not saved.") };
const NOT_UNDONE = { sure: _("Not undone."), unsure: _("Perhaps not undone.") };
const NOT_ASKED = { sure: _("Not asked."), unsure: _("Perhaps not asked.") };
const surely = (sentence) => ({ sure: sentence, unsure: sentence });

function complain({ sure, unsure }, error) {
  const sentences = [error.again ? unsure : sure, error.message, error.again ? _("Press again.") : ""];
  say(sentences.filter(Boolean).join(" "), true);
  if (!error.signedOut) return;
  const href = `login?next=${encodeURIComponent(location.pathname + location.search)}`;
  const mark = make("kbd", { "aria-hidden": "true" }, SHOWN_KEYS.Enter);
  const link = make("a", { href, "data-key": "enter", "aria-keyshortcuts": "Enter" }, mark, " ", _("Sign in again."));
  const drafted = kept(OWN_PROMPT) || (card && kept(draftName(card)));
  find(".status").append(" ", ...(drafted ? [_("Your draft is kept."), " "] : []), link);
}

// ---------------------------------------------------------------------------------------------------------------- DOM
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.flat());
  return made;
}

// A button with its key on it: pressing the key clicks the button, so a key does only what can be seen.
function button(key, label, press, attributes = {}) {
  const mark = key ? [make("kbd", { "aria-hidden": "true" }, SHOWN_KEYS[key] || key), " "] : [];
  const keyed = key ? { "data-key": key.toLowerCase(), "aria-keyshortcuts": key } : {};
  return make("button", { type: "button", ...keyed, ...attributes, click: press }, mark, label);
}

const SHOWN_KEYS = { Enter: "↵", Backspace: "⌫", Escape: "Esc" };

function isRendered() {
  const own = kept("rendered");
  return own === null ? Boolean(card.rendered) : own;
}

function fill(box, text) {
  const html = isRendered() && text.html !== undefined && text.marked === undefined;
  const shown = text.marked ?? (html ? text.html : (text.visible ?? text.text));
  if (box.shown === shown && box.classList.contains("rendered") === html) return;
  box.shown = shown;
  box.classList.toggle("rendered", html);
  if (html || text.marked !== undefined) box.innerHTML = shown;
  else box.textContent = shown;
  if (html) letCopy(box);
  for (const table of box.querySelectorAll("table")) sizes.observe(table);
  letScroll(box);
}

// What scrolls must be reachable by keyboard; what does not needs no stop.
function letScroll(box) {
  if (box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
  cue(box);
}

const sizes = new ResizeObserver((entries) => entries.forEach((entry) => letScroll(entry.target)));

function textBox(label) {
  const box = make("div", { class: "shown", dir: "auto", role: "group", "aria-label": label, scroll: scrollAlong });
  sizes.observe(box);
  return box;
}

// -------------------------------------------------------------------------------------------------------- what it says
const size = () => card.answers.length;
const inHand = () => Boolean(card && card.answers);
const SIDES = [_("Left"), _("Right")];
const answerName = (place) => about(place, ...SIDES, _("Answer {number}"));
const sideName = (place) => about(place, ...SIDES, "{number}"); // where there is little room
const capital = (words) => words[0].toUpperCase() + words.slice(1);

// One of three sentences: about the left answer of a pair, the right one, or the answer {number} of several.
function about(place, left, right, numbered) {
  return card.kind === "pair" ? [left, right][place] : filled(numbered, { number: place + 1 });
}

// The verdict of a judgement, as it stands within a sentence; `capital` makes it stand alone.
function inWords({ outcome, kind, ranks, strength, size: count }) {
  if (outcome === "skip") return _("skipped");
  if (outcome === "all-bad") return count === 2 ? _("both bad") : _("all bad");
  if (new Set(ranks).size === 1) return count === 2 ? _("tie") : _("all equally good");
  if (kind === "pair") return BETTER[ranks[0] < ranks[1] ? "left" : "right"][strength];
  const groups = [];
  ranks.forEach((rank, place) => (groups[rank] ||= []).push(place + 1));
  const inOrder = groups.filter(Boolean).map((group) => group.join(" = "));
  return kind === "best" ? filled(_("answer {number} is best"), { number: inOrder[0] }) : inOrder.join(" > ");
}

// A reason as it is read; what is stored and sent is its label.
const reasonName = (label) => card.tags.find((tag) => tag.label === label)?.name ?? label;
const flagName = (flag) => FLAGS.find(([, known]) => known === flag)[2];

// The verdict of a judgement within a sentence, and what goes along with it.
function inFull(done) {
  const marks = [...done.tags.map(reasonName), done.flag && flagName(done.flag), done.note && _("note"), done.edit && _("edited")];
  const along = marks.filter(Boolean).join(", ");
  return along ? filled(_("{verdict} ({marks})"), { verdict: inWords(done), marks: along }) : inWords(done);
}

// Why what was shown has given way to another comparison, if there is a reason to tell.
function whyMoved(next) {
  const already = next.judged ? filled(_("Judged already: {judgement}."), { judgement: inFull(next.judged) }) : "";
  return `${already} ${next.notice}`.trim();
}

// What became of a judgement, as the server read it from the row that stands; if that is another one, the offer to
// change it to what was `done` here, with the answers in the places in which `nonce` showed them.
function tell(next, done, changed, nonce) {
  const judgement = next.judged && inFull(next.judged);
  const saved = changed ? _("Changed: {judgement}.") : _("Saved: {judgement}.");
  if (next.saved) say(`${filled(saved, { judgement })} ${next.notice}`.trim());
  else if (!next.judged) say(next.notice, true);
  else {
    say(`${next.notice} ${filled(_("It says: {judgement}."), { judgement })} `, true);
    const offered = change(next.judged, done, nonce);
    find(".status").append(button("Enter", offerOf(next.judged, done), offered, { class: "offer" }));
  }
}

function offerOf(stands, done) {
  const verdict = inWords({ ...stands, ...done });
  if (verdict !== inWords(stands)) return filled(_("Change it to: {verdict}"), { verdict });
  const parts = { tags: _("reasons"), note: _("note"), flag: _("flag"), edit: _("edit") };
  const plain = (value) => JSON.stringify(Array.isArray(value) ? [...value].sort() : value ?? null);
  const other = Object.keys(parts).filter((key) => plain(stands[key]) !== plain(done[key]));
  return filled(_("Change its {parts}"), { parts: other.map((key) => parts[key]).join(", ") });
}

function change(stands, done, nonce) {
  const offeredAt = performance.now();
  return onceRead(async () => {
    const next = await act("revise", { id: stands.id, act: done, nonce });
    if (next === null) return;
    if (next.saved) showSafety();
    show(next);
    tell(next, done, true, nonce);
  }, () => offeredAt);
}

// ------------------------------------------------------------------------------------------------------------- showing
const identity = (of) => (of && of.answers ? (of.revising ? `change-${of.revising.id}` : of.nonce) : "");

function show(next) {
  meet(next.me);
  const first = card === null;
  const same = !first && identity(next) === identity(card);
  card = next;
  if (!same) {
    armed = false;
    if (inHand()) lay();
  }
  if (inHand()) refill();
  refresh();
  shareRoom();
  if (!same && inHand()) {
    toStart();
    announce();
  } else if (!same && !first) {
    find(".next").textContent = "";
    goOn();
  }
  loadGuidelines();
  if (!same) shownAt = performance.now();
}

// Whoever does not see the page hears what is asked next, and goes on from there: the control that was pressed last is
// gone, and with it the place where they were. Who is on another tab, or types, is left alone.
function announce() {
  const prompt = card.messages.at(-1).text;
  const said = prompt.length > 300 ? `${prompt.slice(0, 300)} …` : prompt;
  find(".next").textContent = filled(_("Next: {prompt}"), { prompt: said });
  goOn();
}

// What held the focus is gone: the person goes on from what is asked.
function goOn() {
  if (isLost()) find(inHand() ? ".turn:last-child h2" : ".waiting").focus({ preventScroll: true });
}

function isLost() {
  const now = document.activeElement;
  const lost = now === document.body || !now?.isConnected || now.checkVisibility?.() === false;
  return lost && element.offsetParent !== null;
}

// Show what the server has for this page now; if that is something else, say why. A judged comparison needs no draft.
function move(next) {
  const other = identity(next) !== identity(card || {});
  if (next.judged) keep(draftName(card), null);
  show(next);
  if (other || next.notice) say(whyMoved(next));
}

// A new comparison is read from its top, a conversation from where its latest turn begins.
function toStart() {
  const conversation = find(".conversation");
  conversation.scrollTop = conversation.lastChild.offsetTop - conversation.offsetTop;
  if (judging.getBoundingClientRect().top < 0) judging.scrollIntoView();
}

// Build the comparison anew.
function lay() {
  const { at, texts, ...own } = card.begun || keptDraft() || (card.revising ? draftOf(card.revising.act, card) : {});
  draft = { ...newDraft(), ...own };
  draft.tags = draft.tags.filter((label) => card.tags.some((tag) => tag.label === label));
  saveDraft();
  const turns = card.messages.map((message, number) => {
    const last = number === card.messages.length - 1;
    const name = last ? _("Prompt") : ROLES[message.role] || message.role;
    const title = make("h2", { tabindex: "-1" }, name);
    return make("section", { class: `turn ${message.role}`, "aria-label": name }, title, textBox(name));
  });
  const named = { class: "conversation", role: "group", "aria-label": _("Conversation") };
  const conversation = make("div", { ...named, scroll: (event) => cue(event.target) }, turns);
  sizes.observe(conversation);
  const boxes = card.answers.map((_, place) => answerBox(place));
  const answers = make("div", { class: "answers", "data-size": size() }, boxes);
  const key = card.tags.some((tag) => tag.key === "d") ? "" : "D";
  const differ = button(key, _("Differences"), toggleDifferences, { class: "differ", "aria-pressed": "false" });
  const question = make("p", { class: "question" }, make("span", {}, QUESTIONS[card.kind]), size() === 2 ? differ : []);
  find(".comparison").replaceChildren(conversation, question, sideSwitch(answers), answers, extras());
  find(".verdicts").replaceChildren(...verdicts());
  find(".verdicts").dataset.kind = card.kind;
  find(".revising").replaceChildren(...(card.revising ? revisingNote() : []));
}

// The draft that a judgement was made of, for changing it and for judging anew.
function draftOf({ tags, note, flag, edit, ranks }, { kind }) {
  const groups = [];
  if (kind === "rank" && ranks) ranks.forEach((rank, place) => (groups[rank - 1] ||= []).push(place));
  return {
    tags, note, flag, groups: groups.filter(Boolean),
    edits: edit ? { [edit.place]: edit.text } : {}, editing: edit ? edit.place : null,
  };
}

function revisingNote() {
  const was = inWords({ ...card.revising.act, kind: card.kind, size: size() });
  return [
    make("p", {}, filled(_("You are changing an earlier judgement: {judgement}."), { judgement: was })),
    button("Escape", _("Leave it as it is"), leave),
  ];
}

// On a phone long answers are shown one at a time: below each other the second would be screens away from the first.
const LONG_ALTOGETHER = 900; // characters
function sideSwitch(answers) {
  const left = {}; // where the window stood when an answer was turned away from
  let side;
  const choose = (place) => {
    side = place;
    controls.forEach((control, number) => setPressed(control, number === place));
    [...answers.children].forEach((box, number) => box.classList.toggle("turned", number !== place));
  };
  const turn = (place) => {
    left[side] = scrollY;
    choose(place);
    if (place in left) scrollTo(0, left[place]);
    else if (answers.getBoundingClientRect().top < 0) answers.scrollIntoView();
  };
  const controls = card.answers.map((_, place) => {
    const named = { class: "side", "aria-label": answerName(place) };
    return button("", sideName(place), () => turn(place), named);
  });
  choose(0);
  return make("div", { class: "sides-switch", role: "group", "aria-label": _("Answer shown") }, controls);
}

// What is read in one answer is beside its like in the others.
let scrolled = null;
function scrollAlong(event) {
  if (scrolled !== null && scrolled !== event.target) return; // it only follows
  const others = [...element.querySelectorAll(".answer .shown")].filter((box) => box !== event.target);
  const far = event.target.scrollTop / Math.max(1, event.target.scrollHeight - event.target.clientHeight);
  scrolled = event.target;
  for (const box of others) box.scrollTop = far * (box.scrollHeight - box.clientHeight);
  for (const box of [event.target, ...others]) cue(box);
  clearTimeout(scrolled.rest);
  event.target.rest = setTimeout(() => { scrolled = null; }, 120);
}

// Whether there is more below: browsers hide scroll bars, and a cut at the end of a sentence looks like the end.
function cue(box) {
  const below = box.scrollHeight - box.clientHeight - box.scrollTop > 4;
  box.classList.toggle("cut", below);
  const more = box.parentElement?.querySelector(":scope > .more, :scope > .foot > .more");
  if (more) more.hidden = !below;
}

const moreButton = () => button("", _("More ▾"), readOn, { class: "quiet more", hidden: true });

function readOn(event) {
  const box = event.target.closest(".answer, .guidelines").querySelector(".shown");
  box.scrollBy({ top: 0.85 * box.clientHeight });
}

function answerBox(place) {
  const number = String(place + 1);
  const name = answerName(place);
  const title = make("h2", { id: `answer-${place}` }, name, " ", make("span", { class: "words" }));
  const head = [title];
  const best = filled(_("{answer} is the best"), { answer: name });
  const named = { class: "choose verdict", "aria-label": best, "data-listed": best };
  const ranks = { class: "choose", "data-listed": filled(_("{answer}: rank it"), { answer: name }) };
  if (card.kind === "best") head.push(button(number, _("Best"), verdict(pick(place)), named));
  if (card.kind === "rank") head.push(button(number, make("span", { class: "rank" }), toggleRank(place), ranks));
  return make(
    "section", { class: "answer", "aria-labelledby": `answer-${place}`, "data-place": place },
    make("header", {}, head),
    textBox(filled(_("{answer}, text"), { answer: name })),
    make("p", { class: "state" }),
    make("div", { class: "editor", hidden: true }),
    make("div", { class: "foot" }, moreButton(), editButton(place)),
  );
}

// As `count_words` of annotation/ui/formatting.py.
const SIGNS = /[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]/g;
function counted(text) {
  const words = text.replace(SIGNS, " ").split(/\s+/).filter((piece) => /[\p{L}\p{N}]/u.test(piece));
  return words.length + (text.match(SIGNS) ?? []).length;
}

// A button that copies a block of code, beside it: nothing is put into what a stranger wrote.
function letCopy(box) {
  if (!navigator.clipboard) return;
  for (const code of box.querySelectorAll("pre:not(.literal)")) {
    const copy = button("", _("Copy"), () => navigator.clipboard.writeText(code.textContent).then(
      () => say(_("Copied.")), () => say(_("It can't be copied here."), true)), { class: "quiet copy" });
    code.before(copy);
  }
}

// Put texts and states into the comparison as it stands, leaving alone what has not changed.
function refill() {
  const altogether = card.answers.reduce((sum, answer) => sum + answer.text.length, 0); // grows while they are written
  find(".answers").dataset.long = altogether > LONG_ALTOGETHER;
  find(".conversation").querySelectorAll(".shown").forEach((box, number) => fill(box, card.messages[number]));
  element.querySelectorAll(".answer").forEach((box, place) => {
    const answer = card.answers[place];
    fill(box.querySelector(".shown"), answer);
    const count = counted(answer.text);
    box.querySelector(".words").textContent = filled(ngettext("{count} word", "{count} words", count), { count });
    box.dataset.state = answer.state;
    tellOnce(box.querySelector(".state"), STATES[answer.state]);
  });
}

// What scrolls gets the height that all else leaves, so that nothing lies behind the bar of verdicts: guidelines what
// answers don't need, and both some lines in any window. Several rows of answers are read by scrolling the page.
const REM = parseFloat(getComputedStyle(document.documentElement).fontSize);

function shareRoom() {
  if (!inHand() || listing || draft.editing !== null || element.offsetParent === null) return;
  const [rows, texts] = [new Map(), find(".guidelines .shown")];
  for (const box of element.querySelectorAll(".answer .shown")) {
    const { offsetTop } = box.parentElement;
    const needed = Math.max(box.scrollHeight, rows.get(offsetTop)?.needed ?? 0);
    rows.set(offsetTop, { needed, now: box.clientHeight });
  }
  const [needed, now] = ["needed", "now"].map((height) => [...rows.values()].reduce((sum, row) => sum + row[height], 0));
  const open = find(".guidelines:not([hidden])[open]") !== null;
  const end = find(".extras").getBoundingClientRect().bottom + scrollY + 0.5 * REM; // the bar's margin
  const room = innerHeight - find(".verdict-bar").offsetHeight - end + now + (open ? texts.clientHeight : 0);
  const left = room - Math.min(needed, 6.6 * REM * rows.size);
  const guided = open ? Math.min(texts.scrollHeight, Math.max(3.5 * REM, left)) : 0;
  const around = find(".answers").offsetHeight - now + 2 * REM;
  const least = rows.size > 1 ? (innerHeight - find(".verdict-bar").offsetHeight - around) / rows.size : (open ? 5 : 7) * REM;
  judging.style.setProperty("--guided", open ? `${guided}px` : "");
  judging.style.setProperty("--answered", `${Math.max(least, (room - guided) / rows.size)}px`);
}

// Bring everything that depends on the state up to date.
function refresh() {
  const state = listing ? "listing" : inHand() ? "comparing" : "waiting";
  judging.dataset.state = state;
  find(".mine").hidden = !listing;
  find(".revising").hidden = listing || !card.revising;
  refreshProgress();
  tellOnce(find(".waiting"), inHand() ? "" : waitingText());
  tellOnce(find(".unanswered"), card.unanswered);
  find(".ask").hidden = !card.own_prompts || listing;
  setPressed(find(".tools [data-key=r]"), isRendered() && !isMarked());
  setPressed(find(".tools [data-key=m]"), listing);
  refreshTools();
  if (inHand()) refreshComparison();
  else find(".verdicts").replaceChildren(...(card.undo ? [row("others", _("Other"), [undoButton()])] : []));
  if (!find(".keys").hidden) listKeys();
  if (arrived) address.tell(HERE, place());
}

// Nothing is listed before the first comparison has come, and nothing is shown otherwise where nothing is shown.
function refreshTools() {
  find(".tools [data-key=m]").disabled = !arrived;
  find(".tools [data-key=r]").disabled = !arrived || listing || !inHand();
}

// How far the person has come today, and whether that was the day's target.
function refreshProgress() {
  const { today, target, quota } = card.progress;
  const [line, bar] = [find(".progress .said"), find(".progress progress")];
  const day = !target
    ? _("{today} judged today")
    : today < target
      ? _("{today} of {target} judged today")
      : _("{today} judged today: the day's {target} are done, thank you");
  const ever = quota ? _("{yours} of {quota} in all") : _("{yours} by you in all");
  line.textContent = filled(`${day} · ${ever}`, card.progress);
  bar.hidden = !target;
  if (!target) return;
  bar.max = target;
  bar.value = Math.min(today, target);
}

function waitingText() {
  const { quota, yours } = card.progress;
  const done = _("You have judged all that you were asked for: {quota}. Thank you.");
  if (quota && yours >= quota) return filled(done, { quota });
  if (card.asked && card.trouble) return `${card.trouble} ${_("Your prompt is kept till then.")}`;
  if (card.asked) return _("Your prompt is being answered. The answers appear here by themselves.");
  const writing = card.by_judges ? "" : _("The model is writing the next answers. They appear here by themselves.");
  return `${card.elsewhere} ${card.trouble || writing}`.trim();
}

const hasFailed = () => card.answers.some((answer) => answer.state === "failed");
const isWhole = () => card.answers.every((answer) => answer.state === "done");
const editable = () => inHand() && !listing && isWhole();

function refreshComparison() {
  const whole = isWhole();
  for (const control of element.querySelectorAll(".verdict, .choose, .edit, .ranking button")) {
    control.disabled = !whole && control.dataset.key !== "s";
  }
  find(".early").textContent = hasFailed()
    ? _("An answer could not be written to its end, so this comparison can only be skipped.")
    : whole ? "" : _("Answers are still being written: judge them when all have come.");
  for (const tag of element.querySelectorAll(".tag")) setPressed(tag, draft.tags.includes(tag.dataset.label));
  for (const flag of element.querySelectorAll(".flag")) setPressed(flag, draft.flag === flag.dataset.flag);
  element.querySelectorAll(".answer").forEach(refreshAnswer);
  const differ = find(".differ");
  if (differ) {
    differ.disabled = !whole;
    setPressed(differ, isMarked());
  }
  const undo = find(".verdicts [data-key=u]");
  if (undo) undo.disabled = Boolean(card.revising) || !card.undo;
  if (card.kind === "rank") refreshRanks();
}

const setPressed = (control, pressed) => control.setAttribute("aria-pressed", pressed);

// What says the same already is left alone, or it would be read out again.
function tellOnce(box, text) {
  if (box.textContent !== text) box.textContent = text;
}

function refreshAnswer(box, place) {
  const editor = box.querySelector(".editor");
  editor.hidden = draft.editing !== place;
  box.classList.toggle("edited", draft.editing === place);
  if (editor.hidden) editor.replaceChildren();
  else if (!editor.firstChild) editor.append(...editorParts(place));
}

// ---------------------------------------------------------------------------------------------- tags, note, flag, edit
function extras() {
  const tags = card.tags.map((tag) => {
    const named = { class: "tag", "data-label": tag.label, "aria-pressed": "false" };
    return button(tag.key.toUpperCase(), tag.name, onceRead(() => toggleTag(tag.label)), named);
  });
  const flags = FLAGS.map(([key, flag, label]) => {
    const named = { class: "flag", "data-flag": flag, "aria-pressed": "false" };
    return button(key, label, onceRead(() => toggleFlag(flag)), named);
  });
  const input = (event) => {
    draft.note = event.target.value;
    saveDraft();
  };
  const field = { id: "judgement-note", rows: 1, maxlength: 4000, "aria-keyshortcuts": "N", input };
  const note = make("textarea", field);
  note.value = draft.note;
  const key = make("kbd", { "aria-hidden": "true" }, "N");
  const label = make("label", { class: "label", for: "judgement-note" }, _("Note"), " ", key);
  return make("div", { class: "extras", click: reveal, focusin: reveal },
    tags.length ? group(_("Reasons"), tags) : [],
    group(_("Flag"), flags),
    make("div", { class: "note" }, label, note),
    make("p", { class: "early" }));
}

// What is pressed or written in comes out from behind the bar of verdicts; what a pointer presses only once it is
// released, since a press on what moves away under it is none.
function reveal(event) {
  if (event.type === "focusin" && !event.target.matches(":focus-visible:not(:active)")) return;
  event.target.scrollIntoView({ block: "nearest" });
}

function group(name, controls) {
  const label = make("span", { class: "label", "aria-hidden": "true" }, name);
  return make("div", { role: "group", "aria-label": name }, label, controls);
}

// How to get from a field back to the keys that judge.
const WAY_OUT = _("Esc leaves the field.");

function writeNote() {
  find("#judgement-note").focus();
  remark(WAY_OUT);
}

function changed() {
  saveDraft();
  refreshComparison();
}

function toggleTag(label) {
  draft.tags = draft.tags.includes(label) ? draft.tags.filter((tag) => tag !== label) : [...draft.tags, label];
  changed();
}

function toggleFlag(flag) {
  draft.flag = draft.flag === flag ? null : flag;
  changed();
}

function editorParts(place) {
  const name = filled(_("{answer}, as it should be. Judge this answer best."), { answer: answerName(place) });
  const input = (event) => {
    draft.edits[place] = event.target.value;
    saveDraft();
  };
  const field = make("textarea", { id: "answer-edit", rows: 8, maxlength: 20000, dir: "auto", input });
  field.value = draft.edits[place];
  return [make("label", { for: "answer-edit" }, name), field,
    button("", _("Drop the edit"), dropEdit, { class: "quiet" })];
}

function edit(place) {
  armed = false;
  draft.edits[place] ??= card.answers[place].text;
  draft.editing = place;
  say(keyAt === null ? "" : WAY_OUT); // fingers have no Esc
  changed();
  find("#answer-edit").focus();
}

function dropEdit() {
  delete draft.edits[draft.editing];
  draft.editing = null;
  changed();
}

function editButton(place) {
  const marks = [make("kbd", {}, "E"), make("kbd", {}, String(place + 1))];
  const name = about(place, _("Edit left"), _("Edit right"), _("Edit answer {number}"));
  const named = { class: "quiet edit", "aria-label": name, "aria-keyshortcuts": "E" };
  return button("", [make("span", { "aria-hidden": "true" }, marks), _("Edit")], () => edit(place), named);
}

function armEdit() {
  armed = true;
  say(card.kind === "pair"
    ? _("Edit which answer? 1 is the left one, 2 the right one.")
    : filled(_("Edit which answer? Press its number, 1 to {last}."), { last: size() }));
}

// The edit that goes along, if something was changed.
function edited() {
  const place = draft.editing;
  if (place === null) return null;
  const text = draft.edits[place].trim();
  return text && text !== card.answers[place].text.trim() ? { place, text } : null;
}

// ------------------------------------------------------------------------------------------------------------ verdicts
const ranked = (ranks, strength = null) => ({ outcome: "ranked", ranks, strength });
const pick = (place) => () => ranked(card.answers.map((_, other) => (other === place ? 1 : 2)));
const allEqual = () => ranked(card.answers.map(() => 1));

function verdicts() {
  const common = { class: "verdict" };
  const two = size() === 2;
  const bad = button("0", two ? _("Both bad") : _("All bad"), verdict(() => ({ outcome: "all-bad" })), common);
  const skip = button("S", _("Skip"), verdict(() => ({ outcome: "skip" })), common);
  const others = [bad, skip, undoButton()];
  if (card.kind === "pair") return [row("scale", _("Verdict"), pairVerdicts()), row("others", _("Other"), others)];
  const equal = button("=", two ? _("Equally good") : _("All equally good"), verdict(allEqual), common);
  if (card.kind === "best") return [row("others", _("Verdict"), [equal, ...others])];
  return [row("ranking", _("Ranking"), [
    button("Enter", _("Submit"), verdict(ranking), { class: "verdict submit" }),
    button("=", _("Tie the next one"), tieNext, { class: "tie", "aria-pressed": "false" }),
    button("Backspace", _("Take the last back"), takeOutLast),
  ]), row("others", _("Other"), others)];
}

const undoButton = () => button("U", _("Undo"), takeBack);
const row = (kind, name, controls) => make("div", { class: kind, role: "group", "aria-label": name }, controls);

function pairVerdicts() {
  const degrees = [["left", 3], ["left", 2], ["left", 1], ["", 0], ["right", 1], ["right", 2], ["right", 3]];
  return degrees.map(([side, strength], number) => {
    const ranks = { left: [1, 2], right: [2, 1], "": [1, 1] }[side];
    const label = side ? DEGREES[side][strength] : _("Tie");
    return button(String(number + 1), label, verdict(() => ranked(ranks, strength)), { class: "verdict" });
  });
}

// The handler of a control that judges; `decide` gives the verdict, or null after saying what is missing.
function verdict(decide) {
  return (event) => {
    const time = madeAt(event);
    if (!inHand() || listing || occupied()) return;
    if (event.detail > 1 || time - shownAt < UNREAD_MS || time - pressedAt < DEBOUNCE_MS) {
      tellTooSoon();
      return;
    }
    const decided = decide();
    if (decided === null) return;
    pressedAt = time;
    judge(decided);
  };
}

async function judge(decided) {
  const edit = decided.outcome === "skip" ? null : edited();
  if (edit && (decided.outcome !== "ranked" || decided.ranks[edit.place] !== 1)) {
    say(about(
      edit.place,
      _("You edited left: judge it the best, or drop the edit."),
      _("You edited right: judge it the best, or drop the edit."),
      _("You edited answer {number}: judge it the best, or drop the edit."),
    ), true);
    return;
  }
  const of = card;
  const { tags, flag } = draft;
  const done = { ...decided, tags, note: draft.note.trim(), flag, edit };
  say(_("Saving …"));
  const next = of.revising
    ? await act("revise", { id: of.revising.id, act: done })
    : await act("judge", { nonce: of.nonce, act: done });
  if (next === null) return;
  if (next.judged) keep(draftName(of), null);
  if (next.saved) {
    if (unasked) find(".guidelines").open = false; // they have been read; on a phone they fill the window
    judged = { id: next.judged.id, draft: withTexts() };
    showSafety();
  }
  show(next);
  tell(next, done, Boolean(of.revising), of.nonce);
}

async function takeBack(event) {
  const time = madeAt(event);
  if (listing || occupied()) return;
  if (card.revising) {
    say(_("You are changing an earlier judgement. Press Esc to leave it, then undo."), true);
    return;
  }
  if (time - pressedAt < DEBOUNCE_MS) {
    tellTooSoon();
    return;
  }
  pressedAt = time;
  say(_("Undoing …"));
  const next = await act("undo", { nonce: card.nonce }, NOT_UNDONE);
  if (next === null) return;
  if (next.undone) next.begun = remembered(next) || draftOf(next.undone, next);
  if (next.undone) judged = null;
  show(next);
  say(next.notice);
}

// The draft of the judgement taken back, if it was made on this page: more whole than what was sent of it.
const remembered = (next) => (judged && next.me === me && judged.id === next.undone.id ? judged.draft : null);

// ------------------------------------------------------------------------------------------------------------- ranking
const placed = () => draft.groups.flat();

// The rank of an answer in the draft, and whether others share it.
function rankName(rank, tied) {
  return tied ? filled(_("{rank}, tied"), { rank: ORDINALS[rank - 1] }) : ORDINALS[rank - 1];
}

function toggleRank(place) {
  return onceRead((event) => {
    if (!inHand() || listing) return;
    if (event.detail) event.currentTarget.blur(); // so that Enter submits after a tap instead of tapping again
    if (placed().includes(place)) takeOut(place);
    else put(place);
  });
}

function put(place) {
  if (draft.tie && draft.groups.length) draft.groups.at(-1).push(place);
  else draft.groups.push([place]);
  const tied = draft.groups.at(-1).length > 1;
  draft.tie = false;
  changed();
  const rank = rankName(draft.groups.length, tied);
  const said = filled(_("{answer}: {rank}."), { answer: answerName(place), rank });
  const left = size() - placed().length;
  const goesOn = left ? _("Submit, and the one left comes last.") : _("All are ranked: submit.");
  say(left > 1 ? said : `${said} ${goesOn}`);
}

function takeOut(place) {
  draft.groups = draft.groups.map((group) => group.filter((other) => other !== place)).filter((group) => group.length);
  draft.tie = false;
  changed();
  say(filled(_("{answer}: not ranked."), { answer: answerName(place) }));
}

function takeOutLast() {
  if (draft.tie || !draft.groups.length) tieNext();
  else takeOut(draft.groups.at(-1).at(-1));
}

function tieNext() {
  if (!draft.groups.length) {
    say(_("Rank an answer first."));
    return;
  }
  if (placed().length === size()) {
    say(_("All are ranked: submit."));
    return;
  }
  draft.tie = !draft.tie;
  changed();
  const number = draft.groups.at(-1).at(-1) + 1;
  say(draft.tie ? filled(_("The next answer is tied with answer {number}."), { number }) : "");
}

function refreshRanks() {
  element.querySelectorAll(".answer").forEach((box, place) => {
    const group = draft.groups.findIndex((members) => members.includes(place));
    const tied = group >= 0 && draft.groups[group].length > 1;
    const words = group < 0 ? _("not ranked") : rankName(group + 1, tied);
    const control = box.querySelector(".choose");
    setPressed(control, group >= 0);
    control.setAttribute("aria-label", filled(_("{answer}: {rank}"), { answer: answerName(place), rank: words }));
    control.querySelector(".rank").textContent = group < 0 ? _("Rank") : words;
    const side = element.querySelectorAll(".side")[place]; // where one answer is shown at a time
    side.textContent = group < 0 ? sideName(place) : `${sideName(place)}: ${words}`;
    side.setAttribute("aria-label", control.getAttribute("aria-label"));
    box.classList.toggle("ranked", group >= 0);
  });
  setPressed(find(".tie"), draft.tie);
  find(".submit").classList.toggle("ready", size() - placed().length <= 1);
}

// The ranking as it would be sent: the only answer left is ranked last.
function ranking() {
  const left = card.answers.map((_, place) => place).filter((place) => !placed().includes(place));
  if (left.length > 1) {
    const values = { count: left.length, numbers: left.map((place) => place + 1).join(", ") };
    const said = ngettext(
      "{count} answer is not ranked yet: {numbers}.", "{count} answers are not ranked yet: {numbers}.", left.length,
    );
    say(filled(said, values), true);
    return null;
  }
  if (left.length) put(left[0]);
  return ranked(card.answers.map((_, place) => draft.groups.findIndex((group) => group.includes(place)) + 1));
}

// ----------------------------------------------------------------------------------------------------- own judgements
async function toggleMine() {
  if (listing) {
    listing = false;
    refresh();
    goOn();
    return;
  }
  const said = await attempt("latest", {}, surely(_("Your judgements can't be shown.")));
  if (said === null) return;
  find(".mine ol").replaceChildren();
  list(said.judgements);
  const alike = _("Of {shared} that you and others have judged, they found the same best in {same}.");
  find(".mine .alike").textContent = said.agreement ? filled(alike, said.agreement) : "";
  if (!said.judgements.length) find(".mine ol").append(make("li", {}, _("You have not judged anything yet.")));
  listing = true;
  say("");
  refresh();
  find("#mine-title").focus();
}

const LISTED = 50; // as many as the server lists at once
function list(judgements) {
  find(".mine ol").append(...judgements.map(listed));
  if (judgements.length === LISTED) find(".mine ol").append(make("li", {}, button("", _("Earlier ones"), listEarlier)));
}

async function listEarlier(event) {
  const [more, last] = [event.target.closest("li"), find(".mine li:nth-last-child(2)")];
  const said = await attempt("latest", { id: Number(last.dataset.id) }, surely(_("Your judgements can't be shown.")));
  if (said === null || !more.isConnected) return;
  more.remove();
  list(said.judgements);
  (last.nextSibling ?? last).querySelector("button").focus();
}

function listed(row) {
  const words = capital(inWords(row));
  const name = filled(_("Change: {judgement}"), { judgement: words });
  const flag = row.flag && flagName(row.flag);
  const marks = [...row.tags.map(reasonName), flag, row.edited && _("edited"), row.changed && _("changed")].filter(Boolean);
  return make("li", { "data-id": row.id },
    make("p", { class: "prompt", dir: "auto" }, row.prompt),
    make("p", { class: "done" }, make("strong", {}, words), " ", make("span", { class: "when" }, `${row.made} UTC`)),
    marks.length ? make("p", { class: "marks" }, marks.map((mark) => make("span", {}, mark))) : [],
    row.note ? make("p", { class: "note", dir: "auto" }, row.note) : [],
    button("", _("Change"), () => reopen(row.id), { "aria-label": name }));
}

async function reopen(id) {
  const next = await act("reopen", { id }, surely(_("Not opened.")));
  if (next === null) return;
  listing = false;
  show(next);
  say("");
}

// What is shown as the page's address says it: nothing for the comparison in hand, the own judgements, or one of them.
const place = () => (listing ? "/mine" : card.revising ? `/mine/${card.revising.id}` : "");

// Show what the address says: when the page is opened there, at Back, and for a link.
async function goToPlace() {
  const wanted = address.part(HERE);
  if (!arrived || wanted === place()) return;
  const [, mine, id] = wanted.split(/[/?]/);
  if (mine === "mine" && Number(id)) await reopen(Number(id));
  else {
    if ((mine === "mine") !== listing) await toggleMine();
    if (mine !== "mine" && card.revising) await leave();
  }
  address.tell(HERE, place(), { replace: true }); // where there is no such judgement
}

// From changing an earlier judgement back to the comparison in hand.
async function leave() {
  const next = await act("card", {}, surely(_("Not left.")));
  if (next === null) return;
  keep(draftName(card), null);
  show(next);
  say(_("Nothing was changed here."));
}

// ------------------------------------------------------------------------------------ guidelines, own prompts, reading
const guidelinesName = (version, follow) => `${version} ${follow}`.trim();

async function loadGuidelines() {
  const panel = find(".guidelines");
  panel.hidden = !card.guidelines_version;
  const name = guidelinesName(card.guidelines_version, card.guidelines_follow);
  if (!card.guidelines_version || name === guidelines) return;
  guidelines = name;
  const said = await ask("guidelines").catch((error) => (error instanceof Problem ? null : Promise.reject(error)));
  if (said === null) {
    guidelines = "";
    return;
  }
  find(".guidelines .shown").innerHTML = said.html;
  letScroll(find(".guidelines .shown"));
  const seen = kept("guidelines");
  panel.dataset.name = guidelinesName(said.version, said.follow);
  const same = String(seen) === panel.dataset.name;
  find(".news").textContent = seen === null || same ? "" : _("changed since you last read them");
  if (seen !== null) return;
  panel.open = unasked = true;
  shownAt = performance.now(); // what is below has moved away under the pointer
}

function onGuidelines() {
  if (!find(".guidelines").open) {
    unasked = false;
    find(".news").textContent = "";
  }
  keep("guidelines", find(".guidelines").dataset.name);
}

function toggleGuidelines() {
  const panel = find(".guidelines");
  if (panel.hidden) return;
  panel.open = !panel.open;
  if (panel.open) panel.scrollIntoView({ block: "nearest" });
}

async function toggleRendered() {
  keep("rendered", isMarked() || !isRendered()); // marked texts are literal
  await showOtherwise({}, () => (isRendered() ? _("Answers are shown rendered.") : _("Answers are shown literally.")));
}

const isMarked = () => inHand() && card.answers.some((answer) => answer.marked !== undefined);

async function toggleDifferences() {
  const nothing = _("Nothing is marked: the answers are the same, or have little in common.");
  const found = () => {
    const said = card.answers.some((answer) => answer.marked.includes("<mark")) ? _("What differs is marked.") : nothing;
    return card.marked_in_part ? `${said} ${_("Only their first parts are compared: the answers are long.")}` : said;
  };
  await showOtherwise({ differences: !isMarked() }, () => (isMarked() ? found() : _("Nothing is marked any more.")));
}

// The same comparison once more, as the person now wants to see it, with what is said then.
async function showOtherwise(terms, told) {
  const { revising, nonce } = card;
  const of = revising ? { id: revising.id } : { nonce };
  const next = await act(revising ? "reopen" : "card", { ...of, ...terms }, surely(""));
  if (next === null) return;
  const other = identity(next) !== identity(card);
  move(next);
  if (!other && !whyMoved(next)) say(told());
}

async function askOwn() {
  const field = find("#own-prompt");
  if (!field.value.trim()) {
    say(_("Write a prompt first."), true);
    return;
  }
  const prompt = field.value;
  const next = await act("ask", { prompt, nonce: card.nonce, differences: isMarked() }, NOT_ASKED);
  if (next === null) return;
  if (field.value === prompt) field.value = ""; // what was written meanwhile stays
  keepOwnPrompt();
  find(".ask").open = field.value !== "";
  const revising = card.revising ? card : null;
  show(revising ? { ...revising, asked: next.asked } : next);
  say(next.notice);
}

// ---------------------------------------------------------------------------------------------------------------- keys
// What each key does now, as far as its control is there; and whether single keys count at all, which each person
// chooses: speech input types them unasked, and screen readers have uses of their own for them (WCAG 2.1.4).
const keysOn = () => kept("keys") !== false;

function toggleKeys() {
  const panel = find(".keys");
  panel.hidden = !panel.hidden;
  setPressed(find(".tools .help"), !panel.hidden);
  if (panel.hidden) {
    goOn();
    return;
  }
  listKeys();
  find("#single-keys").checked = keysOn();
  find("#keys-title").focus();
}

// What does nothing now is not listed: neither what has no control, nor single keys that are switched off.
function listKeys() {
  const controls = [...element.querySelectorAll("[data-key]")];
  const rows = controls.filter((control) => control.offsetParent !== null && !control.disabled);
  const named = rows.map((control) => [SHOWN_KEYS[control.getAttribute("aria-keyshortcuts")]
    || control.getAttribute("aria-keyshortcuts"), control.dataset.listed ?? control.lastChild.textContent]);
  const others = [
    ...(editable() ? [["E", _("Edit an answer: then its number")]] : []),
    ...(inHand() && !listing ? [["N", _("Write a note")]] : []),
    ...(find(".guidelines").hidden ? [] : [["G", _("Guidelines")]]), ["Esc", _("Leave a field or a list")],
  ];
  const counts = ([key]) => keysOn() || key.length > 1 || Object.values(SHOWN_KEYS).includes(key);
  const entries = [...named, ...others].filter(counts).map(([key, words]) => make("li", {}, make("kbd", {}, key), " ", words));
  find(".keys ul").replaceChildren(...entries);
}

const refreshKeys = () => { judging.dataset.keys = keysOn() ? "on" : "off"; };

function switchKeys(event) {
  keep("keys", event.target.checked);
  refreshKeys();
  listKeys();
  say(event.target.checked ? _("Single keys judge.") : _("Letters and digits do nothing now; the buttons do it all."));
}

function onKey(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!card || element.offsetParent === null) return;
  if (event.target.closest && event.target.closest(TYPING)) {
    if (event.key === "Escape" && element.contains(event.target)) event.target.blur();
    return;
  }
  if (event.key === "Escape") onEscape();
  if (event.key.length > 1 && event.key !== "Enter" && event.key !== "Backspace") return;
  if (event.key.length === 1 && !keysOn()) return;
  const onControl = event.target.closest && event.target.closest("a, button, summary, [role=tab]");
  if (event.key === "Enter" && onControl) return; // it presses that control
  keyAt = event.timeStamp;
  if (obey(event.key.toLowerCase())) event.preventDefault();
  keyAt = null;
}

function onEscape() {
  if (armed) {
    armed = false;
    say("");
  } else if (!find(".keys").hidden) toggleKeys();
  else if (listing) toggleMine();
  else if (card.revising) leave();
}

// Do what a key stands for; says whether it stands for anything now.
function obey(key) {
  const place = Number(key) - 1;
  const editing = armed && editable() && place >= 0 && place < size();
  armed = false;
  const action = editing ? () => edit(place) : actionOf(key);
  if (action) action();
  return Boolean(action);
}

function actionOf(key) {
  const always = { m: toggleMine, g: toggleGuidelines, "?": toggleKeys };
  const comparing = { r: toggleRendered, n: writeNote, ...(editable() ? { e: armEdit } : {}) };
  const actions = { ...always, ...(listing ? {} : { u: takeBack }), ...(inHand() && !listing ? comparing : {}) };
  if (actions[key]) return actions[key];
  const within = [find(".status"), ...(inHand() && !listing ? [find(".comparison"), find(".verdicts")] : [])];
  const controls = within.map((part) => part.querySelector(`[data-key="${CSS.escape(key)}"]`));
  const control = controls.find((found) => found && !found.disabled);
  if (control) return () => control.click();
  return VERDICT_KEY.test(key) && !listing ? tellNothing : null;
}

// Whoever judges by keys hears that one has done nothing.
const VERDICT_KEY = /^[\ds=]$/;
function tellNothing() {
  remark(inHand() ? find(".early").textContent || _("This key judges nothing here.") : _("Nothing to judge now."));
}

// --------------------------------------------------------------------------------------------------------- safe copies
// How far the judgements are safe, which changes with time and with what others judge.
async function showSafety() {
  if (!card || signedOut || document.hidden || element.offsetParent === null) return;
  const said = await ask("safety").catch((error) => (error instanceof Problem ? null : Promise.reject(error)));
  const line = find(".safety");
  line.hidden = !said?.text; // what it said is not so any more; the polls say that the server can't be reached
  if (said === null) return;
  line.classList.toggle("bad", said.trouble);
  tellOnce(line, said.text);
}

// --------------------------------------------------------------------------------------------------------------- polls
// While there is nothing to judge, or an answer is being written, the server is asked how things stand. So it is when
// the person comes back from another tab, which may have put another comparison into their hands.
async function poll() {
  away = away || document.hidden || element.offsetParent === null;
  const writing = inHand() && card.answers.some((answer) => answer.state === "writing");
  const due = performance.now() - polledAt > (writing ? WRITING_MS : WAITING_MS);
  const needed = away || (!signedOut && (!inHand() || writing));
  if (!(due || away) || !needed || busy || listing || document.hidden || element.offsetParent === null) return;
  if (card && card.revising) return;
  polledAt = Infinity;
  away = false;
  const before = card;
  try {
    let next = await ask("card", { nonce: card ? card.nonce : "", differences: isMarked() });
    // Only now is it known whose page this is, and how they like to read.
    const rendered = next.me === me ? null : read(`${keysOf(next.me)}rendered`);
    if (rendered !== null) next = await ask("card", { rendered });
    if (card !== before || busy) return; // something was done meanwhile; this is out of date
    if (unheard > 1) say("");
    unheard = 0;
    move(next);
    arrive();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    unheard += 1;
    if (signal.aborted) return;
    if (error.signedOut) complain(surely(_("Nothing more can be shown.")), error);
    else if (unheard > 1) say(`${_("Waiting.")} ${error.message} ${_("It is tried again by itself.")}`, true);
  } finally {
    polledAt = performance.now();
  }
}

// The first comparison is there: now what the address says is.
function arrive() {
  if (arrived) return;
  arrived = true;
  refreshTools();
  goToPlace();
}

// --------------------------------------------------------------------------------------------------------------- start
// If Gradio builds the card anew, the listeners of the old one go.
if (window.prefloopAnnotate) window.prefloopAnnotate.abort();
window.prefloopAnnotate = new AbortController();
const signal = window.prefloopAnnotate.signal;
find(".tools").append(
  button("R", _("Rendered"), toggleRendered, { class: "toggle", "aria-pressed": "false", disabled: true }),
  button("M", _("My judgements"), toggleMine, { class: "toggle", "aria-pressed": "false", disabled: true }),
  button("?", _("Keys"), toggleKeys, { class: "toggle help", "aria-pressed": "false" }),
);
find("#single-keys").addEventListener("change", switchKeys);
find(".ask").append(button("", _("Ask"), askOwn));
find("#own-prompt").addEventListener("input", keepOwnPrompt);
find(".ask").before(make("p", { class: "unanswered", role: "status" }));
find(".guidelines").addEventListener("toggle", onGuidelines);
find(".guidelines").append(moreButton());
find(".guidelines .shown").addEventListener("scroll", (event) => cue(event.target));
sizes.observe(find(".guidelines .shown"));
const layout = new ResizeObserver(() => requestAnimationFrame(shareRoom));
layout.observe(document.body); // what is above this tab pushes it down
window.addEventListener("resize", shareRoom, { signal });
document.addEventListener("keydown", onKey, { signal });
const timers = [setInterval(poll, LOOK_MS), setInterval(showSafety, SAFETY_MS)];
const unfollow = address.follow(goToPlace);
signal.addEventListener("abort", () => {
  timers.forEach(clearInterval);
  unfollow();
  sizes.disconnect();
  layout.disconnect();
});
purgeDrafts();
poll().then(showSafety);
