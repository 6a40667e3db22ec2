// The dashboard without its convenience is complete: everything here only spares a click, a reload or a look at a clock.

const live = document.querySelector("[data-live]");
const state = document.querySelector("[data-live-state]");
const pause = document.querySelector("[data-live-pause]");

// Times stay right while a page is open.

function ago(milliseconds) {
  const seconds = Math.abs(milliseconds) / 1000;
  if (seconds < 1) return "just now";
  const [size, unit] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : seconds < 86400 ? [3600, "h"] : [86400, "days"];
  const count = Math.round(seconds / size);
  const text = `${count} ${unit === "days" && count === 1 ? "day" : unit}`;
  return milliseconds > 0 ? `${text} ago` : `in ${text}`;
}

function tick() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const text = ago(Date.now() - Date.parse(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}
setInterval(tick, 5000);

// Copying, questions before actions, check boxes.

function prepare(root) {
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
  for (const element of root.querySelectorAll("[data-with-script]")) element.hidden = false;
  count();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = button.parentElement.querySelector("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

document.addEventListener("change", (event) => {
  const all = event.target.closest("[data-check-all]");
  if (all) for (const box of document.querySelectorAll(`input[name="${all.dataset.checkAll}"]`)) box.checked = all.checked;
  if (event.target.matches('input[type="checkbox"]')) count();
});

function count() {
  for (const element of document.querySelectorAll("[data-checked]")) {
    const boxes = [...document.querySelectorAll(`input[name="${element.dataset.checked}"]`)];
    const number = boxes.filter((box) => box.checked).length;
    element.dataset.none ??= element.textContent;
    element.textContent = number ? `${number} chosen` : element.dataset.none;
    for (const all of document.querySelectorAll(`[data-check-all="${element.dataset.checked}"]`)) {
      all.checked = number > 0 && number === boxes.length;
      all.indeterminate = number > 0 && number < boxes.length;
    }
  }
}

// With Shift held, all boxes between the last one and this one follow it.
let lastBox = null;
document.addEventListener("click", (event) => {
  const box = event.target.closest('[data-row] input[type="checkbox"]');
  if (!box) return;
  const boxes = [...document.querySelectorAll(`input[name="${box.name}"]`)];
  const ends = [boxes.findIndex((each) => each.value === lastBox), boxes.indexOf(box)].sort((a, b) => a - b);
  if (event.shiftKey && ends[0] >= 0) for (const each of boxes.slice(ends[0], ends[1])) each.checked = box.checked;
  lastBox = box.value;
});

// What a filter leaves empty need not stand in the address.
document.addEventListener("formdata", (event) => {
  if (event.target.method !== "get") return;
  for (const [name, value] of [...event.formData]) {
    if (value !== "") continue;
    const kept = event.formData.getAll(name).filter((each) => each !== "");
    event.formData.delete(name);
    for (const each of kept) event.formData.append(name, each);
  }
});

// Keys: / searches, j and k go through a list, Enter opens, x chooses, p pauses.

let current = "";
const rows = () => [...document.querySelectorAll("[data-row]")];
const place = () => rows().findIndex((row) => row.id === current);

function select(index) {
  const all = rows();
  if (!all.length) return;
  const row = all[Math.max(0, Math.min(index, all.length - 1))];
  current = row.id;
  all.forEach((each) => each.classList.toggle("selected", each === row));
  row.querySelector("a")?.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches('input:not([type="checkbox"]), select, textarea')) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const box = () => rows()[place()]?.querySelector('input[type="checkbox"]');
  const keys = {
    "/": () => document.getElementById("search")?.focus(),
    j: () => select(place() + 1),
    k: () => select(place() - 1),
    x: () => box()?.click(),
    p: () => pause && !pause.hidden && pause.click(),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

// Live: an event of a kind that the page shows has it look again, and put in what changed.

const PAUSED = "framehook-paused";
let source = null;
let missed = 0;
let planned = null;
let lookedAt = 0;

function say(text, kind) {
  if (!state) return;
  state.hidden = false;
  state.textContent = text;
  state.className = `live-state ${kind}`;
}

const paused = () => sessionStorage.getItem(PAUSED) === "1";

function show() {
  if (!live) return;
  pause.hidden = false;
  pause.textContent = paused() ? "Go on live" : "Pause live";
  pause.setAttribute("aria-pressed", String(paused()));
  if (paused()) say(missed ? `Paused, ${missed} missed` : "Paused", "is-paused");
  else if (source?.readyState === EventSource.OPEN) say("Live", "");
}

function heard() {
  if (paused()) {
    missed += 1;
    show();
  } else plan(150);
}

// At most one look in a second and a half, and one at a time, however many events come.
let looking = false;
function plan(delay) {
  if (planned !== null) return;
  const wait = Math.max(delay, lookedAt + 1500 - Date.now());
  planned = setTimeout(async () => {
    planned = null;
    if (looking) return plan(100);
    looking = true;
    lookedAt = Date.now();
    await look();
    looking = false;
  }, wait);
}

async function look() {
  let answer, text;
  try {
    answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "follow" });
    text = await answer.text();
  } catch {
    say("No connection", "is-lost");
    return;
  }
  if (answer.redirected && new URL(answer.url).pathname !== location.pathname) {
    location.reload();
    return;
  }
  if (!answer.ok) {
    say(`No answer (${answer.status})`, "is-lost");
    return;
  }
  if (paused()) return;
  const page = new DOMParser().parseFromString(text, "text/html");
  document.title = page.title;
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(region.id);
    if (fresh) morph(region, fresh);
  }
  prepare(document);
  show();
}

// A fresh element's content in an old one's place, by changing only what differs: whatever is open, chosen, focused,
// scrolled or playing stays so. Elements with a key are known by it, others by their place.
const keyOf = (node) => node.nodeType === 1 ? node.id || node.dataset.key || node.getAttribute("src") || "" : "";
const KEPT = { DETAILS: ["open"], INPUT: ["checked", "value", "hidden"], BUTTON: ["hidden"] };
const plain = (element) => element.innerHTML.replace(/>[^<]*<\/time>/g, "></time>");

function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== 1) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  const changed = old.matches("tr[id]") && plain(old) !== plain(fresh);
  copyAttributes(old, fresh);
  if (changed) flash(old);
  const wanted = new Set([...fresh.childNodes].map(keyOf));
  for (const child of [...old.childNodes]) if (keyOf(child) && !wanted.has(keyOf(child))) child.remove();
  const keyed = new Map([...old.childNodes].filter(keyOf).map((child) => [keyOf(child), child]));
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    const match = key ? keyed.get(key) : next && !keyOf(next) ? next : null;
    if (match && match.nodeName === child.nodeName) {
      if (match === next) next = next.nextSibling;
      else old.insertBefore(match, next);
      morph(match, child);
    } else {
      old.insertBefore(child, next);
      if (child.nodeName === "TR") flash(child);
    }
  }
  while (next) {
    const after = next.nextSibling;
    next.remove();
    next = after;
  }
}

