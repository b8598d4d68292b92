// How much goes on at once, by the pixel.

// How many intervals lie over each pixel, parts of pixels as parts.
export class Load {
  constructor(width) {
    this.width = width;
    this.points = new Float64Array(width + 1);
    this.steps = new Float64Array(width + 2);
  }

  add(from, to) {
    const begin = Math.max(0, from);
    const end = Math.min(this.width, to);
    if (!(end > begin)) return;
    const first = Math.floor(begin);
    const last = Math.floor(end);
    if (first === last) {
      this.points[first] += end - begin;
      return;
    }
    this.points[first] += first + 1 - begin;
    this.points[last] += end - last;
    this.steps[first + 1]++;
    this.steps[last]--;
  }

  sums() {
    let depth = 0;
    return this.points.map((point, x) => point + (depth += this.steps[x]));
  }
}

// How many intervals [begin, end] were open at once, at most.
export function mostAtOnce(intervals) {
  const real = intervals.filter(([begin, end]) => end > begin);
  const begins = Float64Array.from(real, (each) => each[0]).sort();
  const ends = Float64Array.from(real, (each) => each[1]).sort();
  let most = 0;
  for (let begun = 0, ended = 0; begun < begins.length; begun++) {
    while (ends[ended] <= begins[begun]) ended++;
    most = Math.max(most, begun + 1 - ended);
  }
  return most;
}

export function sumAt(loads, x) {
  let sum = 0;
  for (const load of loads) sum += load[x];
  return sum;
}
