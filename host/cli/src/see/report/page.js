'use strict';
// Everything a guest may have said gets into the page through textContent, never as markup.
const began = performance.now();
const $ = (id) => document.getElementById(id);
const fail = (what) => { $('errors').textContent += what + '\n'; };
addEventListener('error', (e) => fail(e.message + ' at ' + e.lineno));
addEventListener('unhandledrejection', (e) => fail(String(e.reason)));

// ---- data ----

function bytesOf(name) {
  const text = $('d-' + name).textContent;
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
function column(name, Type) {
  const bytes = bytesOf(name);
  return new Type(bytes.buffer, bytes.byteOffset, bytes.byteLength / Type.BYTES_PER_ELEMENT);
}
const meta = JSON.parse(new TextDecoder().decode(bytesOf('meta')));
const start = column('start', Float64Array), took = column('took', Float32Array);
const task = column('task', Uint32Array), nameOf = column('name', Uint32Array);
const outcome = column('outcome', Uint8Array), attempt = column('attempt', Uint8Array);
const ends = column('ends', Uint32Array), names = bytesOf('names');
const memAt = column('mem-at', Float64Array), mem = column('mem', Float64Array);
const AGAIN = 0x80, rows = meta.gateways.length, total = Math.max(meta.end, 1);
for (const block of document.querySelectorAll('script[type="text/plain"]')) block.remove();

// The latest end so far, by which the first visible run is found even if runs overlap.
const upTo = new Float64Array(start.length);
for (let g = 0; g < rows; g++) {
  let latest = 0;
  for (let i = meta.offsets[g]; i < meta.offsets[g + 1]; i++) {
    latest = Math.max(latest, start[i] + took[i]);
    upTo[i] = latest;
  }
}
const decoder = new TextDecoder();
function inputName(i) {
  const n = nameOf[i];
  if (n === 0xffffffff) return 'task ' + task[i];
  return decoder.decode(names.subarray(n ? ends[n - 1] : 0, ends[n]));
}
// 0 done, 1 failed, 2 over a limit, 3 worker lost, 4 run again
const classOfKind = meta.kinds.map((kind) =>
  kind === 'returned' ? 0 : kind === 'timed out' || kind === 'limit exceeded' ? 2 : kind === 'worker lost' ? 3 : kind === 'cancelled' ? 4 : 1);
const classOf = (o) => {
  const kind = classOfKind[o & 0x7f];
  return o & AGAIN && kind !== 3 ? 4 : kind;
};
const CANCELLED = meta.kinds.indexOf('cancelled');
// Whether it is the end of a task, not of a run that was repeated or that nobody wanted any more.
const isEnd = (o) => !(o & AGAIN) && o !== CANCELLED;
const classes = new Uint8Array(256);
for (let o = 0; o < 256; o++) classes[o] = (o & 0x7f) < classOfKind.length ? classOf(o) : 1;

// When each gateway had a worker, and what happened to it.
const lives = meta.gateways.map(() => []), marksOf = meta.gateways.map(() => []);
for (const [at, g, what, text] of meta.marks) {
  marksOf[g].push({ at, what, text });
  const life = lives[g], last = life[life.length - 1];
  if (what === 'started' || what === 'replaced') life.push([at, Infinity]);
  else if (what === 'lost' && last && last[1] === Infinity) last[1] = at;
}

// ---- text ----

const digits = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ',');
function time(us) {
  const s = us / 1e6;
  if (s < 1e-3) return Math.round(us) + ' µs';
  if (s < 0.1) return (s * 1e3).toFixed(s < 0.01 ? 2 : 1) + ' ms';
  if (s < 1) return Math.round(s * 1e3) + ' ms';
  if (s < 60) return s.toFixed(s < 10 ? 2 : 1) + ' s';
  if (s < 3600) return Math.floor(s / 60) + 'm' + String(Math.floor(s % 60)).padStart(2, '0') + 's';
  return Math.floor(s / 3600) + 'h' + String(Math.floor(s % 3600 / 60)).padStart(2, '0') + 'm';
}
// When something was, to the microsecond that zooming in goes to.
const exact = (us) => (us / 1e6).toFixed(us < 1e8 ? 6 : 3) + ' s';
// A moment, as exact as the step of the axis asks for.
function moment(us, step) {
  const [unit, name] = step < 1e3 ? [1, ' µs'] : step < 1e5 ? [1e3, ' ms'] : [1e6, ' s'];
  return (step >= 1e5 && step < 1e6 ? (us / unit).toFixed(1) : digits(us / unit)) + name;
}
function bytes(n) {
  if (n < 1 << 20) return Math.round(n / 1024) + ' KiB';
  return n < 10 * 2 ** 30 ? Math.round(n / 2 ** 20) + ' MiB' : (n / 2 ** 30).toFixed(1) + ' GiB';
}
function make(tag, parent, text, cls) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  if (parent) parent.append(node);
  return node;
}

