"""The same loop without a log: windows from what was served, decision and placement called one after the other."""
