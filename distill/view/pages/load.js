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

export function sumAt(loads, x) {
  let sum = 0;
  for (const load of loads) sum += load[x];
  return sum;
}