// ---- drawing ----

let color = {};
function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ['fg', 'dim', 'line', 'card', 'ok', 'bad', 'slow', 'lost', 'again', 'gone', 'up', 'blue'])
    color[name] = style.getPropertyValue('--' + name).trim();
  color.classes = [color.ok, color.bad, color.slow, color.lost, color.again];
}
const LEFT = 64, RIGHT = 12, AXIS = 20;
const rowHeight = Math.max(5, Math.min(26, Math.floor(600 / Math.max(rows, 1))));
let view = { from: 0, to: total }, width = 800;
const plot = () => Math.max(width - LEFT - RIGHT, 10);
const xOf = (us) => LEFT + (us - view.from) / (view.to - view.from) * plot();
const usOf = (x) => view.from + (x - LEFT) / plot() * (view.to - view.from);

function sized(canvas, height) {
  const ratio = devicePixelRatio || 1, w = canvas.clientWidth || 800;
  const [pw, ph] = [Math.round(w * ratio), Math.round(height * ratio)];
  if (canvas.width !== pw || canvas.height !== ph) {
    canvas.width = pw;
    canvas.height = ph;
    canvas.style.height = height + 'px';
  }
  const c = canvas.getContext('2d');
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, w, height);
  c.font = '11px system-ui, "DejaVu Sans", sans-serif';
  c.textBaseline = 'middle';
  return c;
}
function lowerBound(array, from, to, value) {
  while (from < to) {
    const middle = (from + to) >> 1;
    if (array[middle] < value) from = middle + 1; else to = middle;
  }
  return from;
}
function nice(span, most) {
  const raw = span / most, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
}
function axis(c, height, labels) {
  const step = Math.max(nice(view.to - view.from, Math.max(2, plot() / 110)), 1);
  c.strokeStyle = color.line;
  c.fillStyle = color.dim;
  c.textAlign = 'center';
  c.lineWidth = 1;
  c.beginPath();
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const x = Math.round(xOf(at)) + 0.5;
    c.moveTo(x, labels ? AXIS - 4 : 0);
    c.lineTo(x, height);
    if (labels) c.fillText(moment(at, step), Math.min(Math.max(x, LEFT + 10), width - 26), 8);
  }
  c.stroke();
}

