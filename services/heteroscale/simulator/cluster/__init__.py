"""The simulated cluster: a fleet, its actuator, faults on order, and the world that puts services under load on it."""
