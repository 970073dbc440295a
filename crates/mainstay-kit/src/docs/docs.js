// Shows /openapi.json and sends requests. No library, nothing from elsewhere.
'use strict';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

/** An element with properties and children; text is never taken for markup. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function resolve(spec, node) {
  if (!node || !node.$ref) return node;
  return node.$ref.slice(2).split('/').reduce((at, key) => at && at[key.replace(/~1/g, '/')], spec);
}

/** A value that fits a schema: its example, or one made from its properties. */
function example(spec, given) {
  const schema = resolve(spec, given) || {};
  if (schema.example !== undefined) return schema.example;
  if (schema.examples) return schema.examples[0];
  if (schema.enum) return schema.enum[0];
  if (schema.properties) {
    return Object.fromEntries(Object.entries(schema.properties).map(([name, part]) => [name, example(spec, part)]));
  }
  if (schema.items) return [example(spec, schema.items)];
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  return { integer: schema.minimum || 1, number: 1, boolean: false, string: '' }[type] ?? null;
}

function table(caption, rows) {
  if (!rows.length) return null;
  const body = rows.map((row) => make('tr', {}, ...row.map((cell, at) =>
    make(at ? 'td' : 'th', at ? {} : { scope: 'row' }, cell))));
  return make('table', {}, make('caption', { hidden: true }, caption), make('tbody', {}, ...body));
}

async function send(method, path, fields, bodyField, accept, output) {
  const query = new URLSearchParams();
  const headers = { accept };
  let url = path;
  for (const { parameter, input } of fields) {
    if (parameter.in === 'path') url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (!input.value) continue;
    else if (parameter.in === 'query') query.set(parameter.name, input.value);
    else if (parameter.in === 'header') headers[parameter.name] = input.value;
  }
  const credential = document.getElementById('credential').value.trim();
  if (credential) headers.authorization = `Bearer ${credential}`;
  const options = { method: method.toUpperCase(), headers };
  if (bodyField && bodyField.value.trim()) {
    headers['content-type'] = 'application/json';
    options.body = bodyField.value;
  }
  output.hidden = false;
  output.textContent = '…';
  try {
    const answer = await fetch(url + (query.size ? `?${query}` : ''), options);
    let text = await answer.text();
    try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* plain text stays as it is */ }
    output.textContent = `${answer.status} ${answer.statusText}\n${text}`;
  } catch (error) {
    output.textContent = `no answer: ${error.message}`;
  }
}

function operation(spec, method, path, item) {
  const described = item[method];
  const parameters = [...(item.parameters || []), ...(described.parameters || [])].map((one) => resolve(spec, one));
  const fields = parameters.map((parameter) => ({ parameter, input: make('input', { required: !!parameter.required, autocomplete: 'off' }) }));
  const content = resolve(spec, described.requestBody)?.content;
  const bodyField = content ? make('textarea', { rows: 5, spellcheck: false,
    value: JSON.stringify(example(spec, Object.values(content)[0].schema), null, 2) }) : null;
  const answers = Object.entries(described.responses).map(([status, given]) => {
    const answer = resolve(spec, given);
    return [status, `${answer.description}${answer.content ? ` (${Object.keys(answer.content).join(', ')})` : ''}`];
  });
  const good = Object.entries(described.responses).find(([status]) => status.startsWith('2'));
  const accept = Object.keys(resolve(spec, good?.[1])?.content || { '*/*': 1 })[0];
  const output = make('pre', { hidden: true, tabIndex: 0 });
  output.setAttribute('role', 'status');
  const form = make('form', {},
    ...fields.map(({ parameter, input }) => make('label', {}, `${parameter.name} (${parameter.in}) ${parameter.description || ''}`, input)),
    bodyField ? make('label', {}, 'Body', bodyField) : null,
    make('button', { type: 'submit' }, 'Send'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    send(method, path, fields, bodyField, accept, output);
  });
  return make('details', {},
    make('summary', {}, make('b', {}, method.toUpperCase()), make('code', {}, path), make('span', {}, described.summary || '')),
    described.description ? make('p', {}, described.description) : null,
    table('Answers', answers), form, output);
}

async function show() {
  const main = document.getElementById('routes');
  try {
    const answer = await fetch('/openapi.json');
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const spec = await answer.json();
    document.title = `${spec.info.title} · API`;
    document.getElementById('title').textContent = `${spec.info.title} ${spec.info.version}`;
    document.getElementById('about').textContent = spec.info.description || '';
    const groups = new Map();
    for (const [path, item] of Object.entries(spec.paths)) {
      for (const method of METHODS.filter((one) => item[one])) {
        const tag = (item[method].tags || ['other'])[0];
        groups.set(tag, [...(groups.get(tag) || []), operation(spec, method, path, item)]);
      }
    }
    main.replaceChildren(...[...groups].flatMap(([tag, operations]) => [make('h2', {}, tag), ...operations]));
  } catch (error) {
    main.replaceChildren(make('p', {}, `The document cannot be shown: ${error.message}`));
  }
  main.setAttribute('aria-busy', 'false');
}

document.getElementById('identity').addEventListener('submit', (event) => event.preventDefault());
show();
