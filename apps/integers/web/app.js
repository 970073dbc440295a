// The page of a counter. No library, nothing from elsewhere. Integers are kept as text: they may be
// larger than what a JavaScript number can tell apart.
'use strict';

const $ = (id) => document.getElementById(id);
const REFRESH = 'integers.refresh';
let tokens = null;
let usageTimer = 0;

class Refused extends Error {
  constructor(status, problem, retryAfter) {
    const fields = (problem.errors || []).map((one) => `${one.pointer.replace('/', '')} ${one.detail}`);
    super(fields.join('; ') || problem.detail || problem.title || `status ${status}`);
    this.status = status;
    this.isUnknown = status >= 500 && !retryAfter;
  }
}

async function send(method, path, { body, accept = 'application/json', token, headers = {} } = {}) {
  const all = { accept, ...headers };
  if (token) all.authorization = `Bearer ${token}`;
  if (body) all['content-type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, { method, headers: all, body });
  } catch {
    throw new Refused(599, { detail: 'no connection' }, null);
  }
  const text = await answer.text();
  if (answer.ok) return accept === 'text/plain' ? text.trim() : text && JSON.parse(text);
  let problem = {};
  try { problem = JSON.parse(text); } catch { /* an answer that is no problem document */ }
  throw new Refused(answer.status, problem, answer.headers.get('retry-after'));
}

function remember(pair) {
  tokens = pair;
  try {
    if (pair) sessionStorage.setItem(REFRESH, pair.refreshToken);
    else sessionStorage.removeItem(REFRESH);
  } catch { /* storage may be forbidden: then a reload signs out */ }
}

/** With the access token; once more with a new one when it has expired. */
async function call(method, path, options = {}) {
  try {
    return await send(method, path, { ...options, token: tokens.accessToken });
  } catch (error) {
    if (error.status !== 401) throw error;
    try {
      remember(await send('POST', '/auth/refresh', { body: JSON.stringify({ refreshToken: tokens.refreshToken }) }));
    } catch (refused) {
      if (refused.status === 401) leave();
      throw refused;
    }
    return send(method, path, { ...options, token: tokens.accessToken });
  }
}

/** One press at a time, and what went wrong in words. */
async function doing(button, note, work) {
  if (button.getAttribute('aria-busy') === 'true') return;
  button.setAttribute('aria-busy', 'true');
  $('trouble').hidden = true;
  try {
    await work();
  } catch (error) {
    note.textContent = error.message;
    note.hidden = false;
  } finally {
    button.setAttribute('aria-busy', 'false');
  }
}

function grouped(text) {
  return text.replace(/\B(?=(\d{3})+$)/g, '\u2009');
}

function showValue(text) {
  $('value').textContent = grouped(text);
  $('value').classList.toggle('long', text.length > 9);
}

async function showCurrent() {
  showValue(await call('GET', '/api/v1/integer', { accept: 'text/plain' }));
}

