import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { keepingLock, lockCopy } from "../../core/util/lock_file.ts";
import { ROOT } from "../../core/util/user_folder.ts";

Deno.test("keepingLock() puts the lock file back after imports that wrote to it, also after those that fail", async () => {
  const folder = Deno.makeTempDirSync();
  const path = join(folder, "deno.lock");
  try {
    assertEquals(lockCopy(path), path);
    const own = Deno.readTextFileSync(join(ROOT, "deno.lock"));
    const write = () => Deno.writeTextFileSync(path, "{}");
    assertEquals(await keepingLock(() => Promise.resolve(write()).then(() => 5), path), 5);
    assertEquals(Deno.readTextFileSync(path), own);
    await assertRejects(() => keepingLock(() => Promise.reject(write() ?? new TypeError("no such package")), path));
    assertEquals(Deno.readTextFileSync(path), own);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
