"""The control law: ten stages, each a module, composed in `law`; pure."""
