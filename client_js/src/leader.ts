// Which tab holds the connection, as a pure machine: `(state, input) → (state, effects)`. Whoever holds the lock leads.
// Each leader has a term, higher than any before; what a lower term says is ignored, so that a tab that was frozen and
// wakes up is no second leader.

/** Milliseconds: how often a visible tab asks whether the leader is there; how long that may take. */
export const ASK_EVERY = 5_000;
export const SILENCE = 1_000;
export const LATE = 500;

export interface Role {
  leads: boolean;
  term: number;
  visible: boolean;
  /** Until when the leader has to answer; 0 when it was not asked. */
  due: number;
}

export type RoleInput =
  | [input: "granted"]
  /** The lock was taken away. */
  | [input: "robbed"]
  /** A leader of this term has said something. */
  | [input: "heard", term: number]
  /** Somebody asks whether the leader is there. */
  | [input: "asked"]
  | [input: "visible", yes: boolean]
  | [input: "timer", name: "silence" | "ask"];

export type RoleEffect =
  | [effect: "lead"]
  | [effect: "follow"]
  /** Wait for the lock, or take it from whoever has it. */
  | [effect: "acquire", steal: boolean]
  | [effect: "ask"]
  | [effect: "answer"]
  | [effect: "timer", name: "silence" | "ask", ms: number];

export function decide(before: Role, [is, given]: RoleInput, now: number): [Role, RoleEffect[]] {
  const role = { ...before };
  const effects: RoleEffect[] = [];
  const act = (...effect: RoleEffect) => void effects.push(effect);

  const ask = () => {
    if (role.leads || !role.visible) return;
    role.due = now + SILENCE;
    act("ask");
    act("timer", "silence", SILENCE);
    act("timer", "ask", ASK_EVERY);
  };

  const follow = () => {
    if (!role.leads) return;
    role.leads = false;
    act("follow");
    act("acquire", false);
    ask();
  };

  if (is === "granted") {
    role.leads = true;
    role.due = 0;
    role.term = Math.max(role.term + 1, now);
    act("lead");
  } else if (is === "robbed") follow();
  else if (is === "heard") {
    const term = given as number;
    if (term < role.term) return [role, effects];
    role.due = 0;
    if (term > role.term) {
      role.term = term;
      follow();
    }
  } else if (is === "asked") {
    if (role.leads) act("answer");
  } else if (is === "visible") {
    role.visible = given as boolean;
    ask();
  } else if (given === "ask") ask();
  else if (role.due && !role.leads) {
    // This tab was throttled or frozen itself: its own clock was late.
    if (now - role.due > LATE) ask();
    else {
      role.due = 0;
      act("acquire", true);
    }
  }
  return [role, effects];
}
