// The Annotate tab: asks the server for comparisons, shows them, and sends what the annotator did with them.
// Gradio calls this once with `element`. What strangers wrote goes into text nodes; as HTML only what the server's
// `markdown.to_html` in annotation/ui made of it (the `html` of a text).

// A comparison that has only just appeared can't have been read: a press meant for the one before must not count.
const UNREAD_MS = 300;
const DEBOUNCE_MS = 250;
const TOO_SOON = "Pressed too soon: not counted. Press again.";
const WAITING_MS = 2000;
const WRITING_MS = 400;
const PATIENCE_MS = 15000;
const SAFETY_MS = 10000;
const KEPT_DRAFTS_MS = 7 * 24 * 3600 * 1000;
const TYPING = "input, textarea, select, [contenteditable], [role=listbox], [role=dialog]";
const STORE = "prefloop.";

const STRENGTHS = ["tie", "slightly", "clearly", "much"];
const ROLES = { user: "User", assistant: "Assistant", system: "Instructions" };
const QUESTIONS = {
  pair: "Which answer is better, and by how much?",
  best: "Which answer is the best?",
  rank: "Rank the answers, best first.",
};
const STATES = { writing: "Still being written …", failed: "Could not be written to its end.", done: "" };
const FLAGS = [["H", "harmful", "Harmful"], ["P", "personal-data", "Personal data"], ["B", "broken", "Broken"]];

const find = (selector) => element.querySelector(selector);
const judging = find(".judging");

// ------------------------------------------------------------------------------------------------------------- state
let card = null; // what the server sent last
let me = ""; // who is signed in, as the server said last: people who share a browser share nothing that is kept in it
let draft = newDraft(); // what the annotator has done with it so far
let listing = false; // whether the own judgements are on the screen instead
let armed = false; // whether the next digit chooses the answer to edit
let busy = false; // whether a request that changes something is under way
let shownAt = 0;
let pressedAt = -Infinity;
let polledAt = -Infinity;
let away = false; // whether the page has been out of sight since it was last asked for
let signedOut = false; // whether the server has said so: then nothing is asked until the person does something
let unheard = 0; // polls in a row without an answer
let guidelines = 0; // the version in the panel
let judged = null; // the latest judgement's id and the draft that went with it, for Undo

function newDraft() {
  return { tags: [], note: "", flag: null, edits: {}, editing: null, groups: [], tie: false };
}

// ------------------------------------------------------------------------------------------------- kept in the browser
// Storage can be forbidden; then nothing is kept, and everything else works.
function keep(name, value) {
  if (me) write(keysOf(me) + name, value);
}

const kept = (name) => (me ? read(keysOf(me) + name) : null);
const keysOf = (name) => `${STORE}${encodeURIComponent(name)}/`; // the encoding leaves no "/" in the name

function write(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, JSON.stringify(value));
  } catch { /* no storage */ }
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function storedKeys() {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(STORE));
  } catch {
    return [];
  }
}

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
  me = name;
  judged = null;
  guidelines = 0; // so that it is looked up whether this person has read them
}

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

const UNHEARD = { TimeoutError: "the server does not answer.", SyntaxError: "the server's answer can't be read." };

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
    throw new Problem(UNHEARD[error.name] || "the server can't be reached.", { again: true });
  }
  signedOut = answer.status === 401;
  if (signedOut) throw new Problem("you are not signed in any more.", { signedOut });
  if (!answer.ok) throw new Problem(said.error || `the server failed (${answer.status}).`, { again: !said.error });
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
async function act(name, body, failed = "Not saved: ") {
  if (busy) return null;
  busy = true;
  judging.setAttribute("aria-busy", "true");
  try {
    const said = await attempt(name, body, failed);
    if (said === null) pressedAt = -Infinity; // the page says "Press again."
    return said;
  } finally {
    busy = false;
    judging.removeAttribute("aria-busy");
    polledAt = performance.now();
  }
}

function say(text, bad = false) {
  find(".status").textContent = text;
  find(".status").classList.toggle("bad", bad);
}

// A press that does not count is not passed over in silence; what the page says stays.
function tellTooSoon() {
  const status = find(".status");
  if (!status.textContent.endsWith(TOO_SOON)) status.append(` ${TOO_SOON}`);
}

