"""What engines do under load: measured curves, the formulas over them, and a service as a fluid model. Pure."""
