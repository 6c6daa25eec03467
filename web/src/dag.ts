/*
 * Layout of a task graph, in the manner of Sugiyama: layers by longest path, edges over several layers cut by hidden nodes,
 * order within a layer by barycentres, positions by least squares under the order. Pure, and the same input gives the same
 * picture, so that a live graph does not jump.
 */
export interface Box {
  id: string;
  x: number; // the middle
  y: number;
}

export interface Edge {
  from: string;
  to: string;
  path: string;
}

export interface Layout {
  width: number;
  height: number;
  boxes: Box[];
  edges: Edge[];
}

export interface Shape {
  nodeWidth: number;
  nodeHeight: number;
  layerGap: number;
  nodeGap: number;
  /** Layers from left to right; else from top to bottom. */
  across: boolean;
}

interface Cell {
  id: string | null; // null: a bend of a long edge
  layer: number;
  size: number; // along the layer
  pos: number;
  before: Cell[];
  after: Cell[];
}

export interface Input {
  id: string;
  depends_on: string[];
}

function layersOf(tasks: Input[]): Map<string, number> {
  const known = new Map(tasks.map((t) => [t.id, t]));
  const layer = new Map<string, number>();
  const depth = (id: string, path: Set<string>): number => {
    const done = layer.get(id);
    if (done !== undefined) return done;
    if (path.has(id)) return 0; // a cycle is refused by the loader; the page must not hang on one
    path.add(id);
    let d = 0;
    for (const dep of known.get(id)?.depends_on ?? []) if (known.has(dep)) d = Math.max(d, depth(dep, path) + 1);
    path.delete(id);
    layer.set(id, d);
    return d;
  };
  for (const t of tasks) depth(t.id, new Set());
  return layer;
}

function mean(list: number[]): number | null {
  return list.length === 0 ? null : list.reduce((a, b) => a + b, 0) / list.length;
}

/** Orders a layer by the mean place of its neighbours; those without neighbours keep theirs. */
function reorder(cells: Cell[], neighbours: (c: Cell) => Cell[], index: Map<Cell, number>): void {
  const key = new Map(cells.map((c, i) => [c, mean(neighbours(c).map((n) => index.get(n) ?? 0)) ?? i]));
  const old = new Map(cells.map((c, i) => [c, i]));
  cells.sort((a, b) => (key.get(a) ?? 0) - (key.get(b) ?? 0) || (old.get(a) ?? 0) - (old.get(b) ?? 0));
  cells.forEach((c, i) => index.set(c, i));
}

function crossings(layers: Cell[][], index: Map<Cell, number>): number {
  let n = 0;
  for (const cells of layers) {
    const ends: [number, number][] = cells.flatMap((c) => c.after.map((a): [number, number] => [index.get(c) ?? 0, index.get(a) ?? 0]));
    for (let i = 0; i < ends.length; i++) {
      for (let k = i + 1; k < ends.length; k++) {
        const [a, b] = [ends[i] as [number, number], ends[k] as [number, number]];
        if ((a[0] - b[0]) * (a[1] - b[1]) < 0) n++;
      }
    }
  }
  return n;
}

/**
 * The order of cells with the fewest crossings that some sweeps find. They get stuck where they began, so they begin several
 * times: as written, backwards, and shuffled, by a fixed sequence.
 */
function untangle(layers: Cell[][], starts: number): Cell[][] {
  const written = layers.map((cells) => [...cells]);
  let best = written;
  let fewest = Infinity;
  let seed = 1;
  for (let start = 0; start < starts && fewest > 0; start++) {
    const now = written.map((cells) => {
      if (start === 1) return [...cells].reverse();
      if (start === 0) return [...cells];
      return cells
        .map((cell) => ({ cell, key: (seed = (seed * 48271) % 2147483647) }))
        .sort((a, b) => a.key - b.key)
        .map(({ cell }) => cell);
    });
    const index = new Map<Cell, number>();
    for (const cells of now) cells.forEach((c, i) => index.set(c, i));
    for (let round = 0; round < 9 && fewest > 0; round++) {
      const n = crossings(now, index);
      if (n < fewest) {
        fewest = n;
        best = now.map((cells) => [...cells]);
      }
      if (round % 2 === 0) for (let l = 1; l < now.length; l++) reorder(now[l] as Cell[], (c) => c.before, index);
      else for (let l = now.length - 2; l >= 0; l--) reorder(now[l] as Cell[], (c) => c.after, index);
    }
  }
  return best;
}

interface Pool {
  sum: number;
  weight: number;
  n: number;
}

/** The neighbours that a cell wants to be level with: a bend follows its own edge. */
function level(c: Cell, list: Cell[]): number | null {
  const bends = c.id === null ? list.filter((n) => n.id === null) : [];
  return mean((bends.length ? bends : list).map((n) => n.pos));
}

