/** What a run is told: the fields, their bounds, and the fragment of a URL that carries them. */

export const MODES = {
  ws: 'WebSocket lanes',
  sse: 'Server-sent events',
  sync: 'Synchronous',
  poll: 'Background, polled',
}

/** `choices`, or numbers from `least` to `most` (`whole` or not), or a short text. */
export const FIELDS = {
  mode: { initial: 'ws', choices: Object.keys(MODES) },
  loop: { initial: 'open', choices: ['closed', 'open'] },
  concurrency: { initial: 8, least: 1, most: 256, whole: true },
  rate: { initial: 4, least: 0.1, most: 200 },
  arrivals: { initial: 'poisson', choices: ['poisson', 'even'] },
  until: { initial: 'seconds', choices: ['requests', 'seconds'] },
  requests: { initial: 100, least: 1, most: 5000, whole: true },
  seconds: { initial: 20, least: 1, most: 600, whole: true },
  prompt: { initial: 200, least: 1, most: 20_000, whole: true },
  output: { initial: 64, least: 1, most: 4096, whole: true },
  class: { initial: 'chat', choices: ['chat', 'background', 'completion'] },
  model: { initial: '', text: 200 },
  seed: { initial: 1, least: 0, most: 999_999, whole: true },
  batch: { initial: 8, least: 1, most: 1024, whole: true },
  flush: { initial: 0, least: 0, most: 10_000 },
}

export const INITIAL = Object.fromEntries(Object.entries(FIELDS).map(([name, { initial }]) => [name, initial]))

/** @returns the value that a text stands for, undefined if it is none for this field */
export function parse(name, text) {
  const { choices, least, most, whole, text: longest } = FIELDS[name]
  if (choices) return choices.includes(text) ? text : undefined
  if (longest) return text.length <= longest ? text : undefined
  const value = Number(text)
  const valid = text.trim() !== '' && value >= least && value <= most && !(whole && !Number.isInteger(value))
  return valid ? value : undefined
}

/** What a fragment says, as far as it is valid; nothing of what it does not say. */
export function fromFragment(fragment) {
  const found = {}
  for (const [name, text] of new URLSearchParams(fragment.replace(/^#/, ''))) {
    const value = Object.hasOwn(FIELDS, name) ? parse(name, text) : undefined
    if (value !== undefined) found[name] = value
  }
  return found
}

export function toFragment(settings) {
  return `#${new URLSearchParams(Object.keys(FIELDS).map((name) => [name, settings[name]]))}`
}

/** The classes that a mode's requests can be of. */
export function classes(mode) {
  if (mode === 'poll') return ['background']
  return mode === 'ws' ? ['chat', 'background'] : FIELDS.class.choices
}

/** The settings as a reader of a table wants them: name, text, and whether two runs are alike in it. */
export function described(settings) {
  const open = settings.loop === 'open'
  const by = settings.arrivals === 'poisson' ? 'Poisson' : 'even'
  return {
    Mode: MODES[settings.mode],
    Load: open ? `${settings.rate}/s, ${by}` : `${settings.concurrency} at a time`,
    Length: settings.until === 'requests' ? `${settings.requests} requests` : `${settings.seconds} s`,
    'Prompt, output': `${settings.prompt}, ${settings.output} tokens`,
    Class: settings.class,
    'Batch size': String(settings.batch),
    'Flush interval': `${settings.flush} ms`,
    ...(settings.model && { Model: settings.model }),
    Seed: String(settings.seed),
  }
}