function complain(failed, error) {
  // Where no answer came, the request may have been obeyed all the same; pressed again, it is obeyed once.
  const sure = error.again ? failed.replace(/^Not (?=saved|undone|asked)/, "Perhaps not ") : failed;
  say(`${sure}${error.message}${error.again ? " Press again." : " "}`, true);
  if (error.signedOut) find(".status").append(make("a", { href: "login" }, "Sign in again"), "; your draft is kept.");
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
  const html = isRendered() && text.html !== undefined;
  const shown = html ? text.html : (text.visible ?? text.text);
  if (box.shown === shown && box.classList.contains("rendered") === html) return;
  box.shown = shown;
  box.classList.toggle("rendered", html);
  if (html) box.innerHTML = shown;
  else box.textContent = shown;
  letScroll(box);
}

// What scrolls must be reachable by keyboard; what does not needs no stop.
function letScroll(box) {
  if (box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

const sizes = new ResizeObserver((entries) => entries.forEach((entry) => letScroll(entry.target)));

function textBox(label) {
  const box = make("div", { class: "shown", dir: "auto", role: "group", "aria-label": label });
  sizes.observe(box);
  return box;
}

// -------------------------------------------------------------------------------------------------------- what it says
const size = () => card.answers.length;
const inHand = () => Boolean(card && card.answers);
const answerName = (place) => (card.kind === "pair" ? ["Left", "Right"][place] : `Answer ${place + 1}`);

function inWords({ outcome, kind, ranks, strength, size: count }) {
  if (outcome === "skip") return "Skipped";
  if (outcome === "all-bad") return count === 2 ? "Both bad" : "All bad";
  if (new Set(ranks).size === 1) return count === 2 ? "Tie" : "All equally good";
  if (kind === "pair") return `${ranks[0] < ranks[1] ? "Left" : "Right"} ${STRENGTHS[strength]} better`;
  const groups = [];
  ranks.forEach((rank, place) => (groups[rank] ||= []).push(place + 1));
  const inOrder = groups.filter(Boolean).map((group) => group.join(" = "));
  return kind === "best" ? `Answer ${inOrder[0]} is best` : inOrder.join(" > ");
}

const flagName = (flag) => FLAGS.find(([, known]) => known === flag)[2];

// The verdict of a judgement within a sentence, and what goes along with it.
function inFull(done) {
  const words = inWords(done);
  const marks = [...done.tags, done.flag && flagName(done.flag), done.note && "note", done.edit && "edited"];
  const along = marks.filter(Boolean).join(", ");
  return `${words[0].toLowerCase()}${words.slice(1)}${along && ` (${along})`}`;
}

// Why what was shown has given way to another comparison, if there is a reason to tell.
const whyMoved = (next) => [next.judged ? `Judged already: ${inFull(next.judged)}.` : "", next.notice].join(" ").trim();

// What became of a judgement, as the server read it from the row that stands; if that is another one, the offer to
// change it to what was `done` here, with the answers in the places in which `nonce` showed them.
function tell(next, done, changed, nonce) {
  if (next.saved) say(`${changed ? "Changed" : "Saved"}: ${inFull(next.judged)}. ${next.notice}`.trim());
  else if (!next.judged) say(next.notice, true);
  else {
    say(`${next.notice} It says: ${inFull(next.judged)}. `, true);
    const offered = change(next.judged, done, nonce);
    find(".status").append(button("Enter", offerOf(next.judged, done), offered, { class: "offer" }));
  }
}

function offerOf(stands, done) {
  const words = inWords({ ...stands, ...done });
  if (words !== inWords(stands)) return `Change it to: ${words[0].toLowerCase()}${words.slice(1)}`;
  const parts = { tags: "reasons", note: "note", flag: "flag", edit: "edit" };
  const plain = (value) => JSON.stringify(Array.isArray(value) ? [...value].sort() : value ?? null);
  const other = Object.keys(parts).filter((key) => plain(stands[key]) !== plain(done[key]));
  return `Change its ${other.map((key) => parts[key]).join(", ")}`;
}

function change(stands, done, nonce) {
  const offeredAt = performance.now();
  return async () => {
    if (performance.now() - offeredAt < UNREAD_MS) {
      tellTooSoon();
      return;
    }
    const next = await act("revise", { id: stands.id, act: done, nonce });
    if (next === null) return;
    if (next.saved) showSafety();
    show(next);
    tell(next, done, true, nonce);
  };
}

// ------------------------------------------------------------------------------------------------------------- showing
const identity = (of) => (of && of.answers ? (of.revising ? `change-${of.revising.id}` : of.nonce) : "");

function show(next) {
  meet(next.me);
  const same = card !== null && identity(next) === identity(card);
  card = next;
  if (!same) {
    shownAt = performance.now();
    armed = false;
    if (inHand()) lay();
  }
  if (inHand()) refill();
  refresh();
  if (!same && inHand()) toStart();
  loadGuidelines();
}

// Show what the server has for this page now; if that is something else, say why. A judged comparison needs no draft.
function move(next) {
  const other = identity(next) !== identity(card || {});
  if (next.judged) keep(draftName(card), null);
  show(next);
  if (other || next.notice) say(whyMoved(next));
}

// A new comparison is read from its top, a conversation from its latest turn.
function toStart() {
  find(".conversation").scrollTop = find(".conversation").scrollHeight;
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
    const name = last ? "Prompt" : ROLES[message.role] || message.role;
    return make("section", { class: `turn ${message.role}`, "aria-label": name }, make("h2", {}, name), textBox(name));
  });
  const conversation = make("div", { class: "conversation", role: "group", "aria-label": "Conversation" }, turns);
  sizes.observe(conversation);
  const boxes = card.answers.map((_, place) => answerBox(place));
  const answers = make("div", { class: "answers", "data-size": size(), "data-many": size() > 3 }, boxes);
  const question = make("p", { class: "question" }, QUESTIONS[card.kind]);
  find(".comparison").replaceChildren(conversation, question, answers, extras());
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
    make("p", {}, "You are changing an earlier judgement: ", make("strong", {}, was), "."),
    button("Escape", "Leave it as it is", leave),
  ];
}

