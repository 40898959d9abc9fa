"use strict";
// Asks for the status while somebody looks, shows it, and keeps the last minutes here in the browser. All text is set
// as text; nothing is ever parsed as HTML, which the page's Content-Security-Policy would refuse, too.

// In ms: between two questions, for an answer, of the lines, and for how long a limit, refusal or error counts as
// trouble: strangers come to every open port.
const EVERY = 2000, PATIENCE = 10000, KEPT = 300000, LATELY = 600000;

const $ = (id) => document.getElementById(id);
const make = (tag, text, fields) => Object.assign(document.createElement(tag), { textContent: text ?? "" }, fields);
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
// As ISO 8601 has it, in local time.
const clock = new Intl.DateTimeFormat("sv", { dateStyle: "short", timeStyle: "medium" });
const when = (ms) => clock.format(ms);

function bytes(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  let unit = -1;
  do { count /= 1024; unit += 1; } while (count >= 999.95 && unit < 5);
  return `${count.toFixed(1)} ${"KMGTPE"[unit]}iB`;
}

function duration(s) {
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([count]) => count > 0);
  return parts.slice(first < 0 ? 3 : first).slice(0, 2).map((part) => part.join(" ")).join(" ");
}

// What a mapping shows.

const nameOf = (m) => m.options.name ?? m.id;
const sum = (m, count) => m.sides.reduce((all, { tunnels }) => all + (tunnels ? count(tunnels) : 0), 0);
const ill = (m) => m.lastError && !m.lastErrorOver && last.timestamp - m.lastErrorAt < LATELY;
// In the daemon's words. Up to GONE they are trouble; an agent that never came is none.
const STATES = ["inactive", "half open", "agent gone", "no agent", "active"], GONE = 2, NONE = 3;
const state = (m) => STATES.indexOf(m.state);

function tunnels({ idle, inUse, allowed, versions }) {
  const of = versions.map((count, at) => count && `${count}\u00a0v${at + 1}`).filter(Boolean).join(", ");
  return `${idle}/${inUse}/${allowed}${of && ` (${of})`}`;
}

// By column: the text, and what it is sorted by, where that is another.
const COLUMNS = [
  [nameOf],
  [(m) => (m.public ? "public" : "private")],
  [(m) => m.sides.map((side) => side.port).join(" "), (m) => m.sides[0].port],
  [(m) => m.sides.filter((side) => side.tunnels).map((side) => tunnels(side.tunnels)).join("\n"), (m) => sum(m, (t) => t.idle + t.inUse)],
  [(m) => (m.public ? `${m.counts.usersWaiting}` : "-"), (m) => m.counts.usersWaiting],
  [(m) => `${m.counts.sessions}`, (m) => m.counts.sessions],
  [(m) => bytes(m.counts.bytesUp), (m) => m.counts.bytesUp],
  [(m) => bytes(m.counts.bytesDown), (m) => m.counts.bytesDown],
  [(m, trace) => `${bytes(trace.rate)}/s`, (m, trace) => trace.rate],
  [(m) => m.state, state],
  [(m) => m.url ?? "-"],
  [(m) => (m.lastError ? `${when(m.lastErrorAt)} ${m.lastErrorOver ? "(over) " : ""}${m.lastError}` : ""), (m) => m.lastErrorAt ?? 0],
];
const LINE = 8, STATE = 9, URL_AT = 10, ERROR = 11;

// The last minutes of traffic and sessions.
class Trace {
  rate = 0;
  points = [];
  add({ bytesUp, bytesDown, sessions }, at) {
    const carried = bytesUp + bytesDown, more = carried - this.carried, time = at - this.at;
    // Less than before: the daemon is another one.
    this.rate = more > 0 && time > 0 ? (more * 1000) / time : 0;
    this.carried = carried;
    this.at = at;
    if (time > 0) this.points.push([this.rate, sessions, at]);
    while (at - this.points[0]?.[2] > KEPT) this.points.shift();
  }
  most(which) {
    return this.points.reduce((most, point) => Math.max(most, point[which]), 0);
  }
  draw(svg) {
    [...svg.children].forEach((path, which) => {
      const most = this.most(which) || 1;
      let way = "", before = 0;
      for (const point of this.points) {
        // While nobody looked, nothing was asked.
        way += point[2] - before > 4 * EVERY ? "M" : "L";
        before = point[2];
        way += `${(300 - ((this.at - before) * 300) / KEPT).toFixed(1)} ${(29 - (28 * point[which]) / most).toFixed(1)}`;
      }
      path.setAttribute("d", way);
    });
  }
}

