"""Offered load: traces of the package, of files and made up, as requests and tokens a step."""
