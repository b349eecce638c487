/** The way of a checkpoint to the device: one tensor is read from the file while the one before it is uploaded. */
import { assertEquals } from "@std/assert";
import { expectedTensors } from "../../models/config.ts";
import { disposeModel, uploadModel, uploadOrder } from "../../models/device.ts";
import { testOnEngines } from "../support/engines.ts";
import { toySource } from "../support/toy.ts";
import { countTraffic } from "../support/traffic.ts";

testOnEngines("uploadModel() reads the next large tensor while it uploads one, and no more", async () => {
  const toy = toySource({ tiedHead: false, biases: ["query"] });
  const shapes = expectedTensors(toy.config);
  const order = uploadOrder(toy.config);
  assertEquals([...order].sort(), [...shapes.keys()].sort());
  for (const aheadValues of [1, 2 * toy.config.width]) {
    const events: string[] = [];
    const arrived: string[] = [];
    const source = {
      ...toy,
      prefetch: async (name: string) => {
        events.push(`begin ${name}`);
        await Promise.resolve();
        arrived.push(name);
      },
      read: (name: string) => {
        events.push(`read ${name}`, ...arrived.includes(name) ? ["brought"] : []);
        return toy.read(name);
      },
    };
    const seen = (what: string) => {
      if (what === "writes" && events.at(-1) !== "upload") events.push("upload");
    };
    const { result: model } = await countTraffic(() => uploadModel(source, "f32", aheadValues), seen);
    disposeModel(model);
    const large = order.filter((name) => (shapes.get(name) ?? []).reduce((size, own) => size * own, 1) >= aheadValues);
    assertEquals(events, [
      `begin ${large[0]}`,
      ...order.flatMap((name) => {
        const place = large.indexOf(name);
        const next = place < 0 ? [] : large.slice(place + 1, place + 2);
        return [...next.map((next) => `begin ${next}`), `read ${name}`, ...place < 0 ? [] : ["brought"], "upload"];
      }),
    ]);
  }
});