function copyAttributes(old, fresh) {
  const kept = KEPT[old.nodeName] ?? [];
  for (const { name } of [...old.attributes]) if (!kept.includes(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (!kept.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (current && old.id === current) old.classList.add("selected");
}

function flash(row) {
  row.classList.add("changed");
  setTimeout(() => row.classList.remove("changed"), 1600);
}

// Of all tabs only those that are looked at hold a connection: a browser has few of them for one server.
function connect() {
  if (!live || source || document.hidden) return;
  const types = live.dataset.live;
  source = new EventSource(`/ops/live?${types ? new URLSearchParams({ types }) : ""}`);
  source.onopen = () => { show(); if (!paused()) plan(0); };  // it tells only what comes from now on
  source.onerror = () => {
    say("Connecting …", "is-lost");
    if (source.readyState !== EventSource.CLOSED) return;
    // The server refused: the session may be over, which a look finds out.
    disconnect();
    plan(3000);
    setTimeout(connect, 5000);
  };
  const kinds = ["queued", "dispatched", "processing", "progress", "completed", "failed", "cancelled", "archived", "archive_late", "archive_failed"];
  for (const kind of kinds) source.addEventListener(`job.${kind}`, (event) => concerns(event) && heard());
  for (const kind of ["subscription.disabled", "subscription.test", "budget.threshold"]) source.addEventListener(kind, heard);
}

// A page of one job looks again for that job alone.
function concerns(event) {
  const { job } = live.dataset;
  return !job || event.data.includes(job);
}

function disconnect() {
  source?.close();
  source = null;
}

if (live) {
  pause.addEventListener("click", () => {
    sessionStorage.setItem(PAUSED, paused() ? "0" : "1");
    if (!paused()) {
      missed = 0;
      plan(0);
    }
    show();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  setInterval(() => {
    const every = Number(live.dataset.every);  // which a page may drop, once there is nothing to wait for
    if (every && !document.hidden && !paused() && Date.now() - lookedAt >= every * 1000) plan(0);
  }, 1000);
  connect();
}
prepare(document);
