/** The name and the settings of text of the dense model itself, which is calibrated and trained on where no data are at
 * hand.
 *
 * @module
 */

/** Stands in the place of a corpus. */
export const SELF_TEXT = "self";

/** Temperature and nucleus of the samples. */
export const SELF_SAMPLING = { temperature: 1, topP: 0.95 } as const;

/** The settings in words: part of a cell's identity in place of a hash of data, and of its record. */
export const SELF_SETTINGS = `temperature ${SELF_SAMPLING.temperature}, top-p ${SELF_SAMPLING.topP}`;
