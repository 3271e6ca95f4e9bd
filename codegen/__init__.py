"""From (kernel, schedule, target) to source text: one folder per target. Imports `ir` alone; measures nothing."""
