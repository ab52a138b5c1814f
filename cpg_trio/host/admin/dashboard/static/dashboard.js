// Keeps an open page up to date. The host renders; this puts what is new in its place, row by row, and
// leaves alone what has not changed, so that focus, selection and scrolling stay where they are.
"use strict";

const RETRY_MS = 1000, RETRY_MOST_MS = 8000, SILENT_MS = 15000;
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

const byId = (id) => document.getElementById(id);
const lost = byId("lost"), live = byId("live"), liveWord = byId("live-word"), announced = byId("announced");
let clockAhead = 0; // of the host's clock, in ms
let lastHeard = 0, lostSince = null, stream = null, retryMs = RETRY_MS, timer = null;

// The same words as those of the host.
function span(seconds) {
  let left = Math.max(0, Math.floor(seconds));
  for (let place = 0; place < UNITS.length; place += 1) {
    const [size, unit] = UNITS[place];
    if (left >= size) {
      let text = `${Math.floor(left / size)} ${unit}`;
      if (size > 1) {
        const rest = Math.floor((left % size) / UNITS[place + 1][0]);
        if (rest) text += ` ${rest} ${UNITS[place + 1][1]}`;
      }
      return text;
    }
  }
  return "0 s";
}

function count(root) {
  const now = Date.now() + clockAhead;
  for (const time of root.querySelectorAll("time[data-since]")) {
    const text = span((now - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

// Make `old` like `fresh`. Elements stay the same objects wherever they can.
function morph(old, fresh) {
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.tagName === "DETAILS")) old.removeAttribute(name);
  }
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    if (at && at.nodeType === child.nodeType && at.nodeName === child.nodeName) {
      if (child.nodeType === Node.ELEMENT_NODE) morph(at, child);
      else if (at.data !== child.data) at.data = child.data;
      at = at.nextSibling;
    } else {
      old.insertBefore(child, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function parsed(html, tag) {
  const template = document.createElement("template");
  template.innerHTML = html; // the host's own, which it has escaped
  count(template.content);
  return tag ? template.content.querySelector(tag) : template.content;
}

function showList(id, { rows, order }) {
  const list = byId(id);
  if (!list) return;
  const tag = list.tagName === "TBODY" ? "tr" : "li";
  const there = new Map([...list.children].map((row) => [row.dataset.key, row]));
  for (const [key, html] of Object.entries(rows)) {
    const row = there.get(key), fresh = parsed(html, tag);
    if (row) morph(row, fresh);
    else there.set(key, fresh);
  }
  if (!order) return;
  const keep = new Set(order);
  for (const [key, row] of there) if (!keep.has(key)) row.remove();
  for (const child of [...list.childNodes]) if (child.nodeType !== Node.ELEMENT_NODE) child.remove();
  let at = list.firstElementChild;
  for (const key of order) {
    const row = there.get(key);
    if (row === at) at = at.nextElementSibling;
    else list.insertBefore(row, at);
  }
}

function show(news) {
  clockAhead = news.now - Date.now();
  for (const [id, html] of Object.entries(news.regions ?? {})) {
    const region = byId(id);
    if (region) morphChildren(region, parsed(html));
  }
  for (const [id, list] of Object.entries(news.lists ?? {})) showList(id, list);
  if (news.title) document.title = news.title;
  // For screen readers: the state and what is wrong, when that changes, and never a number that ticks.
  if (news.announcement !== undefined) announced.textContent = news.announcement;
}

function found() {
  lastHeard = Date.now();
  retryMs = RETRY_MS;
  live.hidden = false;
  if (lostSince === null) return;
  lostSince = null;
  lost.hidden = true;
  lost.textContent = "";
  liveWord.textContent = "live";
  document.body.classList.remove("is-lost");
}

function lose(why) {
  live.hidden = false;
  if (lostSince === null) lostSince = new Date();
  const text = why ?? `The connection to the host is lost since ${lostSince.toLocaleTimeString()}. This page shows what was then, and tries again.`;
  if (lost.textContent !== text) lost.textContent = text;
  lost.hidden = false;
  liveWord.textContent = "not live";
  document.body.classList.add("is-lost");
}

async function follow() {
  clearTimeout(timer);
  stream?.abort();
  const own = stream = new AbortController();
  let final = null;
  try {
    const page = location.pathname + location.search;
    lastHeard = Date.now();
    const answer = await fetch(`/live?page=${encodeURIComponent(page)}`, { signal: own.signal, redirect: "error" });
    if (answer.status === 401 || answer.status === 403) final = "This session has ended. Open the dashboard anew, with “cpg-trio dashboard” for example.";
    else if (answer.status === 404) final = "What this page was about is not known to the host any more.";
    else if (answer.status === 429) final = "This page is not live: as many pages of this host are open as it has room for. It tries again.";
    if (!answer.ok) throw new Error(answer.statusText);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) {
        const news = JSON.parse(line);
        if (news.error) { final = news.error; throw new Error(final); }
        found();
        show(news);
      }
    }
  } catch (error) {
    if (own !== stream) return; // another one has taken over
  }
  if (own !== stream) return;
  if (document.hidden) return;
  lose(final);
  timer = setTimeout(follow, retryMs);
  retryMs = Math.min(RETRY_MOST_MS, retryMs * 2);
}

function pause() {
  clearTimeout(timer);
  const own = stream;
  stream = null;
  own?.abort();
}

// A large graph is shown where something is wrong. Only when the page is opened: later, nothing moves by itself.
function showTrouble() {
  const canvas = document.querySelector(".canvas");
  const node = canvas?.querySelector(".n-unhealthy, .n-lapsed, .n-missing, .n-degraded");
  if (!node) return;
  const [outer, inner] = [canvas.getBoundingClientRect(), node.getBoundingClientRect()];
  canvas.scrollLeft += inner.left + inner.width / 2 - outer.left - outer.width / 2;
  canvas.scrollTop += inner.top + inner.height / 2 - outer.top - outer.height / 2;
}

showTrouble();
if (document.body.hasAttribute("data-live")) {
  setInterval(() => {
    count(document);
    // A host that is stopped or cut off closes nothing.
    if (stream && lostSince === null && Date.now() - lastHeard > SILENT_MS) follow().catch(() => {}), lose();
  }, 1000);
  // A page that nobody sees costs the host nothing.
  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : follow()));
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  if (!document.hidden) follow();
}