/** Places a layer as near as possible to the wishes, keeping order and distance (pool adjacent violators). */
function place(cells: Cell[], wish: (c: Cell) => number, gap: number): void {
  const offsets: number[] = [];
  let at = 0;
  cells.forEach((c, i) => {
    if (i > 0) at += ((cells[i - 1]?.size ?? 0) + c.size) / 2 + gap;
    offsets.push(at);
  });
  const pools: Pool[] = [];
  cells.forEach((c, i) => {
    // A bend in a long edge is seen more than a node that stands a little off its middle.
    const weight = c.id === null ? 4 : 1;
    pools.push({ sum: weight * (wish(c) - (offsets[i] ?? 0)), weight, n: 1 });
    while (pools.length > 1) {
      const b = pools[pools.length - 1] as Pool;
      const a = pools[pools.length - 2] as Pool;
      if (a.sum / a.weight <= b.sum / b.weight) break;
      a.sum += b.sum;
      a.weight += b.weight;
      a.n += b.n;
      pools.pop();
    }
  });
  let i = 0;
  for (const p of pools) for (let k = 0; k < p.n; k++, i++) (cells[i] as Cell).pos = p.sum / p.weight + (offsets[i] ?? 0);
}

export function layout(tasks: Input[], shape: Shape): Layout {
  const layerOf = layersOf(tasks);
  const layers: Cell[][] = [];
  const cellOf = new Map<string, Cell>();
  const chains: { from: string; to: string; cells: Cell[] }[] = [];
  const size = shape.across ? shape.nodeHeight : shape.nodeWidth;
  const depth = shape.across ? shape.nodeWidth : shape.nodeHeight;
  const add = (id: string | null, layer: number): Cell => {
    const c: Cell = { id, layer, size: id === null ? 12 : size, pos: 0, before: [], after: [] };
    (layers[layer] ??= []).push(c);
    return c;
  };

  for (const t of tasks) cellOf.set(t.id, add(t.id, layerOf.get(t.id) ?? 0));
  for (const t of tasks) {
    for (const dep of new Set(t.depends_on)) {
      const from = cellOf.get(dep);
      const to = cellOf.get(t.id);
      if (!from || !to || from.layer >= to.layer) continue;
      const cells = [from];
      for (let l = from.layer + 1; l < to.layer; l++) cells.push(add(null, l));
      cells.push(to);
      cells.forEach((c, i) => {
        const next = cells[i + 1];
        if (next) {
          c.after.push(next);
          next.before.push(c);
        }
      });
      chains.push({ from: dep, to: t.id, cells });
    }
  }

  const best = untangle(layers, tasks.length > 80 ? 1 : 12);

  for (const cells of best) place(cells, () => 0, shape.nodeGap);
  for (const cells of best) {
    const middle = ((cells[0]?.pos ?? 0) + (cells[cells.length - 1]?.pos ?? 0)) / 2;
    for (const c of cells) c.pos -= middle;
  }
  for (let round = 0; round < 12; round++) {
    const down = round % 2 === 0;
    const order = down ? best : [...best].reverse();
    for (const cells of order) place(cells, (c) => level(c, down ? c.before : c.after) ?? c.pos, shape.nodeGap);
  }
  for (const cells of best) place(cells, (c) => level(c, [...c.before, ...c.after]) ?? c.pos, shape.nodeGap);

  const all = best.flat();
  if (all.length === 0) return { width: 0, height: 0, boxes: [], edges: [] };
  const low = Math.min(...all.map((c) => c.pos - c.size / 2));
  const high = Math.max(...all.map((c) => c.pos + c.size / 2));
  const step = depth + shape.layerGap;
  const start = (c: Cell): number => c.layer * step;
  const point = (along: number, across: number): string => {
    const [x, y] = shape.across ? [along, across] : [across, along];
    return `${x.toFixed(1)} ${y.toFixed(1)}`;
  };

  const edges = chains.map(({ from, to, cells }) => {
    // Curved in the gaps, straight beside the nodes of a layer that it passes.
    let d = "";
    cells.forEach((c, i) => {
      const next = cells[i + 1];
      if (!next) return;
      const a = start(c) + depth;
      const b = start(next);
      const middle = (a + b) / 2;
      d += i === 0 ? `M${point(a, c.pos - low)}` : `L${point(a, c.pos - low)}`;
      d += `C${point(middle, c.pos - low)} ${point(middle, next.pos - low)} ${point(b, next.pos - low)}`;
    });
    return { from, to, path: d };
  });
  const boxes = all
    .filter((c) => c.id !== null)
    .map((c) => {
      const along = start(c) + depth / 2;
      const across = c.pos - low;
      return { id: c.id as string, x: shape.across ? along : across, y: shape.across ? across : along };
    });
  const length = layers.length * step - shape.layerGap;
  return { width: shape.across ? length : high - low, height: shape.across ? high - low : length, boxes, edges };
}
