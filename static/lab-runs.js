/** The runs that were made: the last few, here and in the browser's storage. */

const KEY = 'hub.lab.runs'
const MOST = 12

/** Events: `change`. */
export class Runs extends EventTarget {
  all = [] // oldest first
  base = null // the id of the run with which others are compared

  constructor() {
    super()
    try {
      const kept = JSON.parse(localStorage.getItem(KEY))
      if (Array.isArray(kept?.runs)) Object.assign(this, { all: kept.runs.filter(whole), base: kept.base })
    } catch {
      // Storage may be off, or not ours: then there are no runs yet.
    }
  }

  /** @returns {?object} */
  get baseRun() {
    return this.all.find(({ id }) => id === this.base) ?? this.all[0] ?? null
  }

  add(record) {
    const number = Math.max(0, ...this.all.map((run) => run.number)) + 1
    const run = { id: `${Date.now()}-${number}`, number, at: new Date().toISOString(), ...record }
    this.all.push(run)
    while (this.all.length > MOST) {
      this.all.splice(this.all[0] === this.baseRun ? 1 : 0, 1)
    }
    this.#changed()
    return run
  }

  compareWith(id) {
    this.base = id
    this.#changed()
  }

  remove(id) {
    this.all = this.all.filter((run) => run.id !== id)
    this.#changed()
  }

  clear() {
    this.all = []
    this.#changed()
  }

  /** All of them as JSON that other tools can read. */
  exported() {
    const head = { format: 'hub-lab', version: 1, exported_at: new Date().toISOString(), unit: 'ms' }
    return JSON.stringify({ ...head, base: this.baseRun?.id ?? null, runs: this.all }, null, 2)
  }

  #changed() {
    this.#keep()
    this.dispatchEvent(new Event('change'))
  }

  /** As many of the newest as the storage takes. */
  #keep() {
    for (let from = 0; from <= this.all.length; from++) {
      try {
        localStorage.setItem(KEY, JSON.stringify({ base: this.base, runs: this.all.slice(from) }))
        return
      } catch {
        // It is full: try with one less.
      }
    }
  }
}

function whole(run) {
  return run?.id && run.settings && run.results && Array.isArray(run.samples) && Array.isArray(run.points)
}
