// The debt of drills, and what one of them measured last.
import { useEffect, useState } from "preact/hooks";
import { Command } from "./command";
import { debtSentence, lastWords, measured, STANDING_MOODS, STANDING_WORDS, worstFirst } from "./drills";
import { lastDrill, serverNow } from "./live";
import type { DrillRecord, DrillStanding, Status } from "./types";

/** Every drill with its standing, worst first. */
export function DrillDebt(props: { status: Status }) {
  const drills = props.status.drills ?? [];
  return (
    <section class="drills" aria-labelledby="drills-title">
      <div class="head">
        <h2 id="drills-title">Drill debt</h2>
        {drills.length > 0 && <span class="quiet debt">{debtSentence(drills)}</span>}
      </div>
      {drills.length === 0 ? (
        <p class="none">
          No history of drills comes from this control plane. This lists the drills: <Command text="mainstay drill --help" />
        </p>
      ) : (
        <ul>
          {worstFirst(drills).map((drill) => (
            <Row key={drill.drill} drill={drill} />
          ))}
        </ul>
      )}
    </section>
  );
}

function Row(props: { drill: DrillStanding }) {
  const { drill } = props;
  return (
    <li data-drill={drill.drill} data-standing={drill.standing}>
      <span>
        <strong>{drill.drill}</strong>
        <span class="quiet what">{drill.what}</span>
      </span>
      <Standing drill={drill} />
      {drill.standing === "not-applicable" ? <span /> : <Command text={`mainstay drill ${drill.drill}`} />}
    </li>
  );
}

function Standing(props: { drill: DrillStanding }) {
  const { drill } = props;
  const last = drill.last_ended === null ? "" : ` · ${lastWords(drill, serverNow())}`;
  return (
    <span class={`standing ${STANDING_MOODS[drill.standing]}`}>
      <span class="word">{STANDING_WORDS[drill.standing]}</span>
      <span class="quiet">{last}</span>
      {drill.reason !== "" && drill.standing !== "fine" && <span class="quiet what">{drill.reason}</span>}
    </span>
  );
}

/** One drill in the panel of the box that it tries. */
export function DrillOfBox(props: { drill: DrillStanding }) {
  const { drill } = props;
  const [record, setRecord] = useState<DrillRecord | null>(null);
  useEffect(() => {
    let isHere = true;
    if (drill.last_ended !== null) void lastDrill(drill.drill).then((found) => isHere && setRecord(found));
    return () => {
      isHere = false;
    };
  }, [drill.drill, drill.last_ended]);
  const figures = record === null ? null : measured(record);
  return (
    <li data-drill={drill.drill} data-standing={drill.standing}>
      <span>
        <strong>{drill.drill}</strong> <span class="quiet">{drill.what}</span>
      </span>
      <Standing drill={drill} />
      {figures !== null && (
        <ul class="figures-of-drill">
          {figures.map((line) => (
            <li key={line}>{line}</li>
          ))}
        </ul>
      )}
      {drill.standing !== "not-applicable" && <Command text={`mainstay drill ${drill.drill}`} />}
    </li>
  );
}
