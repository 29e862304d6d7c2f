// The address of the page, kept together with what is in view: /TAB, a tab within it, and what is looked at there, as in
// /train/dpo, /runs/12 and /data?status=skipped. Stands in the head of the page, before anything is drawn.
//
// `outermost`: the tabs of the page, {component, element, tabs: [{id, label, within}]}. `ends`: addresses that none goes on
// from, such as "data/import". What others use of it, as
// `prefloop.address`: `part`, `tell`, `go`, `follow`, `isHere`; annotation/tabs/place_bar.js is the example. `prefloop.theme`, which
// has to be known before anything is drawn as well, is what the masthead switches.
(function (outermost, ends, language) {
const LANDING = "annotate"; // where "/" leads
const PATIENCE_MS = 15000;

const parts = new Map(); // of each tab, "train/dpo" for one within another, what was looked at last
const views = new Map(); // by address, which part of one names what is in view there
const followers = new Set();
let target = null; // the tabs that are being turned to, while one of them is not laid out yet
let left = null; // what had the focus when it was begun to turn to them
let giveUp = null;
let news = ""; // what the title says besides

// ---------------------------------------------------------------------------------------------------------- addresses
const within = (level, id) => level?.tabs.find((tab) => tab.id === id)?.within ?? null;

// The tabs that an address names, and the rest of it as it stands there: {tabs: ["train", "dpo"], part: "?from=dpo-3"}.
function read({ pathname, search } = location) {
  const rest = pathname.split("/").filter(Boolean);
  const tabs = [];
  for (let level = outermost; level?.tabs.some((tab) => tab.id === rest[0]); level = within(level, tabs.at(-1))) {
    tabs.push(rest.shift());
  }
  if (!tabs.length && !rest.length) tabs.push(LANDING);
  return { tabs, part: rest.map((one) => `/${one}`).join("") + search };
}

// The same tabs with the first one of those within, where none is named.
function whole(tabs) {
  const all = [...tabs];
  let level = all.reduce(within, outermost);
  for (; all.length && level; level = within(level, all.at(-1))) all.push(level.tabs[0].id);
  return all;
}

const same = (some, others) => some.length === others.length && some.every((one, place) => one === others[place]);
const keyOf = (tabs) => tabs.join("/");
const addressOf = (tabs, part) => `/${keyOf(tabs)}${part}`;

function write(address, replace = false) {
  if (address === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  showTitle();
}

// --------------------------------------------------------------------------------------------------------------- tabs
const listOf = (level) => document.getElementById(level.element)?.querySelector("[role=tablist]");

// The tabs that are chosen now, as far as they are laid out.
function chosen() {
  const tabs = [];
  for (let level = outermost; level; level = within(level, tabs.at(-1))) {
    const id = level.element ? listOf(level)?.querySelector("[aria-selected=true]")?.dataset.tabId : LANDING;
    if (id === undefined) break;
    tabs.push(id);
  }
  return tabs;
}

const press = (level, id) => listOf(level)?.querySelector(`[data-tab-id="${CSS.escape(id)}"]`)?.click();

// On a narrow screen the row of tabs scrolls: the chosen one is in view, also where the page is drawn with it.
const showChosen = () => document.querySelectorAll("[role=tab][aria-selected=true]").forEach(scrollTo);

function scrollTo(tab) {
  const row = tab.parentElement;
  row.scrollLeft = tab.offsetLeft - (row.clientWidth - tab.offsetWidth) / 2;
}

// Turn to the tabs of `target`, the outermost first: those within another are laid out once it was turned to.
function turn() {
  if (!target) return;
  const now = chosen();
  const place = target.findIndex((id, index) => id !== now[index]);
  if (place < 0) {
    keepFocus(target);
    rest();
    tellFollowers();
  } else if (place < now.length) press(target.slice(0, place).reduce(within, outermost), target[place]);
}

// Whoever was led here goes on from the tab, where what had the focus is out of view with the tab that was left.
function keepFocus(tabs) {
  const from = left;
  if (!from) return;
  requestAnimationFrame(() => {
    const now = document.activeElement;
    if (now !== from && now !== document.body && now !== null) return; // the focus went on elsewhere
    if (now === from && now.checkVisibility()) return;
    listOf(tabs.slice(0, -1).reduce(within, outermost))?.querySelector("[aria-selected=true]")?.focus();
  });
}

const laidOut = new MutationObserver(turn);

function turnTo(tabs) {
  rest();
  left = document.activeElement === document.body ? null : document.activeElement;
  target = whole(tabs);
  laidOut.observe(document.documentElement, { childList: true, subtree: true });
  giveUp = setTimeout(rest, PATIENCE_MS);
  turn();
}

function rest() {
  target = null;
  laidOut.disconnect();
  clearTimeout(giveUp);
}

// Another tab was chosen, by a person or by the server: so says the address.
function chose() {
  showChosen();
  if (target) return turn();
  const [now, named] = [chosen(), whole(read().tabs)];
  if (now.every((id, place) => id === named[place])) return;
  write(addressOf(now, parts.get(keyOf(now)) ?? ""));
  tellFollowers();
}

// ------------------------------------------------------------------------------------------------- what others ask for
// What is looked at in a tab, as its part of the address: "/12?compare=3". Where another tab is in view, what was.
function part(tabs) {
  const now = read();
  if (same(whole(now.tabs), tabs)) parts.set(keyOf(tabs), now.part);
  return parts.get(keyOf(tabs)) ?? "";
}

// Say what is looked at in a tab now; `replace`: as another word for where the address led, not as a step to go back.
// `shows` names what is in view, where `said` leaves that open.
function tell(tabs, said, { replace = false, shows = said } = {}) {
  const fresh = views.get(addressOf(tabs, said)) !== shows;
  parts.set(keyOf(tabs), said);
  views.set(addressOf(tabs, said), shows);
  const now = read();
  if (!same(whole(now.tabs), tabs) || (now.part === said && !fresh)) return;
  write(addressOf(now.tabs, said), replace);
  tellFollowers();
}

// Lead to an address of this page, as a link does.
function go(address) {
  write(address);
  arrive();
}

// Have `look` called when the address has changed; returns what ends that.
function follow(look) {
  followers.add(look);
  return () => followers.delete(look);
}

// Whether an address is what is looked at now, so that a link to it would lead nowhere.
function isHere(address) {
  const [now, other] = [read(), read(new URL(address, location.href))];
  const tabs = whole(now.tabs);
  return same(tabs, whole(other.tabs)) && [now.part, views.get(addressOf(tabs, now.part))].includes(other.part);
}

function tellFollowers() {
  showTitle();
  showChosen();
  for (const look of followers) look();
}

function arrive() {
  const { tabs } = read();
  if (same(whole(tabs), chosen())) {
    rest();
    tellFollowers();
  } else turnTo(tabs);
}

// -------------------------------------------------------------------------------------------------------------- title
function nameOf(tabs) {
  let [level, name] = [outermost, ""];
  for (const id of tabs) {
    name = level.tabs.find((tab) => tab.id === id)?.label ?? name;
    level = within(level, id);
  }
  return name;
}

function showTitle(said = news) {
  news = said;
  const { tabs, part } = read();
  const numbered = part.match(/^\/([\w.-]*\d[\w.-]*)/)?.[1]; // a run, a policy, a comparison: so a history tells them apart
  const title = [...(news ? [news] : [numbered, nameOf(tabs)]), "Prefloop"].filter(Boolean).join(" · ");
  if (document.title !== title) document.title = title;
}

// Whoever has chosen another language meanwhile, here or elsewhere, gets the page in that one.
function hear(answer) {
  const spoken = answer.headers.get("Content-Language");
  if (spoken && spoken !== language) location.reload();
}

// -------------------------------------------------------------------------------------------------------------- theme
// Light or dark, as a person has chosen in this browser, or as the system has it, which Gradio asks the browser for.
const THEMES = ["", "light", "dark"];
const KEPT_THEME = "prefloop.theme";
const asks = window.matchMedia.bind(window);
const system = asks("(prefers-color-scheme: dark)");

function theme() {
  try {
    return THEMES.find((one) => one === localStorage.getItem(KEPT_THEME)) ?? "";
  } catch {
    return ""; // no storage
  }
}

const isDark = () => (theme() ? theme() === "dark" : system.matches);
window.matchMedia = (query) => {
  const found = asks(query);
  return found.media === system.media ? Object.defineProperty(found, "matches", { get: isDark }) : found;
};

// Turn to the next one, and say which that is.
function nextTheme() {
  try {
    localStorage.setItem(KEPT_THEME, THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  } catch { /* no storage */ }
  document.body.classList.toggle("dark", isDark());
  return theme();
}

// -------------------------------------------------------------------------------------------------------------- start
// Links to the page's own addresses lead there without loading it anew.
function onLink(event) {
  const link = event.target.closest?.("a[href]");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
  if (link.origin !== location.origin || !read(link).tabs.length || link.pathname === "/") return;
  if (ends.some((end) => link.pathname.startsWith(`/${end}/`) && link.pathname !== `/${end}/`)) return; // the server says so
  event.preventDefault();
  go(link.pathname + link.search);
  if (link.hash) document.getElementById(link.hash.slice(1))?.scrollIntoView();
}

// The page is drawn with the tab that its address names, and none before it.
function choose(components) {
  let level = outermost;
  for (const id of whole(read().tabs)) {
    const drawn = components.find((one) => one.id === level.component);
    if (drawn) drawn.props.selected = id;
    level = within(level, id);
  }
}

// Gradio 6.31 counts the seconds that its page loads, and goes on to count when it is loaded, at each frame, for ever: a
// tenth of a processor for a number that nobody sees.
const COUNTING = /performance\.now\(\)-\w+\(\w+\)\)\/1e3/;
const atNextFrame = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (act) => (COUNTING.test(act) ? 0 : atNextFrame(act));

// Gradio 6.31 looks through all events for each part of the page, and Svelte watches every look: most of what a page costs
// to load. Svelte leaves alone what has a class of its own, and nobody changes events.
class Events extends Array {}
Object.setPrototypeOf(window.gradio_config.dependencies, Events.prototype);

choose(window.gradio_config.components);
window.prefloop = { ...window.prefloop, address: { part, tell, go, follow, isHere, hear, title: showTitle }, theme: { theme, nextTheme } };
new MutationObserver(chose).observe(document.documentElement, { attributeFilter: ["aria-selected"], subtree: true });
// Gradio writes the title once, when it has drawn the page.
new MutationObserver(() => showTitle()).observe(document.head, { childList: true, subtree: true, characterData: true });
addEventListener("popstate", arrive);
document.addEventListener("click", onLink);
const pressed = (event) => event.isTrusted && rest(); // whoever does something does not want to be led elsewhere
for (const press of ["pointerdown", "keydown"]) document.addEventListener(press, pressed, true);
if (location.pathname === "/") write(`/${LANDING}${location.search}`, true);
arrive();
})
