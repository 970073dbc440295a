// A shape of its own for every state, so that nobody needs to tell red from green.
import type { State } from "./types";
import { mood } from "./words";

const SHAPES: Record<State, { body: string; isHollow?: boolean; isDashed?: boolean; mark: string }> = {
  ready: { body: "circle", mark: "M5 8.3 7.2 10.4 11 6" },
  waiting: { body: "circle", isHollow: true, mark: "M8 5v3l2 1.5" },
  starting: { body: "circle", isHollow: true, mark: "M6.5 5.2 11 8 6.5 10.8z" },
  degraded: { body: "triangle", mark: "M8 6v3M8 11.2v.2" },
  draining: { body: "circle", mark: "M8 4.8v5.6M5.6 8.2 8 10.8 10.4 8.2" },
  "backing-off": { body: "circle", isHollow: true, mark: "M10.8 8A2.8 2.8 0 1 1 9.6 5.7M9.8 4v2H7.8" },
  "crash-loop": { body: "octagon", mark: "M10.6 7.2A2.8 2.8 0 1 0 10.4 9.4M10.9 5v2.3H8.6" },
  failed: { body: "octagon", mark: "M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8" },
  stopped: { body: "circle", isHollow: true, mark: "M6.2 6.2h3.6v3.6H6.2z" },
  "not-configured": { body: "circle", isHollow: true, isDashed: true, mark: "M5.6 8h4.8" },
  unknown: { body: "circle", isHollow: true, isDashed: true, mark: "M6.2 6.4a1.8 1.8 0 1 1 2.6 1.6c-.5.3-.8.6-.8 1.1M8 11.2v.2" },
};

/** Also works inside an outer `svg`, at `x`, `y`. */
export function StateIcon(props: { state: State; size: number; x?: number; y?: number }) {
  const shape = SHAPES[props.state];
  const classes = ["icon", mood(props.state)];
  if (shape.isHollow === true) classes.push("hollow");
  if (shape.isDashed === true) classes.push("dashed");
  if (props.state === "starting") classes.push("turning");
  return (
    <svg class={classes.join(" ")} x={props.x} y={props.y} width={props.size} height={props.size} viewBox="0 0 16 16" aria-hidden="true">
      {shape.body === "circle" && <circle class="body" cx="8" cy="8" r="7" />}
      {shape.body === "triangle" && <path class="body" d="M8 1.6 15.2 14.2H.8z" />}
      {shape.body === "octagon" && <path class="body" d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z" />}
      <path class="mark" d={shape.mark} />
    </svg>
  );
}
