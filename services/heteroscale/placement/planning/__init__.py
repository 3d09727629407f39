"""The planner: one snapshot and the requests of a cycle in, what to take and to free out; pure."""