let columns = [];
function drawTimeline() {
  const canvas = $('timeline'), height = AXIS + rows * rowHeight + 4;
  width = canvas.clientWidth || 800;
  const c = sized(canvas, height);
  const n = Math.ceil(plot()), scale = plot() / (view.to - view.from);
  if (columns.length !== 5 || columns[0].length !== n + 2) columns = [0, 1, 2, 3, 4].map(() => new Float32Array(n + 2));
  axis(c, height, true);
  for (let g = 0; g < rows; g++) {
    const top = AXIS + g * rowHeight, h = rowHeight - (rowHeight > 8 ? 3 : 1);
    c.fillStyle = color.dim;
    c.textAlign = 'right';
    if (rowHeight >= 11 || g % Math.ceil(11 / rowHeight) === 0)
      c.fillText(meta.gateways[g].name.slice(0, 9), LEFT - 8, top + h / 2 + 0.5);
    drawLives(c, g, top, h, scale);
    drawRuns(c, g, top, h, n, scale);
    drawMarks(c, g, top, h);
  }
  c.fillStyle = color.card;
  c.fillRect(width - RIGHT, AXIS, RIGHT, height);
  $('range').textContent = time(view.from) + ' – ' + time(view.to) + ' (' + time(view.to - view.from) + ')';
}
function drawLives(c, g, top, h) {
  // Before the first worker is there, and while there is none.
  c.fillStyle = color.gone;
  c.fillRect(LEFT, top, plot(), h);
  c.fillStyle = color.up;
  const life = lives[g].length ? lives[g] : [[0, Infinity]];
  for (const [from, to] of life) {
    if (to < view.from || from > view.to) continue;
    const x = Math.max(xOf(from), LEFT), end = Math.min(xOf(Math.min(to, view.to)), LEFT + plot());
    c.fillRect(x, top, Math.max(end - x, 0), h);
  }
}
function drawRuns(c, g, top, h, n, scale) {
  const last = meta.offsets[g + 1];
  let i = lowerBound(upTo, meta.offsets[g], last, view.from);
  let touched = false, cls = -1;
  const to = view.to, from = view.from;
  for (; i < last && start[i] <= to; i++) {
    const x = (start[i] - from) * scale, w = took[i] * scale, k = classes[outcome[i]];
    if (w >= 1.5) {
      const left = Math.max(x, 0), right = Math.min(x + w, n);
      if (k !== cls) c.fillStyle = color.classes[cls = k];
      // A gap to the next one, where there is room for it.
      c.fillRect(LEFT + left, top, Math.max(right - left - (w > 4 ? 1 : 0.25), 0.5), h);
      if (w > 60 && h >= 11) label(c, i, left, right, top, h), cls = -1;
    } else if (x >= 0) {
      touched = true;
      const at = x | 0, over = x + w - at - 1;
      if (over > 0) {
        columns[k][at] += w - over;
        columns[k][at + 1] += over;
      } else columns[k][at] += Math.max(w, 0.002);
    }
  }
  if (touched) drawColumns(c, top, h, n);
}
function label(c, i, left, right, top, h) {
  c.save();
  c.beginPath();
  c.rect(LEFT + left, top, right - left - 3, h);
  c.clip();
  c.fillStyle = '#fff';
  c.textAlign = 'left';
  c.fillText(inputName(i), LEFT + left + 4, top + h / 2 + 0.5);
  c.restore();
}
// How much of each column's time was busy is how high it is; what did not end well is at least two pixels of it.
function drawColumns(c, top, h, n) {
  const [good, ...rest] = columns;
  c.fillStyle = color.classes[0];
  let x = 0;
  while (x < n) {
    const of = (at) => {
      let busy = good[at];
      for (const column of rest) busy += column[at];
      return busy > 0 ? Math.max(1, Math.round(Math.min(busy, 1) * h)) : 0;
    };
    const high = of(x);
    let end = x + 1;
    while (end < n && of(end) === high) end++;
    if (high) c.fillRect(LEFT + x, top + h - high, end - x, high);
    x = end;
  }
  good.fill(0);
  rest.forEach((column, k) => {
    let any = false;
    for (let at = 0; at < n; at++) {
      if (column[at] > 0) {
        if (!any) c.fillStyle = color.classes[k + 1];
        any = true;
        const high = Math.max(2, Math.round(Math.min(column[at], 1) * h));
        c.fillRect(LEFT + at, top + h - high, 1, high);
      }
    }
    column.fill(0);
  });
}
function drawMarks(c, g, top, h) {
  let before = -9;
  for (const mark of marksOf[g]) {
    if (mark.at < view.from || mark.at > view.to || mark.what === 'started') continue;
    const x = xOf(mark.at);
    if (x - before < 1 && mark.what !== 'lost') continue;
    before = x;
    if (mark.what === 'lost' || mark.what === 'failed to start') {
      c.fillStyle = color.lost;
      c.fillRect(x - 1, top - 1, 2, h + 2);
    } else {
      c.fillStyle = mark.what === 'recycled' ? color.blue : color.fg;
      c.beginPath();
      c.moveTo(x, top);
      c.lineTo(x + 5, top + Math.min(h, 8) / 2);
      c.lineTo(x, top + Math.min(h, 8));
      c.fill();
    }
  }
}

