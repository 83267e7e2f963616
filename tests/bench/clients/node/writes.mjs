// Writes all the time. Prints a line per attempt: when it ended (ns since 1970), and how.
import { setTimeout as sleep } from "node:timers/promises";

const now = () => `${BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e3))}000`;

export async function writes(set) {
  for (let number = 1; ; number += 1) {
    try {
      await set(String(number));
      process.stdout.write(`${now()} ok\n`);
      await sleep(5);
    } catch (error) {
      process.stdout.write(`${now()} ${error.name}\n`);
      await sleep(100);
    }
  }
}
