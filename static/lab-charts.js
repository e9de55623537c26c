/** Small charts in SVG: dots, lines and bars over two axes. Drawn anew with every change. */

const NS = 'http://www.w3.org/2000/svg'
const HEIGHT = 190
const EDGE = { left: 46, right: 10, top: 12, bottom: 22 }

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(NS, tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

/** Round numbers from 0 that reach `most`. */
export function ticks(most, about) {
  const raw = most / about
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999)
  return Array.from({ length: Math.floor(most / step + 1.001) }, (_, i) => i * step)
}

/** A number that is round enough to end an axis, at least `value`. */
export function ceiling(value) {
  const grid = ticks(value, 4)
  const step = grid[1] ?? value
  return Math.ceil(value / step - 1e-9) * step
}

function short(value) {
  return value >= 10_000 ? `${value / 1000}k` : String(Math.round(value * 100) / 100)
}

/**
 * Draws into an <svg>. Scales begin at 0.
 * @param {{right: number, top: number, x: string, marks: object[]}} chart where the axes end, the unit
 *   of x, and the marks: `{kind: 'dots' | 'line' | 'steps' | 'bars' | 'level', className,
 *   points: [x, y][], width?, label?}`
 */
export function draw(canvas, { right, top, x, marks }) {
  const width = Math.max(220, canvas.clientWidth || 480)
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom }
  const across = (value) => EDGE.left + (value / right) * inner.width
  const up = (value) => EDGE.top + inner.height * (1 - Math.min(value, top) / top)
  canvas.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`)
  const grid = ticks(top, 4).map((value) => [
    svg('line', { class: value ? 'grid' : 'axis', x1: EDGE.left, x2: width - EDGE.right, y1: up(value), y2: up(value) }),
    svg('text', { class: 'tick', x: EDGE.left - 6, y: up(value) + 3.5, 'text-anchor': 'end' }, short(value)),
  ])
  const steps = ticks(right, Math.max(2, Math.min(6, width / 90)))
  const columns = steps.map((value, i) => {
    const last = i === steps.length - 1
    const at = last ? Math.min(across(right), across(value) + 14) : across(value)
    const text = `${short(value)}${last ? ` ${x}` : ''}`
    return svg('text', { class: 'tick', x: at, y: HEIGHT - 6, 'text-anchor': last ? 'end' : 'middle' }, text)
  })
  const drawn = marks.flatMap((mark) => MARKS[mark.kind](mark, across, up))
  canvas.replaceChildren(...grid.flat(), ...columns, ...drawn)
}

const MARKS = {
  dots: ({ className, points }, across, up) =>
    points.map(([x, y]) => svg('circle', { class: `dots ${className}`, cx: across(x).toFixed(1), cy: up(y).toFixed(1), r: 2.5 })),
  line: ({ className, points }, across, up) => path(className, points.map(([x, y]) => [across(x), up(y)])),
  steps: ({ className, points }, across, up) =>
    path(
      className,
      points.flatMap(([x, y], i) => (i ? [[across(x), up(points[i - 1][1])], [across(x), up(y)]] : [[across(x), up(y)]])),
    ),
  bars: ({ className, points, width }, across, up) =>
    points
      .filter(([, y]) => y)
      .map(([x, y]) =>
        svg('rect', { class: `bars ${className}`, x: across(x) + 0.75, y: up(y), width: Math.max(1, across(x + width) - across(x) - 1.5), height: up(0) - up(y) }),
      ),
  level: ({ className, points: [[right, y]], label }, across, up) => [
    svg('line', { class: `level ${className}`, x1: across(0), x2: across(right), y1: up(y), y2: up(y) }),
    svg('text', { class: `level-label ${className}`, x: across(right) - 2, y: up(y) - 4, 'text-anchor': 'end' }, label),
  ],
}

function path(className, points) {
  if (points.length < 2) return []
  const d = points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('')
  return [svg('path', { class: `line ${className}`, d })]
}
