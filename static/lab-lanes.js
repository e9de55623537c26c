/** Lanes of as many WebSockets as it takes: one connection runs 16 responses at a time. */

import { Hub, HubError } from './hub.js'
import { authorize } from './keys.js'

const LANES = 16
const SPARE = 8
const MOST = 32 // connections; a browser allows 255

export class Lanes {
  #links = [] // {hub, active}

  /** Connects, so that no handshake is in the figures. Rejects if the server cannot be reached. */
  async open(concurrency) {
    while (this.#links.length * LANES < concurrency) this.#link()
    await Promise.all(this.#links.map(({ hub }) => opened(hub)))
  }

  close() {
    for (const { hub } of this.#links) hub.close()
    this.#links = []
  }

  /** Asks for a response; the sample learns of it. Resolves when it has ended, however it did. */
  async ask(request, sample, signal) {
    const link = this.#freest()
    let at = -1
    let tokens = 0
    const run = link.hub.create(request, {
      onState: (state) => state === 'queued' && sample.sending(),
      onEvent: ({ sequence_number: number }) => {
        tokens = number - at
        at = number
      },
      onDelta: (text, kind) => sample.text(text, tokens, kind === 'text'),
    })
    const cancel = () => run.cancel()
    signal.addEventListener('abort', cancel)
    link.active += 1
    try {
      sample.ended(await run.done, true)
    } catch (error) {
      sample.failed(error.code ?? error.name)
    } finally {
      link.active -= 1
      signal.removeEventListener('abort', cancel)
    }
  }

  #link() {
    const link = { hub: new Hub('v1/responses', { lanes: LANES, authorize }), active: 0 }
    this.#links.push(link)
    return link
  }

  #freest() {
    const free = this.#links.reduce((sum, { active }) => sum + Math.max(0, LANES - active), 0)
    if (free <= SPARE && this.#links.length < MOST) this.#link()
    const open = this.#links.filter(({ hub }) => hub.status.state === 'open')
    return (open.length ? open : this.#links).reduce((best, one) => (one.active < best.active ? one : best))
  }
}

function opened(hub) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (hub.status.state === 'open') resolve()
      else if (hub.status.state === 'connecting') return
      else reject(new HubError('connection_lost', 'hub cannot be reached.'))
      hub.removeEventListener('status', look)
    }
    hub.addEventListener('status', look)
    look()
  })
}
