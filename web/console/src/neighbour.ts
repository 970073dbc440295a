// The box that the eye finds next in a direction. Pure.
import type { Rect } from "./layout";

export type Direction = "left" | "right" | "up" | "down";

/** Sideways distance counts more than distance straight on where one goes along a row, so that one stays in it. */
const ASIDE_IN_ROW = 2.5;
/** Between rows the next row counts, be its box straight below or not. */
const ASIDE_BETWEEN_ROWS = 1;

export function neighbour(from: string, direction: Direction, places: (Rect & { key: string })[]): string | null {
  const here = places.find((place) => place.key === from);
  if (here === undefined) return null;
  let best: string | null = null;
  let least = Infinity;
  for (const place of places) {
    if (place === here) continue;
    const dx = place.x + place.w / 2 - (here.x + here.w / 2);
    const dy = place.y + place.h / 2 - (here.y + here.h / 2);
    const isAcross = direction === "left" || direction === "right";
    const ahead = direction === "left" ? -dx : direction === "right" ? dx : direction === "up" ? -dy : dy;
    const aside = Math.abs(isAcross ? dy : dx);
    // A little to the side of straight ahead is still ahead; boxes of the same row are not above each other.
    if (ahead <= 8) continue;
    const cost = ahead + aside * (isAcross ? ASIDE_IN_ROW : ASIDE_BETWEEN_ROWS);
    if (cost < least) {
      least = cost;
      best = place.key;
    }
  }
  return best;
}