// A line for each gateway, or the sum where there are too many to tell apart.
const hues = (g) => `hsl(${(g * 137.5 + 150) % 360} 55% 50%)`;
function curve(c, height, most, format, draw) {
  axis(c, height, false);
  c.fillStyle = color.dim;
  c.textAlign = 'right';
  c.fillText(format(most), LEFT - 8, 8);
  c.fillText('0', LEFT - 8, height - 8);
  c.save();
  c.beginPath();
  c.rect(LEFT, 0, plot(), height);
  c.clip();
  draw((value) => height - 2 - value / most * (height - 8));
  c.restore();
}
let memMost = 1;
for (let i = 0; i < mem.length; i++) memMost = Math.max(memMost, mem[i]);
function drawMemory() {
  const c = sized($('memory'), 90);
  if (!mem.length) {
    c.fillStyle = color.dim;
    c.fillText('no samples: the run was too short', LEFT, 45);
    return;
  }
  curve(c, 90, memMost, bytes, (y) => {
    c.lineWidth = rows > 16 ? 0.6 : 1.2;
    for (let g = 0; g < rows; g++) {
      const [first, last] = [meta.samples[g], meta.samples[g + 1]];
      const from = Math.max(first, lowerBound(memAt, first, last, view.from) - 1);
      const to = Math.min(last, lowerBound(memAt, first, last, view.to) + 1);
      const skip = Math.max(1, Math.floor((to - from) / (2 * plot())));
      c.strokeStyle = hues(g);
      c.beginPath();
      for (let i = from, pen = false; i < to; i += skip) {
        // A worker that is gone has no memory.
        const gap = pen && !lives[g].some(([a, b]) => a <= memAt[i - skip] && memAt[i] <= b) && lives[g].length;
        if (pen && !gap) c.lineTo(xOf(memAt[i]), y(mem[i])); else c.moveTo(xOf(memAt[i]), y(mem[i]));
        pen = true;
      }
      c.stroke();
    }
  });
}
// Ends of tasks by time, in as many parts as are ever looked at in one view; a closer look counts again.
function countEnds(from, to, parts) {
  const counts = new Uint32Array(parts), scale = parts / (to - from);
  for (let g = 0; g < rows; g++) {
    const last = meta.offsets[g + 1];
    for (let i = lowerBound(upTo, meta.offsets[g], last, from); i < last && start[i] <= to; i++) {
      const end = start[i] + took[i];
      if (isEnd(outcome[i]) && end >= from && end < to) counts[Math.min(parts - 1, ((end - from) * scale) | 0)]++;
    }
  }
  return counts;
}
function drawRate() {
  const c = sized($('rate'), 90), parts = Math.max(20, Math.round(plot() / 4));
  const counts = countEnds(view.from, view.to, parts), seconds = (view.to - view.from) / 1e6 / parts;
  let most = 1;
  for (const count of counts) most = Math.max(most, count);
  curve(c, 90, most / seconds, (n) => digits(n) + '/s', () => {
    c.fillStyle = color.ok;
    for (let at = 0; at < parts; at++) {
      const high = counts[at] / most * 82;
      if (counts[at]) c.fillRect(LEFT + at * plot() / parts, 88 - high, plot() / parts - 0.5, Math.max(high, 1));
    }
  });
}

// ---- latency ----

