import { assertEquals, assertRejects } from "@std/assert";
import { startPeer } from "../../benchmarks/timing/peer_process.ts";
import { UsageError } from "../../core/util/errors.ts";

/** Answers every line with itself, says what is wrong with `bad`, and ends at `end`. */
const PROGRAM = `
const tell = (value) => Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(value) + "\\n"));
tell({ versions: "stand-in 1" });
for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const question = JSON.parse(text);
  if (question.end) Deno.exit(0);
  tell(question.bad ? { error: "cannot read " + question.bad } : question);
}`;

const start = () => startPeer("peer", "deno", ["eval", "--no-config", PROGRAM]);

Deno.test("a peer's answers come back, its errors are thrown, and it goes on after them", async () => {
  const peer = await start();
  assertEquals(peer.versions, "stand-in 1");
  assertEquals(await peer.ask({ ms: 3 }), { ms: 3 });
  await assertRejects(() => peer.ask({ bad: "a.gguf" }), UsageError, "peer: cannot read a.gguf");
  assertEquals(await peer.ask({ ms: 4 }), { ms: 4 });
  await peer.close();
});

Deno.test("a peer that ended is one sentence, at the question that ended it and at later ones", async () => {
  const peer = await start();
  for (const question of [{ end: true }, { ms: 1 }, { ms: 2 }]) {
    await assertRejects(() => peer.ask(question), UsageError, "peer ended early: its message is above");
  }
  await peer.close();
});
