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
    const number = document.querySelectorAll(`input[name="${element.dataset.checked}"]:checked`).length;
    element.textContent = number ? `${number} chosen` : "";
  }
}

// Keys: / searches, j and k go through a list, Enter opens, x chooses, p pauses.

let current = -1;
const rows = () => [...document.querySelectorAll("[data-row]")];

function select(index) {
  const all = rows();
  if (!all.length) return;
  current = Math.max(0, Math.min(index, all.length - 1));
  all.forEach((row, place) => row.classList.toggle("selected", place === current));
  all[current].querySelector("a")?.focus({ preventScroll: true });
  all[current].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const box = () => rows()[current]?.querySelector('input[type="checkbox"]');
  const keys = {
    "/": () => document.getElementById("search")?.focus(),
    j: () => select(current + 1),
    k: () => select(current - 1),
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
  else say("Live", "");
}

function heard() {
  if (paused()) {
    missed += 1;
    show();
  } else plan(150);
}

// At most one look in a second and a half, however many events come.
function plan(delay) {
  if (planned !== null) return;
  const wait = Math.max(delay, lookedAt + 1500 - Date.now());
  planned = setTimeout(async () => {
    planned = null;
    lookedAt = Date.now();
    await look();
  }, wait);
}

async function look() {
  let answer;
  try {
    answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "follow" });
  } catch {
    say("No connection", "is-lost");
    return;
  }
  if (answer.redirected && !answer.url.includes(location.pathname)) {
    location.reload();
    return;
  }
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(region.id);
    if (fresh) swap(region, fresh);
  }
  show();
}

// A fresh region in an old one's place: what is open, chosen or focused stays so, and pictures are not fetched anew.
const seen = new WeakMap();
const plain = (element) => element.innerHTML.replace(/>[^<]*<\/time>/g, "></time>");

function swap(region, fresh) {
  const html = plain(fresh);
  if ((seen.get(region) ?? plain(region)) === html) return;
  const before = new Map([...region.querySelectorAll("tr[id]")].map((row) => [row.id, plain(row)]));
  const open = new Map([...region.querySelectorAll("details[data-key]")].map((each) => [each.dataset.key, each.open]));
  const chosen = new Set([...region.querySelectorAll("input:checked")].map((box) => `${box.name}=${box.value}`));
  const media = new Map([...region.querySelectorAll("img, video, audio")].map((each) => [each.getAttribute("src"), each]));
  const focused = region.contains(document.activeElement) ? document.activeElement.id : "";
  for (const row of fresh.querySelectorAll("tr[id]")) if (before.get(row.id) !== plain(row)) row.classList.add("changed");
  for (const each of fresh.querySelectorAll("details[data-key]")) each.open = open.get(each.dataset.key) ?? each.open;
  for (const box of fresh.querySelectorAll("input")) box.checked ||= chosen.has(`${box.name}=${box.value}`);
  for (const each of fresh.querySelectorAll("img, video, audio")) {
    const known = media.get(each.getAttribute("src"));
    if (known) each.replaceWith(known);
  }
  region.replaceChildren(...fresh.childNodes);
  seen.set(region, html);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (current >= 0) rows()[current]?.classList.add("selected");
  prepare(region);
}

// Of all tabs only those that are looked at hold a connection: a browser has few of them for one server.
function connect() {
  if (!live || source || document.hidden) return;
  const types = live.dataset.live;
  source = new EventSource(`/ops/live?${types ? new URLSearchParams({ types }) : ""}`);
  source.onopen = () => { show(); if (!paused() && lookedAt) plan(0); };
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
  const job = live.dataset.job;
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
  const every = Number(live.dataset.every);
  if (every) setInterval(() => !document.hidden && !paused() && plan(0), every * 1000);
  connect();
}
prepare(document);
