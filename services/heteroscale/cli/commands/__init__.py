"""A module a command, or a group of commands; `cli.registry` says which is which."""
