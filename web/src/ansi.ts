// Terminal colours of a log to spans. Everything else that a terminal would obey is dropped; nothing is ever read as HTML.

export interface Style {
  fg: number | null; // 0-15
  bold: boolean;
  dim: boolean;
}

export interface Piece {
  text: string;
  style: Style;
}

export const PLAIN: Style = { fg: null, bold: false, dim: false };

// CSI …, OSC … up to BEL or ST, other two-character escapes, and stray control characters.
// eslint-disable-next-line no-control-regex
const SEQUENCE = /\x1b\[([0-9;:?<=>]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f]/g;

function sgr(style: Style, codes: string): Style {
  const list = codes === "" ? [0] : codes.split(/[;:]/).map(Number);
  let { fg, bold, dim } = style;
  for (let i = 0; i < list.length; i++) {
    const c = list[i] ?? 0;
    if (c === 0) {
      fg = null;
      bold = dim = false;
    } else if (c === 1) bold = true;
    else if (c === 2) dim = true;
    else if (c === 22) bold = dim = false;
    else if (c >= 30 && c <= 37) fg = c - 30;
    else if (c >= 90 && c <= 97) fg = c - 90 + 8;
    else if (c === 39) fg = null;
    else if (c === 38 || c === 48) {
      const mode = list[i + 1];
      const n = list[i + 2] ?? 0;
      if (c === 38 && mode === 5 && n < 16) fg = n;
      i += mode === 5 ? 2 : mode === 2 ? 4 : 0;
    }
  }
  return { fg, bold, dim };
}

/** One line, without its end; the style goes on into the next line. */
export function pieces(line: string, style: Style): { pieces: Piece[]; style: Style } {
  const out: Piece[] = [];
  let at = 0;
  let now = style;
  // A progress bar writes over its own line: only what was written last is of use.
  const cr = line.replace(/\r+$/, "").lastIndexOf("\r");
  const shown = cr >= 0 ? line.slice(cr + 1) : line;
  const push = (text: string): void => {
    if (text) out.push({ text, style: now });
  };
  for (const m of shown.matchAll(SEQUENCE)) {
    push(shown.slice(at, m.index));
    if (m[2] === "m" && !/[?<=>]/.test(m[1] ?? "")) now = sgr(now, m[1] ?? "");
    at = m.index + m[0].length;
  }
  push(shown.slice(at));
  return { pieces: out, style: now };
}
