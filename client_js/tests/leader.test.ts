// Which tab leads, without locks, channels or clocks.

import fc from "fast-check";
import { expect, it } from "vitest";
import { ASK_EVERY, decide, LATE, SILENCE, type Role, type RoleEffect, type RoleInput } from "../src/leader.js";

const START: Role = { leads: false, term: 0, visible: false, due: 0 };
const names = (effects: RoleEffect[]) => effects.map(([name]) => name);

function run(role: Role, now: number, ...inputs: RoleInput[]): [Role, string[]] {
  let all: RoleEffect[] = [];
  for (const input of inputs) {
    const [after, effects] = decide(role, input, now);
    role = after;
    all = effects;
  }
  return [role, names(all)];
}

it("who gets the lock leads, in a term higher than any it has heard of", () => {
  const [role, effects] = run(START, 1_000, ["heard", 5_000], ["granted"]);
  expect([role.leads, role.term, effects]).toEqual([true, 5_001, ["lead"]]);
});

it("a leader that hears a higher term steps back, and one that is robbed; of a lower one it takes no notice", () => {
  const [leader] = run(START, 1_000, ["granted"]);
  expect(run(leader, 1_000, ["heard", 999])[1]).toEqual([]);
  expect(run(leader, 1_000, ["heard", 1_001])[1]).toEqual(["follow", "acquire"]);
  expect(run(leader, 1_000, ["robbed"])[1]).toEqual(["follow", "acquire"]);
});

it("a visible tab asks every five seconds, and takes the lock after a second of silence", () => {
  const [role, effects] = decide(START, ["visible", true], 0);
  expect(effects).toEqual([["ask"], ["timer", "silence", SILENCE], ["timer", "ask", ASK_EVERY]]);
  expect(decide(role, ["timer", "silence"], SILENCE)[1]).toEqual([["acquire", true]]);
  const [answered] = decide(role, ["heard", 7], 100);
  expect(decide(answered, ["timer", "silence"], SILENCE)[1]).toEqual([]);
  expect(names(decide(answered, ["timer", "ask"], ASK_EVERY)[1])).toContain("ask");
});

it("a hidden tab asks nobody; a tab whose own clock was late asks again before it takes anything", () => {
  expect(run(START, 0, ["visible", false])[1]).toEqual([]);
  const [role] = decide(START, ["visible", true], 0);
  expect(names(decide(role, ["timer", "silence"], SILENCE + LATE + 1)[1])).toEqual(["ask", "timer", "timer"]);
});

it("whatever happens, what is heard of a lower term changes nothing, and terms only rise", () => {
  const input = fc.oneof<fc.Arbitrary<RoleInput>[]>(
    fc.constant(["granted"] as RoleInput),
    fc.constant(["robbed"] as RoleInput),
    fc.constant(["asked"] as RoleInput),
    fc.integer({ min: 0, max: 50 }).map((term): RoleInput => ["heard", term]),
    fc.boolean().map((yes): RoleInput => ["visible", yes]),
    fc.constantFrom<RoleInput>(["timer", "silence"], ["timer", "ask"]),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(input, fc.integer({ min: 0, max: 40 }))), (program) => {
      let role = START;
      for (const [input, now] of program) {
        const [after, effects] = decide(role, input, now);
        expect(after.term).toBeGreaterThanOrEqual(role.term);
        if (input[0] === "heard" && input[1] < role.term) expect([after, effects]).toEqual([role, []]);
        if (after.leads && !role.leads) expect(input[0]).toBe("granted");
        if (role.leads && !after.leads) expect(names(effects).slice(0, 2)).toEqual(["follow", "acquire"]);
        role = after;
      }
    }),
    { numRuns: 1_000, seed: 1 },
  );
});