function lines() {
  const drawn = (tag, fields) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(fields).forEach(([name, value]) => node.setAttribute(name, value));
    return node;
  };
  const svg = drawn("svg", { viewBox: "0 0 300 30", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(drawn("path", {}), drawn("path", {}));
  return svg;
}

// A long one has its line break before the port.
function link(url) {
  const [, host, port = ""] = url.match(/^(.*?)(:\d+)?$/s), node = make("a", host, { href: url });
  node.append(make("wbr"), port);
  return node;
}

// A row of the table. Its cells change where their text does; out of sight they do so every tenth time only, and its
// lines are not drawn.
class Row {
  trace = new Trace();
  age = 10;
  shown = [];
  keys = [];
  constructor(id) {
    this.tr = make("tr");
    this.texts = COLUMNS.map((_, at) => {
      const cell = this.tr.appendChild(make(at ? "td" : "th"));
      if (at === LINE) this.svg = cell.appendChild(lines());
      return cell.appendChild(make(id && at === 0 ? "button" : "span"));
    });
    this.tr.firstChild.scope = "row";
    if (id) {
      Object.assign(this.texts[0], { type: "button", onclick: () => open(opened === id ? "" : id) });
      this.texts[0].setAttribute("aria-expanded", id === opened);
      near.observe(this.tr);
      this.tr.row = this;
    } else {
      this.near = true;
    }
  }
  show(m, at) {
    this.mapping = m;
    this.seen = at;
    this.trace.add(m.counts, at);
    COLUMNS.forEach(([text, key = text], at) => { this.keys[at] = key(m, this.trace); });
    this.age += 1;
    if (this.near || this.age >= 10) this.paint();
  }
  paint() {
    const m = this.mapping;
    // Not all of them at the same time.
    this.age = this.shown.length ? 0 : rows.size % 10;
    COLUMNS.forEach(([text], at) => {
      const now = text(m, this.trace);
      if (now === this.shown[at]) return;
      this.shown[at] = now;
      if (at === URL_AT && /^https?:/.test(now)) this.texts[at].replaceChildren(link(now));
      else if (this.texts[at].firstChild?.nodeType === Node.TEXT_NODE) this.texts[at].firstChild.data = now;
      else this.texts[at].textContent = now;
    });
    this.texts[STATE].className = this.keys[STATE] <= GONE ? "bad" : this.keys[STATE] === NONE ? "old" : "";
    this.texts[ERROR].className = ill(m) ? "bad" : "old";
    if (this.near) this.trace.draw(this.svg);
  }
}

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.row.near = isIntersecting;
    if (isIntersecting) target.row.paint();
  }
}, { rootMargin: "200px" });

const rows = new Map(), total = new Row(), headings = [...document.querySelectorAll("thead th")];
const panel = make("tr", "", { className: "panel" }), list = make("dl");
const { compare } = new Intl.Collator("en", { numeric: true });
// The last answer; whose mapping's details are open, which the address says, too; and the order.
const addressed = () => new URLSearchParams(location.hash.slice(1)).get("mapping") ?? "";
let last, opened = addressed(), by = 0, down = false;

// Puts the rows into their order, and hides those that are not asked for.
function arrange() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const sorted = [...rows.values()].sort(({ keys: one }, { keys: two }) =>
    (typeof one[by] === "number" ? one[by] - two[by] : compare(one[by], two[by])) * (down ? -1 : 1));
  const focus = document.activeElement;
  let next = $("rows").firstChild, count = 0;
  const put = (node) => {
    if (node === next) next = next.nextSibling;
    else $("rows").insertBefore(node, next);
  };
  for (const row of sorted) {
    const all = words.length ? `${row.mapping.id} ${row.shown.join(" ")}`.toLowerCase() : "";
    row.tr.hidden = !words.every((word) => all.includes(word));
    count += !row.tr.hidden;
    put(row.tr);
    if (row.mapping.id !== opened) continue;
    panel.hidden = row.tr.hidden;
    put(panel);
  }
  // What is moved loses it.
  if (focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
  set($("count"), words.length ? `${count} of ${counted(rows.size, "mapping")}` : "");
}

function open(id, say = "pushState") {
  rows.get(opened)?.texts[0].setAttribute("aria-expanded", "false");
  opened = rows.has(id) ? id : "";
  rows.get(opened)?.texts[0].setAttribute("aria-expanded", "true");
  if (say) history[say](null, "", opened ? `#mapping=${encodeURIComponent(opened)}` : location.pathname);
  if (opened) detail();
  else panel.remove();
  arrange();
}

