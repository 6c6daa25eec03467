// Names and values, side by side.
import type { ComponentChildren } from "preact";

export type Fact = [name: string, value: ComponentChildren];

export function FactList({ facts, kind }: { facts: Fact[]; kind: string }) {
  return (
    <dl class={kind}>
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd class="num">{value}</dd>
        </div>
      ))}
    </dl>
  );
}
