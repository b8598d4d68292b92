// Which characters of the text workers have read, and how often: from the spans of their calls.

export class Coverage {
  // `parts` are [name, characters] of the run's texts. A text of a list or dict goes by its name.
  constructor(parts) {
    this.parts = parts;
    this.bases = [];
    this.total = 0;
    this.numbers = new Map();
    parts.forEach(([name, chars], number) => {
      this.bases.push(this.total);
      this.total += chars;
      this.numbers.set(name, number);
    });
    this.segments = [];
    this.read = 0;
    this.matches = null;
    this.answered = [];
  }

  // What was found with all of the text at hand: which of it stands in several places, and where the
  // passages are whose answers stand in the final one.
  take(matches, calls) {
    this.matches = matches;
    this.ambiguous = matches.ambiguous.map(([part, start, end]) => [this.bases[part] + start, this.bases[part] + end]);
    this.answered = [];
    for (const row of matches.in_answer) {
      const [first, last] = calls.spanRange(row);
      for (let span = first; span < last; span++) {
        const place = this.place(calls, span);
        if (place) this.answered.push([this.bases[place.part] + place.start, this.bases[place.part] + place.end]);
      }
    }
  }

  // The part and the clamped place of a span, null where the text has no such place.
  place(calls, span) {
    const part = this.numbers.get(calls.parts[calls.spans.part[span]]);
    if (part === undefined) return null;
    const chars = this.parts[part][1];
    const start = Math.max(0, Math.min(chars, calls.spans.start[span]));
    const end = Math.max(start, Math.min(chars, calls.spans.end[span]));
    return { part, start, end };
  }

  // Segments [start, end, readings] over all texts one after the other, by the calls that were answered.
  count(calls) {
    const starts = [];
    const ends = [];
    for (let span = 0; span < calls.spans.row.length; span++) {
      if (calls.isFailed(calls.spans.row[span])) continue;
      const place = this.place(calls, span);
      if (!place || place.end === place.start) continue;
      starts.push(this.bases[place.part] + place.start);
      ends.push(this.bases[place.part] + place.end);
    }
    const [from, to] = [Float64Array.from(starts).sort(), Float64Array.from(ends).sort()];
    this.segments = [];
    this.read = 0;
    let depth = 0;
    let since = 0;
    for (let start = 0, end = 0; end < to.length; ) {
      const begins = start < from.length && from[start] < to[end];
      const at = begins ? from[start++] : to[end++];
      if (depth && at > since) {
        this.segments.push([since, at, depth]);
        this.read += at - since;
      }
      since = at;
      depth += begins ? 1 : -1;
    }
    return this;
  }

  get share() {
    if (this.matches) return this.matches.share;
    return this.total ? this.read / this.total : 0;
  }

  // Of each of `count` equal stretches of the text: the share that was read, and readings on average.
  bins(count) {
    const shares = new Float64Array(count);
    const readings = new Float64Array(count);
    const size = this.total / count;
    for (const [start, end, depth] of this.segments) {
      for (let bin = Math.floor(start / size); bin < count && bin * size < end; bin++) {
        const chars = Math.min(end, (bin + 1) * size) - Math.max(start, bin * size);
        shares[bin] += chars / size;
        readings[bin] += (depth * chars) / size;
      }
    }
    return { shares, readings };
  }

  // Segments that touch characters `start` to `end` of a part, in its own places.
  within(part, start, end) {
    const base = this.bases[part];
    return this.segments
      .filter(([from, to]) => to > base + start && from < base + end)
      .map(([from, to, depth]) => [
        Math.max(from - base, start),
        Math.min(to - base, end),
        depth,
      ]);
  }
}
