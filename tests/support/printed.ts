/** Exit code and output of a command that runs in this process. */
export async function printed(
  run: () => number | Promise<number>,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const { log, error } = console;
  const said = { stdout: "", stderr: "" };
  console.log = (...parts: unknown[]) => said.stdout += parts.join(" ") + "\n";
  console.error = (...parts: unknown[]) => said.stderr += parts.join(" ") + "\n";
  try {
    return { code: await run(), ...said };
  } finally {
    Object.assign(console, { log, error });
  }
}
