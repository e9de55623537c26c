/** Chance that can be had again: the same seed makes the same load. */

const WORDS = (
  'a hub carries each word to its reader in order while others wait their turn beside the river and ' +
  'some letters cross the harbour before the lamps are lit because every answer begins with patience'
).split(' ')
/** What estimates take a token for. */
const CHARACTERS_PER_TOKEN = 4

/** @returns {() => number} of numbers from 0 up to, not including, 1 (mulberry32) */
export function random(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

/** How long until the next arrival of a Poisson process, in its mean's unit. */
export function exponential(mean, chance) {
  return -mean * Math.log(1 - chance())
}

/** A prompt of about so many tokens, another one for each number: no cache shall flatter the figures. */
export function prompt(tokens, seed, number) {
  const chance = random(seed * 7919 + number)
  let text = `${Math.floor(chance() * 1e6)}:`
  while (text.length < tokens * CHARACTERS_PER_TOKEN) text += ` ${WORDS[Math.floor(chance() * WORDS.length)]}`
  return text.slice(0, Math.max(4, tokens * CHARACTERS_PER_TOKEN))
}