const times = (() => {
  let n = 0;
  for (let i = 0; i < outcome.length; i++) if (isEnd(outcome[i])) n++;
  const all = new Float32Array(n);
  n = 0;
  for (let i = 0; i < outcome.length; i++) if (isEnd(outcome[i])) all[n++] = took[i];
  return all.sort();
})();
const quantile = (part) => times[Math.max(0, Math.ceil(part * times.length) - 1)];
function drawLatency() {
  const canvas = $('latency'), height = 170, c = sized(canvas, height);
  if (!times.length) return;
  const w = (canvas.clientWidth || 800) - LEFT - RIGHT;
  const low = Math.max(times[0], 0.5), high = Math.max(times[times.length - 1], low * 2);
  // A quarter of an octave each, from one power of ten to another.
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high) + 1e-9), parts = Math.min(160, (to - from) * 20);
  const counts = new Uint32Array(parts), at = (us) => (Math.log10(Math.max(us, low)) - from) / (to - from);
  for (let i = 0; i < times.length; i++) counts[Math.min(parts - 1, Math.floor(at(times[i]) * parts))]++;
  const most = Math.max(...counts), bottom = height - AXIS;
  c.fillStyle = color.dim;
  c.textAlign = 'right';
  c.fillText(digits(most), LEFT - 8, 22);
  c.fillText('0', LEFT - 8, bottom - 2);
  c.textAlign = 'center';
  c.strokeStyle = color.line;
  c.beginPath();
  for (let power = from; power <= to; power++) {
    const x = LEFT + (power - from) / (to - from) * w;
    c.moveTo(x, 16);
    c.lineTo(x, bottom);
    const name = power < 3 ? 10 ** power + ' µs' : power < 6 ? 10 ** (power - 3) + ' ms' : digits(10 ** (power - 6)) + ' s';
    c.fillText(name, Math.min(x, LEFT + w - 12), height - 9);
  }
  c.stroke();
  c.fillStyle = color.ok;
  for (let i = 0; i < parts; i++) {
    if (!counts[i]) continue;
    const high = Math.max(1, counts[i] / most * (bottom - 18));
    c.fillRect(LEFT + i * w / parts, bottom - high, Math.max(w / parts - 1, 1), high);
  }
  c.strokeStyle = c.fillStyle = color.bad;
  let before = -99;
  for (const [name, part] of [['p50', 0.5], ['p90', 0.9], ['p99', 0.99], ['max', 1]]) {
    const x = Math.round(LEFT + at(quantile(part)) * w) + 0.5;
    c.beginPath();
    c.moveTo(x, 14);
    c.lineTo(x, bottom);
    c.stroke();
    if (x - before > 30) c.fillText(name, x, 7);
    before = x;
  }
}

// ---- looking around ----

let wanted = false;
function redraw() {
  drawTimeline();
  drawRate();
  drawMemory();
}
function soon() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => { wanted = false; redraw(); });
}
function look(from, to) {
  const least = 20, span = Math.min(Math.max(to - from, least), total);
  const middle = (from + to) / 2;
  from = Math.min(Math.max(to - from < least ? middle - span / 2 : from, 0), total - span);
  view = { from, to: from + span };
  soon();
}
const zoom = (factor, at = (view.from + view.to) / 2) =>
  look(at - (at - view.from) * factor, at + (view.to - at) * factor);
