// The users page: sign in, list, search, create, edit, deactivate. No build, no libraries.
// Tokens live in sessionStorage: they end with the tab and are never sent by the browser itself.

const $ = (id) => document.getElementById(id);
const state = { page: 0, size: 20, sort: "id,asc", q: "", role: "", active: "", me: null, edited: null };

// --- talking to the service ------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, problem) {
    const fields = (problem.errors ?? []).map((e) => `${e.pointer.replace("/", "")}: ${e.detail}`);
    super(fields.length ? fields.join("\n") : problem.detail ?? problem.title ?? `answer ${status}`);
    this.status = status;
  }
}

const tokens = {
  get: () => JSON.parse(sessionStorage.getItem("tokens") ?? "null"),
  set: (value) => value ? sessionStorage.setItem("tokens", JSON.stringify(value)) : sessionStorage.removeItem("tokens"),
};

let renewing = null;

/** One renewal at a time: a refresh token works once. */
function renew() {
  renewing ??= send("POST", "/api/auth/refresh", { refreshToken: tokens.get()?.refreshToken ?? "" }, {}, false)
    .then((answer) => tokens.set(answer.body))
    .finally(() => { renewing = null; });
  return renewing;
}

async function send(method, path, body, headers = {}, mayRenew = true) {
  const access = tokens.get()?.accessToken;
  const response = await fetch(path, {
    method,
    headers: {
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(access ? { authorization: `Bearer ${access}` } : {}),
      ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.status === 401 && mayRenew && access) {
    try {
      await renew();
    } catch {
      signedOut("Your session has ended. Sign in again.");
      throw new Refusal(401, { detail: "your session has ended" });
    }
    return send(method, path, body, headers, false);
  }
  const text = await response.text();
  let content = null;
  try { content = text ? JSON.parse(text) : null; } catch { content = { detail: `unreadable answer ${response.status}` }; }
  if (!response.ok) throw new Refusal(response.status, content ?? {});
  return { body: content, etag: response.headers.get("etag") };
}

// --- small helpers ---------------------------------------------------------------------------

/** An element; text is always text, never markup. */
function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

let toastTimer = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 4000);
}

function showError(form, error) {
  const place = form.querySelector(".form-error");
  place.textContent = error?.message ?? "";
  place.hidden = !error;
}

/** Runs an action and tells the person when it fails. */
const attempt = (action) => async (...given) => {
  try { await action(...given); } catch (error) { toast(error.message); }
};

const mayEdit = (user) => state.me.role === "admin" || (state.me.role === "editor" && user.role === "viewer");
const fullName = (user) => `${user.firstName} ${user.lastName}`.trim() || user.username;
const day = (text) => new Date(text).toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });

// --- sign-in ---------------------------------------------------------------------------------

function signedOut(message) {
  tokens.set(null);
  $("app").hidden = true;
  $("editor").close();
  $("sign-in").hidden = false;
  showError($("sign-in-form"), message ? { message } : null);
}

async function signedIn() {
  state.me = (await send("GET", "/api/auth/me")).body;
  $("me").textContent = `${fullName(state.me)} · ${state.me.role}`;
  $("new").hidden = state.me.role === "viewer";
  $("sign-in").hidden = true;
  $("app").hidden = false;
  await Promise.all([load(), numbers(), health()]);
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  button.disabled = true;
  showError(form, null);
  try {
    tokens.set(null);
    const fields = Object.fromEntries(new FormData(form));
    tokens.set((await send("POST", "/api/auth/login", fields, {}, false)).body);
    form.reset();
    await signedIn();
  } catch (error) {
    showError(form, error);
  } finally {
    button.disabled = false;
  }
});

$("sign-out").addEventListener("click", async () => {
  // Signed out here in any case; the service may be out of reach.
  try { await send("POST", "/api/auth/logout"); } catch { /* the tokens are dropped below */ }
  signedOut();
});

// --- list ------------------------------------------------------------------------------------

const COLUMNS = [["username", "User"], ["email", "E-mail"], ["role", "Role"], [null, "State"], ["createdAt", "Created"], [null, ""]];

function drawHead() {
  const [field, direction] = state.sort.split(",");
  $("head").replaceChildren(...COLUMNS.map(([name, title]) => {
    if (!name) return element("th", {}, title);
    const arrow = name === field ? (direction === "asc" ? " ↑" : " ↓") : "";
    const button = element("button", { type: "button" }, title + arrow);
    button.addEventListener("click", attempt(() => {
      state.sort = `${name},${name === field && direction === "asc" ? "desc" : "asc"}`;
      state.page = 0;
      return load();
    }));
    const head = element("th", {}, button);
    if (name === field) head.setAttribute("aria-sort", direction === "asc" ? "ascending" : "descending");
    return head;
  }));
}

