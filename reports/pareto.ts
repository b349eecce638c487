/** The Pareto front of a figure.
 *
 * @module
 */
/** Points that no other beats in both directions, from slow to fast. */
export function paretoFront<P extends { x: number; y: number }>(points: P[], lowerIsBetter: boolean): P[] {
  const sign = lowerIsBetter ? -1 : 1;
  const sorted = [...points].sort((a, b) => b.x - a.x || sign * (b.y - a.y));
  let best = -Infinity;
  return sorted.filter(({ y }) => {
    if (sign * y <= best) return false;
    best = sign * y;
    return true;
  }).reverse();
}