const move = (part) => {
  const by = (view.to - view.from) * part;
  look(view.from + by, view.to + by);
};
let pinned = false;
function hide() {
  pinned = false;
  $('tip').hidden = true;
  $('tip').classList.remove('pinned');
}
function findRun(x, y) {
  const g = Math.floor((y - AXIS) / rowHeight);
  if (g < 0 || g >= rows || x < LEFT) return null;
  const at = usOf(x), pixel = (view.to - view.from) / plot();
  for (const mark of marksOf[g]) if (Math.abs(mark.at - at) < 3 * pixel && mark.what !== 'started') return { g, mark };
  // What did not end well is what one looks for; then the longest.
  let best = -1;
  const score = (i) => (classes[outcome[i]] ? 1e15 : 0) + took[i];
  const to = meta.offsets[g + 1];
  for (let i = lowerBound(upTo, meta.offsets[g], to, at - pixel); i < to && start[i] <= at + pixel; i++)
    if (start[i] + took[i] >= at - pixel && (best < 0 || score(i) > score(best))) best = i;
  return { g, i: best };
}
const failureOf = new Map();
function describe({ g, i, mark }) {
  const gateway = meta.gateways[g].name;
  if (mark) return `${gateway}: ${mark.what} at ${time(mark.at)}\n${mark.text}`.trim();
  if (i < 0) return '';
  const known = failureOf.get(task[i]);
  const lines = [inputName(i), `task ${task[i]}, attempt ${attempt[i]}, on ${gateway}`,
    `${meta.kinds[outcome[i] & 0x7f]}${outcome[i] & AGAIN ? ', was run again' : ''} after ${time(took[i])}`,
    `from ${exact(start[i])} to ${exact(start[i] + took[i])}`];
  if (known && !(outcome[i] & AGAIN)) lines.push(known.failure.message.slice(0, 300));
  return lines.join('\n');
}
function tip(event, found) {
  const text = found ? describe(found) : '';
  const node = $('tip');
  node.hidden = !text;
  node.textContent = text;
  const left = event.clientX + 14 + node.offsetWidth > innerWidth ? event.clientX - node.offsetWidth - 14 : event.clientX + 14;
  node.style.left = Math.max(left, 4) + 'px';
  node.style.top = Math.min(event.clientY + 14, innerHeight - node.offsetHeight - 8) + 'px';
}
let drag = null;
for (const canvas of [$('timeline'), $('rate'), $('memory')]) {
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    hide();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move((event.deltaX || event.deltaY) / 800);
    else zoom(Math.exp(Math.max(-300, Math.min(300, event.deltaY)) / 300), usOf(event.offsetX));
  }, { passive: false });
  canvas.addEventListener('pointerdown', (event) => {
    drag = { x: event.offsetX, from: view.from, to: view.to, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (drag) {
      const by = (drag.x - event.offsetX) / plot() * (drag.to - drag.from);
      drag.moved = drag.moved || Math.abs(drag.x - event.offsetX) > 3;
      if (drag.moved) { hide(); canvas.classList.add('drag'); look(drag.from + by, drag.to + by); }
    } else if (canvas.id === 'timeline' && !pinned) tip(event, findRun(event.offsetX, event.offsetY));
  });
  canvas.addEventListener('pointerup', (event) => {
    canvas.classList.remove('drag');
    const clicked = drag && !drag.moved;
    drag = null;
    if (clicked && canvas.id === 'timeline') click(event);
  });
  canvas.addEventListener('pointerleave', () => { if (!pinned) hide(); });
  canvas.addEventListener('dblclick', () => look(0, total));
}
function click(event) {
  if (pinned) return hide();
  const found = findRun(event.offsetX, event.offsetY);
  if (!found || !(found.mark || found.i >= 0)) return;
  const known = found.i >= 0 && failureOf.get(task[found.i]);
  if (known) return openFailure(known);
  tip(event, found);
  pinned = true;
  $('tip').classList.add('pinned');
}
const allFailures = (() => {
  const found = [];
  for (let i = 0; i < outcome.length; i++) {
    const k = classes[outcome[i]];
    if (k && k !== 4) found.push(i);
  }
  return found.sort((a, b) => start[a] - start[b]);
})();
let nextFailure = 0;
function showFailure() {
  if (!allFailures.length) return;
  const i = allFailures[nextFailure++ % allFailures.length];
  showRun(i);
}
function showRun(i) {
  const margin = Math.max(took[i] * 4, 500);
  look(start[i] - margin, start[i] + took[i] + margin);
  $('timeline').scrollIntoView({ block: 'nearest' });
}
const actions = {
  'zoom-in': () => zoom(0.5), 'zoom-out': () => zoom(2), left: () => move(-0.3), right: () => move(0.3),
  reset: () => look(0, total), 'next-failure': showFailure,
};
for (const id in actions) $(id).addEventListener('click', () => { hide(); actions[id](); });
const keys = { '+': 'zoom-in', '=': 'zoom-in', '-': 'zoom-out', ArrowLeft: 'left', ArrowRight: 'right', 0: 'reset', n: 'next-failure' };
addEventListener('keydown', (event) => {
  if (event.key === 'Escape') hide();
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  hide();
  actions[keys[event.key]]();
});
if (!allFailures.length) $('next-failure').hidden = true;

// ---- lists ----