function answerBox(place) {
  const number = String(place + 1);
  const name = answerName(place);
  const title = make("h2", { id: `answer-${place}` }, name);
  const head = [title];
  const best = { class: "choose verdict", "aria-label": `${name} is the best` };
  const rank = make("span", { class: "rank" });
  if (card.kind === "best") head.push(button(number, "Best", verdict(pick(place)), best));
  if (card.kind === "rank") head.push(button(number, rank, toggleRank(place), { class: "choose" }));
  return make(
    "section", { class: "answer", "aria-labelledby": `answer-${place}`, "data-place": place },
    make("header", {}, head),
    textBox(`${name}, text`),
    make("p", { class: "state" }),
    make("div", { class: "editor", hidden: true }),
    make("div", { class: "foot" }, editButton(place)),
  );
}

// Put texts and states into the comparison as it stands, leaving alone what has not changed.
function refill() {
  find(".conversation").querySelectorAll(".shown").forEach((box, number) => fill(box, card.messages[number]));
  element.querySelectorAll(".answer").forEach((box, place) => {
    const answer = card.answers[place];
    fill(box.querySelector(".shown"), answer);
    box.dataset.state = answer.state;
    const state = STATES[answer.state];
    if (box.querySelector(".state").textContent !== state) box.querySelector(".state").textContent = state;
  });
}

// Bring everything that depends on the state up to date.
function refresh() {
  const state = listing ? "listing" : inHand() ? "comparing" : "waiting";
  judging.dataset.state = state;
  find(".mine").hidden = !listing;
  find(".revising").hidden = listing || !card.revising;
  const { today, yours, everyone } = card.progress;
  find(".progress").textContent = `today ${today} · yours ${yours} · all ${everyone}`;
  find(".waiting").textContent = waitingText();
  if (find(".unanswered").textContent !== card.unanswered) find(".unanswered").textContent = card.unanswered;
  find(".ask").hidden = !card.own_prompts || listing;
  setPressed(find(".tools [data-key=r]"), isRendered());
  setPressed(find(".tools [data-key=m]"), listing);
  if (inHand()) refreshComparison();
  else find(".verdicts").replaceChildren(...(yours ? [row("others", "Other", [button("U", "Undo", takeBack)])] : []));
}

