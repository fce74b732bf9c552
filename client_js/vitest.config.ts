import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { include: ["tests/**/*.test.{ts,tsx}"], testTimeout: 90_000, hookTimeout: 120_000, pool: "threads" },
});
