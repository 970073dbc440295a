// Widths of texts as this browser will draw them: an SVG text does not wrap or cut itself.
import type { Measure } from "./words";

const FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", sans-serif';
/** A page has a few hundred different texts; durations add some every minute. */
const REMEMBERED_MOST = 5000;

const context = document.createElement("canvas").getContext("2d");
const widths = new Map<string, number>();

/** For a CSS size and weight as in style.css. */
export function measureAs(weight: number, pixels: number): Measure {
  const font = `${weight} ${pixels}px ${FAMILY}`;
  return (text) => {
    const key = `${font}|${text}`;
    const known = widths.get(key);
    if (known !== undefined) return known;
    if (widths.size >= REMEMBERED_MOST) widths.clear();
    if (context !== null) context.font = font;
    const width = context?.measureText(text).width ?? text.length * pixels * 0.58;
    widths.set(key, width);
    return width;
  };
}