function waitingText() {
  if (card.trouble) return card.asked ? `${card.trouble} Your prompt is kept till then.` : card.trouble;
  if (card.asked) return "Your prompt is being answered. The answers appear here by themselves.";
  return "The model is writing the next answers. They appear here by themselves.";
}

function refreshComparison() {
  const states = card.answers.map((answer) => answer.state);
  const failed = states.includes("failed");
  for (const control of element.querySelectorAll(".verdict, .choose, .edit")) {
    control.disabled = failed && control.dataset.key !== "s";
  }
  find(".early").textContent = failed
    ? "An answer could not be written to its end, so this comparison can only be skipped."
    : states.includes("writing") ? "Answers are still being written: a judgement now is recorded as early." : "";
  for (const tag of element.querySelectorAll(".tag")) setPressed(tag, draft.tags.includes(tag.dataset.label));
  for (const flag of element.querySelectorAll(".flag")) setPressed(flag, draft.flag === flag.dataset.flag);
  element.querySelectorAll(".answer").forEach(refreshAnswer);
  const undo = find(".verdicts [data-key=u]");
  if (undo) undo.disabled = Boolean(card.revising);
  if (card.kind === "rank") refreshRanks();
}

function setPressed(control, pressed) {
  control.setAttribute("aria-pressed", pressed);
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
    return button(tag.key.toUpperCase(), tag.label, () => toggleTag(tag.label), named);
  });
  const flags = FLAGS.map(([key, flag, label]) => {
    const named = { class: "flag", "data-flag": flag, "aria-pressed": "false" };
    return button(key, label, () => toggleFlag(flag), named);
  });
  const field = { id: "judgement-note", rows: 1, maxlength: 4000, "aria-keyshortcuts": "N", input: onNote };
  const note = make("textarea", field);
  note.value = draft.note;
  const key = make("kbd", { "aria-hidden": "true" }, "N");
  const label = make("label", { class: "label", for: "judgement-note" }, "Note ", key);
  return make("div", { class: "extras" },
    tags.length ? group("Reasons", tags) : [],
    group("Flag", flags),
    make("div", { class: "note" }, label, note),
    make("p", { class: "early" }));
}

function group(name, controls) {
  const label = make("span", { class: "label", "aria-hidden": "true" }, name);
  return make("div", { role: "group", "aria-label": name }, label, controls);
}

function onNote(event) {
  draft.note = event.target.value;
  saveDraft();
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
  const name = answerName(place);
  const field = make("textarea", { id: "answer-edit", rows: 8, maxlength: 20000, dir: "auto", input: onEdit });
  field.value = draft.edits[place];
  return [make("label", { for: "answer-edit" }, `${name}, as it should be. Judge this answer best.`), field,
    button("", "Drop the edit", dropEdit, { class: "quiet" })];
}

function edit(place) {
  armed = false;
  draft.edits[place] ??= card.answers[place].text;
  draft.editing = place;
  say("");
  changed();
  find("#answer-edit").focus();
}

function onEdit(event) {
  draft.edits[draft.editing] = event.target.value;
  saveDraft();
}

function dropEdit() {
  delete draft.edits[draft.editing];
  draft.editing = null;
  changed();
}

function editButton(place) {
  const marks = [make("kbd", {}, "E"), make("kbd", {}, String(place + 1))];
  const name = `Edit ${answerName(place).toLowerCase()}`;
  const named = { class: "quiet edit", "aria-label": name, "aria-keyshortcuts": "E" };
  return button("", [make("span", { "aria-hidden": "true" }, marks), "Edit"], () => edit(place), named);
}

function armEdit() {
  armed = true;
  const numbers = card.kind === "pair" ? "1 is the left one, 2 the right one." : `Press its number, 1 to ${size()}.`;
  say(`Edit which answer? ${numbers}`);
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
  const bad = button("0", size() === 2 ? "Both bad" : "All bad", verdict(() => ({ outcome: "all-bad" })), common);
  const skip = button("S", "Skip", verdict(() => ({ outcome: "skip" })), common);
  const others = [bad, skip, button("U", "Undo", takeBack)];
  if (card.kind === "pair") return [row("scale", "Verdict", pairVerdicts()), row("others", "Other", others)];
  const equal = button("=", size() === 2 ? "Equally good" : "All equally good", verdict(allEqual), common);
  if (card.kind === "best") return [row("others", "Verdict", [equal, ...others])];
  return [row("ranking", "Ranking", [
    button("Enter", "Submit", verdict(ranking), { class: "verdict submit" }),
    button("=", "Tie with the one before", tieNext, { class: "tie", "aria-pressed": "false" }),
    button("Backspace", "Take the last back", takeOutLast),
  ]), row("others", "Other", others)];
}

