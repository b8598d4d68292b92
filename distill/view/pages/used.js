// What a run had used up at each moment, of each kind that a budget limits.

import { dollars, seconds, short } from "./numbers.js";

// [{name, times, sums, limit, told, last}]: `sums` were reached at `times` (s), `told` says an amount.
export function usedUp(run, calls) {
  const limits = run.start?.options?.budget ?? {};
  const steps = [];
  for (let row = 0; row < calls.count; row++) {
    const paid = !["cached", "reused", "replayed"].includes(calls.status(row));
    const { input, output, gpu } = calls.columns;
    steps.push([
      calls.end(row), paid ? 1 : 0, paid ? input[row] + output[row] : 0, calls.dollars[row],
      paid ? gpu[row] / 1000 : 0,
    ]);
  }
  for (const turn of run.turns)
    steps.push([turn.t - run.t0, 0, turn.input + turn.output, turn.dollars, turn.gpu_s]);
  steps.sort((a, b) => a[0] - b[0]);
  const times = Float64Array.from(steps, (step) => step[0]);
  const row = (name, column, limit, told) => {
    let sum = 0;
    const sums = Float64Array.from(steps, (step) => (sum += step[column]));
    return { name, times, sums, limit, told, last: sum };
  };
  return [
    row("Calls", 1, limits.worker_calls, short),
    row("Tokens", 2, limits.tokens, short),
    row("Dollars", 3, limits.dollars, dollars),
    row("Device", 4, limits.gpu_s, seconds),
  ].filter((each) => each.last > 0);
}
