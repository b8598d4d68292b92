// Where the page's data is: at the program that serves it, or in the page's own file.

import { byId } from "./dom.js";

export class LiveSource {
  constructor(token) {
    this.isLive = true;
    this.token = token;
  }

  async get(path) {
    const reply = await fetch(`api/${path}`, {
      headers: { "X-Distill-Token": this.token },
      cache: "no-store",
    });
    if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`);
    return reply.json();
  }

  call(run, row) {
    return this.get(`call/${run.key}/${row}`);
  }

  search(run, words) {
    return this.get(`search/${run.key}?words=${encodeURIComponent(words)}`);
  }
}

export class FileSource {
  constructor() {
    this.isLive = false;
    this.unpacked = new Map();
  }

  // A block stands further down in the file: while that is still being read, it may be to come.
  async get(path) {
    while (!byId(`data/${path}`) && !byId("data/end"))
      await new Promise((done) => setTimeout(done, 30));
    const block = byId(`data/${path}`);
    if (!block) throw new Error("this file does not have it");
    if (block.type === "application/json") return JSON.parse(block.textContent);
    const bytes = Uint8Array.from(atob(block.textContent), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  async block(run, number) {
    const path = `calls/${run.key}/${number}`;
    if (!this.unpacked.has(path)) {
      if (this.unpacked.size > 8) this.unpacked.clear();
      this.unpacked.set(path, await this.get(path));
    }
    return this.unpacked.get(path);
  }

  async call(run, row) {
    const next = run.blocks.findIndex((start) => start > row);
    const number = (next < 0 ? run.blocks.length : next) - 1;
    return (await this.block(run, number))[row - run.blocks[number]];
  }

  async search(run, words) {
    const wanted = words.toLowerCase();
    const found = [];
    for (let number = 0; number < run.blocks.length; number++) {
      const calls = await this.get(`calls/${run.key}/${number}`);
      calls.forEach((call, place) => {
        const texts = `${call.prompt ?? ""}\n${call.response ?? ""}`;
        if (texts.toLowerCase().includes(wanted)) found.push(run.blocks[number] + place);
      });
    }
    return found;
  }
}