const row = (kind, name, controls) => make("div", { class: kind, role: "group", "aria-label": name }, controls);

function pairVerdicts() {
  const degrees = [["Left", 3], ["Left", 2], ["Left", 1], ["", 0], ["Right", 1], ["Right", 2], ["Right", 3]];
  return degrees.map(([side, strength], number) => {
    const ranks = { Left: [1, 2], Right: [2, 1], "": [1, 1] }[side];
    const label = side ? [make("span", { class: "side" }, `${side} `), STRENGTHS[strength]] : "Tie";
    return button(String(number + 1), label, verdict(() => ranked(ranks, strength)), { class: "verdict" });
  });
}

// The handler of a control that judges; `decide` gives the verdict, or null after saying what is missing.
function verdict(decide) {
  return (event) => {
    const time = performance.now();
    if (!inHand() || listing || busy) return;
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
  const mended = decided.outcome === "skip" ? null : edited();
  if (mended && (decided.outcome !== "ranked" || decided.ranks[mended.place] !== 1)) {
    say(`You edited ${answerName(mended.place).toLowerCase()}: judge it the best, or drop the edit.`, true);
    return;
  }
  const of = card;
  const { tags, flag } = draft;
  const done = { ...decided, tags, note: draft.note.trim(), flag, edit: mended };
  say("Saving …");
  const next = of.revising
    ? await act("revise", { id: of.revising.id, act: done })
    : await act("judge", { nonce: of.nonce, act: done });
  if (next === null) return;
  if (next.judged) keep(draftName(of), null);
  if (next.saved) {
    judged = { id: next.judged.id, draft: withTexts() };
    showSafety();
  }
  show(next);
  tell(next, done, Boolean(of.revising), of.nonce);
}

async function takeBack() {
  const time = performance.now();
  if (busy || listing || card.revising) return;
  if (time - pressedAt < DEBOUNCE_MS) {
    tellTooSoon();
    return;
  }
  pressedAt = time;
  say("Undoing …");
  const next = await act("undo", { nonce: card.nonce }, "Not undone: ");
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

function ordinal(number) {
  return `${number}${["th", "st", "nd", "rd"][number % 10 > 3 || Math.floor(number / 10) === 1 ? 0 : number % 10]}`;
}

function toggleRank(place) {
  return (event) => {
    if (!inHand() || listing) return;
    if (event.detail) event.currentTarget.blur(); // so that Enter submits after a tap instead of tapping again
    if (placed().includes(place)) takeOut(place);
    else put(place);
  };
}

function put(place) {
  if (draft.tie && draft.groups.length) draft.groups.at(-1).push(place);
  else draft.groups.push([place]);
  const tied = draft.groups.at(-1).length > 1;
  draft.tie = false;
  changed();
  const rank = `${ordinal(draft.groups.length)}${tied ? ", tied" : ""}`;
  say(`${answerName(place)}: ${rank}.${size() - placed().length > 1 ? "" : " Enter submits."}`);
}

function takeOut(place) {
  draft.groups = draft.groups.map((group) => group.filter((other) => other !== place)).filter((group) => group.length);
  draft.tie = false;
  changed();
  say(`${answerName(place)}: not ranked.`);
}

function takeOutLast() {
  if (draft.tie) tieNext();
  else if (draft.groups.length) takeOut(draft.groups.at(-1).at(-1));
}

function tieNext() {
  if (!draft.groups.length) {
    say("Rank an answer first; then “=” ties the next one with it.");
    return;
  }
  draft.tie = !draft.tie;
  changed();
  say(draft.tie ? `The next answer is tied with ${answerName(draft.groups.at(-1).at(-1)).toLowerCase()}.` : "");
}

function refreshRanks() {
  element.querySelectorAll(".answer").forEach((box, place) => {
    const group = draft.groups.findIndex((members) => members.includes(place));
    const tied = group >= 0 && draft.groups[group].length > 1;
    const words = group < 0 ? "not ranked" : `${ordinal(group + 1)}${tied ? ", tied" : ""}`;
    const control = box.querySelector(".choose");
    setPressed(control, group >= 0);
    control.setAttribute("aria-label", `${answerName(place)}: ${words}`);
    control.querySelector(".rank").textContent = group < 0 ? "Rank" : words;
    box.classList.toggle("ranked", group >= 0);
  });
  setPressed(find(".tie"), draft.tie);
  find(".tie").disabled = !draft.groups.length;
  find(".submit").classList.toggle("ready", size() - placed().length <= 1);
}

// The ranking as it would be sent: the only answer left is ranked last.
function ranking() {
  const left = card.answers.map((_, place) => place).filter((place) => !placed().includes(place));
  if (left.length > 1) {
    say(`${left.length} answers are not ranked yet: ${left.map((place) => place + 1).join(", ")}.`, true);
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
    return;
  }
  const said = await attempt("latest", {}, "Your judgements can't be shown: ");
  if (said === null) return;
  find(".mine ol").replaceChildren(...said.judgements.map(listed));
  if (!said.judgements.length) find(".mine ol").append(make("li", {}, "You have not judged anything yet."));
  listing = true;
  say("");
  refresh();
  find("#mine-title").focus();
}

function listed(row) {
  const when = new Date(row.created);
  const words = inWords(row);
  const time = when.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const flag = row.flag && flagName(row.flag);
  const marks = [...row.tags, flag, row.edited && "edited", row.changed && "changed"].filter(Boolean);
  return make("li", {},
    make("p", { class: "prompt", dir: "auto" }, row.prompt),
    make("p", { class: "done" }, make("strong", {}, words), " ", make("time", { datetime: row.created }, time)),
    marks.length ? make("p", { class: "marks" }, marks.map((mark) => make("span", {}, mark))) : [],
    row.note ? make("p", { class: "note", dir: "auto" }, row.note) : [],
    button("", "Change", () => reopen(row.id), { "aria-label": `Change: ${words}` }));
}

async function reopen(id) {
  const next = await act("reopen", { id }, "Not opened: ");
  if (next === null) return;
  listing = false;
  show(next);
  say("");
}

// From changing an earlier judgement back to the comparison in hand.
async function leave() {
  const next = await act("card", {}, "Not left: ");
  if (next === null) return;
  keep(draftName(card), null);
  show(next);
  say("The earlier judgement stays as it was.");
}

// ------------------------------------------------------------------------------------ guidelines, own prompts, reading
async function loadGuidelines() {
  const panel = find(".guidelines");
  panel.hidden = !card.guidelines_version;
  if (!card.guidelines_version || card.guidelines_version === guidelines) return;
  guidelines = card.guidelines_version;
  const said = await ask("guidelines").catch((error) => (error instanceof Problem ? null : Promise.reject(error)));
  if (said === null) {
    guidelines = 0;
    return;
  }
  find(".guidelines .shown").innerHTML = said.html;
  const seen = kept("guidelines");
  panel.dataset.version = said.version;
  find(".news").textContent = seen === null || seen === said.version ? "" : "changed since you last read them";
  if (seen === null) panel.open = true;
}

function onGuidelines() {
  if (!find(".guidelines").open) find(".news").textContent = "";
  keep("guidelines", Number(find(".guidelines").dataset.version));
}

function toggleGuidelines() {
  const panel = find(".guidelines");
  if (panel.hidden) return;
  panel.open = !panel.open;
  if (panel.open) panel.scrollIntoView({ block: "nearest" });
}

async function toggleRendered() {
  keep("rendered", !isRendered());
  const { revising, nonce } = card;
  const next = await (revising ? act("reopen", { id: revising.id }, "") : act("card", { nonce }, ""));
  if (next === null) return;
  move(next);
  if (!whyMoved(next)) say(isRendered() ? "Answers are shown rendered." : "Answers are shown literally.");
}

async function askOwn() {
  const field = find("#own-prompt");
  if (!field.value.trim()) {
    say("Write a prompt first.", true);
    return;
  }
  const next = await act("ask", { prompt: field.value }, "Not asked: ");
  if (next === null) return;
  field.value = "";
  find(".ask").open = false;
  const revising = card.revising ? card : null;
  show(revising ? { ...revising, asked: next.asked } : next);
  say(next.notice);
}

// ---------------------------------------------------------------------------------------------------------------- keys
function onKey(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!card || element.offsetParent === null) return;
  if (event.target.closest && event.target.closest(TYPING)) {
    if (event.key === "Escape" && element.contains(event.target)) event.target.blur();
    return;
  }
  if (event.key === "Escape") onEscape();
  if (event.key.length > 1 && event.key !== "Enter" && event.key !== "Backspace") return;
  const onControl = event.target.closest && event.target.closest("a, button, summary, [role=tab]");
  if (event.key === "Enter" && onControl) return; // it presses that control
  if (obey(event.key.toLowerCase())) event.preventDefault();
}

function onEscape() {
  if (armed) {
    armed = false;
    say("");
  } else if (listing) toggleMine();
  else if (card.revising) leave();
}

// Do what a key stands for; says whether it stands for anything now.
function obey(key) {
  const place = Number(key) - 1;
  const editing = armed && place >= 0 && place < size();
  armed = false;
  const action = editing ? () => edit(place) : actionOf(key);
  if (action) action();
  return Boolean(action);
}

function actionOf(key) {
  const always = { m: toggleMine, g: toggleGuidelines };
  const reading = { r: toggleRendered, u: takeBack };
  const comparing = { e: armEdit, n: () => find("#judgement-note").focus() };
  const actions = { ...always, ...(listing ? {} : reading), ...(inHand() && !listing ? comparing : {}) };
  if (actions[key]) return actions[key];
  const within = [find(".status"), ...(inHand() && !listing ? [find(".comparison"), find(".verdicts")] : [])];
  const controls = within.map((part) => part.querySelector(`[data-key="${CSS.escape(key)}"]`));
  const control = controls.find((found) => found && !found.disabled);
  return control ? () => control.click() : null;
}

// --------------------------------------------------------------------------------------------------------- safe copies
// How far the judgements are safe, which changes with time and with what others judge.
async function showSafety() {
  if (!card || signedOut || document.hidden || element.offsetParent === null) return;
  const said = await ask("safety").catch((error) => (error instanceof Problem ? null : Promise.reject(error)));
  if (said === null) return; // the polls say that the server can't be reached
  const line = find(".safety");
  line.hidden = !said.text;
  line.classList.toggle("bad", said.trouble);
  if (line.textContent !== said.text) line.textContent = said.text;
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
    let next = await ask("card", { nonce: card ? card.nonce : "" });
    // Only now is it known whose page this is, and how they like to read.
    const rendered = next.me === me ? null : read(`${keysOf(next.me)}rendered`);
    if (rendered !== null) next = await ask("card", { rendered });
    if (card !== before || busy) return; // something was done meanwhile; this is out of date
    if (unheard > 1) say("");
    unheard = 0;
    move(next);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    unheard += 1;
    if (signal.aborted) return;
    if (error.signedOut) complain("Nothing more can be shown: ", error);
    else if (unheard > 1) say(`Waiting: ${error.message} It is tried again by itself.`, true);
  } finally {
    polledAt = performance.now();
  }
}

// --------------------------------------------------------------------------------------------------------------- start
// If Gradio builds the card anew, the listeners of the old one go.
if (window.prefloopAnnotate) window.prefloopAnnotate.abort();
window.prefloopAnnotate = new AbortController();
const signal = window.prefloopAnnotate.signal;
find(".tools").append(
  button("R", "Rendered", toggleRendered, { class: "toggle", "aria-pressed": "false" }),
  button("M", "My judgements", toggleMine, { class: "toggle", "aria-pressed": "false" }),
);
find(".ask").append(button("", "Ask", askOwn));
find(".ask").before(make("p", { class: "unanswered", role: "status" }));
find(".guidelines").addEventListener("toggle", onGuidelines);
document.addEventListener("keydown", onKey, { signal });
const timers = [setInterval(poll, 100), setInterval(showSafety, SAFETY_MS)];
signal.addEventListener("abort", () => {
  timers.forEach(clearInterval);
  sizes.disconnect();
});
purgeDrafts();
poll().then(showSafety);
