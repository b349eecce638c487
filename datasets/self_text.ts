/** Name and settings of text sampled from the dense model, for calibration and training without data.
 *
 * @module
 */

/** Used instead of a corpus's name. */
export const SELF_TEXT = "self";

/** Temperature and nucleus of the samples. */
export const SELF_SAMPLING = { temperature: 1, topP: 0.95 } as const;

/** The settings in words: in a cell's identity instead of a hash of data, and in its record. */
export const SELF_SETTINGS = `temperature ${SELF_SAMPLING.temperature}, top-p ${SELF_SAMPLING.topP}`;
