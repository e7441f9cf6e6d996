"""The two pages for people: one to try a user on, one that lists the routes. Self-contained; they work offline."""

from typing import Final

PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    ),
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}
"""The pages load nothing, so they may load nothing; what comes from the data is set as text, never as markup."""

_STYLE: Final = """<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><style>
:root{color-scheme:light dark;--line:#8884;--quiet:#777;--good:#187a3c;--warn:#b35c00;--bad:#b3261e}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0 0 1rem}h2{font-size:1rem;margin:2rem 0 .5rem}code{font-size:.9em}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}th{white-space:nowrap}
th.number:first-child{width:3rem}.number{text-align:right;font-variant-numeric:tabular-nums}.quiet{color:var(--quiet)}
form{display:flex;gap:.6rem;flex-wrap:wrap;align-items:end}label{display:grid;font-size:.8rem;color:var(--quiet)}
input,button{font:inherit;font-size:1rem;padding:.35rem .6rem;border:1px solid var(--line);border-radius:.4rem}
.badge{padding:.1rem .6rem;border-radius:1rem;color:#fff;background:var(--quiet)}.precomputed,.good{background:var(--good)}
.stale,.fallback{background:var(--warn)}.default,.bad{background:var(--bad)}
td button{padding:0 .5rem;font-size:.85rem}td.why{background:#8881}td.why table{width:auto}td.why p{margin:.2rem 0}
i.more,i.less{display:inline-block;height:.7em;background:var(--good)}i.less{background:var(--bad)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.8rem}
.cards div{border:1px solid var(--line);border-radius:.6rem;padding:.6rem .8rem}.cards b{display:block;font-size:1.05rem;
overflow-wrap:anywhere}</style>"""

