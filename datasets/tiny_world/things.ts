/** Words for things and places that several scenes share.
 *
 * @module
 */

/** Things that can be carried. */
export const OBJECTS = [
  "lantern",
  "rope",
  "basket",
  "kite",
  "book",
  "drum",
  "bell",
  "hat",
  "scarf",
  "cup",
  "map",
  "blanket",
  "umbrella",
  "bucket",
  "flute",
  "key",
] as const;

/** Places in a village, with preposition. */
export const PLACES = [
  "by the well",
  "at the gate",
  "on the bridge",
  "in the barn",
  "under the oak",
  "near the pond",
  "in the meadow",
  "behind the inn",
  "on the hill",
  "in the orchard",
  "beside the road",
  "at the corner",
  "in the square",
  "along the wall",
  "below the tower",
  "on the shore",
] as const;

/** Times of a past day, to open a sentence with. */
export const TIMES = [
  "Monday",
  "Tuesday",
  "Wednesday",
  "Thursday",
  "Friday",
  "Saturday",
  "Sunday",
].flatMap((day) => ["morning", "afternoon", "evening"].map((part) => `on ${day} ${part}`)).concat(
  ["cold", "bright", "quiet", "windy"].flatMap((kind) =>
    ["morning", "day", "night"].map((part) => `one ${kind} ${part}`)
  ),
);