const byTask = new Map();
function runOf(number) {
  if (!byTask.size) for (let i = 0; i < task.length; i++) if (!(outcome[i] & AGAIN)) byTask.set(task[i], i);
  return byTask.get(number);
}
function jump(parent, number, text) {
  const link = make('a', parent, text, 'jump');
  link.addEventListener('click', (event) => {
    event.preventDefault();
    const i = runOf(number);
    if (i !== undefined) showRun(i);
  });
}
function body(failure, into) {
  make('p', into, `task ${failure.task} on ${failure.gateway || 'no gateway'}, ${failure.attempts} attempt` +
    `${failure.attempts === 1 ? '' : 's'}, ${time(failure.us)}, ended at ${time(failure.at)} `, 'facts');
  jump(into.lastChild, failure.task, 'show in timeline');
  make('pre', into, failure.message +
    (failure.location && !failure.message.includes(failure.location) ? '\nat ' + failure.location : ''));
  if (failure.backtrace.length) {
    make('p', into, 'backtrace', 'facts');
    make('pre', into, failure.backtrace.map((frame, n) => `${String(n).padStart(2)}: ${frame}`).join('\n'));
  }
  if (failure.stderr) {
    make('p', into, 'standard error', 'facts');
    make('pre', into, failure.stderr);
  }
}
// What is inside is made when it is opened.
function lazily(details, fill) {
  details.addEventListener('toggle', () => { if (details.open && fill) { fill(); fill = null; } });
  details.fill = () => { if (fill) { fill(); fill = null; } };
}
for (const cause of meta.causes) {
  const group = make('details', $('failures')), summary = make('summary', group);
  make('b', summary, digits(cause.count) + '×');
  make('span', summary, cause.kind, 'kind');
  make('span', summary, cause.text);
  const items = new Map();
  lazily(group, () => {
    for (const failure of cause.examples) {
      const item = make('details', group);
      make('summary', item, failure.name);
      lazily(item, () => body(failure, item));
      items.set(failure.task, item);
    }
    const rest = cause.count - cause.examples.length;
    if (rest > 0) make('p', group, `and ${digits(rest)} more of this cause`, 'facts');
  });
  for (const failure of cause.examples) failureOf.set(failure.task, { failure, group, items });
}
function openFailure({ failure, group, items }) {
  group.fill();
  group.open = true;
  const item = items.get(failure.task);
  item.fill();
  item.open = true;
  item.scrollIntoView({ block: 'center' });
}
$('failures-section').hidden = !meta.causes.length;
for (const slow of meta.slowest) {
  const row = make('tr', $('slowest'));
  make('td', row, time(slow.us));
  jump(make('td', row), slow.task, slow.name);
}
let shown = 0;
for (const [at, g, what, text] of meta.marks) {
  if (what === 'started' || shown >= 500) continue;
  shown++;
  const row = make('tr', $('marks'));
  make('td', row, time(at));
  make('td', row, meta.gateways[g].name);
  make('td', row, what);
  make('td', row, text);
}
$('marks-section').hidden = !shown;
$('quantiles').textContent = times.length
  ? `${digits(times.length)} tasks: p50 ${time(quantile(0.5))}, p90 ${time(quantile(0.9))}, p99 ${time(quantile(0.99))}, ` +
    `max ${time(quantile(1))}` : 'no task has run';

// ---- the first drawing, and a check that the data is whole ----

readColors();
redraw();
drawLatency();
addEventListener('resize', () => { soon(); drawLatency(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColors(); soon(); drawLatency(); });
const counted = meta.kinds.map(() => 0);
for (let i = 0; i < outcome.length; i++) if (!(outcome[i] & AGAIN)) counted[outcome[i] & 0x7f]++;
$('check').textContent = 'in the timeline: ' + (meta.kinds.map((kind, k) => [counted[k], kind]).filter(([n]) => n)
  .map(([n, kind]) => `${digits(n)} ${kind}`).join(', ') || 'nothing');
document.body.dataset.ready = Math.round(performance.now() - began);

// #measure: how long a drawing takes, of everything, of a tenth and of a thousandth. #zoom=FROM-TO, in µs. #open: a failure
// of each cause.
if (location.hash === '#measure') {
  const measure = (from, to) => {
    view = { from, to };
    const runs = [];
    for (let n = 0; n < 7; n++) {
      const t = performance.now();
      redraw();
      $('timeline').getContext('2d').getImageData(0, 0, 1, 1);
      runs.push(performance.now() - t);
    }
    return runs.sort((a, b) => a - b)[3].toFixed(1);
  };
  const mid = total / 2;
  document.body.dataset.measure = [measure(0, total), measure(mid - total / 20, mid + total / 20),
    measure(mid - total / 2000, mid + total / 2000)].join(' ');
  view = { from: 0, to: total };
  redraw();
} else if (location.hash.startsWith('#zoom=')) {
  const [from, to] = location.hash.slice(6).split('-').map(Number);
  view = { from, to };
  redraw();
} else if (location.hash === '#open') {
  for (const cause of meta.causes) if (cause.examples.length) openFailure(failureOf.get(cause.examples[0].task));
  scrollTo(0, 0);
}
