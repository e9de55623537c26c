/**
 * When requests are sent.
 *
 * Closed loop: so many at a time, the next one when one has ended; what is measured begins with the
 * sending. Open loop: they arrive whether or not others have ended, as users do; what is measured
 * begins when one was due, so that a browser or a server that is late does not look fast.
 */

import { exponential, random } from './lab-random.js'

/**
 * @param {object} settings
 * @param {(number: number, due: number) => Promise<void>} ask
 * @param {AbortSignal} signal stops the sending
 * @returns {Promise<void>} when everything that was sent has ended
 */
export function drive(settings, ask, signal) {
  const start = performance.now()
  const most = settings.until === 'requests' ? settings.requests : Infinity
  const until = settings.until === 'seconds' ? start + settings.seconds * 1000 : Infinity
  const drive = settings.loop === 'open' ? open : closed
  return drive(settings, ask, signal, { start, most, until })
}

async function closed(settings, ask, signal, { most, until }) {
  let number = 0
  const worker = async () => {
    while (!signal.aborted && number < most && performance.now() < until) await ask(number++, performance.now())
  }
  await Promise.all(Array.from({ length: settings.concurrency }, worker))
}

async function open(settings, ask, signal, { start, most, until }) {
  const chance = random(settings.seed)
  const mean = 1000 / settings.rate
  const running = new Set()
  let due = start
  for (let number = 0; number < most && !signal.aborted; number++) {
    if (number) due += settings.arrivals === 'poisson' ? exponential(mean, chance) : mean
    if (due >= until) break
    await at(due, signal)
    if (signal.aborted) break
    const one = ask(number, due).finally(() => running.delete(one))
    running.add(one)
  }
  await Promise.all(running)
}

function at(instant, signal) {
  const left = instant - performance.now()
  if (left <= 0) return Promise.resolve()
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, left)
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true })
  })
}