function drawRow(user) {
  const face = element("span", { className: "face" }, (user.firstName[0] ?? user.username[0]) + (user.lastName[0] ?? ""));
  face.style.setProperty("--hue", String((user.id * 137) % 360));
  const who = element("div", {}, element("span", {}, fullName(user)), element("small", {}, user.username));
  const pill = element("span", { className: user.isActive ? "pill good" : "pill" }, user.isActive ? "active" : "inactive");
  const actions = element("td", { className: "actions" });
  if (mayEdit(user)) {
    const edit = element("button", { type: "button", className: "small" }, "Edit");
    edit.addEventListener("click", attempt(() => openEditor(user.id)));
    const word = user.isActive ? "Deactivate" : "Reactivate";
    const toggle = element("button", { type: "button", className: "small", disabled: user.id === state.me.id }, word);
    toggle.addEventListener("click", attempt(async () => {
      await send("PUT", `/api/users/${user.id}/${word.toLowerCase()}`);
      toast(`${fullName(user)} is ${user.isActive ? "inactive and signed out everywhere" : "active again"}.`);
      await Promise.all([load(), numbers()]);
    }));
    actions.append(edit, toggle);
  }
  return element("tr", { className: user.isActive ? "" : "off" },
    element("td", {}, element("div", { className: "who" }, face, who)), element("td", {}, user.email), element("td", {}, user.role),
    element("td", {}, pill), element("td", { className: "quiet" }, day(user.createdAt)), actions);
}

let newestLoad = 0;
async function load() {
  const mine = ++newestLoad;
  const query = new URLSearchParams({ page: state.page, size: state.size, sort: state.sort });
  for (const name of ["q", "role", "active"]) if (state[name]) query.set(name, state[name]);
  const page = (await send("GET", `/api/users?${query}`)).body;
  if (mine !== newestLoad) return; // an answer to older words
  drawHead();
  $("rows").replaceChildren(...page.content.map(drawRow));
  $("empty").hidden = page.content.length > 0;
  const from = page.number * page.size;
  $("range").textContent = page.totalElements ? `${from + 1}–${from + page.content.length} of ${page.totalElements}` : "0 users";
  $("previous").disabled = page.first;
  $("next").disabled = page.last;
}

async function numbers() {
  const stats = (await send("GET", "/api/users/stats")).body;
  $("total").textContent = stats.total.toLocaleString();
  $("active").textContent = stats.active.toLocaleString();
  $("admins").textContent = stats.byRole.admin.toLocaleString();
  const most = Math.max(1, ...stats.createdPerDay.map((d) => d.count));
  $("chart").replaceChildren(...stats.createdPerDay.map((d, index) => {
    const height = d.count ? Math.max(4, 52 * d.count / most) : 2;
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: index * 20 + 2, y: 55 - height, width: 16, height, rx: 2 })) bar.setAttribute(name, value);
    if (!d.count) bar.setAttribute("class", "none");
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${d.day}: ${d.count}`;
    bar.append(title);
    return bar;
  }));
}

async function health() {
  let status = "no answer";
  try { status = (await (await fetch("/api/v1/health")).json()).status; } catch { /* shown as no answer */ }
  $("health").textContent = status.toLowerCase();
  $("health").className = status === "UP" ? "pill good" : "pill bad";
}

let typing = 0;
$("search").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(attempt(() => { state.q = event.target.value.trim(); state.page = 0; return load(); }), 200);
});
$("role").addEventListener("change", attempt((event) => { state.role = event.target.value; state.page = 0; return load(); }));
$("state").addEventListener("change", attempt((event) => { state.active = event.target.value; state.page = 0; return load(); }));
$("previous").addEventListener("click", attempt(() => { state.page -= 1; return load(); }));
$("next").addEventListener("click", attempt(() => { state.page += 1; return load(); }));

// --- form ------------------------------------------------------------------------------------

async function openEditor(id) {
  const form = $("editor-form");
  form.reset();
  showError(form, null);
  state.edited = null;
  if (id !== undefined) {
    const { body, etag } = await send("GET", `/api/users/${id}`);
    state.edited = { user: body, etag };
    for (const name of ["username", "email", "firstName", "lastName", "role"]) form.elements[name].value = body[name];
  }
  $("editor-title").textContent = state.edited ? `Edit ${fullName(state.edited.user)}` : "New user";
  $("editor-note").textContent = state.edited ? `version ${state.edited.user.version}, last changed by ${state.edited.user.updatedBy}` : "";
  form.elements.password.placeholder = state.edited ? "unchanged" : "none: cannot sign in";
  for (const label of form.querySelectorAll(".for-admin")) label.hidden = state.me.role !== "admin";
  $("editor").showModal();
}

$("new").addEventListener("click", attempt(() => openEditor()));
$("cancel").addEventListener("click", () => $("editor").close());
$("editor-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const fields = Object.fromEntries(new FormData(form));
  if (!fields.password) delete fields.password;
  if (state.me.role !== "admin") { delete fields.role; delete fields.password; }
  try {
    if (state.edited) {
      await send("PUT", `/api/users/${state.edited.user.id}`, fields, { "if-match": state.edited.etag });
    } else {
      await send("POST", "/api/users", fields);
    }
    $("editor").close();
    toast(state.edited ? "Saved." : `${fields.username} was created.`);
    await Promise.all([load(), numbers()]);
  } catch (error) {
    showError(form, error.status === 412 ? { message: "Somebody else changed this user meanwhile. Close and open again." } : error);
  }
});

// --- start -----------------------------------------------------------------------------------

setInterval(() => { if (!$("app").hidden) health(); }, 10_000);
if (tokens.get()) signedIn().catch((error) => signedOut(error.status === 401 ? "" : error.message));
else signedOut();
