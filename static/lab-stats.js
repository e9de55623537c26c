/** What samples come to. Whatever is not defined is null, never 0. */

/** @returns {?number} between the two nearest values where the share falls between them */
export function percentile(sorted, share) {
  if (!sorted.length) return null
  const at = (sorted.length - 1) * share
  const low = Math.floor(at)
  const next = sorted[Math.min(low + 1, sorted.length - 1)]
  return sorted[low] + (next - sorted[low]) * (at - low)
}

export function sorted(values) {
  return values.filter((value) => value !== null).sort((a, b) => a - b)
}

export function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null
}

const GROWTH = Math.log(1.01)
const LEAST = 0.1

/** Any number of durations in bounded memory; their percentiles are right to 1 %. */
export class Distribution {
  count = 0
  most = null
  #buckets = []

  add(value) {
    this.count += 1
    this.most = Math.max(this.most ?? 0, value)
    const bucket = Math.max(0, Math.round(Math.log(value / LEAST) / GROWTH))
    this.#buckets[bucket] = (this.#buckets[bucket] ?? 0) + 1
  }

  percentile(share) {
    if (!this.count) return null
    let left = (this.count - 1) * share
    for (let bucket = 0; bucket < this.#buckets.length; bucket++) {
      left -= this.#buckets[bucket] ?? 0
      if (left < 0) return Math.min(this.most, LEAST * Math.exp(bucket * GROWTH))
    }
    return this.most
  }
}

/** Numbers of `values` in each of equal bins from 0 to `most`. */
export function histogram(values, most, bins) {
  const counts = Array(bins).fill(0)
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value / most) * bins))] += 1
  return counts
}

/** At most `most` of the values, evenly taken. */
export function thinned(values, most) {
  if (values.length <= most) return values
  return Array.from({ length: most }, (_, i) => values[Math.floor((i * values.length) / most)])
}

/** How far a value is from the base's, as a share of it; null if that says nothing. */
export function difference(value, base) {
  return value === null || base === null || value === undefined || !base ? null : value / base - 1
}
