// Where bars stand; drawn by ui.tsx.
export interface Bar {
  x: number;
  width: number;
  height: number;
}

/** Zero is a line of 2, so that the day is seen; anything above it at least 4. */
export function bars(counts: number[], size: { width: number; height: number; gap: number }): Bar[] {
  const most = Math.max(1, ...counts);
  const step = (size.width + size.gap) / Math.max(1, counts.length);
  return counts.map((count, index) => ({
    x: Math.round(index * step * 100) / 100,
    width: Math.round((step - size.gap) * 100) / 100,
    height: count === 0 ? 2 : Math.max(4, Math.round((count / most) * size.height * 100) / 100),
  }));
}
