import { useState } from "preact/hooks";
import type { FieldError } from "../api";
import { Refusal, ask, say, text } from "../api";
import { go } from "../router";
import type { Report } from "../types";
import { Alert, Heading } from "../ui";
import { plural } from "../words";

const EXAMPLE = "username,email,firstName,lastName,role\nada,ada@example.org,Ada,Lovelace,viewer\n";
/** The server's bound. */
const BYTES_MAX = 1024 * 1024;

export function Import() {
  const [csv, setCsv] = useState("");
  const [report, setReport] = useState<Report | null>(null);
  const [failure, setFailure] = useState<{ text: string; errors: FieldError[] } | null>(null);
  const [isBusy, setBusy] = useState(false);
  const change = (next: string) => {
    setCsv(next);
    setReport(null);
    setFailure(null);
  };
  const send = (isDryRun: boolean) => {
    setBusy(true);
    setFailure(null);
    ask<Report>("POST", `/api/users/import?dryRun=${isDryRun}`, csv, { "content-type": "text/csv" })
      .then(({ body }) => {
        setReport(body);
        if (!isDryRun) {
          say(`${plural(body.created, "user")} imported.`);
          go("/users?sort=createdAt,desc");
        }
      })
      .catch((error: unknown) => {
        setReport(null);
        setFailure({ text: text(error), errors: error instanceof Refusal ? error.errors : [] });
      })
      .finally(() => setBusy(false));
  };
  const read = (file: File | undefined) => {
    if (file === undefined) return;
    if (file.size > BYTES_MAX) {
      setFailure({ text: `${file.name} has ${file.size.toLocaleString("en")} bytes, at most ${BYTES_MAX.toLocaleString("en")} can be imported at once.`, errors: [] });
      return;
    }
    file.text().then(change, (error: unknown) => setFailure({ text: text(error), errors: [] }));
  };
  return (
    <>
      <Heading title="Import users" />
      <form class="card form" aria-label="Import" onSubmit={(event) => (event.preventDefault(), send(true))}>
        <p>
          The first line names the columns: <code>username</code> and <code>email</code>, and if you like <code>firstName</code>, <code>lastName</code> and <code>role</code>. At most 5,000 lines. All lines are imported or none.
        </p>
        <div class="field">
          <label for="file">CSV file</label>
          <input id="file" type="file" accept=".csv,text/csv" onChange={(event) => read(event.currentTarget.files?.[0])} />
        </div>
        <div class="field">
          <label for="text">or its text</label>
          <textarea id="text" rows={8} spellcheck={false} placeholder={EXAMPLE} value={csv} onInput={(event) => change(event.currentTarget.value)} />
        </div>
        {failure && (
          <Alert>
            <p>{failure.text}</p>
            <Faults list={failure.errors.filter((one) => one.pointer !== "").map((one) => ({ where: `line ${one.pointer.slice(1).replace("/", ", ")}`, detail: one.detail }))} />
            {failure.errors.filter((one) => one.pointer === "").map((one) => <p key={one.detail}>{one.detail}</p>)}
          </Alert>
        )}
        {report && <Outcome report={report} />}
        <div class="buttons start">
          <button type="submit" class={report?.faultsTotal === 0 ? "" : "primary"} disabled={isBusy || csv.trim() === ""}>
            Check
          </button>
          <button type="button" class={report?.faultsTotal === 0 ? "primary" : ""} disabled={isBusy || report === null || report.faultsTotal > 0 || report.lines === 0} onClick={() => send(false)}>
            {report !== null && report.faultsTotal === 0 ? `Import ${plural(report.lines, "user")}` : "Import"}
          </button>
          <a class="button" href="/users">
            Back to the list
          </a>
        </div>
      </form>
    </>
  );
}

function Outcome(props: { report: Report }) {
  const { report } = props;
  if (report.faultsTotal === 0) {
    return (
      <p class="fine" role="status">
        {report.lines === 0 ? "There are no lines below the first." : `All ${plural(report.lines, "line")} can be imported. Nothing has been changed yet.`}
      </p>
    );
  }
  return (
    <Alert>
      <p>
        {plural(report.faultsTotal, "fault")}; {report.good} of {plural(report.lines, "line")} are good. Nothing has been changed.
      </p>
      <Faults list={report.faults.map((one) => ({ where: `line ${one.line}${one.column === "" ? "" : `, ${one.column}`}`, detail: one.detail }))} />
    </Alert>
  );
}

function Faults(props: { list: { where: string; detail: string }[] }) {
  if (props.list.length === 0) return null;
  return (
    <ul class="faults">
      {props.list.map((one, index) => (
        <li key={index}>
          <strong>{one.where}</strong>: {one.detail}
        </li>
      ))}
    </ul>
  );
}
