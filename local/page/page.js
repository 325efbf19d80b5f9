// Shows a run. Everything that comes from it is data: it becomes text, never markup.
"use strict";

const POLL_MS = 1000;
const PATIENCE_MS = 5000; // A server of this machine that takes longer is gone.
const SILENCE_MS = 15000; // A run that goes on tells something every second or two.
const HEIGHT = 120;
const CEILINGS = [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
const SVG = "http://www.w3.org/2000/svg";

const PHASES = {
  starting: ["◌", "Starting"],
  running: ["●", "Running"],
  settling: ["◐", "Waiting for the last events"],
  ended: ["■", "Ended"],
  failed: ["▲", "Failed"],
  lost: ["▲", "Connection lost"],
};
const MARKS = new Map([["created", "+"], ["updated", "~"], ["deleted", "−"]]);

const find = (id) => document.getElementById(id);

let last = null; // What was shown last.
let changedAt = 0; // When it began to be what it is, by this window's clock.

async function poll() {
  let state = null;
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const answer = await fetch("state.json", { cache: "no-store", signal });
    state = answer.ok ? await answer.json() : null;
  } catch {
    // Gone, or cut off: the same.
  }
  if (state) show(state);
  else showLost();
  if (!state || !isOver(state)) setTimeout(poll, POLL_MS);
}

function isOver(state) {
  return state.phase === "ended" || state.phase === "failed";
}

function show(state) {
  if (!last || last.now_ms !== state.now_ms) changedAt = performance.now();
  last = state;
  showPhase(state.phase === "ended" && state.lost ? "failed" : state.phase, state);
  showTotals(state);
  showRate(state);
  showProviders(state.providers);
  showEvents(state.events);
}

function showPhase(phase, state) {
  const [sign, word] = PHASES[phase];
  document.body.dataset.phase = phase;
  setText(find("sign"), sign);
  setText(find("phase"), state.lost ? `Ended, ${many(state.lost, "change")} lost` : word);
  document.title = `${find("phase").textContent} – Pollwire`;
  const ran = state.began_ms ? span(state.now_ms - state.began_ms) : "";
  setText(find("ran"), ran);
  showNotice(noticeOf(state));
}

function noticeOf(state) {
  const silent = performance.now() - changedAt;
  if (state.phase === "running" && silent > SILENCE_MS) {
    return `The run has said nothing for ${Math.round(silent / 1000)} s.`;
  }
  return state.phase === "running" ? "" : state.text;
}

function showLost() {
  const at = last ? ` What is shown is from ${clock(last.now_ms)}.` : "";
  const [sign, word] = PHASES.lost;
  document.body.dataset.phase = "lost";
  setText(find("sign"), sign);
  setText(find("phase"), word);
  document.title = `${word} – Pollwire`;
  showNotice(`The run does not answer; it may have ended.${at} This page keeps trying.`);
}

function showNotice(text) {
  setText(find("notice"), text);
  find("notice").hidden = !text;
}

function showTotals({ totals, freshness, lost }) {
  setText(find("changes"), number(totals.changes));
  setText(find("received"), number(totals.events));
  setText(find("awaited-title"), lost ? "Lost" : "On their way");
  setText(find("awaited"), number(totals.awaited));
  setText(find("p50"), seconds(freshness.p50_s));
  setText(find("p99"), seconds(freshness.p99_s));
}

// -- the chart ------------------------------------------------------------------------------------

function showRate(state) {
  const rate = state.rate;
  const per = (counts) => counts.map((count) => count / rate.bucket_s);
  const made = per(rate.changes);
  const got = per(rate.events);
  const most = Math.max(...made, ...got);
  const ceiling = CEILINGS.find((one) => one >= most) ?? most;
  const width = 600 / made.length;
  const height = (value) => (value / ceiling) * (HEIGHT - 2);
  showBars(got.map(height), width);
  const first = firstBucket(state);
  const path = made.slice(first).map((value, i) => {
    const y = (HEIGHT - 1 - height(value)).toFixed(1);
    return `${i ? "V" : `M${first * width} `}${y}H${(first + i + 1) * width}`;
  });
  find("line").setAttribute("d", path.join(""));
  setText(find("ceiling"), `${ceiling} /s`);
  setText(find("oldest"), `${Math.round((rate.bucket_s * made.length) / 60)} min ago`);
  setText(find("latest"), isOver(state) ? "the end" : "now");
  if (state.began_ms) setText(find("rate-told"), lastMinute(rate));
}