TRY_PAGE: Final = (
    '<!doctype html><html lang="en"><title>Prescore look-up service</title>'
    + _STYLE
    + """<h1>Prescore look-up service <span id="state" class="badge">…</span></h1>
<form id="ask"><label>User id<input id="user" required autofocus size="24"></label>
<label>Items<input id="k" type="number" min="1" value="10" style="width:5rem"></label>
<label>API key, if one is needed<input id="key" type="password" autocomplete="off" size="16"></label>
<button>Look up</button></form>
<div id="answer" hidden><h2 id="from"></h2><p id="about" class="quiet"></p>
<table><thead><tr><th class="number">Rank<th>Item<th>Title<th class="number">Score<th><tbody id="items"></table></div>
<h2>Live</h2><div class="cards" id="live"></div><h2>Now</h2><div class="cards" id="now"></div>
<p class="quiet"><a href="/docs">All routes</a> · <a href="/metrics">Metrics</a></p>
<script>
"use strict";
const at = id => document.getElementById(id);
const make = (name, text, kind) => { const e = document.createElement(name); e.textContent = text;
  if (kind) e.className = kind; return e; };
const ask = (path) => fetch(path, {headers: at("key").value ? {"x-api-key": at("key").value} : {}});
const age = s => s < 90 ? `${s.toFixed(0)} s` : s < 5400 ? `${(s/60).toFixed(0)} min` : s < 129600 ? `${(s/3600).toFixed(1)} h`
  : `${(s/86400).toFixed(1)} days`;
const moment = text => `${new Date(text).toISOString().slice(0, 16).replace("T", " ")} UTC`;
const show = (id, cards) => at(id).replaceChildren(...cards.map(([name, value]) => { const card = document.createElement("div");
  card.append(make("span", name, "quiet"), make("b", value)); return card; }));
let model = "";
async function lookUp(event) {
  event?.preventDefault();
  if (!model) await refresh();
  history.replaceState(null, "", `?user=${encodeURIComponent(at("user").value)}`);
  const begun = performance.now();
  const response = await ask(`/v1/models/${encodeURIComponent(model)}/users/${encodeURIComponent(at("user").value)}` +
    `/recommendations?k=${at("k").value}&fields=title`);
  const answer = await response.json(), took = performance.now() - begun;
  at("answer").hidden = false;
  at("items").replaceChildren();
  if (!response.ok) {
    at("from").replaceChildren(make("span", `${answer.status} ${answer.title}`, "badge bad"));
    at("about").textContent = answer.detail;
    return;
  }
  at("from").replaceChildren(make("span", answer.source, `badge ${answer.source}`));
  at("about").textContent = (answer.reason ? `${answer.reason.replaceAll("_", " ")} · ` : "") +
    (answer.arm ? `arm ${answer.arm} · ` : "") + (answer.exhausted ? "fewer items than asked for were left · " : "") +
    `generation ${answer.generation} · model ${answer.model} · features as of ${moment(answer.feature_cutoff)} · ` +
    `${age(answer.age_seconds)} old · answered in ${took.toFixed(1)} ms, the browser included`;
  const user = at("user").value, scored = answer.source !== "default";
  at("items").append(...answer.items.map((item, i) => { const row = document.createElement("tr");
    row.append(make("td", i + 1, "number"), make("td", item.item_id), make("td", item.title ?? "–"),
      make("td", item.score.toFixed(4), "number"), document.createElement("td"));
    if (scored) { const why = make("button", "why"); why.type = "button"; why.onclick = () => explain(user, item.item_id, row, why);
      row.lastChild.append(why); }
    return row; }));
}
const told = value => value === null ? "missing" : typeof value === "number" ? Number(value.toPrecision(5)).toLocaleString() : value;
async function explain(user, item, row, why) {
  if (why.textContent === "hide") { why.textContent = "why"; row.nextSibling.remove(); return; }
  const response = await ask(`/v1/models/${encodeURIComponent(model)}/users/${encodeURIComponent(user)}/explain?item=` +
    encodeURIComponent(item));
  const answer = await response.json(), below = document.createElement("tr"), cell = make("td", "", "why");
  cell.colSpan = 5;
  below.append(cell);
  why.textContent = "hide";
  row.after(below);
  if (!response.ok) { cell.append(make("p", answer.detail)); return; }
  const most = Math.max(...answer.contributions.map(part => Math.abs(part.contribution)), 1e-9), table = document.createElement("table");
  cell.append(make("p", `Before anything is known of this pair the score is ${answer.expected.toFixed(4)}; ` +
    `what is known makes it ${answer.score.toFixed(4)}:`), table);
  for (const part of answer.contributions.filter(part => part.contribution !== 0)) {
    const line = document.createElement("tr"), bar = make("i", "", part.contribution < 0 ? "less" : "more"), held = document.createElement("td");
    bar.style.width = `${(6 * Math.abs(part.contribution) / most).toFixed(2)}rem`;
    held.append(bar);
    line.append(make("td", part.feature), make("td", told(part.value)), make("td", part.scope, "quiet"),
      make("td", (part.contribution < 0 ? "-" : "+") + Math.abs(part.contribution).toFixed(4), "number"), held);
    table.append(line);
  }
}
let last = null;
async function refresh() {
  try {
    const ready = await (await fetch("/health/ready")).json();
    at("state").textContent = ready.ready ? (ready.trouble.length ? "ready, with trouble" : "ready") : "not ready";
    at("state").className = `badge ${ready.ready ? (ready.trouble.length ? "fallback" : "good") : "bad"}`;
    at("state").title = ready.trouble.join("; ");
    const models = await ask("/v1/models");
    if (models.ok) {
      const found = (await models.json()).models[0], live = (await (await ask("/v1/generations")).json()).live;
      if (found) {
        model = found.name;
        show("live", [["Model", found.name], ["Generation", live.generation],
          ["Published", `${age((Date.now() - Date.parse(live.published_at)) / 1000)} ago`],
          ["Features as of", moment(live.feature_cutoff)], ["Items", found.items.toLocaleString()], ["Length of a list", found.k], ["Model id", found.model_id]]);
      }
    }
    const metrics = await ask("/metrics");
    if (metrics.ok) count(await metrics.text());
    else if (metrics.status === 404) show("now", [["Metrics", "at an address of their own"]]);
  } catch { at("state").textContent = "no answer"; at("state").className = "badge bad"; }
}
function count(text) {
  const now = {time: performance.now(), sources: {}, buckets: [], total: 0, events: {}};
  for (const line of text.split("\\n")) {
    const found = /^(\\w+)\\{(.*)\\} (\\S+)$/.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...found[2].matchAll(/(\\w+)="([^"]*)"/g)].map(m => [m[1], m[2]])), n = Number(found[3]);
    if (found[1] === "prescore_events_total") now.events[labels.event] = n;
    if (labels.route !== "recommendations") continue;
    if (found[1] === "prescore_requests_total") {
      now.sources[labels.source] = (now.sources[labels.source] || 0) + n;
      now.total += n;
    } else if (found[1] === "prescore_request_seconds_bucket") now.buckets.push([labels.le, n]);
  }
  const since = last || {time: now.time - 1e9, sources: {}, buckets: now.buckets.map(([le]) => [le, 0]), total: 0};
  const seconds = (now.time - since.time) / 1000, counts = now.buckets.map(([le, n], i) => [le, n - since.buckets[i][1]]);
  const all = counts.length ? counts[counts.length - 1][1] : 0;
  const within = share => all ? counts.find(([, n]) => n >= share * all)[0] : null;
  const compared = (now.events.parity_equal || 0) + (now.events.parity_differs || 0);
  const bound = share => { const le = within(share); return le === null ? "–" : le === "+Inf" ? "> 2.5 s" : `≤ ${le * 1000} ms`; };
  show("now", [["Look-ups a second", last ? ((now.total - since.total) / seconds).toFixed(1) : "…"],
    ["Median", bound(.5)], ["99 % within", bound(.99)], ["Since the start", now.total.toLocaleString()],
    ["Scored again, and differed", compared ? `${now.events.parity_differs} of ${compared}` : "none yet"],
    ...Object.entries(now.sources).filter(([s]) => s !== "none").map(([s, n]) =>
      [`of these ${s}`, `${(100 * n / now.total).toFixed(1)} %`])]);
  last = now;
}
at("ask").addEventListener("submit", lookUp);
at("key").addEventListener("change", refresh);
const named = new URLSearchParams(location.search).get("user");
if (named === null) refresh(); else { at("user").value = named; lookUp(); }
setInterval(refresh, 2000);
</script></html>"""
)

DOCS_PAGE: Final = (
    '<!doctype html><html lang="en"><title>Routes of the Prescore look-up service</title>'
    + _STYLE
    + """<h1>Routes of the Prescore look-up service</h1>
<p>For machines: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1). <a href="/">Try a user</a>.</p>
<table><thead><tr><th>Method<th>Path<th>What it answers<tbody id="routes"></table><script>
"use strict";
const make = (name, text, kind) => { const e = document.createElement(name); e.textContent = text;
  if (kind) e.className = kind; return e; };
fetch("/openapi.json").then(response => response.json()).then(api => {
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, route] of Object.entries(methods)) {
    const row = document.createElement("tr"), cell = make("td", route.description || route.summary);
    for (const p of route.parameters || []) cell.append(make("div", `${p.name} (${p.in}): ${p.description || ""}`, "quiet"));
    const body = route.requestBody?.content["application/json"].schema.$ref.split("/").pop();
    if (body) cell.append(make("div", `body: ${Object.keys(api.components.schemas[body].properties).join(", ")}`, "quiet"));
    const where = make("td", ""); where.append(make("code", path));
    row.append(make("td", method.toUpperCase()), where, cell);
    document.getElementById("routes").append(row);
  }
});
</script></html>"""
)
