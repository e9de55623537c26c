/** What hub says of itself while a run goes on: `/health`, about four times a second. */

import { signed } from './keys.js'

const EVERY = 250

export class Watch {
  /** The last answer in short: `{queued, running, window}`; null before the first one. */
  now = null
  #before = null // the counters at the start
  #last = null
  #timer = null
  #asking = null

  /** Asks once, so that the counters of the start are known; then again and again. */
  async start() {
    await this.#ask()
    this.#timer = setInterval(() => (this.#asking ??= this.#ask().finally(() => (this.#asking = null))), EVERY)
  }

  /** Asks a last time. */
  async stop() {
    clearInterval(this.#timer)
    await this.#asking
    await this.#ask()
  }

  /** Batches since the start: how many of each size, and how many left for each reason. */
  get batches() {
    return { sizes: this.#since('batches'), reasons: this.#since('dispatched') }
  }

  async #ask() {
    try {
      const answer = await fetch('health', signed({ cache: 'no-store', priority: 'high' }))
      const { dispatcher } = await answer.json()
      const windows = Object.values(dispatcher.upstreams).map(({ window }) => window)
      const window = windows.reduce((sum, one) => sum + one, 0)
      this.#last = dispatcher
      this.#before ??= dispatcher
      this.now = { queued: dispatcher.queued, running: dispatcher.in_flight, window }
    } catch {
      this.now = null // it cannot be reached: there is nothing to say
    }
  }

  #since(name) {
    const before = this.#before?.[name] ?? {}
    const grown = Object.entries(this.#last?.[name] ?? {}).map(([key, count]) => [key, count - (before[key] ?? 0)])
    return Object.fromEntries(grown.filter(([, count]) => count > 0))
  }
}