// Of what was before the run nothing is known, which is not the same as nothing.
function firstBucket({ rate, now_ms, began_ms }) {
  const bucketOf = (ms) => Math.floor(ms / (rate.bucket_s * 1000));
  const since = began_ms ? bucketOf(now_ms) - bucketOf(began_ms) + 1 : 0;
  return Math.max(rate.changes.length - since, 0);
}

function showBars(heights, width) {
  const bars = find("bars");
  while (bars.childElementCount < heights.length) {
    bars.append(document.createElementNS(SVG, "rect"));
  }
  heights.forEach((height, i) => {
    const place = { x: i * width + 1, y: HEIGHT - 1 - height, width: width - 2, height };
    for (const [name, value] of Object.entries(place)) {
      bars.children[i].setAttribute(name, value.toFixed(1));
    }
  });
}

function lastMinute(rate) {
  const buckets = Math.round(60 / rate.bucket_s);
  const sum = (counts) => counts.slice(-buckets).reduce((all, one) => all + one, 0);
  const made = many(sum(rate.changes), "change");
  return `In the last minute: ${made} at the providers, ${many(sum(rate.events), "event")} received.`;
}

// -- the tables -----------------------------------------------------------------------------------

function showProviders(providers) {
  find("providers").hidden = !providers.length;
  find("providers-told").hidden = !providers.length;
  find("no-providers").hidden = providers.length > 0;
  const labels = [...document.querySelectorAll("#providers thead th")].map((th) => th.textContent);
  update(find("providers").tBodies[0], providers, (one) => one.provider, (row, one) => {
    const values = [
      one.provider,
      number(one.registered),
      number(one.paused),
      one.failing ? `▲ ${number(one.failing)}` : "0",
      one.requests_per_second === null ? "–" : one.requests_per_second.toFixed(1),
      one.unchanged === null ? "–" : `${Math.round(one.unchanged * 100)} %`,
      number(one.changes),
      seconds(one.p50_s),
      seconds(one.p99_s),
    ];
    values.forEach((text, i) => {
      const cell = row.cells[i] ?? row.appendChild(newCell(i ? "td" : "th", labels[i]));
      setText(cell, text);
    });
    row.cells[3].classList.toggle("bad", one.failing > 0);
  });
}

function showEvents(events) {
  find("events").hidden = !events.length;
  find("no-events").hidden = events.length > 0;
  const body = find("events").tBodies[0];
  const news = body.rows.length > 0; // What was there when the page was opened is none.
  update(body, events, (one) => one.uuid, (row, one) => {
    if (row.cells.length) return; // An event never changes.
    row.classList.toggle("new", news);
    row.classList.toggle("deleted", one.change === "deleted");
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.ariaHidden = "true";
    mark.textContent = MARKS.get(one.change) ?? "";
    const time = document.createElement("time");
    time.dateTime = new Date(one.at_ms).toISOString();
    time.textContent = clock(one.at_ms);
    const type = one.type === one.stream ? "" : one.type;
    const words = [one.change, one.provider, one.account, one.stream, type, one.told];
    row.append(newCell("td"), ...words.map(() => newCell("td")));
    row.cells[0].append(time);
    words.forEach((text, i) => text && row.cells[i + 1].append(isolated(text)));
    row.cells[1].prepend(mark);
  });
}

// Makes a table's rows those of a list, in its order; what is there stays.
function update(body, list, keyOf, fill) {
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  list.forEach((one, i) => {
    const key = keyOf(one);
    const row = known.get(key) ?? document.createElement("tr");
    known.delete(key);
    row.dataset.key = key;
    row.setAttribute("role", "row");
    fill(row, one);
    if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] ?? null);
  });
  for (const row of known.values()) row.remove();
}

function newCell(name, label) {
  const cell = document.createElement(name);
  cell.setAttribute("role", name === "th" ? "rowheader" : "cell");
  if (name === "th") cell.scope = "row";
  if (label) cell.dataset.label = label;
  return cell;
}

// A text that is written from right to left turns nothing else around.
function isolated(text) {
  const part = document.createElement("bdi");
  part.textContent = text;
  return part;
}

// -- words ----------------------------------------------------------------------------------------

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text; // Or it is read out again.
}

function number(value) {
  return value.toLocaleString("en");
}

function many(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function seconds(value) {
  return value === null ? "–" : `${value.toFixed(1)} s`;
}

function span(ms) {
  const all = Math.floor(ms / 1000);
  const parts = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  const [hours, ...rest] = parts;
  const text = rest.map((part) => String(part).padStart(2, "0")).join(":");
  return hours ? `${hours}:${text}` : text;
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

poll();