/** The same key until there is an answer: however often it is sent, it counts once. */
async function next() {
  const n = $('n').value;
  const headers = { 'idempotency-key': crypto.randomUUID() };
  for (let attempt = 1; ; attempt += 1) {
    try {
      const lines = (await call('POST', `/api/v1/integer/next?n=${n}`, { accept: 'text/plain', headers })).split('\n');
      const last = lines[lines.length - 1];
      showValue(last);
      $('given').textContent = lines.length === 1 ? `You were given ${last}.` : `You were given ${lines[0]} to ${last}.`;
      return;
    } catch (error) {
      if (error.status < 500 || attempt === 5) throw error;
      $('given').textContent = 'No answer yet; asking again…';
      await new Promise((done) => setTimeout(done, 300 * attempt));
    }
  }
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function showUsage() {
  const usage = await call('GET', '/api/v1/usage?days=30');
  const most = Math.max(1, ...usage.days.map((day) => day.integers));
  const width = 600 / usage.days.length;
  $('chart').replaceChildren(...usage.days.map((day, at) => {
    const height = day.integers ? Math.max(3, (day.integers / most) * 118) : 2;
    const bar = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    const sizes = { x: at * width + 2, y: 120 - height, width: width - 4, height, rx: 2 };
    for (const [name, value] of Object.entries(sizes)) bar.setAttribute(name, value);
    bar.classList.toggle('none', !day.integers);
    return bar;
  }));
  const best = usage.integers ? ` The best day had ${most}.` : '';
  $('usage-total').textContent = `${usage.integers} integers in ${usage.calls} requests, up to 30 seconds behind.${best}`;
  $('chart-from').textContent = usage.days[0].day;
  $('chart-to').textContent = 'today';
  $('days').replaceChildren(...usage.days.toReversed().map((day) => {
    const row = document.createElement('tr');
    row.append(make('th', day.day, { scope: 'row' }), make('td', String(day.calls)), make('td', String(day.integers)));
    return row;
  }));
}

function showKey(key, begins) {
  $('key-begins').textContent = begins;
  $('key-shown').hidden = !key;
  $('key').textContent = key || '';
  const shown = key || '$KEY';
  $('curl').textContent = [
    '# the next integer, and nothing else in the answer',
    `curl -X POST -H 'X-API-Key: ${shown}' -H 'Accept: text/plain' \\`,
    `     -H "Idempotency-Key: $(uuidgen)" ${location.origin}/api/v1/integer/next`,
    '',
    '# a range of ten',
    `curl -X POST -H 'X-API-Key: ${shown}' '${location.origin}/api/v1/integer/next?n=10'`,
    '',
    '# where the counter stands, as a JSON:API document',
    `curl -H 'X-API-Key: ${shown}' -H 'Accept: application/vnd.api+json' ${location.origin}/api/v1/integer`,
  ].join('\n');
}

async function enter(pair, apiKey) {
  remember(pair);
  $('outside').hidden = true;
  $('inside').hidden = false;
  $('sign-out').hidden = false;
  $('who').textContent = pair.user.username;
  showKey(apiKey, pair.user.apiKeyBegins);
  $('n').focus();
  const shown = await Promise.allSettled([showCurrent(), showUsage()]);
  const failed = shown.find((one) => one.status === 'rejected');
  if (failed && tokens) {
    $('trouble').textContent = failed.reason.message;
    $('trouble').hidden = false;
  }
  clearInterval(usageTimer);
  usageTimer = setInterval(() => { if (!document.hidden && tokens) showUsage().catch(() => {}); }, 30_000);
}

function leave() {
  remember(null);
  clearInterval(usageTimer);
  $('inside').hidden = true;
  $('outside').hidden = false;
  $('sign-out').hidden = true;
  $('who').textContent = '';
  $('key-shown').hidden = true;
  $('key').textContent = '';
  for (const id of ['given', 'set-note', 'key-note']) $(id).textContent = '';
  $('enter').reset();
  $('enter').elements.username.focus();
}

$('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const what = event.submitter?.value === 'create' ? 'create' : 'token';
  const note = $('enter-error');
  note.hidden = true;
  doing(form.querySelector(`button[value=${what}]`), note, async () => {
    const body = JSON.stringify({ username: form.elements.username.value, password: form.elements.password.value });
    let key = null;
    if (what === 'create') key = (await send('POST', '/users/create', { body })).apiKey;
    await enter(await send('POST', '/auth/token', { body }), key);
    form.reset();
  });
});

$('next').addEventListener('submit', (event) => {
  event.preventDefault();
  doing(event.currentTarget.querySelector('button'), $('given'), next);
});

$('set').addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  doing(form.querySelector('button'), $('set-note'), async () => {
    // Written by hand, because a number of JavaScript would round it.
    const body = `{"value":${form.elements.value.value},"confirm":${form.elements.confirm.checked}}`;
    const value = await call('PUT', '/api/v1/integer', { accept: 'text/plain', body });
    showValue(value);
    $('set-note').textContent = `The counter stands at ${value}.`;
    form.reset();
  });
});

$('rotate').addEventListener('click', (event) => doing(event.currentTarget, $('key-note'), async () => {
  if (!confirm('Programs that use the present key will be refused from now on. Make another key?')) return;
  const made = await call('POST', '/api/v1/api-key/rotate');
  showKey(made.apiKey, made.apiKeyBegins);
  $('key-note').textContent = 'The old key is refused from now on.';
  $('key').focus();
}));

$('copy').addEventListener('click', (event) => doing(event.currentTarget, $('key-note'), async () => {
  await navigator.clipboard.writeText($('key').textContent);
  $('key-note').textContent = 'Copied.';
}));

$('sign-out').addEventListener('click', (event) => doing(event.currentTarget, $('trouble'), async () => {
  try { await call('POST', '/auth/logout'); } finally { leave(); }
}));

(async () => {
  let refreshToken = null;
  try { refreshToken = sessionStorage.getItem(REFRESH); } catch { /* then there is none */ }
  if (!refreshToken) return;
  try {
    await enter(await send('POST', '/auth/refresh', { body: JSON.stringify({ refreshToken }) }), null);
  } catch {
    leave();
  }
})();