// All of the mapping that is open.
function detail() {
  const m = rows.get(opened).mapping;
  const words = (name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const often = ({ times, last }) => `${counted(times, "time")}, last at ${when(last)}`;
  const told = [["id", m.id]];
  for (const [name, value] of Object.entries(m.options)) told.push([name, [value].flat().join(", ")]);
  m.sides.forEach((side, at) => {
    told.push([`port${at + 1}`, `${side.port}: ${side.open ? "open" : side.fault}`]);
    const { tunnels: t, heartbeatThreshold: silence, agents } = side;
    if (!t) return;
    const closed = silence ? `closed after ${silence} ms of silence` : "never closed for silence";
    told.push(["its tunnels", `${tunnels(t)}; ${t.draining} draining, ${t.unanswered} unanswered; ${closed}`]);
    told.push(["its agents", agents.map((one) => `${one.address}: ${counted(one.tunnels, "tunnel")}, since ${when(one.since)}`).join("\n") || "none"]);
    told.push(["its agent's command", command(at, side), "command"]);
  });
  for (const [name, count] of Object.entries(m.counts)) told.push([words(name), name.startsWith("bytes") ? `${count} (${bytes(count)})` : `${count}`]);
  told.push(["last error", COLUMNS[ERROR][0](m) || "none"]);
  for (const one of m.refusals) told.push(["refused", `${one.who}: ${one.why}, ${often(one)}`]);
  for (const one of m.limitsReached) told.push(["limit reached", `${one.limit}, ${often(one)}`]);
  const same = list.children.length === 2 * told.length && told.every(([name], at) => list.children[2 * at].textContent === name);
  if (!same) list.replaceChildren(...told.flatMap(([name, , kind]) => [make("dt", name), make("dd", "", { className: kind ?? "" })]));
  told.forEach(([, text], at) => set(list.children[2 * at + 1], text));
  // More than there are columns would be further ones.
  panel.firstChild.colSpan = headings.filter((heading) => heading.offsetWidth > 0).length;
}

// What `mapping add` prints, without the passcode, which no answer has.
function command(at, { port, tunnels: { allowed }, heartbeatThreshold: silence }) {
  const { address, dev, certificate } = last;
  const host = address.includes(":") ? `[${address}]` : address;
  const trust = dev ? "--plain" : certificate ? `--pin ${certificate}` : "--ca FILE";
  const few = at === 0 && allowed < 8 ? ` --connections ${allowed}` : "";
  const beat = silence && silence < 60000 ? ` --heartbeat ${Math.max(100, Math.floor(silence / 3))}` : "";
  return `iofog-connector tunnel --connector ${host}:${port} --passcode-file FILE ${trust} ${at ? "--listen 127.0.0.1" : "--target localhost"}:PORT${few}${beat}`;
}

// What is wrong with the whole, and what is worth knowing.
function health(report) {
  const { timestamp: now, draining, predecessor, files, totals, mappings } = report;
  const bad = [...report.warnings], notes = [];
  if (draining) bad.push(`draining: ${counted(draining.sessions, "session")} and ${counted(draining.usersWaiting, "waiting user")} left, for ${Math.ceil(draining.millisecondsLeft / 1000)} s at most`);
  if (predecessor) notes.push(`process ${predecessor.process}, whose place this one took, still carries ${counted(predecessor.sessions, "session")}`);
  if (files.inUse > files.allowed * 0.9) bad.push("almost all open files are in use; raise LimitNOFILE");
  if (report.logLost) bad.push(`${counted(report.logLost, "log message")} lost: log file or syslog did not take them`);
  // What is wrong with a single one has room.
  const tell = (to, all, said, why) => {
    const names = all.slice(0, 3).map(nameOf), more = all.length - names.length;
    const rest = more ? ` and ${more} more` : why && all.length === 1 ? `: ${why(all[0])}` : "";
    if (all.length) to.push(`${counted(all.length, "mapping")} ${said}: ${names.join(", ")}${rest}`);
  };
  const states = mappings.map(state), of = (...which) => mappings.filter((_, at) => which.includes(states[at]));
  if (!draining) tell(bad, of(0, 1), "with a port that is not open", (m) => m.sides.find((side) => !side.open).fault);
  tell(bad, of(GONE), "whose agent is gone");
  // What is worse than an error is not said twice.
  tell(bad, mappings.filter((m, at) => ill(m) && states[at] > GONE), "with an error", (m) => m.lastError);
  const reached = (m) => m.limitsReached.filter((one) => !one.over).map((one) => one.limit);
  for (const limit of new Set(mappings.flatMap(reached))) tell(bad, mappings.filter((m) => reached(m).includes(limit)), `at a limit, ${limit}`);
  tell(notes, of(NONE), "without an agent");
  for (const { limit, why, times, last, over = now - last > LATELY } of [...report.limitsReached, ...report.apiRefusals]) {
    const said = limit ? `limit reached: ${limit}` : `API: a caller was refused: ${why}`;
    (over ? notes : bad).push(`${said}, ${counted(times, "time")}, last at ${when(last)}`);
  }
  const said = [...bad.map((text) => [text, "bad"]), ...notes.map((text) => [text, ""])];
  if ($("notes").dataset.said !== JSON.stringify(said)) {
    $("notes").dataset.said = JSON.stringify(said);
    $("notes").replaceChildren(...said.map(([text, className]) => make("li", text, { className })));
  }
  set($("state"), bad.length ? `${counted(bad.length, "thing")} to look at` : "All is well");
  document.body.className = bad.length ? "live ill" : "live";
  const { counts } = totals;
  set($("facts"), [
    `${report.address}, version ${report.version}, running for ${duration(report.uptime)}`,
    `${files.inUse} of ${files.allowed} files`, `${counted(report.availablePorts, "free port")}`,
    `${counts.sessionsTotal} sessions in all`, `refused: ${counted(counts.usersRefused, "user")}, ${counted(counts.agentsRefused, "agent")}`,
    report.certificateEnds && `certificate until ${when(report.certificateEnds).slice(0, 10)}`, `as of ${when(now)}`].filter(Boolean).join(" \u00b7 "));
}

function happened(events) {
  $("events").hidden = events.length === 0;
  const said = JSON.stringify(events);
  if ($("events").dataset.said === said) return;
  $("events").dataset.said = said;
  $("events").querySelector("ol").replaceChildren(...events.slice().reverse().map((one) =>
    make("li", [when(one.at), one.event, one.name ?? one.mapping, one.message, one.count > 1 && counted(one.count, "time")].filter(Boolean).join(" \u00b7 "))));
}

function update(report) {
  // A new program may say other things, and has a page that knows them.
  if (last && last.version !== report.version) location.reload();
  last = report;
  const { timestamp: at, mappings, totals } = report;
  for (const m of mappings) {
    if (!rows.has(m.id)) rows.set(m.id, new Row(m.id));
    rows.get(m.id).show(m, at);
  }
  for (const [id, row] of rows) {
    if (row.seen === at) continue;
    near.unobserve(row.tr);
    row.tr.remove();
    rows.delete(id);
  }
  total.show({ id: "", state: "", options: { name: counted(mappings.length, "mapping") }, sides: [{ port: "", tunnels: totals.tunnels, open: true }], public: true, counts: totals.counts }, at);
  [1, URL_AT].forEach((at) => set(total.texts[at], ""));
  total.trace.draw($("lines").firstElementChild);
  set($("lines").lastElementChild, `Last ${duration(Math.round((at - (total.trace.points[0]?.[2] ?? at)) / 1000))}: traffic up to ${bytes(total.trace.most(0))}/s, sessions up to ${total.trace.most(1)} (dashed)`);
  if (opened && !rows.has(opened)) open("", "replaceState");
  if (opened) detail();
  arrange();
  health(report);
  happened(report.events);
}

// Asks again and again while somebody looks: a page that is not seen costs nothing.

let asking = false, since;

async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("api/v2/status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    // Marks that turn a text's direction are shown, not obeyed.
    const text = (await answer.text()).replace(/[\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (mark) => `\\\\u{${mark.codePointAt(0).toString(16)}}`);
    const report = JSON.parse(text);
    if (!answer.ok) throw new Error(report.errormessage);
    update(report);
    since = undefined;
  } catch (error) {
    since ??= Date.now();
    set($("state"), `No answer since ${when(since)}; trying again (${error.message})`);
    document.body.className = "live ill lost";
  }
  setTimeout(() => { asking = false; ask(); }, EVERY);
}

document.addEventListener("visibilitychange", ask);
// Back and forward go from one mapping that was open to the next.
addEventListener("popstate", () => open(addressed(), ""));
$("filter").addEventListener("input", arrange);
document.addEventListener("keydown", ({ key }) => {
  if (key !== "Escape" || !opened) return;
  const button = rows.get(opened).texts[0];
  open("");
  button.focus();
});

function order(at) {
  // Numbers begin with the largest.
  down = by === at && last ? !down : typeof total.keys[at] === "number" && at !== STATE;
  by = at;
  headings.forEach((heading, which) => heading.setAttribute("aria-sort", which !== by ? "none" : down ? "descending" : "ascending"));
  if (last) arrange();
}

headings.forEach((heading, at) => heading.replaceChildren(make("button", heading.textContent, { type: "button", onclick: () => order(at) })));
order(0);
panel.appendChild(make("td")).append(list);
$("lines").prepend(lines());
$("total").replaceChildren(total.tr);
$("rows").replaceChildren();
$("lines").hidden = $("choice").hidden = false;
$("frame").removeAttribute("tabindex");
document.body.className = "live";
ask();
